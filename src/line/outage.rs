//! When a camera or its judging fails and when it works again, told to the record, and to the gates, once each.
//!
//! Invariant: telling never blocks; a single late item is no outage.

use std::{cell::Cell, collections::HashMap};

use super::{eject::Ejector, record::Recorder};
use crate::{
    domain::{Source, Verdict},
    store::Event,
};

/// Items without scores in a row that make a degraded interval.
const IN_A_ROW: u64 = 3;

/// One camera as its thread sees it.
pub struct CameraOutage {
    recorder: Recorder,
    ejector: Option<Ejector>,
    camera: String,
    lost: Cell<bool>,
}

impl CameraOutage {
    /// A camera that is neither lost nor back yet.
    pub fn new(recorder: Recorder, ejector: Option<Ejector>, camera: &str) -> Self {
        Self { recorder, ejector, camera: camera.into(), lost: Cell::new(false) }
    }

    /// It cannot be opened, stopped sending or is frozen.
    pub fn lost(&self, why: &str) {
        if !self.lost.replace(true) {
            self.recorder.event(Event::CameraLost { camera: self.camera.clone(), why: why.into() });
            if let Some(ejector) = &self.ejector {
                ejector.blind(&self.camera, why);
            }
        }
    }

    /// It sent a frame that shows something new.
    pub fn seen(&self) {
        if self.lost.replace(false) {
            self.recorder.event(Event::CameraBack { camera: self.camera.clone() });
        }
    }
}

/// Items without scores in a row, by camera.
#[derive(Default)]
pub(super) struct Faults(HashMap<String, u64>);

impl Faults {
    /// Counts one verdict; what the record is to be told before it.
    pub(super) fn count(&mut self, verdict: &Verdict) -> Option<Event> {
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
        let mut faults = Faults::default();
        let (late, good) = (item("a", Some("late")), item("a", None));
        for verdict in [&late, &late, &good, &late, &item("b", Some("late")), &late] {
            assert_eq!(faults.count(verdict), None);
        }
        assert_eq!(faults.count(&late), Some(Event::Degraded { camera: "a".into(), fault: "late".into() }));
        assert_eq!(faults.count(&late), None);
        assert_eq!(faults.count(&good), Some(Event::Recovered { camera: "a".into(), items: 4 }));
        assert_eq!(faults.count(&good), None);
    }
}
