//! OTP's checklist for supervisors, line by line.

use std::time::Duration;

use tokio::time::Instant;

use super::{Command, Fate, STOP_GRACE, Strategy, Supervision};
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
