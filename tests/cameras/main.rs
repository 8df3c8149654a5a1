//! Cameras behind a network, with every fault that they have, and several of them in one service.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod geometry;
#[cfg(feature = "gige")]
mod gige;
mod hiccup;
mod mjpeg;
#[cfg(feature = "rtsp")]
mod rtsp;
mod service;
mod strays;
mod watched;
