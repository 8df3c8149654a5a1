//! What the measured service counts: its metrics, and its processor time as Linux counts it.

use std::fs;

use anyhow::{Context, Result};

use super::CommandCounts;
use crate::{bench::service::MeasuredService, domain::Action};

/// Clock ticks per second, which Linux fixes for programs.
pub(super) const TICKS: f64 = 100.0;
/// Bounds of `eject_send_late_seconds` that are reported.
const WITHIN: [&str; 6] = ["0.0005", "0.001", "0.002", "0.003", "0.005", "0.008"];

/// What the service counts, at one moment.
pub(super) struct ServiceCounters {
    metrics: String,
    /// Processor time in clock ticks: all threads, and those that draw.
    pub ticks: f64,
    pub drawing: f64,
}

impl ServiceCounters {
    pub(super) async fn of(service: &MeasuredService) -> Result<Self> {
        let metrics = reqwest::get(service.at("/metrics")).await?.text().await?;
        let process = format!("/proc/{}", service.pid());
        let mut drawing = 0.0;
        for task in fs::read_dir(format!("{process}/task"))? {
            let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue }; // it has just ended
            // The only thing that a simulated camera's thread does.
            drawing += if stat.contains(" (camera-") { ticks(&stat)? } else { 0.0 };
        }
        Ok(Self { metrics, ticks: ticks(&fs::read_to_string(format!("{process}/stat"))?)?, drawing })
    }

    /// The lines of a metric whose labels contain `with`: labels and value.
    fn lines<'a>(&'a self, metric: &'a str, with: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let lines = self.metrics.lines().filter_map(move |line| line.strip_prefix(metric)?.strip_prefix('{'));
        lines
            .filter_map(|line| line.rsplit_once("} "))
            .filter(move |(labels, _)| labels.contains(with))
            .filter_map(|(labels, value)| Some((labels, value.parse().ok()?)))
    }

    pub(super) fn sum(&self, metric: &str, with: &str) -> f64 {
        self.lines(metric, with).map(|(_, value)| value).sum()
    }

    pub(super) fn commands(&self) -> CommandCounts {
        let verdicts = |action: Action| {
            let action = format!("action=\"{}\"", action.name());
            self.lines("beltsight_verdicts_total", &action)
                .filter(|(labels, _)| labels.contains("source=\"belt\""))
                .map(|(_, value)| value as u64)
                .sum::<u64>()
        };
        let outcome = |labels: &str| labels.split('"').nth(1).unwrap_or_default().to_owned();
        let ended = self.lines("beltsight_eject_commands_total", "output=\"log\"");
        let within = |bound: &&str| {
            let label = format!("le=\"{bound}\"");
            let milliseconds = bound.parse::<f64>().unwrap_or_default() * 1e3;
            (milliseconds.to_string(), self.sum("beltsight_eject_send_late_seconds_bucket", &label) as u64)
        };
        CommandCounts {
            ordered: verdicts(Action::Reject) + verdicts(Action::Divert),
            ended: ended.filter(|(_, n)| *n > 0.0).map(|(labels, n)| (outcome(labels), n as u64)).collect(),
            left_within_ms: WITHIN.iter().map(within).collect(),
        }
    }
}

/// User and system time of a process or thread (`/proc/…/stat`), in clock ticks.
fn ticks(stat: &str) -> Result<f64> {
    let (_, rest) = stat.rsplit_once(") ").context("no stat")?; // the name may hold anything
    let fields: Vec<&str> = rest.split(' ').collect();
    let time = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok());
    time(11).zip(time(12)).map(|(user, system)| user + system).context("no times in stat")
}
