//! Asks the worker for an answer that is known, while no item does: through the same queue, in the same sessions, waited for
//! where verdicts are. A worker that hangs is found before an item comes.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout_at};

use super::{
    eject::output::alive::LineAlive,
    infer::{Infer, Probe},
};
use crate::{domain::Fault, metrics::Metrics};

/// How often it looks whether to ask.
const LOOK: Duration = Duration::from_millis(50);
/// An answer takes no longer: HTTP batches may be long while no belt item comes.
const ANSWER: Duration = Duration::from_secs(1);
/// Most by which a class's probability may differ from the warm-up's: sessions add up in other orders.
const DIFFERENCE: f32 = 0.1;

/// Runs until the line stops. Also shows in the metrics whether the line is alive.
pub async fn run(infer: Infer, alive: LineAlive, metrics: Metrics) {
    loop {
        tokio::select! {
            () = alive.stopped() => return metrics.line.alive.set(0),
            () = sleep(LOOK) => {}
        }
        if alive.wants_probe() {
            match ask(&infer).await {
                Ok(()) => alive.answered(),
                Err(why) => {
                    tracing::error!("the worker does not answer a picture whose answer is known: {why}");
                    alive.failed(&why);
                }
            }
        }
        metrics.line.alive.set(alive.why_not().is_none().into());
    }
}

async fn ask(infer: &Infer) -> Result<(), String> {
    let until = Instant::now() + ANSWER;
    let Probe { answer, known, card } = infer.probe(until).map_err(|fault| fault.to_string())?;
    let scored = match timeout_at(until.into(), answer).await {
        Ok(Ok(scored)) => scored,
        Ok(Err(_)) => return Err(Fault::Stopping.to_string()),
        Err(_) => return Err(Fault::Timeout.to_string()),
    };
    let exchanged = scored.model.is_some_and(|model| !std::sync::Arc::ptr_eq(&model, &card));
    match scored.scores {
        _ if exchanged => Ok(()), // another student serves since: asked again in a second
        Ok(scores) if alike(&scores.probabilities, &known) => Ok(()),
        Ok(scores) => Err(format!("it answers {:?}, at its warm-up {known:?}", scores.probabilities)),
        Err(fault) => Err(fault.to_string()),
    }
}

fn alike(now: &[f32], known: &[f32]) -> bool {
    now.len() == known.len() && now.iter().zip(known).all(|(now, known)| (now - known).abs() <= DIFFERENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_another_one_when_a_class_differs_or_is_no_number() {
        assert!(alike(&[0.85, 0.15], &[0.9, 0.1]));
        for wrong in [&[0.7, 0.3][..], &[f32::NAN, 0.1], &[0.9]] {
            assert!(!alike(wrong, &[0.9, 0.1]), "{wrong:?}");
        }
    }
}
