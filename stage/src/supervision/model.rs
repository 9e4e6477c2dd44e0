//! The supervisor against a second one that was written naively from OTP's rules.

use std::time::Duration;

use tokio::time::Instant;

use super::{Command, Fate, Strategy, Supervision, draw};
use crate::{Backoff, Exit, Failure, FailureKind, Intensity, Restart};
use Command::{GiveUp, Kill, Start, Stop};

fn failed() -> Exit {
    Exit::Failed(Failure::new("child", FailureKind::Error, "oops"))
}

/// What was done, and when, in milliseconds from the start.
type Trace = Vec<(u128, Command)>;

/// What happens to a supervisor: so many milliseconds later a child ends, if it runs.
#[derive(Clone, Debug)]
struct Event {
    after: u64,
    child: usize,
    exit: Exit,
    counted: bool,
}

/// One sequence.
#[derive(Clone, Debug)]
struct Case {
    strategy: Strategy,
    intensity: Intensity,
    backoff: Backoff,
    seed: u64,
    children: Vec<Restart>,
    events: Vec<Event>,
    /// Which starts fail, in the order in which they come.
    starts_fail: Vec<bool>,
}

impl Case {
    fn random(seed: u64) -> Self {
        let mut state = seed;
        let mut below = |bound: u64| draw(&mut state) % bound;
        let children: Vec<_> = (0..1 + below(5))
            .map(|_| [Restart::Permanent, Restart::Transient, Restart::Temporary][below(3) as usize])
            .collect();
        let millis = |n| Duration::from_millis(n);
        let events = (0..1 + below(20)).map(|_| Event {
            after: [0, 1, 40, 999, 1_000, 1_001][below(6) as usize],
            child: below(children.len() as u64) as usize,
            exit: match below(4) {
                0 => Exit::Normal,
                1 => Exit::Shutdown,
                _ => failed(),
            },
            counted: below(5) == 0,
        });
        let events = events.collect();
        Self {
            strategy: [Strategy::OneForOne, Strategy::RestForOne, Strategy::OneForAll][below(3) as usize],
            intensity: Intensity::new(below(6) as usize, millis(below(3) * 1_000)),
            backoff: [Backoff::NONE, Backoff::exponential(millis(100), millis(1_500))][below(2) as usize],
            seed: below(1_000),
            starts_fail: (0..below(40)).map(|_| below(6) == 0).collect(),
            children,
            events,
        }
    }

    /// What the supervisor does when whoever is stopped ends at once.
    fn run(&self) -> Trace {
        let mut supervision = Supervision::new(self.strategy, self.intensity, self.backoff, self.seed);
        let mut up: Vec<bool> = self.children.iter().map(|restart| supervision.add(*restart)).map(|_| true).collect();
        let (start, mut starts_fail) = (Instant::now(), self.starts_fail.iter());
        let (mut now, mut trace) = (start, Trace::new());
        let mut carry_out = |supervision: &mut Supervision, up: &mut Vec<bool>, now: Instant| {
            while let Some(command) = supervision.poll(now) {
                trace.push(((now - start).as_nanos(), command));
                match command {
                    Stop(child) => {
                        assert!(std::mem::take(&mut up[child]), "{child} is stopped and does not run");
                        supervision.exited(child, &Exit::Shutdown, false, now);
                    }
                    Start(child) => {
                        up[child] = !starts_fail.next().copied().unwrap_or(false);
                        if !up[child] {
                            supervision.start_failed(child, now);
                        }
                    }
                    Kill(child) => panic!("{child} ended at once, and was killed"),
                    GiveUp => {}
                }
            }
        };
        for Event { after, child, exit, counted } in &self.events {
            let then = now + Duration::from_millis(*after);
            while let Some(at) = supervision.timeout().filter(|at| *at <= then) {
                carry_out(&mut supervision, &mut up, at.max(now));
            }
            now = then;
            if std::mem::take(&mut up[*child]) {
                supervision.exited(*child, exit, *counted, now);
            }
            carry_out(&mut supervision, &mut up, now);
        }
        while let Some(at) = supervision.timeout() {
            carry_out(&mut supervision, &mut up, at.max(now));
        }
        trace
    }
}

