//! What work-pulling does, case by case.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use super::laws::start;
use super::steps::{LINE_PAUSE, RETURN_WAIT};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A pool and the time, which tests move by hand.
struct Pool {
    pulling: Pulling<u64>,
    now: Instant,
    /// What was decided and not looked at.
    decided: Vec<Decision<u64>>,
}

impl Pool {
    fn new(options: PullingOptions) -> Self {
        Self { pulling: Pulling::new(options), now: start(), decided: Vec::new() }
    }

    fn join(&mut self, demand: u64) -> WorkerId {
        self.pulling.join(self.now, Demand::new(demand)).unwrap()
    }

    /// One that says what it begins with.
    fn announcing(&mut self, demand: u64) -> WorkerId {
        let worker = self.join(0);
        assert!(self.pulling.announces(worker));
        self.pulling.ask(self.now, worker, Demand::new(demand)).unwrap();
        worker
    }

    fn begin(&mut self, worker: WorkerId, id: u64, attempt: u32) -> Result<(), Refused> {
        self.decide();
        self.pulling.begin(self.now, worker, id.into(), nth(attempt))
    }

    fn give_back(&mut self, worker: WorkerId, id: u64, attempt: u32) -> Result<(), Refused> {
        self.decide();
        self.pulling.give_back(self.now, worker, id.into(), nth(attempt))
    }

    /// (worker, task) of what was asked back, leaving out what was given out.
    fn asked_back(&mut self) -> Vec<(WorkerId, u64)> {
        self.decisions()
            .into_iter()
            .filter_map(|decision| match decision {
                Decision::Revoke(given) => Some((given.worker, u64::try_from(given.task.number()).unwrap())),
                _ => None,
            })
            .collect()
    }

    fn push(&mut self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            self.pulling.push(self.now, Task::new(id, id)).unwrap();
            self.decide();
        }
    }

    /// (worker, task, attempt) of what was given out; there must be no other decision.
    fn given(&mut self) -> Vec<(WorkerId, u64, u32)> {
        self.decisions()
            .into_iter()
            .map(|decision| match decision {
                Decision::Assign(given) => {
                    (given.worker, u64::try_from(given.task.number()).unwrap(), given.attempt.number())
                }
                other => panic!("unexpected {other:?}"),
            })
            .collect()
    }

    fn decisions(&mut self) -> Vec<Decision<u64>> {
        self.decide();
        std::mem::take(&mut self.decided)
    }

    /// Time does not pass, and no word of a worker comes, before what was decided is known.
    fn decide(&mut self) {
        self.decided.extend(std::iter::from_fn(|| self.pulling.poll_decision()));
    }

    fn dead(&mut self) -> Vec<(u64, u32, DeadReason)> {
        self.decisions()
            .into_iter()
            .filter_map(|decision| match decision {
                Decision::Dead(letter) => Some((letter.payload, letter.attempts, letter.reason)),
                _ => None,
            })
            .collect()
    }

    fn pass(&mut self, time: Duration) {
        self.decide();
        self.now += time;
        self.pulling.handle_timeout(self.now);
    }

    fn acknowledge(&mut self, worker: WorkerId, id: u64, attempt: u32) -> Result<u64, Refused> {
        self.decide();
        let finished = self.pulling.acknowledge(self.now, worker, id.into(), nth(attempt))?;
        Ok(finished.payload)
    }

    fn nack(&mut self, worker: WorkerId, id: u64, attempt: u32, delay: Duration) {
        self.decide();
        self.pulling.nack(self.now, worker, id.into(), nth(attempt), delay, "broken").unwrap();
    }
}

fn nth(attempt: u32) -> Attempt {
    attempt_after(attempt - 1)
}

/// A task is waited for as long as that, in most of these.
const WAIT: Duration = Duration::from_secs(30);

fn options() -> PullingOptions {
    PullingOptions::default().ack_wait(WAIT)
}

fn attempts(attempts: u32) -> PullingOptions {
    options().max_attempts(NonZeroU32::new(attempts).unwrap())
}

