//! Every Prometheus metric of the service: name, unit, labels, buckets.
//!
//! Invariant: labels come from small closed sets (camera names of the configuration, never items or URLs), and each
//! metric is changed in one place of the code.

use std::sync::Arc;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

/// Buckets in seconds around a line's budget: 1 ms to 1 s.
const LATENCY: [f64; 15] =
    [0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.1, 0.25, 0.5, 1.0];

/// Buckets in seconds for what must happen at a millimetre: at 1.25 m/s a millisecond is 1.25 mm.
const LATENESS: [f64; 17] =
    [0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.01, 0.012, 0.015, 0.02, 0.03, 0.05, 0.1];

/// All metrics, cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<All>);

impl std::ops::Deref for Metrics {
    type Target = All;
    fn deref(&self) -> &All {
        &self.0
    }
}

/// The metrics by field; see the help texts below.
#[allow(missing_docs)] // each field's help text stands beside its name in `new`
pub struct All {
    registry: Registry,
    pub frames: IntCounterVec,
    pub frames_dropped: IntCounterVec,
    pub items_unjudged: IntCounterVec,
    pub camera_up: IntGaugeVec,
    pub camera_frozen: IntGaugeVec,
    pub camera_reconnects: IntCounterVec,
    pub verdicts: IntCounterVec,
    pub reasons: IntCounterVec,
    pub classes: IntCounterVec,
    pub faults: IntCounterVec,
    pub stage_seconds: HistogramVec,
    pub verdict_seconds: HistogramVec,
    pub accept_probability: HistogramVec,
    pub margin: Histogram,
    pub batch_size: Histogram,
    pub looks: Histogram,
    pub queue_depth: IntGaugeVec,
    pub refused: IntCounterVec,
    pub record_dropped: IntCounterVec,
    pub recorded: IntCounter,
    pub challenges: IntCounterVec,
    pub challenge_overdue: IntGaugeVec,
    pub corrective_open: IntGauge,
    pub store_errors: IntCounter,
    pub store_seconds: Histogram,
    pub kept: IntCounterVec,
    pub labels: IntCounterVec,
    pub label_queue: IntGauge,
    pub label_kappa: Gauge,
    pub model_info: IntGaugeVec,
    pub model_loads: IntCounterVec,
    pub novelty: Histogram,
    pub optics: HistogramVec,
    pub reference_mean: GaugeVec,
    pub reference_deviation: GaugeVec,
    pub rounds: IntCounterVec,
    pub rounds_paused: IntCounter,
    pub round_stage: IntGaugeVec,
    pub round_progress: Gauge,
    pub gate_failures: IntCounterVec,
    pub shadow_items: IntGauge,
    pub held_out_accuracy: GaugeVec,
    pub rollbacks: IntCounter,
    pub labels_new: IntGauge,
    pub http_requests: IntCounterVec,
    pub http_seconds: HistogramVec,
    pub bad_input: IntCounterVec,
    pub access_refused: IntCounterVec,
    pub audit_lost: IntCounter,
    pub eject_commands: IntCounterVec,
    pub eject_send_late: Histogram,
    pub eject_ack_late: HistogramVec,
    pub eject_late_actions: IntCounterVec,
    pub confirmations: IntCounterVec,
    pub belt_speed: Gauge,
    pub belt_seen: GaugeVec,
    pub output_down: IntGaugeVec,
    pub output_reconnects: IntCounterVec,
    pub line_asked: IntCounterVec,
    pub line_acknowledged: IntCounterVec,
    pub ready: IntGauge,
    pub cores: IntGauge,
}

impl All {
    /// Starts what is counted of a camera at 0.
    pub fn begin_camera(&self, camera: &str) {
        self.begin_source("belt", camera);
        self.camera_up.with_label_values(&[camera]).set(0);
        self.camera_frozen.with_label_values(&[camera]).set(0);
        self.frames.with_label_values(&[camera]);
        self.camera_reconnects.with_label_values(&[camera]);
        self.items_unjudged.with_label_values(&[camera]);
        for of in ["brightness", "sharpness"] {
            self.optics.with_label_values(&[camera, of]);
        }
        for reason in ["stale", "driver", "damaged", "frozen", "size"] {
            self.frames_dropped.with_label_values(&[camera, reason]);
        }
    }

    fn begin_source(&self, source: &str, camera: &str) {
        for action in ["accept", "reject", "divert"] {
            self.verdicts.with_label_values(&[source, camera, action]);
        }
        for fault in ["overloaded", "timeout", "decode", "no_model", "inference", "stopping"] {
            self.faults.with_label_values(&[source, camera, fault]);
        }
    }
}

