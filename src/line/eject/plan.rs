//! Which command is sent when, and when one counts as late. Pure: time is an argument.
//!
//! Invariant: every order that was taken ends exactly once for every output, acknowledged or late; at most `queue`
//! orders are held.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::line::eject::output::{EjectorCommand, Subject, Target};

/// A verdict that asks for a gate.
#[derive(Clone, Debug)]
pub struct EjectOrder {
    /// Index of the gate.
    pub gate: usize,
    /// What moves it.
    pub target: Target,
    /// When the command must leave; `None` where nothing tells.
    pub due: Option<Instant>,
    /// How the item comes to the gate, where the belt's speed is measured; `None` where it is believed to be steady.
    pub pace: Option<Pace>,
    /// The item.
    pub subject: Arc<Subject>,
}

/// What an order's due time was reckoned with.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The belt's speed in m/s, without its sign.
    pub speed: f64,
    /// From the command to the moment when the gate has moved.
    pub delay: Duration,
}

/// A standing belt, in m/s: what lies on it comes in years, and in time again when the belt runs on.
const STANDING: f64 = 1e-9;

/// Why a command is late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LateReason {
    /// The due time had passed, beyond the tolerance, when the verdict came.
    Verdict,
    /// The verdict came in time, but this thread woke up too late.
    Wakeup,
    /// Nothing tells when the item reaches the gate.
    NoMoment,
    /// As many orders as may wait were waiting.
    QueueFull,
    /// No answer until the due time plus tolerance.
    Unacknowledged,
    /// The output said so.
    Failed(String),
    /// The service stopped first.
    Stopping,
}

impl std::fmt::Display for LateReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LateReason::Verdict => "the verdict came after the item's moment",
            LateReason::Wakeup => "the computer was too busy at the item's moment",
            LateReason::NoMoment => "nothing tells when the item reaches the gate",
            LateReason::QueueFull => "too many commands were waiting",
            LateReason::Unacknowledged => "nobody acknowledged the command in time",
            LateReason::Failed(why) => why,
            LateReason::Stopping => "the service stopped first",
        })
    }
}

impl LateReason {
    /// Closed set of names for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            LateReason::Verdict => "late_verdict",
            LateReason::Wakeup => "late_wakeup",
            LateReason::NoMoment => "no_moment",
            LateReason::QueueFull => "queue_full",
            LateReason::Unacknowledged => "unacknowledged",
            LateReason::Failed(_) => "failed",
            LateReason::Stopping => "stopping",
        }
    }
}

/// What to do now.
#[derive(Clone, Debug)]
pub enum EjectStep {
    /// Send it to this output.
    Send(usize, EjectorCommand),
    /// It ended late for this output.
    Late(usize, LateReason, Arc<Subject>),
}

/// Orders waiting for their moment, and commands waiting for their acknowledgement.
pub struct EjectPlan {
    queue: usize,
    /// Per output: how long after the due time a command is late.
    tolerances: Vec<Duration>,
    next: u64,
    waiting: BinaryHeap<Reverse<(Instant, u64)>>,
    /// With the moment when each came.
    orders: BTreeMap<u64, (EjectOrder, Instant)>,
    /// Sent commands by the moment they become late.
    sent: BTreeSet<(Instant, u64, usize)>,
    subjects: BTreeMap<(u64, usize), (Instant, Instant, Arc<Subject>)>,
    steps: Vec<EjectStep>,
}

impl EjectPlan {
    /// An empty plan for at most `queue` orders.
    pub fn new(queue: usize, tolerances: Vec<Duration>) -> Self {
        Self {
            queue,
            tolerances,
            next: 1,
            waiting: BinaryHeap::new(),
            orders: BTreeMap::new(),
            sent: BTreeSet::new(),
            subjects: BTreeMap::new(),
            steps: Vec::new(),
        }
    }

    /// Orders and commands that have not ended.
    fn len(&self) -> usize {
        self.waiting.len() + self.sent.len()
    }

