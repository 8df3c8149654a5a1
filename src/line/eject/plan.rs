//! Which command is sent when, and when one counts as late. Pure: time is an argument.
//!
//! Invariants: every order that was taken ends exactly once for every output, acknowledged or late; at most `queue`
//! orders wait; where the belt's speed is measured, an item's way is, too: a belt that stands or runs backwards holds
//! what waits, and a command that can't leave in time any more is late, never moved to a later moment; where the belt's
//! place is counted, a command leaves when the belt is there, and what is past its gate is late; a position that is old,
//! or of another counting, moves nothing.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    pace::Pace,
    track::Motion,
    window::{Comer, GateMove, GateWindow, GateWindows},
};
use crate::line::eject::output::{EjectorCommand, Subject, Target};

/// A verdict that asks for a gate.
#[derive(Clone, Debug)]
pub struct EjectOrder {
    /// Index of the gate.
    pub gate: usize,
    /// What moves it.
    pub target: Target,
    /// When the command must leave, or why nothing tells.
    pub due: Result<Instant, LateReason>,
    /// How the item comes to the gate, where the belt's speed is measured; `None` where it is believed to be steady.
    pub pace: Option<Pace>,
    /// Set where a PLC carries the command out by itself: the encoder's count at which the item is at the gate.
    pub count: Option<u32>,
    /// How the gate opens for it.
    pub window: GateWindow,
    /// The item.
    pub subject: Arc<Subject>,
}

/// Why a command whose moment came is late where the position is old.
const STALE: &str = "at the item's moment nothing had told for too long where the belt is";

/// A given command is sent for no longer: it has a way to go, and the next one waits.
const GIVEN_WITHIN: Duration = Duration::from_millis(500);

/// Why a command is late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LateReason {
    /// The due time had passed, beyond the tolerance, when the verdict came.
    Verdict,
    /// The verdict came in time, but this thread woke up too late.
    Wakeup,
    /// The belt sped up, so that the item was nearer than its gate is quick.
    Speed,
    /// Nothing tells when the item reaches the gate.
    NoMoment,
    /// Nobody knows where the belt is, or its counting began anew.
    NoPosition(String),
    /// The gate was shut a moment ago, and its pause is not over.
    TooSoon,
    /// The item was past its gate when that became known.
    Passed,
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
            LateReason::Speed => "the belt sped up, and the gate could not have moved in time",
            LateReason::NoMoment => "nothing tells when the item reaches the gate",
            LateReason::NoPosition(why) => why,
            LateReason::TooSoon => "the gate was shut a moment ago and can't open so soon",
            LateReason::Passed => "the item was past its gate before the command could leave",
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
            LateReason::Speed => "late_speed",
            LateReason::NoMoment => "no_moment",
            LateReason::NoPosition(_) => "no_position",
            LateReason::TooSoon => "too_soon",
            LateReason::Passed => "passed",
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

/// An order, when it came and for which moment, and when the belt's speed changed that last.
struct Waiting {
    order: EjectOrder,
    came: Instant,
    first: Instant,
    retimed: Option<Instant>,
    /// The PLC was given the command, and carries it out by itself.
    given: bool,
}

/// A sent command: when it is due, when it is late, and how early a PLC that carries it out by itself may say that it has.
struct Sent {
    due: Instant,
    give_up: Instant,
    lead: Option<Duration>,
    subject: Arc<Subject>,
}

/// What [`EjectPlan::follow`] changed.
#[derive(Debug, Default)]
pub struct Followed {
    /// Items whose moment at the gate changed, each with its gate and the new moment.
    pub moved: Vec<(usize, Arc<Subject>, Instant)>,
    /// Items whose commands ended late, each with its gate.
    pub lost: Vec<(usize, Arc<Subject>)>,
}