impl Metrics {
    /// Registers all metrics in a registry of their own.
    ///
    /// # Errors
    /// Only when two metrics share a name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        let shares: Vec<f64> = (1..=20).map(|i| f64::from(i) / 20.0).collect();
        let all = All {
            frames: counters(r, "frames_total", "Frames received from a camera.", &["camera"])?,
            frames_dropped: counters(r, "frames_dropped_total", "Frames lost, by reason.", &["camera", "reason"])?,
            items_unjudged: counters(
                r,
                "items_unjudged_total",
                "What was followed on the belt and gone without having been judged; when the belt moves too far from one picture to the next, a part of what is missed.",
                &["camera"],
            )?,
            camera_up: gauges(r, "camera_up", "1 while a camera delivers frames that change.", &["camera"])?,
            camera_frozen: gauges(
                r,
                "camera_frozen",
                "1 while a camera sends the very same picture over and over.",
                &["camera"],
            )?,
            camera_reconnects: counters(r, "camera_reconnects_total", "Times a camera was lost.", &["camera"])?,
            verdicts: counters(
                r,
                "verdicts_total",
                "Verdicts, by where the item came from (the camera is empty for http) and action.",
                &["source", "camera", "action"],
            )?,
            reasons: counters(r, "verdict_reasons_total", "Verdicts, by reason.", &["source", "reason"])?,
            classes: counters(r, "verdict_classes_total", "Verdicts, by most probable class.", &["source", "class"])?,
            faults: counters(r, "faults_total", "Items without scores, by fault.", &["source", "camera", "fault"])?,
            stage_seconds: histograms(
                r,
                "stage_seconds",
                "Time in a stage: decode, locate, queue, infer.",
                &["source", "stage"],
                &LATENCY,
            )?,
            verdict_seconds: histograms(
                r,
                "verdict_seconds",
                "From capture (belt) or arrival (http) to the verdict.",
                &["source"],
                &LATENCY,
            )?,
            accept_probability: histograms(
                r,
                "accept_probability_ratio",
                "Probability that an item may pass.",
                &["source"],
                &shares,
            )?,
            margin: histogram(r, "margin_ratio", "Gap between the two most probable classes.", &shares)?,
            batch_size: histogram(
                r,
                "batch_items",
                "Items in a micro-batch.",
                &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0],
            )?,
            looks: histogram(
                r,
                "item_looks",
                "Pictures of a belt item whose scores, or faults, its verdict comes from.",
                &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0],
            )?,
            queue_depth: gauges(r, "queue_items", "Items waiting in a queue: belt, http, record.", &["queue"])?,
            refused: counters(r, "refused_total", "Requests answered 429 because a queue was full.", &["route"])?,
            record_dropped: counters(
                r,
                "record_dropped_total",
                "Records given up because the store was behind.",
                &["kind"],
            )?,
            recorded: counter(r, "recorded_total", "Verdicts committed to the store.")?,
            challenges: counters(r, "challenges_total", "Challenge tests, by outcome.", &["outcome"])?,
            challenge_overdue: gauges(
                r,
                "challenge_overdue",
                "1 while a camera's last found challenge is longer ago than challenge.every.",
                &["camera"],
            )?,
            corrective_open: gauge(r, "corrective_actions_open", "Corrective actions that nobody has closed.")?,
            store_errors: counter(r, "store_errors_total", "Failed store operations.")?,
            store_seconds: histogram(r, "store_commit_seconds", "Time of one commit.", &LATENCY)?,
            kept: counters(
                r,
                "kept_frames_total",
                "Items whose frame was chosen to be kept, by why: taken_off, doubtful, novel, random.",
                &["why"],
            )?,
            labels: counters(
                r,
                "labels_total",
                "Labels that people gave, by class; cant_tell where they could not.",
                &["class"],
            )?,
            label_queue: gauge(r, "label_queue_items", "Kept items among the newest 5,000 that nobody has labeled.")?,
            label_kappa: float_gauge(
                r,
                "label_kappa_ratio",
                "Cohen's kappa over items that two people labeled; NaN while there are too few.",
            )?,
            model_info: gauges(r, "model_info", "1 for the model that serves.", &["version", "precision", "provider"])?,
            model_loads: counters(r, "model_loads_total", "Attempts to load a model, by outcome.", &["outcome"])?,
            novelty: histogram(
                r,
                "novelty_ratio",
                "Distance of an item from what the serving student was trained on; 1 is the edge of that.",
                &[0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0],
            )?,
            optics: histograms(
                r,
                "optics_ratio",
                "Brightness and sharpness of the items' pictures, as the network is given them.",
                &["camera", "of"],
                &[0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0],
            )?,
            reference_mean: float_gauges(
                r,
                "reference_mean_ratio",
                "Mean of what the serving student was trained on; NaN where its folder does not say it.",
                &["of"],
            )?,
            reference_deviation: float_gauges(
                r,
                "reference_deviation_ratio",
                "Standard deviation of what the serving student was trained on; NaN likewise.",
                &["of"],
            )?,
            rounds: counters(r, "rounds_total", "Learning rounds that are over, by how they ended.", &["end"])?,
            rounds_paused: counter(r, "rounds_paused_total", "Times learning rested because the line ran late.")?,
            round_stage: gauges(r, "round_stage", "1 for what the running round does.", &["stage"])?,
            round_progress: float_gauge(r, "round_progress_ratio", "How far the running round's stage is.")?,
            gate_failures: counters(r, "gate_failures_total", "Checks that held a candidate.", &["check"])?,
            shadow_items: gauge(r, "shadow_items", "Live items that the candidate has scored beside the incumbent.")?,
            held_out_accuracy: float_gauges(
                r,
                "held_out_accuracy_ratio",
                "Accuracy on the held-out pictures of the last round, of incumbent and candidate.",
                &["student"],
            )?,
            rollbacks: counter(r, "rollbacks_total", "Students taken back in their probation.")?,
            labels_new: gauge(r, "labels_new", "Labeled items since the last round began.")?,
            http_requests: counters(
                r,
                "http_requests_total",
                "HTTP requests, by route and status.",
                &["route", "status"],
            )?,
            http_seconds: histograms(r, "http_request_seconds", "Time to answer a request.", &["route"], &LATENCY)?,
            bad_input: counters(r, "bad_input_total", "Requests refused for what they carried, by kind.", &["kind"])?,
            access_refused: counters(r, "access_refused_total", "Requests not let in, by reason.", &["reason"])?,
            audit_lost: counter(r, "audit_lost_total", "Changes that are missing in the audit log.")?,
            eject_commands: counters(
                r,
                "eject_commands_total",
                "Commands to gates that ended, by output and outcome: acknowledged in time, or why late.",
                &["output", "outcome"],
            )?,
            eject_send_late: histogram(
                r,
                "eject_send_late_seconds",
                "From a command's due time to the moment it left for the outputs.",
                &LATENESS,
            )?,
            eject_ack_late: histograms(
                r,
                "eject_acknowledged_late_seconds",
                "From a command's due time to the output's acknowledgement, where that was in time.",
                &["output"],
                &LATENESS,
            )?,
            eject_late_actions: counters(
                r,
                "eject_late_actions_total",
                "What late commands led to: stop_line, divert, alarm.",
                &["action"],
            )?,
            confirmations: counters(
                r,
                "confirmations_total",
                "What the sensors after the gates saw: confirmed, missed, false.",
                &["result"],
            )?,
            belt_speed: registered(
                r,
                Gauge::new(name("belt_speed_metres_per_second"), "The belt's speed, where it is measured.")?,
            )?,
            belt_seen: float_gauges(
                r,
                "belt_seen_pixels_per_second",
                "The belt's speed in the camera's pictures, below 0 towards smaller x; NaN while it can't be told.",
                &["camera"],
            )?,
            output_down: gauges(r, "output_down", "1 while a configured output is not connected.", &["output"])?,
            output_reconnects: counters(r, "output_reconnects_total", "Times an output was lost.", &["output"])?,
            line_asked: counters(
                r,
                "line_asked_total",
                "Times an output was to stop the line or to lead everything aside.",
                &["output", "action"],
            )?,
            line_acknowledged: counters(
                r,
                "line_acknowledged_total",
                "How many of line_asked_total the other side has acknowledged.",
                &["output", "action"],
            )?,
            ready: gauge(r, "ready", "1 while the service is ready.")?,
            cores: gauge(r, "cpu_cores", "CPU cores that the process may use.")?,
            registry: registry.clone(),
        };
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        // A counter that was never touched is absent, and an alert on an absent series never fires: start them at 0.
        for source in ["belt", "http"] {
            for reason in ["accepted", "wrong_class", "unsure", "several", "low_score", "fault"] {
                all.reasons.with_label_values(&[source, reason]);
            }
            for stage in ["decode", "locate", "queue", "infer"] {
                all.stage_seconds.with_label_values(&[source, stage]);
            }
            all.verdict_seconds.with_label_values(&[source]);
            all.accept_probability.with_label_values(&[source]);
        }
        for output in ["modbus", "mqtt", "webhook", "log"] {
            for outcome in [
                "acknowledged",
                "late_verdict",
                "late_wakeup",
                "no_moment",
                "queue_full",
                "unacknowledged",
                "failed",
                "stopping",
            ] {
                all.eject_commands.with_label_values(&[output, outcome]);
            }
            all.eject_ack_late.with_label_values(&[output]);
            all.output_down.with_label_values(&[output]);
            all.output_reconnects.with_label_values(&[output]);
            for action in ["stop_line", "divert"] {
                all.line_asked.with_label_values(&[output, action]);
                all.line_acknowledged.with_label_values(&[output, action]);
            }
        }
        for result in ["confirmed", "missed", "false"] {
            all.confirmations.with_label_values(&[result]);
        }
        for action in ["stop_line", "divert", "alarm"] {
            all.eject_late_actions.with_label_values(&[action]);
        }
        for end in ["promoted", "held", "stopped", "failed"] {
            all.rounds.with_label_values(&[end]);
        }
        for check in [
            "classes",
            "answers",
            "better",
            "every class",
            "false accepts",
            "calibrated",
            "robust",
            "fast enough",
            "shadow",
        ] {
            all.gate_failures.with_label_values(&[check]);
        }
        for student in ["incumbent", "candidate"] {
            all.held_out_accuracy.with_label_values(&[student]);
        }
        for queue in ["belt", "http", "record"] {
            all.queue_depth.with_label_values(&[queue]);
        }
        for why in ["taken_off", "doubtful", "novel", "random"] {
            all.kept.with_label_values(&[why]);
        }
        for kind in ["verdict", "frame", "event"] {
            all.record_dropped.with_label_values(&[kind]);
        }
        for outcome in ["found", "missed"] {
            all.challenges.with_label_values(&[outcome]);
        }
        for outcome in ["loaded", "refused"] {
            all.model_loads.with_label_values(&[outcome]);
        }
        for kind in [
            "empty",
            "unknown_format",
            "too_large",
            "unsupported",
            "damaged",
            "body_too_large",
            "shape",
            "not_finite",
            "malformed",
        ] {
            all.bad_input.with_label_values(&[kind]);
        }
        for reason in
            ["no_token", "unknown_token", "expired_token", "role", "other_name", "cross_site", "host", "no_rule"]
        {
            all.access_refused.with_label_values(&[reason]);
        }
        for route in ["/classify", "/v2/models/{model}/infer"] {
            all.refused.with_label_values(&[route]);
        }
        all.begin_source("http", "");
        Ok(Self(Arc::new(all)))
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

