//! Ejector commands, the outputs that carry them, and the sensors behind the gates.

use prometheus::{Gauge, Histogram, HistogramVec, IntCounterVec, IntGaugeVec, Registry};

use super::register::{LATENESS, counters, gauges, histogram, histograms, name, registered};

/// See the help text of each in [`EjectMetrics::register`].
#[allow(missing_docs)] // each field's help text stands beside its name
pub struct EjectMetrics {
    pub commands: IntCounterVec,
    pub send_late: Histogram,
    pub acknowledged_late: HistogramVec,
    pub late_actions: IntCounterVec,
    pub confirmations: IntCounterVec,
    pub belt_speed: Gauge,
    pub output_down: IntGaugeVec,
    pub output_reconnects: IntCounterVec,
    pub line_asked: IntCounterVec,
    pub line_acknowledged: IntCounterVec,
}

impl EjectMetrics {
    /// Registers them.
    pub(super) fn register(r: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            commands: counters(
                r,
                "eject_commands_total",
                "Commands to gates that ended, by output and outcome: acknowledged in time, or why late.",
                &["output", "outcome"],
            )?,
            send_late: histogram(
                r,
                "eject_send_late_seconds",
                "From a command's due time to the moment it left for the outputs.",
                &LATENESS,
            )?,
            acknowledged_late: histograms(
                r,
                "eject_acknowledged_late_seconds",
                "From a command's due time to the output's acknowledgement, where that was in time.",
                &["output"],
                &LATENESS,
            )?,
            late_actions: counters(
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
        };
        metrics.begin_closed();
        Ok(metrics)
    }

    /// Starts at 0 what has labels from a closed set: a counter that was never touched is absent, and an alert on an absent
    /// series never fires.
    fn begin_closed(&self) {
        for output in ["modbus", "mqtt", "webhook", "log"] {
            self.begin(output);
        }
        for result in ["confirmed", "missed", "false"] {
            self.confirmations.with_label_values(&[result]);
        }
        for action in ["stop_line", "divert", "alarm"] {
            self.late_actions.with_label_values(&[action]);
        }
    }

    /// Starts at 0 what has the name of an output as label.
    pub fn begin(&self, output: &str) {
        for outcome in [
            "acknowledged",
            "late_verdict",
            "late_wakeup",
            "late_speed",
            "no_moment",
            "no_position",
            "too_soon",
            "passed",
            "queue_full",
            "unacknowledged",
            "failed",
            "stopping",
        ] {
            self.commands.with_label_values(&[output, outcome]);
        }
        self.acknowledged_late.with_label_values(&[output]);
        self.output_down.with_label_values(&[output]);
        self.output_reconnects.with_label_values(&[output]);
        for action in ["stop_line", "divert"] {
            self.line_asked.with_label_values(&[output, action]);
            self.line_acknowledged.with_label_values(&[output, action]);
        }
    }
}
