//! The supervisor against OTP's checklist, and against a second one that was written naively from OTP's rules.

use std::time::Duration;

use tokio::time::Instant;

use super::{Command, Fate, STOP_GRACE, Strategy, Supervision, draw};
use crate::{Backoff, Exit, Failure, FailureKind, Intensity, Restart};
use Command::{GiveUp, Kill, Start, Stop};

fn failed() -> Exit {
    Exit::Failed(Failure::new("child", FailureKind::Error, "oops"))
}

fn three_in_five() -> Intensity {
    Intensity::default()
}

/// A supervisor whose children are all permanent unless said otherwise, at a time that the test moves.
struct Bench {
    supervision: Supervision,
    now: Instant,
}

impl Bench {
    fn new(strategy: Strategy, intensity: Intensity, children: &[Restart]) -> Self {
        let mut supervision = Supervision::new(strategy, intensity, Backoff::NONE, 1);
        children.iter().for_each(|restart| {
            supervision.add(*restart);
        });
        Self { supervision, now: Instant::now() }
    }

    fn after(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        self
    }

    fn exit(&mut self, child: usize, exit: &Exit) -> Fate {
        self.supervision.exited(child, exit, false, self.now)
    }

    fn next(&mut self) -> Option<Command> {
        self.supervision.poll(self.now)
    }

    /// What is done when whoever is asked to end does so at once.
    fn commands(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some(command) = self.next() {
            commands.push(command);
            if let Stop(child) = command {
                self.exit(child, &Exit::Shutdown);
            }
        }
        commands
    }

    /// The next that is done, once whoever is asked to end has ended.
    fn next_but_stops(&mut self) -> Option<Command> {
        loop {
            match self.next() {
                Some(Stop(child)) => {
                    self.exit(child, &Exit::Shutdown);
                }
                command => return command,
            }
        }
    }

    fn fails(&mut self, child: usize) -> Vec<Command> {
        self.exit(child, &failed());
        self.commands()
    }
}

const PERMANENT: [Restart; 4] = [Restart::Permanent; 4];

#[test]
fn otp_one_for_one_restarts_the_failed_child_only() {
    assert_eq!(Bench::new(Strategy::OneForOne, three_in_five(), &PERMANENT).fails(1), [Start(1)]);
}

#[test]
fn otp_one_for_all_stops_the_others_in_reverse_and_starts_all_in_order() {
    let all = [Stop(3), Stop(2), Stop(0), Start(0), Start(1), Start(2), Start(3)];
    assert_eq!(Bench::new(Strategy::OneForAll, three_in_five(), &PERMANENT).fails(1), all);
}

#[test]
fn otp_rest_for_one_concerns_the_failed_child_and_those_started_after_it() {
    let rest = [Stop(3), Stop(2), Start(1), Start(2), Start(3)];
    assert_eq!(Bench::new(Strategy::RestForOne, three_in_five(), &PERMANENT).fails(1), rest);
}

#[test]
fn otp_permanent_always_transient_on_failure_temporary_never() {
    for (restart, exit, fate) in [
        (Restart::Permanent, Exit::Normal, Fate::Returns),
        (Restart::Permanent, Exit::Shutdown, Fate::Returns),
        (Restart::Permanent, failed(), Fate::Returns),
        (Restart::Transient, Exit::Normal, Fate::Ends),
        (Restart::Transient, Exit::Shutdown, Fate::Ends),
        (Restart::Transient, failed(), Fate::Returns),
        (Restart::Temporary, Exit::Normal, Fate::Ends),
        (Restart::Temporary, Exit::Shutdown, Fate::Ends),
        (Restart::Temporary, failed(), Fate::Ends),
    ] {
        let mut bench = Bench::new(Strategy::OneForOne, three_in_five(), &[restart]);
        assert_eq!(bench.exit(0, &exit), fate, "{restart:?} {exit:?}");
        assert_eq!(bench.next(), (fate == Fate::Returns).then_some(Start(0)));
    }
}

#[test]
fn otp_a_temporary_child_does_not_come_back_with_its_siblings_and_takes_none_along() {
    let specs = [Restart::Permanent, Restart::Temporary, Restart::Transient];
    let mut bench = Bench::new(Strategy::OneForAll, three_in_five(), &specs);
    assert_eq!(bench.fails(0), [Stop(2), Stop(1), Start(0), Start(2)]);
    let mut bench = Bench::new(Strategy::OneForAll, three_in_five(), &specs);
    assert_eq!(bench.fails(1), []);
}

#[test]
fn otp_a_transient_child_that_was_done_starts_again_with_all_others() {
    let mut bench = Bench::new(Strategy::OneForAll, three_in_five(), &[Restart::Transient, Restart::Permanent]);
    assert_eq!(bench.exit(0, &Exit::Normal), Fate::Ends);
    assert_eq!(bench.fails(1), [Start(0), Start(1)]);
}