/// OTP's rules once more, as plainly as possible: every step at once, every question answered from the whole history.
struct Naive<'a> {
    case: &'a Case,
    /// Restarts that were counted, since the beginning.
    counted_at: Vec<Duration>,
    alive: Vec<bool>,
    /// When a child that is down is to start.
    waits_until: Vec<Option<Duration>>,
    next_start: usize,
    entropy: u64,
    given_up: bool,
    trace: Trace,
}

impl<'a> Naive<'a> {
    fn run(case: &'a Case) -> Trace {
        let count = case.children.len();
        let (alive, waits_until) = (vec![true; count], vec![None; count]);
        let (entropy, given_up, trace) = (case.seed, false, Trace::new());
        let mut naive =
            Self { case, counted_at: Vec::new(), alive, waits_until, next_start: 0, entropy, given_up, trace };
        let mut now = Duration::ZERO;
        for event in &case.events {
            let then = now + Duration::from_millis(event.after);
            naive.start_until(then);
            now = then;
            if naive.alive[event.child] {
                naive.alive[event.child] = false;
                let is_failure = matches!(event.exit, Exit::Failed(_));
                match case.children[event.child] {
                    Restart::Permanent => naive.restart(event.child, event.counted, now),
                    Restart::Transient if is_failure => naive.restart(event.child, event.counted, now),
                    Restart::Transient | Restart::Temporary => {}
                }
            }
            naive.start_until(now);
        }
        naive.start_until(Duration::MAX);
        naive.trace
    }

    fn does(&mut self, at: Duration, command: Command) {
        self.trace.push((at.as_nanos(), command));
    }

    fn restart(&mut self, child: usize, counted: bool, now: Duration) {
        let Case { intensity, backoff, strategy, children, .. } = self.case;
        let mut start_at = now;
        if !counted {
            let recent = self.counted_at.iter().filter(|at| now - **at <= intensity.within()).count();
            if recent == intensity.max_restarts() {
                for other in (0..children.len()).rev() {
                    if self.alive[other] {
                        self.does(now, Stop(other));
                    }
                }
                self.alive.fill(false);
                self.waits_until.fill(None);
                self.given_up = true;
                return self.does(now, GiveUp);
            }
            self.counted_at.push(now);
            start_at += backoff.delay(recent + 1, draw(&mut self.entropy));
        }
        let latest = self.waits_until.iter().flatten().max().copied();
        if counted || *strategy != Strategy::OneForOne {
            start_at = start_at.max(latest.unwrap_or(start_at));
        }
        self.waits_until[child] = Some(start_at);
        if *strategy == Strategy::OneForOne {
            return;
        }
        for other in (0..children.len()).rev() {
            let concerned = *strategy == Strategy::OneForAll || other > child;
            if concerned && self.alive[other] {
                self.alive[other] = false;
                self.does(now, Stop(other));
            }
            let waits = self.waits_until[other].is_some();
            if waits || (concerned && children[other] != Restart::Temporary) {
                self.waits_until[other] = Some(start_at);
            }
        }
    }

    fn start_until(&mut self, then: Duration) {
        let mut now = Duration::ZERO;
        let first = |naive: &Self| naive.waits_until.iter().flatten().min().copied().filter(|at| *at <= then);
        while let Some(first) = first(self) {
            now = now.max(first);
            // Whoever is due by then, in order of declaration.
            let child = self.waits_until.iter().position(|at| at.is_some_and(|at| at <= now)).expect("one is due");
            self.waits_until[child] = None;
            self.does(now, Start(child));
            let fails = self.case.starts_fail.get(self.next_start).copied().unwrap_or(false);
            self.next_start += 1;
            if fails {
                self.restart(child, false, now);
            } else {
                self.alive[child] = true;
            }
            assert!(!self.given_up || self.waits_until.iter().all(Option::is_none));
        }
    }
}

