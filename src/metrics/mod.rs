//! Every Prometheus metric of the service, one struct per room: name, unit, labels, buckets.
//!
//! Invariant: labels come from small closed sets (camera names of the configuration, never items or URLs), and each
//! metric is changed in one place of the code.
//!
//! A new metric is a field and its line in the room's file here, the line that changes it, and its line in
//! `tests/golden/metrics.txt`.

mod camera;
mod eject;
mod encoder;
mod http;
mod line;
mod register;
mod rounds;
mod store;
mod student;

use std::sync::Arc;

use prometheus::{Encoder, IntGauge, Registry, TextEncoder, process_collector::ProcessCollector};

pub use camera::CameraMetrics;
pub use eject::EjectMetrics;
pub use encoder::EncoderMetrics;
pub use http::HttpMetrics;
pub use line::LineMetrics;
pub use rounds::RoundMetrics;
pub use store::StoreMetrics;
pub use student::StudentMetrics;

/// All metrics, cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Rooms>);

impl std::ops::Deref for Metrics {
    type Target = Rooms;
    fn deref(&self) -> &Rooms {
        &self.0
    }
}

/// The metrics of each room, and the registry that they are read from.
pub struct Rooms {
    registry: Registry,
    /// Cameras.
    pub camera: CameraMetrics,
    /// From picture to verdict.
    pub line: LineMetrics,
    /// Commands to gates.
    pub eject: EjectMetrics,
    /// The encoder that counts the belt's way.
    pub encoder: EncoderMetrics,
    /// The record, kept pictures, labels.
    pub store: StoreMetrics,
    /// The student that serves.
    pub student: StudentMetrics,
    /// Learning.
    pub rounds: RoundMetrics,
    /// The HTTP API.
    pub http: HttpMetrics,
    /// 1 while the service is ready.
    pub ready: IntGauge,
    /// CPU cores that the process may use.
    pub cores: IntGauge,
}

impl Metrics {
    /// Registers all metrics in a registry of their own.
    ///
    /// # Errors
    /// Only when two metrics share a name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self(Arc::new(Rooms {
            camera: CameraMetrics::register(&registry)?,
            line: LineMetrics::register(&registry)?,
            eject: EjectMetrics::register(&registry)?,
            encoder: EncoderMetrics::register(&registry)?,
            store: StoreMetrics::register(&registry)?,
            student: StudentMetrics::register(&registry)?,
            rounds: RoundMetrics::register(&registry)?,
            http: HttpMetrics::register(&registry)?,
            ready: register::gauge(&registry, "ready", "1 while the service is ready.")?,
            cores: register::gauge(&registry, "cpu_cores", "CPU cores that the process may use.")?,
            registry,
        })))
    }

    /// Starts what is counted of a camera at 0.
    pub fn begin_camera(&self, camera: &str) {
        self.encoder.apart.with_label_values(&[camera]);
        self.camera.begin(camera);
        self.line.begin(camera);
    }

    /// The exposition text (Prometheus text format 0.0.4).
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        if let Err(e) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!("metrics could not be encoded: {e}");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}
