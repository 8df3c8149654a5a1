//! Deadlines of the line.

use std::time::Duration;

use serde::Deserialize;

/// Deadlines of the line.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LineSettings {
    /// From capture to verdict; an item without an answer by then is rejected.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// While a camera is lost, its gates' `on_late` is asked again after this long; zero: never.
    #[serde(with = "humantime_serde")]
    pub ask_again: Duration,
}

impl Default for LineSettings {
    fn default() -> Self {
        Self { deadline: Duration::from_millis(50), ask_again: Duration::from_secs(60) }
    }
}

impl LineSettings {
    /// Whether every value lies in its range.
    ///
    /// # Errors
    /// Names the key that does not.
    pub fn check(&self) -> Result<(), String> {
        if self.deadline.is_zero() {
            return Err("line.deadline must be longer than 0".into());
        }
        Ok(())
    }
}