#[test]
fn nothing_is_given_that_was_not_asked_for() {
    let mut pool = Pool::new(PullingOptions::default());
    let worker = pool.join(2);
    pool.push(0..5);
    assert_eq!(pool.given(), [(worker, 0, 1), (worker, 1, 1)]);
    assert_eq!(pool.acknowledge(worker, 0, 1), Ok(0));
    assert_eq!(pool.given(), [], "an answer is no demand");
    for up_to in [2, 1, 3, 3] {
        pool.pulling.ask(pool.now, worker, Demand::new(up_to)).unwrap();
    }
    assert_eq!(pool.given(), [(worker, 2, 1)], "demand is the sum, and repeating it is nothing new");
}

#[test]
fn the_one_with_the_most_demand_is_next() {
    let mut pool = Pool::new(PullingOptions::default());
    let (few, many) = (pool.join(1), pool.join(3));
    pool.push(0..5);
    let to: Vec<_> = pool.given().into_iter().map(|(worker, ..)| worker).collect();
    assert_eq!(to, [many, many, few, many], "of two with one left each, the first who joined");
}

#[test]
fn round_robin_is_strict() {
    let mut pool = Pool::new(PullingOptions::default().assignment(Assignment::RoundRobin));
    let workers: Vec<_> = (0..10).map(|_| pool.join(10)).collect();
    pool.push(0..100);
    for (worker, task, _) in pool.given() {
        assert_eq!(worker, workers[task as usize % 10]);
    }
    pool.pulling.ask(pool.now, workers[1], Demand::new(20)).unwrap();
    pool.push([100]);
    assert_eq!(pool.given(), [], "it is the turn of the first, which has not asked");
    pool.pulling.ask(pool.now, workers[0], Demand::new(11)).unwrap();
    assert_eq!(pool.given(), [(workers[0], 100, 1)]);
}

#[test]
fn a_key_stays_with_its_worker_and_in_order() {
    let mut pool = Pool::new(PullingOptions::default().assignment(Assignment::ByKey));
    let workers: Vec<_> = (0..4).map(|_| pool.join(1000)).collect();
    let push = |pool: &mut Pool, ids: std::ops::Range<u64>| {
        for id in ids {
            pool.pulling.push(pool.now, Task::new(id, id).key((id % 50).to_le_bytes())).unwrap();
        }
        let mut owners = BTreeMap::new();
        let mut last = BTreeMap::new();
        for (worker, id, _) in pool.given() {
            assert_eq!(*owners.entry(id % 50).or_insert(worker), worker);
            assert!(last.insert(id % 50, id).is_none_or(|before| before < id));
        }
        owners
    };
    let before = push(&mut pool, 0..200);
    assert_eq!(before.len(), 50);
    assert!(workers.iter().all(|worker| before.values().any(|owner| owner == worker)), "all are used");
    let joined = pool.join(1000);
    let after = push(&mut pool, 200..400);
    let moved: Vec<_> = after.iter().filter(|(key, owner)| before[key] != **owner).collect();
    assert!(moved.iter().all(|(_, owner)| **owner == joined), "who joins takes keys, and nobody else does");
    assert!((1..=20).contains(&moved.len()), "{}", moved.len());
}
#[test]
fn a_stuck_worker_does_not_hold_up_the_others() {
    let mut pool = Pool::new(options());
    let (good, stuck) = (pool.join(0), pool.join(100));
    pool.push([1]);
    assert_eq!(pool.given(), [(stuck, 1, 1)]);
    pool.pass(30 * SECOND);
    assert!(matches!(pool.decisions()[..], [Decision::Expired(given)] if given.worker == stuck), "and waits");
    assert!(pool.pulling.is_silent(stuck));
    pool.push([2]);
    assert_eq!(pool.given(), [], "though the silent one has asked for a hundred");
    pool.pulling.ask(pool.now, good, Demand::new(2)).unwrap();
    assert_eq!(pool.given(), [(good, 1, 2), (good, 2, 1)], "what came back is first");
    pool.push([3]);
    assert_eq!(pool.acknowledge(stuck, 1, 1), Err(Refused::Late { task: 1.into(), attempt: nth(1) }));
    assert_eq!(pool.given(), [(stuck, 3, 1)], "it has been heard of");
}

