//! Cameras behind a network, with every fault that they have, and several of them in one service.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "gige")]
mod gige;
mod mjpeg;
#[cfg(feature = "rtsp")]
mod rtsp;
#[path = "../common/served.rs"]
mod served;
mod service;
mod watched;