fn name(short: &str) -> String {
    format!("beltsight_{short}")
}

fn registered<C: prometheus::core::Collector + Clone + 'static>(r: &Registry, c: C) -> prometheus::Result<C> {
    r.register(Box::new(c.clone()))?;
    Ok(c)
}

fn counter(r: &Registry, short: &str, help: &str) -> prometheus::Result<IntCounter> {
    registered(r, IntCounter::new(name(short), help)?)
}

fn counters(r: &Registry, short: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    registered(r, IntCounterVec::new(Opts::new(name(short), help), labels)?)
}

fn gauge(r: &Registry, short: &str, help: &str) -> prometheus::Result<IntGauge> {
    registered(r, IntGauge::new(name(short), help)?)
}

fn gauges(r: &Registry, short: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    registered(r, IntGaugeVec::new(Opts::new(name(short), help), labels)?)
}

fn float_gauge(r: &Registry, short: &str, help: &str) -> prometheus::Result<Gauge> {
    registered(r, Gauge::new(name(short), help)?)
}

fn float_gauges(r: &Registry, short: &str, help: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
    registered(r, GaugeVec::new(Opts::new(name(short), help), labels)?)
}

fn histogram(r: &Registry, short: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
    registered(r, Histogram::with_opts(HistogramOpts::new(name(short), help).buckets(buckets.to_vec()))?)
}

fn histograms(
    r: &Registry,
    short: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> prometheus::Result<HistogramVec> {
    registered(r, HistogramVec::new(HistogramOpts::new(name(short), help).buckets(buckets.to_vec()), labels)?)
}
