//! Two students' decisions on the same answered draws → evidence on each side of the gate, and on the cost. Pure.
//!
//! An *escape* is a bad item that passes, a *false reject* a good one that does not. Where both students decide alike, the
//! difference is 0. The draws' chances count, and answers may come in for as long as somebody watches, see
//! [`crate::statistics::betting`].

use crate::statistics::betting::{Capital, Draw};

/// Most answers that a held candidate is told to wait for; beyond it nobody counts.
const MOST_NEEDED: usize = 100_000;

/// One drawn item that both students decided about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedDraw {
    /// Whether it may pass; `None`: nobody knows, and it counts at its worst for the candidate.
    pub good: Option<bool>,
    /// Least chance of any item when it was drawn over its own, as in [`Draw`].
    pub weight: f64,
    /// Whether the incumbent and the candidate would let it pass.
    pub passes: [bool; 2],
}

/// What the draws say on one question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// Whether it is shown at the level.
    pub shown: bool,
    /// Answers that tell of it.
    pub answers: usize,
    /// Wrong decisions among them, the incumbent's and the candidate's.
    pub wrong: [usize; 2],
    /// Further answers that would show it, if they go on as told at each question; `None`: more than anybody counts, or they
    /// speak against it.
    pub needed: Option<usize>,
}

/// Whether the candidate lets no more bad items pass than the incumbent and a `margin` of them, at the level `error`. Needed
/// are bad items on which both decide alike.
pub fn escapes(draws: &[PairedDraw], margin: f64, error: f64) -> Evidence {
    let draws = draws.iter().filter(|draw| draw.good != Some(true));
    not_worse(draws, margin, error, |passes| passes)
}

/// Whether it keeps no more good items from passing than the incumbent and a `margin` of them, likewise. Needed are good items
/// on which both decide alike.
pub fn false_rejects(draws: &[PairedDraw], margin: f64, error: f64) -> Evidence {
    let draws = draws.iter().filter(|draw| draw.good != Some(false));
    not_worse(draws, margin, error, |passes| !passes)
}

/// On one side of the gate; `wrong` says whether a decision is.
fn not_worse<'a>(
    draws: impl Iterator<Item = &'a PairedDraw>,
    margin: f64,
    error: f64,
    wrong: impl Fn(bool) -> bool,
) -> Evidence {
    let mut capital = Capital::new(margin, 1.0);
    let (mut answers, mut counts) = (0, [0; 2]);
    for draw in draws {
        let [old, new] = draw.passes.map(|passes| f64::from(u8::from(wrong(passes))));
        let more = new - old;
        if draw.good.is_none() {
            if more > 0.0 {
                capital.bet(Draw { weight: draw.weight, found: Some(more) });
            }
            continue; // it may be of the other side, and says nothing
        }
        answers += 1;
        counts = [counts[0] + old as usize, counts[1] + new as usize];
        capital.bet(Draw { weight: draw.weight, found: Some(more) });
    }
    let shown = capital.excludes(error);
    let mut needed = 0;
    while !capital.excludes(error) && needed < MOST_NEEDED {
        capital.bet(Draw { weight: 1.0, found: Some(0.0) });
        needed += 1;
    }
    Evidence { shown, answers, wrong: counts, needed: (needed < MOST_NEEDED).then_some(needed) }
}

/// Whether the candidate's wrong decisions cost less, an escape `escape_cost` times as much as a false reject, at the level
/// `error`. Needed are answers like those before.
pub fn cost(draws: &[PairedDraw], escape_cost: f64, error: f64) -> Evidence {
    let most = escape_cost.max(1.0);
    let mut capital = Capital::new(0.0, most);
    let (mut answers, mut counts) = (0, [0; 2]);
    for draw in draws {
        let of = |passes: bool| match draw.good {
            Some(true) => f64::from(u8::from(!passes)),
            Some(false) => escape_cost * f64::from(u8::from(passes)),
            None => 0.0,
        };
        let found = match (draw.good, draw.passes) {
            (None, [false, true]) => escape_cost,
            (None, [true, false]) => 1.0,
            _ => of(draw.passes[1]) - of(draw.passes[0]),
        };
        answers += usize::from(draw.good.is_some());
        for (count, passes) in counts.iter_mut().zip(draw.passes) {
            *count += usize::from(draw.good.is_some_and(|good| good != passes));
        }
        capital.bet(Draw { weight: draw.weight, found: Some(found) });
    }
    let (shown, log, wanted) = (capital.excludes(error), capital.log(), -error.ln());
    let more = (answers as f64 * (wanted / log - 1.0)).ceil();
    let needed = (log > 0.0 && more < MOST_NEEDED as f64).then(|| more.max(0.0) as usize);
    Evidence { shown, answers, wrong: counts, needed }
}