#[test]
fn otp_exactly_max_restarts_are_allowed_within_the_period() {
    let mut bench = Bench::new(Strategy::OneForOne, Intensity::new(2, Duration::from_secs(5)), &PERMANENT);
    assert_eq!(bench.fails(0), [Start(0)]);
    assert_eq!(bench.after(1_000).fails(1), [Start(1)]);
    assert_eq!(bench.after(4_001).fails(2), [Start(2)], "the first is older than the period");
    assert_eq!(bench.after(999).fails(3), [Stop(2), Stop(1), Stop(0), GiveUp], "three within exactly five seconds");
}

#[test]
fn otp_beyond_the_intensity_all_children_stop_in_reverse_and_the_supervisor_ends() {
    let mut bench = Bench::new(Strategy::OneForOne, Intensity::new(1, Duration::from_secs(5)), &PERMANENT);
    assert_eq!(bench.fails(1), [Start(1)]);
    assert_eq!(bench.fails(1), [Stop(3), Stop(2), Stop(0), GiveUp]);
    assert_eq!((bench.after(60_000).next(), bench.supervision.timeout()), (None, None), "it is over");
}

#[test]
fn otp_with_max_restarts_0_the_first_failure_escalates() {
    let mut bench = Bench::new(Strategy::OneForAll, Intensity::new(0, Duration::from_secs(5)), &PERMANENT);
    assert_eq!(bench.fails(3), [Stop(2), Stop(1), Stop(0), GiveUp]);
}

#[test]
fn otp_a_child_that_cannot_be_started_at_first_stops_the_others_in_reverse_and_fails_the_supervisor() {
    let mut bench = Bench::new(Strategy::OneForOne, three_in_five(), &PERMANENT);
    assert_eq!(bench.supervision.start_failed(2, bench.now), Fate::Ends);
    assert_eq!(bench.commands(), [Stop(3), Stop(1), Stop(0), GiveUp]);
}

#[test]
fn otp_a_restart_that_fails_counts_and_is_tried_again() {
    let mut bench = Bench::new(Strategy::RestForOne, three_in_five(), &PERMANENT);
    bench.exit(1, &failed());
    for _ in 0..2 {
        assert_eq!(bench.next_but_stops(), Some(Start(1)));
        assert_eq!(bench.supervision.start_failed(1, bench.now), Fate::Returns);
    }
    assert_eq!(bench.next(), Some(Start(1)));
    assert_eq!(bench.supervision.start_failed(1, bench.now), Fate::Ends, "the fourth within the period");
    assert_eq!(bench.commands(), [Stop(0), GiveUp]);
}

#[test]
fn otp_who_does_not_stop_in_time_is_killed_each_with_a_time_of_its_own() {
    let mut bench = Bench::new(Strategy::OneForAll, three_in_five(), &[Restart::Permanent; 3]);
    bench.exit(0, &failed());
    for child in [2, 1] {
        assert_eq!(bench.next(), Some(Stop(child)));
        assert_eq!(bench.supervision.timeout(), Some(bench.now + STOP_GRACE));
        assert_eq!(bench.after(4_999).next(), None);
        assert_eq!(bench.after(1).next(), Some(Kill(child)));
        assert_eq!(bench.next(), None, "killed once, and waited for");
        assert_eq!(bench.exit(child, &failed()), Fate::Returns);
    }
    assert_eq!(bench.commands(), [Start(0), Start(1), Start(2)], "one cause, however they ended");
}

#[test]
fn exits_while_others_stop_are_one_case() {
    let mut bench = Bench::new(Strategy::OneForAll, Intensity::new(1, Duration::from_secs(5)), &PERMANENT);
    bench.exit(2, &failed());
    assert_eq!(bench.next(), Some(Stop(3)));
    assert_eq!(bench.exit(0, &failed()), Fate::Returns, "it was to be stopped anyhow");
    assert_eq!(bench.exit(3, &failed()), Fate::Returns);
    assert_eq!(bench.commands(), [Stop(1), Start(0), Start(1), Start(2), Start(3)]);
}

#[test]
fn a_cause_that_was_counted_is_not_counted_again_and_everybody_returns_together() {
    let (second, allowed) = (Duration::from_secs(1), Intensity::new(1, Duration::from_secs(5)));
    let mut supervision = Supervision::new(Strategy::OneForOne, allowed, Backoff::exponential(second, second), 7);
    (0..3).for_each(|_| {
        supervision.add(Restart::Transient);
    });
    let now = Instant::now();
    assert_eq!(supervision.exited(1, &failed(), false, now), Fate::Returns);
    assert_eq!(supervision.exited(2, &failed(), true, now), Fate::Returns);
    assert_eq!(supervision.exited(0, &failed(), true, now), Fate::Returns);
    assert_eq!(supervision.poll(now), None);
    let at = supervision.timeout().expect("a start is due");
    assert!((second / 2..=second).contains(&(at - now)));
    let started: Vec<_> = std::iter::from_fn(|| supervision.poll(at)).collect();
    assert_eq!(started, [Start(0), Start(1), Start(2)]);
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
    for seed in 0..10_000 {
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
    for seed in 0..10_000 {
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
