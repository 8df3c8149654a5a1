//! The way in: connections, TLS, who may ask, limits of bodies, measuring.

pub(in crate::api) mod access;
pub(in crate::api) mod body;
pub(in crate::api) mod browser;
pub(in crate::api) mod decoders;
pub(in crate::api) mod login;
pub(in crate::api) mod measure;
pub(in crate::api) mod serve;
pub(in crate::api) mod settings;
pub(in crate::api) mod streams;