/// Orders waiting for their moment, and commands waiting for their acknowledgement.
pub struct EjectPlan {
    queue: usize,
    /// Per output: how long after the due time a command is late.
    tolerances: Vec<Duration>,
    next: u64,
    waiting: BinaryHeap<Reverse<(Instant, u64)>>,
    orders: BTreeMap<u64, Waiting>,
    /// Sent commands by the moment they become late.
    sent: BTreeSet<(Instant, u64, usize)>,
    subjects: BTreeMap<(u64, usize), Sent>,
    windows: GateWindows,
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
            windows: GateWindows::default(),
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
        let due = match &order.due {
            Ok(due) => *due,
            Err(why) => return self.late_everywhere(&why.clone(), &order),
        };
        if self.len() >= self.queue {
            return self.late_everywhere(&LateReason::QueueFull, &order);
        }
        let given = order.count.is_some();
        let id = self.next;
        self.next += 1;
        if given {
            self.give(id, &order, now);
        } else {
            self.waiting.push(Reverse((due, id)));
        }
        if !given || self.open(id) {
            self.orders.insert(id, Waiting { order, came: now, first: due, retimed: None, given });
        }
    }

    /// Whether a sent command has not ended for some output.
    fn open(&self, id: u64) -> bool {
        self.subjects.range((id, 0)..=(id, usize::MAX)).next().is_some()
    }

    /// Hands a command to the PLC, which carries it out by itself and says so.
    fn give(&mut self, id: u64, order: &EjectOrder, now: Instant) {
        let Some(pace) = &order.pace else { return };
        let due = pace.hit();
        for (output, tolerance) in self.tolerances.iter().enumerate() {
            let (give_up, subject) = (due + *tolerance, order.subject.clone());
            if give_up < now {
                self.steps.push(EjectStep::Late(output, LateReason::Verdict, subject));
                continue;
            }
            self.sent.insert((give_up, id, output));
            let sent = Sent { due, give_up, lead: Some(pace.delay + *tolerance), subject: subject.clone() };
            self.subjects.insert((id, output), sent);
            let give_up = give_up.min(now + GIVEN_WITHIN);
            let (target, count, hold) = (order.target, order.count, Duration::ZERO);
            self.steps.push(EjectStep::Send(output, EjectorCommand { id, target, count, hold, due, give_up, subject }));
        }
    }

    /// The belt's newest motion before each gate, or why nobody knows it: what waits by its place comes when the belt is
    /// there, and what no place can be told for is late.
    pub fn follow(&mut self, motions: &[Result<Motion, String>], now: Instant) -> Followed {
        let (mut followed, mut ends, mut dues) = (Followed::default(), Vec::new(), BTreeMap::new());
        for (&id, Waiting { order, came, retimed, given, .. }) in &mut self.orders {
            let Some(pace) = &mut order.pace else { continue };
            let Some(goal) = pace.goal else { continue };
            let motion = match &motions[order.gate] {
                Ok(motion) if motion.counting == goal.counting => motion,
                Ok(_) => {
                    let why = "the belt's place is counted anew, so nothing tells when the item reaches the gate";
                    ends.push((id, LateReason::NoPosition(why.into())));
                    continue;
                }
                Err(why) => {
                    ends.push((id, LateReason::NoPosition(why.clone())));
                    continue;
                }
            };
            let before = order.due.as_ref().map_or(now, |due| *due);
            if motion.at <= pace.at && motion.speed * goal.sign == pace.speed || before + goal.fresh < now && !*given {
                continue; // nothing new, or it should have left long ago
            }
            let last = pace.at;
            (pace.left, pace.at) = ((goal.position - motion.position) * goal.sign, motion.at);
            pace.speed = motion.speed * goal.sign;
            if pace.left <= 0.0 && *given {
                pace.goal = None; // it is the PLC's to say now that it did it
            } else if pace.left <= 0.0 && pace.speed <= 0.0 {
                ends.push((id, LateReason::Passed));
                continue;
            }
            (order.due, *retimed) = (Ok(pace.due()), Some(now.max(*came)));
            if *given {
                let hit = if pace.left > 0.0 { pace.hit() } else { pace.hit().clamp(last, last.max(pace.at)) };
                followed.moved.push((order.gate, order.subject.clone(), hit));
                for (output, tolerance) in self.tolerances.iter().enumerate() {
                    let Some(sent) = self.subjects.get_mut(&(id, output)) else { continue };
                    self.sent.remove(&(sent.give_up, id, output));
                    (sent.due, sent.give_up) = (hit, hit + *tolerance);
                    self.sent.insert((sent.give_up, id, output));
                }
            } else {
                dues.insert(id, pace.due());
                followed.moved.push((order.gate, order.subject.clone(), pace.hit()));
            }
        }
        self.reorder(&dues);
        for (id, why) in ends {
            followed.lost.extend(self.lose(id, &why));
        }
        followed
    }

    /// An order that has not ended ends late: its gate and item.
    fn lose(&mut self, id: u64, why: &LateReason) -> Option<(usize, Arc<Subject>)> {
        let Waiting { order, given, .. } = self.orders.remove(&id)?;
        if given {
            (0..self.tolerances.len()).for_each(|output| self.end(id, output, Some(why.clone())));
        } else {
            self.late_everywhere(why, &order);
            self.waiting.retain(|Reverse((_, other))| *other != id);
        }
        Some((order.gate, order.subject))
    }

    fn reorder(&mut self, dues: &BTreeMap<u64, Instant>) {
        if !dues.is_empty() {
            let new = |(due, id)| (dues.get(&id).copied().unwrap_or(due), id);
            self.waiting = self.waiting.drain().map(|Reverse(waiting)| Reverse(new(waiting))).collect();
        }
    }

    /// The belt runs at `speed` m/s from `now` on, below 0 backwards: what waits comes by when its way is done. The items
    /// whose moment at the gate that changes, each with its gate and the new moment.
    pub fn retime(&mut self, speed: f64, now: Instant) -> Vec<(usize, Arc<Subject>, Instant)> {
        let mut moved = Vec::new();
        let mut dues = BTreeMap::new();
        for (&id, Waiting { order, came, retimed, .. }) in &mut self.orders {
            let Some(pace) = order.pace.as_mut().filter(|pace| pace.goal.is_none()) else { continue };
            if pace.speed == speed || pace.hit() <= now {
                continue; // what is at the gate is no longer held back
            }
            pace.runs(speed, now);
            (order.due, *retimed) = (Ok(pace.due()), Some(now.max(*came)));
            dues.insert(id, pace.due());
            moved.push((order.gate, order.subject.clone(), pace.hit()));
        }
        self.reorder(&dues);
        moved
    }

    /// Whether something waits whose moment comes from the belt's measured speed.
    pub fn follows_speed(&self) -> bool {
        self.orders.values().any(|waiting| waiting.order.pace.is_some_and(|pace| pace.goal.is_none()))
    }

    /// Whether something waits whose moment comes from the belt's place.
    pub fn follows_place(&self) -> bool {
        self.orders.values().any(|waiting| waiting.order.pace.is_some_and(|pace| pace.goal.is_some()))
    }

    /// Nobody knows the belt's speed any more: what waits by it is late. These items, each with its gate.
    pub fn lose_speed(&mut self) -> Vec<(usize, Arc<Subject>)> {
        let by_speed = |w: &Waiting| !w.given && w.order.pace.is_some_and(|pace| pace.goal.is_none());
        let lost: Vec<u64> = self.orders.iter().filter(|(_, w)| by_speed(w)).map(|(id, _)| *id).collect();
        lost.into_iter().filter_map(|id| self.lose(id, &LateReason::NoMoment)).collect()
    }

    fn late_everywhere(&mut self, why: &LateReason, order: &EjectOrder) {
        if order.window.beside {
            return; // a good item that stays on the belt
        }
        let late = |output| EjectStep::Late(output, why.clone(), order.subject.clone());
        self.steps.extend((0..self.tolerances.len()).map(late));
    }

    /// What is to be done at `now`, in the order of due times.
    pub fn steps(&mut self, now: Instant) -> Vec<EjectStep> {
        while let Some(&Reverse((due, id))) = self.waiting.peek()
            && due <= now
        {
            self.waiting.pop();
            let Some(Waiting { order, came, first, retimed, .. }) = self.orders.remove(&id) else { continue };
            let stale = order.pace.is_some_and(|pace| pace.goal.is_some_and(|goal| pace.at + goal.fresh < now));
            let late = |tolerance: Duration| match retimed {
                _ if due + tolerance >= now && !stale => None,
                _ if first + tolerance < came => Some(LateReason::Verdict),
                _ if stale => Some(LateReason::NoPosition(STALE.into())),
                Some(retimed) if due + tolerance < retimed => Some(LateReason::Speed),
                _ => Some(LateReason::Wakeup),
            };
            let in_time = self.tolerances.iter().any(|tolerance| late(*tolerance).is_none());
            let gate = if in_time { self.decide(&order, now) } else { GateMove::Open(Duration::ZERO) };
            let hold = match gate {
                GateMove::Open(hold) => hold,
                GateMove::TooSoon => {
                    self.late_everywhere(&LateReason::TooSoon, &order);
                    continue;
                }
                GateMove::Spared => continue,
            };
            for (output, tolerance) in self.tolerances.iter().enumerate() {
                let (subject, give_up) = (order.subject.clone(), due + *tolerance);
                if let Some(why) = late(*tolerance) {
                    self.steps.extend((!order.window.beside).then_some(EjectStep::Late(output, why, subject)));
                    continue;
                }
                self.sent.insert((give_up, id, output));
                self.subjects.insert((id, output), Sent { due, give_up, lead: None, subject: subject.clone() });
                let command = EjectorCommand { id, target: order.target, count: None, hold, due, give_up, subject };
                self.steps.push(EjectStep::Send(output, command));
            }
        }
        while let Some(&(give_up, id, output)) = self.sent.first()
            && give_up < now
        {
            self.end(id, output, Some(LateReason::Unacknowledged));
        }
        std::mem::take(&mut self.steps)
    }

    /// What the gate does for an order whose moment has come.
    fn decide(&mut self, order: &EjectOrder, now: Instant) -> GateMove {
        let open = |order: &EjectOrder| order.window.open(order.pace.map(|pace| pace.speed));
        let waiting = self.waiting.iter().filter_map(|Reverse((due, id))| Some((*due, &self.orders.get(id)?.order)));
        let same_gate = waiting.filter(|(_, other)| other.gate == order.gate);
        let comer =
            |(due, other): (Instant, &EjectOrder)| Comer { due, open: open(other), beside: other.window.beside };
        let mut after: Vec<Comer> = same_gate.map(comer).collect();
        after.sort_by_key(|comer| comer.due);
        self.windows.decide(order.gate, &order.window, open(order), now, &after)
    }

    /// When [`EjectPlan::steps`] has something to do next, if nothing is added before.
    pub fn next(&self) -> Option<Instant> {
        let due = self.waiting.peek().map(|Reverse((due, _))| *due);
        let late = self.sent.first().map(|(give_up, ..)| *give_up + Duration::from_nanos(1));
        [due, late].into_iter().flatten().min()
    }

    /// What `output` reports at `at` about command `id`. Which item's it is and how long after its due time it was
    /// acknowledged in time, if it was; a report about a command that has ended changes nothing.
    pub fn reported(
        &mut self,
        id: u64,
        output: usize,
        at: Instant,
        result: Result<(), String>,
    ) -> Option<(Arc<Subject>, Duration)> {
        let Sent { due, give_up, lead, subject } = self.subjects.get(&(id, output))?;
        let (due, give_up, subject) = (*due, *give_up, subject.clone());
        let late = match result {
            Ok(()) if lead.is_some_and(|lead| at + lead < due) => {
                Some(LateReason::Failed("the PLC moved the gate before the item came".into()))
            }
            Ok(()) if at <= give_up => None,
            Ok(()) => Some(LateReason::Unacknowledged),
            Err(why) => Some(LateReason::Failed(why)),
        };
        let acknowledged = late.is_none();
        self.end(id, output, late);
        acknowledged.then(|| (subject, at.saturating_duration_since(due)))
    }

    fn end(&mut self, id: u64, output: usize, late: Option<LateReason>) {
        let Some(Sent { give_up, subject, .. }) = self.subjects.remove(&(id, output)) else { return };
        self.sent.remove(&(give_up, id, output));
        self.steps.extend(late.map(|why| EjectStep::Late(output, why, subject)));
        if !self.open(id) {
            self.orders.remove(&id); // one that a PLC was given
        }
    }

    /// Ends everything that has not ended.
    pub fn give_up(&mut self) {
        for (_, Waiting { order, .. }) in std::mem::take(&mut self.orders).into_iter().filter(|(_, w)| !w.given) {
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
    use crate::{
        domain::{Action, testing::verdict},
        line::eject::pace::BeltGoal,
    };

    fn order(due: Option<Instant>, track: u64) -> EjectOrder {
        let mut verdict = verdict(Action::Reject);
        verdict.track = track;
        EjectOrder {
            gate: 0,
            target: Target { coil: Some(0), register: None, command: None },
            due: due.ok_or(LateReason::NoMoment),
            pace: None,
            count: None,
            window: GateWindow::default(),
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
        let pace = Some(Pace { left: 1.0, at: start, speed: 1.0, delay: 20 * MS, goal: None });
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
    fn what_a_belt_carries_away_from_its_gate_comes_later_by_the_way_there_and_back() {
        let start = Instant::now();
        let mut plan = EjectPlan::new(8, vec![8 * MS]);
        let pace = Pace { left: 1.0, at: start, speed: 1.0, delay: 20 * MS, goal: None };
        plan.add(EjectOrder { pace: Some(pace), ..order(Some(pace.due()), 1) }, start);
        let hit = |plan: &mut EjectPlan, speed, ms| {
            let moved = plan.retime(speed, start + ms * MS);
            let [(0, _, at)] = &moved[..] else { panic!("{moved:?}") };
            (*at - start).as_secs_f64()
        };
        assert!(hit(&mut plan, -0.5, 400) > 1e9, "0.6 m are left, and it goes away");
        assert!(plan.steps(start + 1399 * MS).is_empty());
        assert!((hit(&mut plan, 2.0, 1400) - 1.95).abs() < 1e-6, "1.1 m are left");
        assert!(plan.steps(start + 1929 * MS).is_empty());
        assert!(matches!(&plan.steps(start + 1931 * MS)[..], [EjectStep::Send(0, _)]));
    }

    #[test]
    fn what_a_faster_belt_brings_before_its_gate_can_move_is_late_beyond_the_tolerance_and_never_moved() {
        let start = Instant::now();
        // At 0.1 m/s the command is due after 500 ms; from 200 ms on 80 mm are left. The gate takes half a second.
        for (speed, late) in [(0.159, false), (0.165, false), (0.17, true), (1.0, true)] {
            let mut plan = EjectPlan::new(8, vec![20 * MS]);
            let pace = Pace { left: 0.1, at: start, speed: 0.1, delay: 500 * MS, goal: None };
            plan.add(EjectOrder { pace: Some(pace), ..order(Some(pace.due()), 1) }, start);
            assert!(plan.steps(start + 200 * MS).is_empty());
            plan.retime(speed, start + 200 * MS);
            match &plan.steps(start + 204 * MS)[..] {
                [EjectStep::Send(0, command)] => {
                    assert!(!late, "{speed} m/s");
                    let due = 0.2 + 0.08 / speed - 0.5;
                    assert!(((command.due - start).as_secs_f64() - due).abs() < 1e-6, "{speed} m/s");
                }
                [EjectStep::Late(0, LateReason::Speed, _)] => assert!(late, "{speed} m/s"),
                other => panic!("{speed} m/s: {other:?}"),
            }
        }
    }

    #[test]
    fn what_waits_by_a_speed_that_nobody_knows_any_more_is_late_and_the_rest_is_not() {
        let start = Instant::now();
        let mut plan = EjectPlan::new(8, vec![8 * MS, 8 * MS]);
        let pace = Pace { left: 1.0, at: start, speed: 0.0, delay: 20 * MS, goal: None };
        plan.add(EjectOrder { gate: 3, pace: Some(pace), ..order(Some(pace.due()), 1) }, start);
        plan.add(order(Some(start + 900 * MS), 2), start);
        assert!(plan.follows_speed());
        let lost = plan.lose_speed();
        assert!(matches!(&lost[..], [(3, subject)] if subject.track == 1), "{lost:?}");
        let late = plan.steps(start).into_iter().map(|step| match step {
            EjectStep::Late(output, why, subject) => (output, why, subject.track),
            EjectStep::Send(..) => panic!("{step:?}"),
        });
        assert_eq!(late.collect::<Vec<_>>(), [(0, LateReason::NoMoment, 1), (1, LateReason::NoMoment, 1)]);
        assert!(!plan.follows_speed() && plan.lose_speed().is_empty());
        assert_eq!((plan.len(), plan.next()), (1, Some(start + 900 * MS)));
    }

    /// A belt at `position` metres that runs at `speed`, read at `at`.
    fn motion(counting: u32, position: f64, speed: f64, at: Instant) -> Vec<Result<Motion, String>> {
        vec![Ok(Motion { counting, position, speed, at })]
    }

    /// An item at a belt that stands at 5 m, `left` metres before its gate, which takes 20 ms.
    fn counted(left: f64, track: u64, now: Instant) -> EjectOrder {
        let goal = Some(BeltGoal { counting: 0, position: 5.0 + left, sign: 1.0, fresh: 100 * MS });
        let pace = Pace { left, at: now, speed: 0.0, delay: 20 * MS, goal };
        EjectOrder { pace: Some(pace), ..order(Some(pace.due()), track) }
    }

    fn ends(plan: &mut EjectPlan, now: Instant) -> Vec<(u64, Option<LateReason>)> {
        let end = |step| match step {
            EjectStep::Send(_, command) => (command.subject.track, None),
            EjectStep::Late(_, why, subject) => (subject.track, Some(why)),
        };
        plan.steps(now).into_iter().map(end).collect()
    }

    #[test]
    fn a_command_leaves_where_the_belt_is_there_whatever_it_did_before() {
        let start = Instant::now();
        let mut plan = EjectPlan::new(8, vec![8 * MS]);
        plan.add(counted(1.0, 1, start), start);
        // It stands for an hour, goes back, and comes at ever other speeds: each reading tells the place anew.
        let hour = 3_600_000;
        for (ms, position, speed) in [(hour, 5.0, 0.0), (hour + 500, 4.8, -0.5), (hour + 4000, 5.9, 0.1)] {
            let now = start + Duration::from_millis(ms);
            assert!(plan.follow(&motion(0, position, speed, now), now).lost.is_empty());
            assert_eq!(ends(&mut plan, now), []);
        }
        let now = start + Duration::from_millis(hour + 4100);
        let followed = plan.follow(&motion(0, 5.95, 0.5, now), now); // 50 mm at 0.5 m/s: 100 ms, less 20
        let [(0, _, hit)] = followed.moved[..] else { panic!("{followed:?}") };
        assert!(((hit - now).as_secs_f64() - 0.1).abs() < 1e-6);
        assert_eq!(ends(&mut plan, now + 79 * MS), []);
        assert_eq!(ends(&mut plan, now + 81 * MS), [(1, None)]);
    }

    #[test]
    fn no_command_leaves_by_an_old_position_another_counting_or_past_its_gate() {
        let start = Instant::now();
        let begun = |left| {
            let mut plan = EjectPlan::new(8, vec![8 * MS]);
            plan.add(counted(left, 1, start), start);
            plan.follow(&motion(0, 5.0, 1.0, start + MS), start + MS);
            assert_eq!(ends(&mut plan, start + MS), []);
            plan
        };
        // Its moment comes 279 ms after the last reading.
        let mut plan = begun(0.3);
        assert_eq!(ends(&mut plan, start + 279 * MS), []);
        assert_eq!(ends(&mut plan, start + 281 * MS), [(1, Some(LateReason::NoPosition(STALE.into())))]);
        for (motions, why) in [
            (motion(1, 5.0, 1.0, start + 10 * MS), "counted anew"),
            (vec![Err("the encoder is lost".into())], "is lost"),
        ] {
            let mut plan = begun(0.3);
            let lost = plan.follow(&motions, start + 10 * MS).lost;
            assert!(matches!(&lost[..], [(0, subject)] if subject.track == 1));
            let ends = ends(&mut plan, start + 10 * MS);
            assert!(matches!(&ends[..], [(1, Some(LateReason::NoPosition(said)))] if said.contains(why)), "{ends:?}");
            assert!(plan.is_empty() && !plan.follows_place());
        }
        // It ran on faster than was read, and stands, or crawls back, past the gate.
        for speed in [0.0, -0.1] {
            let mut plan = begun(0.3);
            assert_eq!(plan.follow(&motion(0, 5.31, speed, start + 90 * MS), start + 90 * MS).lost.len(), 1);
            assert_eq!(ends(&mut plan, start + 90 * MS), [(1, Some(LateReason::Passed))]);
        }
        // It sped up: the gate takes 20 ms, in which the belt goes 200 mm.
        let mut plan = begun(0.3);
        plan.follow(&motion(0, 5.19, 10.0, start + 90 * MS), start + 90 * MS);
        assert_eq!(ends(&mut plan, start + 90 * MS), [(1, Some(LateReason::Speed))]);
    }

    #[test]
    fn what_a_plc_carries_out_is_given_at_once_and_answered_when_the_belt_is_there() {
        let start = Instant::now();
        // How far the belt is, when, and how it runs then; when the PLC answers; how that ends.
        let early = LateReason::Failed("the PLC moved the gate before the item came".into());
        for (position, answer, end) in [
            (5.29, Some(140), None),
            (5.29, Some(40), Some(early)),
            (5.29, None, Some(LateReason::Unacknowledged)),
            (5.0, None, None), // it is held
        ] {
            let mut plan = EjectPlan::new(8, vec![30 * MS]);
            plan.add(EjectOrder { count: Some(7), ..counted(0.3, 1, start) }, start);
            let Some(EjectStep::Send(0, command)) = plan.steps(start).pop() else { panic!("not sent") };
            assert_eq!((command.count, command.give_up), (Some(7), start + GIVEN_WITHIN));
            assert!(plan.follows_place());
            let at = |ms| start + 3600 * 1000 * MS + ms * MS;
            let speed = if position > 5.0 { 0.1 } else { 0.0 };
            plan.follow(&motion(0, 5.29 + position - 5.29, speed, at(40)), at(40)); // 10 mm: 100 ms
            if let Some(ms) = answer {
                plan.reported(command.id, 0, at(ms), Ok(()));
            }
            assert_eq!(
                ends(&mut plan, at(169)),
                end.clone().filter(|_| answer.is_some()).map(|why| (1, Some(why))).into_iter().collect::<Vec<_>>()
            );
            // Past the place nothing but the answer counts: neither a stop nor a reset.
            plan.follow(&motion(0, position + 0.012, 0.0, at(160)), at(160));
            plan.follow(&motion(if position > 5.0 { 1 } else { 0 }, 0.0, 0.0, at(161)), at(161));
            let last = ends(&mut plan, at(191));
            let wanted: Vec<_> = end.filter(|_| answer.is_none()).map(|why| (1, Some(why))).into_iter().collect();
            assert_eq!(last, wanted, "{position} {answer:?}");
            assert_eq!(plan.is_empty(), position > 5.0);
        }
        // What waits for a PLC is late when the counting begins anew, and one that comes past its gate at once.
        let mut plan = EjectPlan::new(8, vec![30 * MS]);
        plan.add(EjectOrder { count: Some(7), ..counted(0.3, 1, start) }, start);
        assert_eq!(ends(&mut plan, start), [(1, None)]);
        assert_eq!(plan.follow(&motion(1, 0.0, 0.0, start + MS), start + MS).lost.len(), 1);
        assert!(matches!(&ends(&mut plan, start + MS)[..], [(1, Some(LateReason::NoPosition(_)))]));
        let mut late = counted(-0.1, 2, start);
        late.pace.as_mut().unwrap().speed = 1.0;
        plan.add(EjectOrder { count: Some(7), ..late }, start);
        assert_eq!(ends(&mut plan, start), [(2, Some(LateReason::Verdict))]);
        assert!(plan.is_empty() && plan.orders.is_empty());
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
                assert_eq!(took.map(|(_, late)| late), outcome.is_none().then_some(8 * MS));
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
            events in prop::collection::vec((0u64..400, 0u64..300, 0usize..5, any::<bool>(), -2i8..6), 1..60),
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
            for (track, (ahead, later, answer, good, belt)) in (0u64..).zip(&events) {
                let left = *ahead as f64 / 1e3;
                let pace = Pace { left, at: now, speed: f64::from(*belt), delay: 5 * MS, goal: None };
                let new = order((*ahead != 7).then(|| start + Duration::from_millis(*ahead)), track);
                // Every other one follows a belt that runs, stands, runs backwards, or whose speed nobody knows any more; of
                // these every third goes by the belt's place, and some of them are a PLC's to carry out.
                let goal = BeltGoal { counting: 0, position: left, sign: 1.0, fresh: 100 * MS };
                let pace = Pace { goal: (answer % 3 == 0).then_some(goal), ..pace };
                let count = (answer % 3 == 0 && later % 2 == 0).then_some(7);
                let paced = || EjectOrder { pace: Some(pace), count, ..order(Some(pace.due()), track) };
                plan.add(if *good { paced() } else { new }, now);
                let place = motion((*later > 290).into(), *later as f64 / 1e3, f64::from(*belt), now);
                drop(plan.follow(&place, now));
                now += Duration::from_millis(later / 10);
                match belt {
                    5 => drop(plan.lose_speed()),
                    speed => drop(plan.retime(f64::from(*speed), now)),
                }
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