#[test]
fn a_late_answer_is_refused_even_while_the_task_waits() {
    let mut pool = Pool::new(options());
    let worker = pool.join(1);
    pool.push([1]);
    pool.pass(30 * SECOND);
    assert!(matches!(pool.acknowledge(worker, 1, 1), Err(Refused::Late { .. })));
    assert!(matches!(pool.acknowledge(worker, 1, 2), Err(Refused::NotHeld { .. })), "nobody has the second attempt");
    assert_eq!((pool.pulling.counters().late, pool.pulling.counters().not_held), (1, 1));
    assert_eq!(pool.pulling.waiting(), 1);
}

#[test]
fn an_answer_after_the_deadline_counts_while_nobody_has_acted_on_it() {
    let mut pool = Pool::new(PullingOptions::default());
    let worker = pool.join(1);
    pool.push([1]);
    pool.now += 31 * SECOND;
    assert_eq!(pool.acknowledge(worker, 1, 1), Ok(1));
}

#[test]
fn progress_extends_the_deadline_but_not_for_ever() {
    let mut pool = Pool::new(options().max_attempt_time(60 * SECOND));
    let worker = pool.announcing(2);
    pool.push([1, 2]);
    assert_eq!(pool.given().len(), 2);
    [1, 2].into_iter().for_each(|id| pool.begin(worker, id, 1).unwrap());
    for _ in 0..3 {
        pool.pass(19 * SECOND);
        pool.pulling.progress(pool.now, worker, 1.into(), nth(1)).unwrap();
    }
    assert!(matches!(pool.decisions()[..], [Decision::Expired(given)] if given.task == 2.into()));
    pool.pass(4 * SECOND);
    let result = pool.pulling.progress(pool.now, worker, 1.into(), nth(1));
    assert_eq!(result, Err(Refused::TooLong { task: 1.into(), attempt: nth(1) }));
    pool.pass(26 * SECOND);
    assert!(
        pool.decisions().iter().any(|decision| matches!(decision, Decision::Expired(given) if given.task == 1.into()))
    );
}

#[test]
fn what_a_worker_refuses_is_tried_again_after_the_delay_and_then_dead() {
    let mut pool = Pool::new(attempts(2));
    let worker = pool.join(10);
    pool.push([1]);
    assert_eq!(pool.given(), [(worker, 1, 1)]);
    pool.nack(worker, 1, 1, 5 * SECOND);
    assert_eq!(pool.given(), []);
    assert_eq!(pool.pulling.poll_timeout(), Some(pool.now + 5 * SECOND));
    pool.pass(5 * SECOND);
    assert_eq!(pool.given(), [(worker, 1, 2)]);
    pool.nack(worker, 1, 2, 5 * SECOND);
    assert_eq!(pool.dead(), [(1, 2, DeadReason::Refused("broken".into()))]);
    assert!(matches!(pool.acknowledge(worker, 1, 2), Err(Refused::Late { .. })));
}

#[test]
fn nobody_puts_a_task_off_for_ever() {
    let mut pool = Pool::new(PullingOptions::default());
    let worker = pool.join(10);
    pool.push([1]);
    pool.nack(worker, 1, 1, Duration::MAX);
    assert_eq!(pool.pulling.poll_timeout(), Some(pool.now + Duration::from_hours(1)));
}

#[test]
fn a_poison_task_stops_after_its_attempts_and_harms_no_other() {
    let mut pool = Pool::new(attempts(3));
    pool.push([1, 2]);
    for attempt in 1..=3 {
        let worker = pool.join(1);
        assert_eq!(pool.given(), [(worker, 1, attempt)]);
        assert!(pool.pulling.lost(pool.now, worker));
    }
    assert_eq!(pool.dead(), [(1, 3, DeadReason::WorkerLost)]);
    let worker = pool.join(1);
    assert_eq!(pool.given(), [(worker, 2, 1)]);
}