#[test]
fn otp_ten_thousand_random_lives_are_as_a_naive_supervisor_has_them() {
    let (mut gave_up, mut starts) = (0, 0);
    let watch = aqueduct_watchdog::Watch::over("seed ");
    for seed in 0..10_000 {
        watch.begin(seed);
        let case = Case::random(seed);
        let (ours, naive) = (case.run(), Naive::run(&case));
        assert_eq!(ours, naive, "seed {seed}: {case:#?}");
        gave_up += usize::from(ours.iter().any(|(_, command)| *command == GiveUp));
        starts += ours.iter().filter(|(_, command)| matches!(command, Start(_))).count();
    }
    assert!((1_000..9_000).contains(&gave_up) && starts > 10_000, "{gave_up} gave up, {starts} starts: too tame");
}

/// Children that take their time to stop, or do not stop at all, and end by themselves meanwhile.
#[test]
fn whatever_ends_meanwhile_everybody_who_may_returns_and_nobody_is_started_twice() {
    let watch = aqueduct_watchdog::Watch::over("seed ");
    for seed in 0..10_000 {
        watch.begin(seed);
        let case = Case::random(seed);
        let mut supervision = Supervision::new(case.strategy, case.intensity, case.backoff, case.seed);
        let mut up: Vec<bool> = case.children.iter().map(|restart| supervision.add(*restart)).map(|_| true).collect();
        let mut returns = vec![true; up.len()];
        let (mut now, mut entropy) = (Instant::now(), seed);
        let (mut counted, mut over, mut asked) = (Vec::new(), false, None);
        let mut events = case.events.iter();
        loop {
            while let Some(command) = supervision.poll(now) {
                assert!(!over, "seed {seed}: {command:?} after the end");
                match command {
                    Stop(child) => {
                        assert!(up[child] && asked.is_none(), "seed {seed}: {command:?}");
                        asked = Some(child);
                    }
                    Kill(child) => {
                        assert_eq!(asked.take(), Some(child), "seed {seed}");
                        up[child] = false;
                        returns[child] = supervision.exited(child, &failed(), false, now) == Fate::Returns;
                    }
                    Start(child) => {
                        assert!(!std::mem::replace(&mut up[child], true), "seed {seed}: started twice");
                        assert!(asked.is_none() && case.children[child] != Restart::Temporary, "seed {seed}");
                    }
                    GiveUp => {
                        assert!(!up.contains(&true), "seed {seed}: somebody still runs");
                        over = true;
                    }
                }
            }
            // One that was asked to end may do so, or another event comes first, or time passes.
            if let Some(child) = asked.take_if(|_| draw(&mut entropy).is_multiple_of(2)) {
                up[child] = false;
                returns[child] = supervision.exited(child, &Exit::Shutdown, false, now) == Fate::Returns;
            } else if let Some(Event { after, child, exit, .. }) = events.next() {
                now += Duration::from_millis(*after);
                if std::mem::take(&mut up[*child]) {
                    let was_asked = asked.take_if(|asked| asked == child).is_some();
                    let group = !supervision.to_stop.is_empty() || was_asked;
                    returns[*child] = supervision.exited(*child, exit, false, now) == Fate::Returns;
                    if returns[*child] && !group {
                        counted.push(now);
                    }
                }
            } else if let Some(at) = supervision.timeout() {
                now = now.max(at);
            } else {
                break;
            }
        }
        let within = |at: &Instant| counted.iter().filter(|c| *c <= at && *at - **c <= case.intensity.within()).count();
        let most = counted.iter().map(within).max().unwrap_or(0);
        assert!(most <= case.intensity.max_restarts(), "seed {seed}: {most} restarts within the period");
        if !over {
            for (child, restart) in case.children.iter().enumerate() {
                let ended = !returns[child] && *restart != Restart::Permanent;
                assert!(up[child] || ended, "seed {seed}: {child} did not return; {case:#?}");
            }
        }
    }
}