    /// Whether everything has ended and been told.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.steps.is_empty()
    }

    /// Takes an order at `now`.
    pub fn add(&mut self, order: EjectOrder, now: Instant) {
        let Some(due) = order.due else { return self.late_everywhere(&LateReason::NoMoment, &order) };
        if self.len() >= self.queue {
            return self.late_everywhere(&LateReason::QueueFull, &order);
        }
        self.waiting.push(Reverse((due, self.next)));
        self.orders.insert(self.next, (order, now));
        self.next += 1;
    }

    /// The belt runs at `speed` m/s (without its sign) from `now` on: what waits comes by when its way is done. The items
    /// whose moment at the gate that changes, each with its gate and the new moment.
    pub fn retime(&mut self, speed: f64, now: Instant) -> Vec<(usize, Arc<Subject>, Instant)> {
        let speed = speed.max(STANDING);
        let mut moved = Vec::new();
        let mut dues = BTreeMap::new();
        for (&id, (order, _)) in &mut self.orders {
            let (Some(due), Some(pace)) = (&mut order.due, &mut order.pace) else { continue };
            let before = std::mem::replace(&mut pace.speed, speed).max(STANDING);
            let left = (*due + pace.delay).saturating_duration_since(now);
            if before == speed || left.is_zero() {
                continue; // what is at the gate is no longer held back
            }
            let comes = Duration::from_secs_f64(left.as_secs_f64() * before / speed);
            // The command leaves at once where the gate's own delay is all that is left.
            *due = now + comes.saturating_sub(pace.delay);
            dues.insert(id, *due);
            moved.push((order.gate, order.subject.clone(), now + comes));
        }
        if !moved.is_empty() {
            let new = |(due, id)| (dues.get(&id).copied().unwrap_or(due), id);
            self.waiting = self.waiting.drain().map(|Reverse(waiting)| Reverse(new(waiting))).collect();
        }
        moved
    }

    fn late_everywhere(&mut self, why: &LateReason, order: &EjectOrder) {
        let late = |output| EjectStep::Late(output, why.clone(), order.subject.clone());
        self.steps.extend((0..self.tolerances.len()).map(late));
    }

    /// What is to be done at `now`, in the order of due times.
    pub fn steps(&mut self, now: Instant) -> Vec<EjectStep> {
        while let Some(&Reverse((due, id))) = self.waiting.peek()
            && due <= now
        {
            self.waiting.pop();
            let Some((order, came)) = self.orders.remove(&id) else { continue };
            for (output, tolerance) in self.tolerances.iter().enumerate() {
                let (subject, give_up) = (order.subject.clone(), due + *tolerance);
                if give_up < now {
                    let why = if give_up < came { LateReason::Verdict } else { LateReason::Wakeup };
                    self.steps.push(EjectStep::Late(output, why, subject));
                    continue;
                }
                self.sent.insert((give_up, id, output));
                self.subjects.insert((id, output), (due, give_up, subject.clone()));
                self.steps
                    .push(EjectStep::Send(output, EjectorCommand { id, target: order.target, due, give_up, subject }));
            }
        }
        while let Some(&(give_up, id, output)) = self.sent.first()
            && give_up < now
        {
            self.end(id, output, Some(LateReason::Unacknowledged));
        }
        std::mem::take(&mut self.steps)
    }

    /// When [`EjectPlan::steps`] has something to do next, if nothing is added before.
    pub fn next(&self) -> Option<Instant> {
        let due = self.waiting.peek().map(|Reverse((due, _))| *due);
        let late = self.sent.first().map(|(give_up, ..)| *give_up + Duration::from_nanos(1));
        [due, late].into_iter().flatten().min()
    }

    /// What `output` reports at `at` about command `id`. How long after its due time it was acknowledged in time, if it
    /// was; a report about a command that has ended changes nothing.
    pub fn reported(&mut self, id: u64, output: usize, at: Instant, result: Result<(), String>) -> Option<Duration> {
        let (due, give_up, _) = self.subjects.get(&(id, output))?;
        let (due, give_up) = (*due, *give_up);
        let late = match result {
            Ok(()) if at <= give_up => None,
            Ok(()) => Some(LateReason::Unacknowledged),
            Err(why) => Some(LateReason::Failed(why)),
        };
        let acknowledged = late.is_none();
        self.end(id, output, late);
        acknowledged.then(|| at.saturating_duration_since(due))
    }

    fn end(&mut self, id: u64, output: usize, late: Option<LateReason>) {
        let Some((_, give_up, subject)) = self.subjects.remove(&(id, output)) else { return };
        self.sent.remove(&(give_up, id, output));
        self.steps.extend(late.map(|why| EjectStep::Late(output, why, subject)));
    }

    /// Ends everything that has not ended.
    pub fn give_up(&mut self) {
        for (_, (order, _)) in std::mem::take(&mut self.orders) {
            self.late_everywhere(&LateReason::Stopping, &order);
        }
        self.waiting.clear();
        for (_, id, output) in std::mem::take(&mut self.sent) {
            self.end(id, output, Some(LateReason::Stopping));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Action, testing::verdict};

    fn order(due: Option<Instant>, track: u64) -> EjectOrder {
        let mut verdict = verdict(Action::Reject);
        verdict.track = track;
        EjectOrder {
            gate: 0,
            target: Target { coil: Some(0), register: None },
            due,
            pace: None,
            subject: Arc::new(Subject::new("out".into(), &verdict)),
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn commands_leave_at_their_due_time_in_its_order() {
        let now = Instant::now();
        let mut plan = EjectPlan::new(8, vec![8 * MS]);
        for (ms, track) in [(30, 1), (10, 2), (20, 3)] {
            plan.add(order(Some(now + ms * MS), track), now);
        }
        let mut sent = Vec::new();
        for (ms, next) in [(9, 10), (10, 18), (17, 18), (25, 28), (30, 38)] {
            sent.extend(plan.steps(now + ms * MS).into_iter().filter_map(|step| match step {
                EjectStep::Send(0, command) => Some((ms, command.subject.track)),
                _ => None,
            }));
            assert_eq!(plan.next().map(|at| (at - now).as_millis()), Some(next), "after {ms} ms");
        }
        assert_eq!(sent, [(10, 2), (25, 3), (30, 1)]);
    }

    #[test]
    fn an_order_beyond_its_tolerance_is_late_and_sent_nowhere() {
        let now = Instant::now();
        for (added, stepped, why) in [(9, 9, LateReason::Verdict), (0, 9, LateReason::Wakeup)] {
            let mut plan = EjectPlan::new(8, vec![8 * MS]);
            plan.add(order(Some(now), 1), now + added * MS);
            assert!(
                matches!(&plan.steps(now + stepped * MS)[..], [EjectStep::Late(0, late, _)] if *late == why),
                "{why:?}"
            );
        }
        let mut plan = EjectPlan::new(1, vec![8 * MS]);
        plan.add(order(Some(now), 1), now);
        plan.add(order(Some(now), 2), now);
        plan.add(order(None, 3), now);
        let late = plan.steps(now).into_iter().filter_map(|step| match step {
            EjectStep::Late(_, why, subject) => Some((subject.track, why)),
            EjectStep::Send(..) => None,
        });
        assert_eq!(late.collect::<Vec<_>>(), [(2, LateReason::QueueFull), (3, LateReason::NoMoment)]);
    }

    #[test]
    fn what_waits_follows_the_belt_when_it_slows_stands_and_runs_on() {
        let start = Instant::now();
        let mut plan = EjectPlan::new(8, vec![8 * MS, 8 * MS]);
        let pace = Some(Pace { speed: 1.0, delay: 20 * MS });
        plan.add(EjectOrder { pace, ..order(Some(start + 980 * MS), 1) }, start); // a metre at 1 m/s, less the delay
        plan.add(order(Some(start + 9000 * MS), 2), start); // of a belt whose speed nobody measures
        // (after ms, m/s, at the gate after ms): 800 mm are left, then 600, then 600 again.
        let hour = 3_600_000;
        for (after, speed, hit) in [(200, 0.5, 1800), (600, 0.0, u64::MAX), (hour, 2.0, hour + 300)] {
            let moved = plan.retime(speed, start + Duration::from_millis(after));
            let [(0, subject, at)] = &moved[..] else { panic!("{moved:?}") };
            assert_eq!(subject.track, 1);
            let at = (*at - start).as_secs_f64() * 1e3;
            assert!(hit == u64::MAX && at > 1e10 || (at - hit as f64).abs() < 0.1, "{at} for {hit}");
        }
        assert!(plan.retime(2.0, start + Duration::from_millis(hour)).is_empty(), "the speed is the same");
        let steps = plan.steps(start + Duration::from_millis(hour + 279));
        assert!(steps.iter().all(|step| !matches!(step, EjectStep::Send(_, command) if command.subject.track == 1)));
        let steps = plan.steps(start + Duration::from_millis(hour + 281));
        assert!(
            matches!(&steps[..], [EjectStep::Send(0, command), EjectStep::Send(1, _)] if command.subject.track == 1)
        );
    }

    #[test]
    fn an_answer_counts_until_the_tolerance_ends() {
        let now = Instant::now();
        let mut plan = EjectPlan::new(8, vec![8 * MS]);
        for (answer, outcome) in [
            (Some((8, Ok(()))), None),
            (Some((9, Ok(()))), Some(LateReason::Unacknowledged)),
            (Some((1, Err("no".to_string()))), Some(LateReason::Failed("no".into()))),
            (None, Some(LateReason::Unacknowledged)),
        ] {
            plan.add(order(Some(now), 1), now);
            let Some(EjectStep::Send(0, command)) = plan.steps(now).pop() else { panic!("not sent") };
            if let Some((ms, result)) = answer {
                let took = plan.reported(command.id, 0, now + ms * MS, result);
                assert_eq!(took, outcome.is_none().then_some(8 * MS));
            }
            let late = match &plan.steps(now + 9 * MS)[..] {
                [] => None,
                [EjectStep::Late(0, why, _)] => Some(why.clone()),
                other => panic!("{other:?}"),
            };
            assert_eq!(late, outcome);
            // What comes after the end changes nothing.
            assert_eq!(plan.reported(command.id, 0, now, Ok(())), None);
            assert_eq!((plan.len(), plan.steps(now + 99 * MS).len()), (0, 0));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn every_order_ends_exactly_once_for_every_output(
            events in prop::collection::vec((0u64..400, 0u64..300, 0usize..5, any::<bool>()), 1..60),
        ) {
            let start = Instant::now();
            let mut plan = EjectPlan::new(20, vec![8 * MS, 50 * MS]);
            let mut ends: BTreeMap<(u64, usize), u32> = BTreeMap::new();
            let mut open: Vec<(u64, u64, usize)> = Vec::new();
            let mut now = start;
            let take = |plan: &mut EjectPlan, now, open: &mut Vec<_>, ends: &mut BTreeMap<(u64, usize), u32>| {
                for step in plan.steps(now) {
                    match step {
                        EjectStep::Send(output, command) => open.push((command.id, command.subject.track, output)),
                        EjectStep::Late(output, _, subject) => *ends.entry((subject.track, output)).or_default() += 1,
                    }
                }
            };
            for (track, (ahead, later, answer, good)) in (0u64..).zip(&events) {
                plan.add(order((*ahead != 7).then(|| start + Duration::from_millis(*ahead)), track), now);
                now += Duration::from_millis(later / 10);
                take(&mut plan, now, &mut open, &mut ends);
                if !open.is_empty() {
                    let (id, track, output) = open[answer % open.len()];
                    let result = if *good { Ok(()) } else { Err(String::new()) };
                    if plan.reported(id, output, now, result).is_some() {
                        *ends.entry((track, output)).or_default() += 1;
                    }
                }
                prop_assert!(plan.len() <= 2 * 20);
            }
            take(&mut plan, now, &mut open, &mut ends);
            plan.give_up();
            take(&mut plan, now, &mut open, &mut ends);
            prop_assert_eq!(plan.len(), 0);
            prop_assert_eq!(ends.len(), 2 * events.len());
            prop_assert!(ends.values().all(|n| *n == 1));
        }
    }
}