#[test]
fn what_a_worker_says_it_has_not_begun_with_was_no_attempt() {
    for is_lost in [false, true] {
        let mut pool = Pool::new(attempts(2));
        pool.push([1, 2, 3]);
        let worker = pool.join(5);
        assert_eq!(pool.given(), [1, 2, 3].map(|task| (worker, task, 1)));
        pool.pulling.hand_back(pool.now, worker, [1, 3].map(|task: u64| (task.into(), nth(1))));
        assert_eq!(pool.given(), [], "it is given nothing more");
        assert!(if is_lost { pool.pulling.lost(pool.now, worker) } else { pool.pulling.leave(pool.now, worker) });
        let worker = pool.join(5);
        assert_eq!(pool.given(), [(worker, 1, 1), (worker, 2, 2), (worker, 3, 1)], "lost: {is_lost}");
    }
}

#[test]
fn a_worker_that_leaves_costs_its_tasks_no_attempt() {
    let mut pool = Pool::new(attempts(1));
    pool.push([1, 2]);
    for number in 1..=5 {
        let worker = pool.join(2);
        assert_eq!(pool.given(), [(worker, 1, number), (worker, 2, number)], "in the order of pushing");
        assert!(pool.pulling.leave(pool.now, worker));
        assert!(!pool.pulling.leave(pool.now, worker));
        assert_eq!(pool.acknowledge(worker, 1, number), Err(Refused::NoWorker(worker)));
    }
    assert_eq!(pool.pulling.counters().given_back, 10);
    assert_eq!(pool.pulling.counters().dead, 0);
}

#[test]
fn what_was_not_told_yet_is_not_told_to_one_who_left() {
    let mut pool = Pool::new(PullingOptions::default());
    let gone = pool.join(2);
    for id in [1, 2] {
        pool.pulling.push(pool.now, Task::new(id, id)).unwrap();
    }
    let told = pool.pulling.poll_decision();
    assert!(matches!(told, Some(Decision::Assign(given)) if given.task == 1.into()), "{told:?}");
    pool.pulling.lost(pool.now, gone);
    let worker = pool.join(2);
    assert_eq!(pool.given(), [(worker, 1, 2), (worker, 2, 2)]);
}

#[test]
fn a_worker_can_end_a_task_for_good() {
    let mut pool = Pool::new(PullingOptions::default());
    let worker = pool.join(1);
    pool.push([1]);
    assert_eq!(pool.given(), [(worker, 1, 1)]);
    let long = "ä".repeat(1000);
    pool.pulling.terminate(pool.now, worker, 1.into(), nth(1), &long).unwrap();
    assert_eq!(pool.dead(), [(1, 1, DeadReason::Terminated("ä".repeat(512)))], "messages are cut to 1 KiB");
}

#[test]
fn no_more_wait_than_may_and_those_that_come_back_always_may() {
    let mut pool = Pool::new(PullingOptions::default().max_waiting(2).max_in_flight(3));
    let worker = pool.join(100);
    pool.push(0..5);
    assert_eq!((pool.given().len(), pool.pulling.waiting(), pool.pulling.room()), (3, 2, 0));
    let error = pool.pulling.push(pool.now, Task::new(9, 9)).unwrap_err();
    assert_eq!(error.to_string(), "2 tasks wait already");
    assert_eq!(error.into_task().into_payload(), 9);
    pool.pulling.lost(pool.now, worker);
    assert_eq!(pool.pulling.waiting(), 5);
}

#[test]
fn a_worker_has_no_more_than_it_may_whatever_it_asks() {
    let mut pool = Pool::new(PullingOptions::default().max_in_flight_per_worker(2));
    let worker = pool.pulling.join(pool.now, Demand::MAX).unwrap();
    pool.push(0..5);
    assert_eq!(pool.given().len(), 2);
    pool.acknowledge(worker, 1, 1).unwrap();
    assert_eq!(pool.given(), [(worker, 2, 1)]);
    assert_eq!(pool.pulling.held_by(worker), Some(2));
}

