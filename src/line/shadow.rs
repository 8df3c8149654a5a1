//! The shadow run: a candidate scores what the serving student scores, and its answers only go into the tally.
//!
//! Invariant: the workers never wait for it: what finds its queue full is passed over.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use crate::{
    domain::{Action, Card, Picture, Scores},
    line::{
        infer::{Infer, ScoredLook},
        priority,
    },
    picture::pixels,
    student::{
        decide::{Look, decide},
        engine::{Device, softmax},
        manifest::ModelError,
        open::Student,
    },
};

/// Items that may wait for the candidate.
const QUEUE: usize = 8;

/// What both students said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowTally {
    /// Items scored by both.
    pub items: usize,
    /// Items that one would let pass and the other not.
    pub apart: usize,
    /// Items for which the candidate had no scores.
    pub faults: usize,
}

/// A shadow run; it ends when this is dropped.
pub struct Shadow {
    infer: Infer,
    tally: Arc<Mutex<ShadowTally>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Shadow {
    /// Opens the candidate in `folder` on one CPU thread of low priority and begins to compare.
    ///
    /// # Errors
    /// [`ModelError`], also when no thread can be started.
    pub fn start(folder: &Path, infer: &Infer) -> Result<Self, ModelError> {
        let student = Student::open(folder, None, Device::Cpu, 1, 1)?;
        let (sender, receiver) = sync_channel(QUEUE);
        let tally = Arc::new(Mutex::new(ShadowTally::default()));
        let counted = tally.clone();
        let thread = thread::Builder::new()
            .name("shadow".into())
            .spawn(move || compare(student, &receiver, &counted))
            .map_err(|e| ModelError::Read { path: folder.into(), why: e.to_string() })?;
        infer.tap(Some(sender));
        Ok(Self { infer: infer.clone(), tally, thread: Some(thread) })
    }

    /// The tally so far.
    pub fn tally(&self) -> ShadowTally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.infer.tap(None); // the thread then finds its queue closed
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // one that panicked has ended too
        }
    }
}

fn compare(mut student: Student, looks: &Receiver<ScoredLook>, tally: &Mutex<ShadowTally>) {
    priority::set(priority::LOW);
    let side = student.card.side;
    while let Ok(ScoredLook { pixels, scores, card }) = looks.recv() {
        // Cut for the serving student; a candidate of another input side sees the same cut, resized.
        let picture = Picture { width: card.side, height: card.side, rgb: pixels };
        let fitted = if side == card.side { Ok(picture.rgb) } else { pixels::fit(&picture, None, side) };
        let outputs = fitted.ok().and_then(|pixels| student.engine.run_all(&[pixels], 1).ok());
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(outputs) = outputs.filter(|o| o.logits.iter().all(|l| l.is_finite())) else {
            tally.faults += 1;
            continue;
        };
        let probabilities = softmax(&outputs.logits.row(0).to_vec(), student.card.thresholds.temperature);
        let own = Scores { probabilities, embedding: outputs.embedding.row(0).to_vec() };
        let passes = |card: &Card, scores: Scores| {
            let scores = Ok(scores);
            decide(&scores, Look::whole(Some(card), &scores)).action == Action::Accept
        };
        tally.items += 1;
        tally.apart += usize::from(passes(&student.card, own) != passes(&card, scores));
    }
}
