//! When the judging of a camera's items degrades and when it recovers.
//!
//! Invariant: a single item without scores is not an outage.

use std::collections::HashMap;

use crate::{
    domain::{Source, Verdict},
    store::Event,
};

/// Items without scores in a row that make a degraded interval.
const IN_A_ROW: u64 = 3;

/// Items without scores in a row, by camera.
#[derive(Default)]
pub(super) struct FaultStreaks(HashMap<String, u64>);

impl FaultStreaks {
    /// Counts one verdict; what the record is to be told before it.
    pub fn count(&mut self, verdict: &Verdict) -> Option<Event> {
        if verdict.source == Source::Http {
            return None; // such a request got an error, and the line is not concerned
        }
        let camera = verdict.camera.clone();
        let Some(fault) = &verdict.fault else {
            let items = self.0.remove(&camera).filter(|items| *items >= IN_A_ROW)?;
            return Some(Event::Recovered { camera, items });
        };
        let items = self.0.entry(camera.clone()).or_default();
        *items += 1;
        (*items == IN_A_ROW).then(|| Event::Degraded { camera, fault: fault.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Action, testing::verdict};

    #[test]
    fn a_single_fault_is_no_outage_and_three_in_a_row_are_one() {
        let item = |camera: &str, fault: Option<&str>| Verdict {
            source: Source::Belt,
            camera: camera.into(),
            fault: fault.map(String::from),
            ..verdict(Action::Reject)
        };
        let mut streaks = FaultStreaks::default();
        let (late, good) = (item("a", Some("late")), item("a", None));
        for verdict in [&late, &late, &good, &late, &item("b", Some("late")), &late] {
            assert_eq!(streaks.count(verdict), None);
        }
        assert_eq!(streaks.count(&late), Some(Event::Degraded { camera: "a".into(), fault: "late".into() }));
        assert_eq!(streaks.count(&late), None);
        assert_eq!(streaks.count(&good), Some(Event::Recovered { camera: "a".into(), items: 4 }));
        assert_eq!(streaks.count(&good), None);
    }
}