#[test]
fn a_task_is_taken_once_as_long_as_its_id_is_remembered() {
    let mut pool = Pool::new(PullingOptions::default().max_remembered(2));
    let worker = pool.join(100);
    pool.push(0..3);
    let push = |pool: &mut Pool, id| pool.pulling.push(pool.now, Task::new(id, id)).map_err(|error| error.to_string());
    assert_eq!(push(&mut pool, 0), Err("task 0 was pushed before".into()));
    for id in 0..3 {
        pool.acknowledge(worker, id, 1).unwrap();
    }
    assert_eq!(push(&mut pool, 2), Err("task 2 was pushed before".into()));
    assert!(pool.pulling.forget(2.into()) && !pool.pulling.forget(2.into()));
    assert_eq!((push(&mut pool, 2), push(&mut pool, 0)), (Ok(()), Ok(())), "forgotten by hand, and by the bound");
    assert_eq!(pool.pulling.counters().duplicates, 2);
}

#[test]
fn what_is_forgotten_and_pushed_again_is_not_forgotten_with_those_that_have_ended() {
    let mut pool = Pool::new(PullingOptions::default().max_remembered(2));
    let worker = pool.join(100);
    pool.push([0, 1]);
    pool.acknowledge(worker, 0, 1).unwrap();
    assert!(pool.pulling.forget(0.into()));
    pool.push([0, 2, 3]);
    // As many as are remembered.
    for id in 1..=3 {
        pool.acknowledge(worker, id, 1).unwrap();
    }
    assert_eq!(pool.acknowledge(worker, 0, 1), Ok(0), "it is still there");
}

#[test]
fn what_waits_at_a_worker_neither_runs_out_nor_uses_up_attempts() {
    let mut pool = Pool::new(attempts(1));
    let worker = pool.announcing(30);
    pool.push(0..30);
    assert_eq!(pool.given().len(), 30);
    // One after the other, each takes most of the time that there is.
    for id in 0..30 {
        pool.begin(worker, id, 1).unwrap();
        pool.pass(WAIT - SECOND);
        pool.acknowledge(worker, id, 1).unwrap();
    }
    assert_eq!((pool.decisions(), pool.pulling.counters().finished), (vec![], 30));
    // The time runs from the first word, whatever that is.
    pool.pulling.ask(pool.now, worker, Demand::new(31)).unwrap();
    pool.push([30]);
    pool.pass(WAIT - SECOND);
    pool.pulling.progress(pool.now, worker, 30.into(), nth(1)).unwrap();
    assert_eq!(pool.pulling.poll_timeout(), Some(pool.now + WAIT));
    pool.pass(WAIT);
    assert_eq!(pool.dead(), [(30, 1, DeadReason::Expired)]);
}

#[test]
fn what_waits_at_a_busy_worker_is_asked_back_for_one_that_has_nothing_to_do() {
    let mut pool = Pool::new(attempts(1));
    let busy = pool.announcing(5);
    pool.push(0..5);
    pool.begin(busy, 0, 1).unwrap();
    assert_eq!(pool.given().len(), 5);
    let idle = pool.announcing(2);
    pool.pass(LINE_PAUSE - Duration::from_millis(1));
    assert_eq!(pool.decisions(), [], "it may get there at any moment");
    pool.pass(Duration::from_millis(1));
    assert_eq!(pool.asked_back(), [(busy, 4)], "one for each, and the last");
    assert!(matches!(pool.give_back(busy, 3, 1), Err(Refused::NotHeld { .. })), "it was not asked for that");
    pool.give_back(busy, 4, 1).unwrap();
    assert_eq!(pool.given(), [(idle, 4, 1)], "nobody has begun with it, so it is the first attempt still");
    pool.begin(idle, 4, 1).unwrap();
    pool.acknowledge(idle, 4, 1).unwrap();
    assert_eq!(pool.asked_back(), [(busy, 3)], "and so on");
    // It has begun in the meantime.
    pool.begin(busy, 3, 1).unwrap();
    assert!(matches!(pool.give_back(busy, 3, 1), Err(Refused::NotHeld { .. })));
    assert_eq!(pool.asked_back(), [], "its line has moved");
    pool.pass(LINE_PAUSE);
    assert_eq!(pool.asked_back(), [(busy, 2)]);
}

#[test]
fn what_is_asked_back_and_not_returned_is_taken_back_from_one_that_is_silent() {
    let mut pool = Pool::new(attempts(1).ack_wait(SECOND * 3600));
    let cut_off = pool.announcing(3);
    pool.push(0..3);
    pool.begin(cut_off, 0, 1).unwrap();
    let idle = pool.announcing(2);
    pool.pass(LINE_PAUSE);
    assert_eq!(pool.asked_back(), [(cut_off, 2)]);
    pool.pass(RETURN_WAIT);
    let decisions = pool.decisions();
    assert!(
        decisions.iter().any(|decision| matches!(decision, Decision::Assign(given)
        if (given.worker, given.task, given.attempt) == (idle, 2.into(), nth(2)))),
        "it may have begun: {decisions:?}"
    );
    assert!(pool.pulling.is_silent(cut_off));
    assert_eq!(pool.acknowledge(idle, 2, 2), Ok(2), "no attempt was used up");
    assert!(matches!(pool.give_back(cut_off, 2, 1), Err(Refused::Late { .. })));
    assert!(pool.pulling.is_silent(cut_off), "to give back is no sign that it works");
}

#[test]
fn the_loss_of_a_worker_costs_only_what_it_had_begun() {
    let mut pool = Pool::new(attempts(2));
    let lost = pool.announcing(3);
    pool.push(0..3);
    pool.begin(lost, 1, 1).unwrap();
    pool.decisions();
    pool.pulling.lost(pool.now, lost);
    let another = pool.announcing(3);
    assert_eq!(pool.given(), [(another, 0, 2), (another, 1, 2), (another, 2, 2)]);
    // Its first word may be lost with it.
    pool.pulling.lost(pool.now, another);
    let last = pool.announcing(3);
    assert_eq!(pool.given(), [(last, 0, 3), (last, 1, 3), (last, 2, 3)]);
    pool.begin(last, 1, 3).unwrap();
    pool.pulling.lost(pool.now, last);
    assert_eq!(pool.dead(), [(1, 3, DeadReason::WorkerLost)]);
}

#[test]
fn a_worker_that_hangs_or_never_begins_is_silent_and_asked_for_everything() {
    for begins in [true, false] {
        let mut pool = Pool::new(attempts(2));
        let (hangs, busy) = (pool.announcing(3), pool.announcing(0));
        pool.push(0..3);
        if begins {
            pool.begin(hangs, 0, 1).unwrap();
        }
        pool.decisions();
        pool.pass(WAIT);
        let waits = if begins { 1..3 } else { 0..3 };
        assert_eq!(pool.asked_back(), waits.clone().map(|id| (hangs, id)).collect::<Vec<_>>());
        assert!(pool.pulling.is_silent(hangs));
        waits.for_each(|id| pool.give_back(hangs, id, 1).unwrap());
        pool.pulling.ask(pool.now, busy, Demand::new(3)).unwrap();
        let attempt_of_first = if begins { 2 } else { 1 };
        assert_eq!(pool.given(), [(busy, 0, attempt_of_first), (busy, 1, 1), (busy, 2, 1)]);
    }
}

#[test]
fn attempts_made_before_a_restart_count() {
    let mut pool = Pool::new(attempts(3));
    let worker = pool.join(10);
    pool.pulling.push(pool.now, Task::new(1, 1).attempts_made(2)).unwrap();
    assert_eq!(pool.given(), [(worker, 1, 3)]);
    pool.nack(worker, 1, 3, Duration::ZERO);
    assert_eq!(pool.dead(), [(1, 3, DeadReason::Refused("broken".into()))]);
    pool.pulling.push(pool.now, Task::new(2, 2).attempts_made(u32::MAX)).unwrap();
    assert_eq!(pool.dead(), [(2, u32::MAX, DeadReason::NoAttemptLeft)]);
}

#[test]
fn closing_drains_and_ends_once() {
    let mut pool = Pool::new(PullingOptions::default());
    pool.push([1, 2]);
    pool.pulling.close(pool.now, None);
    assert_eq!((pool.decisions(), pool.pulling.poll_timeout(), pool.pulling.room()), (vec![], None, 0));
    assert_eq!(pool.pulling.push(pool.now, Task::new(3, 3)).unwrap_err().to_string(), "closed");
    let late = pool.join(10);
    assert_eq!(pool.given(), [(late, 1, 1), (late, 2, 1)], "who joins late is welcome");
    pool.acknowledge(late, 1, 1).unwrap();
    pool.nack(late, 2, 1, SECOND);
    assert!(!pool.pulling.is_closed(), "one is put off");
    pool.pass(SECOND);
    assert_eq!(pool.given(), [(late, 2, 2)]);
    pool.acknowledge(late, 2, 2).unwrap();
    assert_eq!(pool.decisions(), [Decision::Closed]);
    pool.pulling.close(pool.now, Some(SECOND));
    pool.pass(SECOND);
    assert_eq!((pool.decisions(), pool.pulling.is_closed()), (vec![], true));
    assert_eq!(pool.pulling.join(pool.now, Demand::ZERO), Err(JoinError::Closed));
}

#[test]
fn closing_with_nothing_to_do_ends_at_once() {
    let mut pool = Pool::new(PullingOptions::default());
    pool.pulling.close(pool.now, Some(30 * SECOND));
    assert_eq!(pool.decisions(), [Decision::Closed]);
    assert_eq!(pool.pulling.poll_timeout(), None);
}

#[test]
fn closing_without_workers_ends_after_the_grace() {
    let mut pool = Pool::new(PullingOptions::default());
    let worker = pool.join(1);
    pool.push([1, 2, 3]);
    assert_eq!(pool.given().len(), 1);
    pool.pulling.lost(pool.now, worker);
    pool.pulling.close(pool.now, Some(30 * SECOND));
    pool.pulling.close(pool.now, Some(60 * SECOND));
    assert_eq!(pool.pulling.poll_timeout(), Some(pool.now + 30 * SECOND), "it is only ever brought forward");
    pool.pass(30 * SECOND);
    let decisions = pool.decisions();
    let dead: Vec<_> = decisions
        .iter()
        .filter_map(|decision| match decision {
            Decision::Dead(letter) => Some((letter.payload, letter.attempts, letter.reason.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(dead, [(1, 1, DeadReason::Closed), (2, 0, DeadReason::Closed), (3, 0, DeadReason::Closed)]);
    assert_eq!(decisions.last(), Some(&Decision::Closed));
    assert_eq!(decisions.len(), 4);
}

/// Not a bound, but a figure: `cargo test --release -p aqueduct-transport --lib how_fast -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures and prints")]
fn how_fast_it_is() {
    for assignment in [Assignment::ByDemand, Assignment::RoundRobin, Assignment::ByKey] {
        let mut pool = Pool::new(PullingOptions::default().assignment(assignment));
        let workers: Vec<_> = (0..16).map(|_| pool.join(0)).collect();
        let begin = Instant::now();
        let (mut next, mut operations) = (0, 0_u64);
        while next < 2_000_000 {
            let up_to = Demand::new(next + 1000);
            for worker in &workers {
                pool.pulling.ask(pool.now, *worker, up_to).unwrap();
            }
            pool.push(next..next + 1000);
            next += 1000;
            let mut given = Vec::new();
            while let Some(decision) = pool.pulling.poll_decision() {
                let Decision::Assign(one) = decision else { panic!("nothing else happens") };
                given.push(one);
            }
            for one in &given {
                pool.pulling.acknowledge(pool.now, one.worker, one.task, one.attempt).unwrap();
            }
            operations += 1000 + 16 + 2 * given.len() as u64;
            pool.now += Duration::from_millis(1);
        }
        assert_eq!(pool.pulling.counters().finished, next);
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "{assignment:?}: {:.0} operations/s, {:.0} tasks/s",
            operations as f64 / seconds,
            next as f64 / seconds
        );
    }
}
