//! [`Workers`]: who has joined, what they may still be given, and who is next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use super::chain::{Chain, Links};
use super::lanes::Lanes;
use super::{Assignment, WorkerId};

/// Everybody who has joined.
#[derive(Debug)]
pub(super) struct Workers {
    assignment: Assignment,
    max_held: usize,
    workers: BTreeMap<WorkerId, Worker>,
    joined: u64,
    /// By demand: those that may be given something. In turn: those that have not fallen silent. By key: those that may be
    /// given something and for whom something waits. Ranked by [`Worker::rank`], and the last is the next.
    able: BTreeSet<(usize, Reverse<WorkerId>)>,
    /// How many tasks wait at workers that say what they begin with, and were not asked back.
    lent: usize,
    /// How many workers have nothing to do, and want something.
    idle: usize,
    /// In turn: whose turn it is, or that of the first after it.
    turn: WorkerId,
    /// By key: whose lane it is, and with which score.
    owners: Vec<Option<(u64, WorkerId)>>,
}

#[derive(Debug, Default)]
pub(super) struct Worker {
    /// How many it has asked for since it joined.
    asked: u64,
    /// How many it has been given; `<= asked`.
    given: u64,
    /// It let a task run out, and has not been heard of since.
    pub(super) is_silent: bool,
    /// It wants no more.
    is_retired: bool,
    /// It says what it begins with.
    pub(super) announces: bool,
    /// The tasks it has, oldest first.
    pub(super) held: Chain,
    /// Those of them that wait there and were not asked back, oldest first.
    pub(super) line: Chain,
    /// How many of them it has begun with.
    pub(super) begun: usize,
    /// When its line has moved last: it began with something, ended it, or was given something when nothing waited. There once
    /// it was given something.
    moved_at: Option<Instant>,
    is_idle: bool,
    /// By key: its lanes in which something waits.
    lanes: VecDeque<usize>,
    /// Where it stands in `able`.
    rank: Option<usize>,
}

impl Workers {
    pub(super) fn new(assignment: Assignment, max_held: usize) -> Self {
        let owners = vec![None; lane_count(assignment)];
        Self {
            assignment,
            max_held,
            workers: BTreeMap::new(),
            joined: 0,
            able: BTreeSet::new(),
            lent: 0,
            idle: 0,
            turn: WorkerId(0),
            owners,
        }
    }

    pub(super) fn join(&mut self, lanes: &Lanes) -> WorkerId {
        self.joined += 1;
        let id = WorkerId(self.joined);
        self.workers.insert(id, Worker::default());
        if self.assignment == Assignment::ByKey {
            for lane in 0..self.owners.len() {
                let score = score(lane, id);
                if self.owners[lane].is_none_or(|owner| owner < (score, id)) {
                    self.own(lane, Some((score, id)), lanes);
                }
            }
        }
        self.rank(id);
        id
    }

    /// Forgets a worker that has no task any more, and returns whether it was there.
    pub(super) fn remove(&mut self, id: WorkerId, lanes: &Lanes) -> bool {
        let Some(worker) = self.workers.remove(&id) else { return false };
        debug_assert_eq!(worker.held.len(), 0, "its tasks were taken back");
        self.idle -= usize::from(worker.is_idle);
        if let Some(rank) = worker.rank {
            self.able.remove(&(rank, Reverse(id)));
        }
        self.disown(id, lanes);
        true
    }

    /// Gives a worker nothing more. Returns `None` for a stranger.
    pub(super) fn retire(&mut self, id: WorkerId, lanes: &Lanes) -> Option<()> {
        let worker = self.workers.get_mut(&id)?;
        (worker.is_retired, worker.asked) = (true, worker.given);
        self.rank(id);
        self.disown(id, lanes);
        Some(())
    }

    /// By key: gives the lanes of a worker to the others.
    fn disown(&mut self, id: WorkerId, lanes: &Lanes) {
        if self.assignment != Assignment::ByKey {
            return;
        }
        for lane in 0..self.owners.len() {
            if self.owners[lane].is_some_and(|(_, owner)| owner == id) {
                let others = self.workers.iter().filter(|(_, worker)| !worker.is_retired);
                let best = others.map(|(other, _)| (score(lane, *other), *other)).max();
                self.own(lane, best, lanes);
            }
        }
    }

    /// Gives a lane to another worker.
    fn own(&mut self, lane: usize, owner: Option<(u64, WorkerId)>, lanes: &Lanes) {
        let before = std::mem::replace(&mut self.owners[lane], owner);
        if let Some((_, before)) = before
            && let Some(worker) = self.workers.get_mut(&before)
        {
            worker.lanes.retain(|other| *other != lane);
            self.rank(before);
        }
        if !lanes.is_lane_empty(lane) {
            self.fill(lane);
        }
    }

    /// Something waits in a lane in which nothing did.
    pub(super) fn fill(&mut self, lane: usize) {
        if let Some((_, owner)) = self.owners.get(lane).copied().flatten() {
            if let Some(worker) = self.workers.get_mut(&owner) {
                worker.lanes.push_back(lane);
            }
            self.rank(owner);
        }
    }

    /// Who is given the next task, and from which lane. Nothing changes before [`give`](Self::give).
    pub(super) fn next(&self) -> Option<(WorkerId, usize)> {
        match self.assignment {
            Assignment::ByDemand => self.able.last().map(|(_, Reverse(id))| (*id, 0)),
            Assignment::RoundRobin => {
                // The ranks are all alike, so the set is ordered by id, the first worker last.
                let up_to = ..=(0, Reverse(self.turn));
                let (_, Reverse(id)) = self.able.range(up_to).next_back().or_else(|| self.able.last())?;
                (self.workers[id].room(self.max_held) > 0).then_some((*id, 0))
            }
            Assignment::ByKey => {
                let (_, Reverse(id)) = self.able.last()?;
                Some((*id, *self.workers[id].lanes.front()?))
            }
        }
    }

    /// From now on a worker says what it begins with. Returns whether it is there.
    pub(super) fn announces(&mut self, id: WorkerId) -> bool {
        self.workers.get_mut(&id).map(|worker| worker.announces = true).is_some()
    }

    /// How many tasks in a row the [next](Self::next) worker is given: as many as it wants more than the second. While everybody
    /// has something to do, also a row of what it wants beside that: many in one parcel cost little more than one.
    pub(super) fn run(&self) -> usize {
        if self.assignment != Assignment::ByDemand {
            return 1;
        }
        let mut ranks = self.able.iter().rev().map(|(rank, _)| *rank);
        let (best, second) = (ranks.next().unwrap_or(0), ranks.next().unwrap_or(0));
        let row = if self.idle == 0 { best / ROWS } else { 0 };
        (best - second + row).clamp(1, best.max(1))
    }

    /// Gives a worker a task from a lane: it has used up one of what it asked for. It is to be [ranked](Self::rank) after that.
    #[expect(clippy::too_many_arguments, reason = "two tables of links")]
    pub(super) fn give(
        &mut self,
        now: Instant,
        id: WorkerId,
        lane: usize,
        lanes: &Lanes,
        by_worker: &mut Links,
        by_line: &mut Links,
        slot: u32,
    ) {
        let worker = self.workers.get_mut(&id).expect("only those who have joined are next");
        worker.held.push_back(by_worker, slot);
        if worker.line.len() == 0 {
            worker.moved_at = Some(now);
        }
        worker.line.push_back(by_line, slot);
        self.lent += usize::from(worker.announces);
        worker.given += 1;
        debug_assert!(worker.given <= worker.asked && worker.held.len() <= self.max_held && !worker.is_silent);
        match self.assignment {
            Assignment::ByDemand => {}
            Assignment::RoundRobin => self.turn = WorkerId(id.0 + 1),
            // To the end, so that no lane waits for another.
            Assignment::ByKey => {
                worker.lanes.pop_front();
                if !lanes.is_lane_empty(lane) {
                    worker.lanes.push_back(lane);
                }
            }
        }
    }

    /// A task does not wait at its worker any more, or was asked back.
    pub(super) fn unlend(&mut self, id: WorkerId, links: &mut Links, slot: u32) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.line.remove(links, slot);
            self.lent -= usize::from(worker.announces);
        }
    }

    /// A worker begins with a task.
    pub(super) fn began_one(&mut self, now: Instant, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            (worker.begun, worker.moved_at) = (worker.begun + 1, Some(now));
        }
    }

    /// A worker is done with a task that it had begun, in whatever way.
    pub(super) fn ended_one(&mut self, now: Instant, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            (worker.begun, worker.moved_at) = (worker.begun - 1, Some(now));
        }
    }

    /// Takes a task from a worker, done or not.
    pub(super) fn take(&mut self, id: WorkerId, links: &mut Links, slot: u32) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.held.remove(links, slot);
            self.rank(id);
        }
    }

    /// Those at whom something waits that have begun with nothing for so long.
    pub(super) fn stalled(&self, now: Instant, wait: Duration) -> Vec<WorkerId> {
        let is_stalled = |worker: &Worker| worker.stalls_at(wait).is_some_and(|at| at <= now);
        self.workers.iter().filter(|(_, worker)| is_stalled(worker)).map(|(id, _)| *id).collect()
    }

    /// Those that say what they begin with.
    pub(super) fn announcing(&self) -> Vec<WorkerId> {
        self.workers.iter().filter(|(_, worker)| worker.announces).map(|(id, _)| *id).collect()
    }

    /// From whom to take something back for somebody who has nothing to do: of those whose line has not moved for `pause`, the
    /// one at whom most waits. And when to look again, also for those that [stall](Self::stalled).
    pub(super) fn look(
        &self,
        now: Instant,
        wait: Duration,
        pause: Option<Duration>,
    ) -> (Option<WorkerId>, Option<Instant>) {
        let (mut from, mut next) = (None, None::<Instant>);
        for (id, worker) in self.workers.iter().filter(|(_, worker)| worker.announces && worker.line.len() > 0) {
            let rests_at = pause.and_then(|pause| worker.moved_at?.checked_add(pause));
            if rests_at.is_some_and(|at| at <= now) {
                from = from.max(Some((worker.line.len(), Reverse(*id))));
            }
            let later = [rests_at.filter(|at| *at > now), worker.stalls_at(wait)];
            next = later.into_iter().chain([next]).flatten().min();
        }
        (from.map(|(_, Reverse(id))| id), next)
    }

    /// How many tasks wait at workers that say what they begin with, and were not asked back.
    pub(super) fn lent(&self) -> usize {
        self.lent
    }

    /// How many workers have nothing to do, and want something.
    pub(super) fn idle(&self) -> usize {
        self.idle
    }

    /// Of those, the one that wants most, if it is not `but`.
    pub(super) fn most_idle_but(&self, but: WorkerId) -> Option<WorkerId> {
        if self.idle == 0 || self.assignment != Assignment::ByDemand {
            return None;
        }
        let idle = self.workers.iter().filter(|(id, worker)| worker.is_idle && **id != but);
        idle.max_by_key(|(id, worker)| (worker.rank, Reverse(**id))).map(|(id, _)| *id)
    }

    /// Raises what a worker has asked for; a repeated or lower number is nothing new. Returns `None` for a stranger.
    pub(super) fn ask(&mut self, id: WorkerId, up_to: u64) -> Option<()> {
        let worker = self.workers.get_mut(&id)?;
        if up_to > worker.asked && !worker.is_retired {
            worker.asked = up_to;
            worker.is_silent = false;
            self.rank(id);
        }
        Some(())
    }

    /// Notes a sign of life. Returns `None` for a stranger.
    pub(super) fn hear(&mut self, id: WorkerId) -> Option<()> {
        let worker = self.workers.get_mut(&id)?;
        if worker.is_silent {
            worker.is_silent = false;
            self.rank(id);
        }
        Some(())
    }

    /// Passes a worker over until it is heard of.
    pub(super) fn silence(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.is_silent = true;
            self.rank(id);
        }
    }

    pub(super) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    /// Puts a worker where it belongs in `able`.
    pub(super) fn rank(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let is_idle =
            worker.held.len() == 0 && !(worker.is_silent || worker.is_retired) && worker.room(self.max_held) > 0;
        self.idle = self.idle + usize::from(is_idle) - usize::from(std::mem::replace(&mut worker.is_idle, is_idle));
        let rank = worker.rank(self.assignment, self.max_held);
        if rank != worker.rank {
            if let Some(before) = std::mem::replace(&mut worker.rank, rank) {
                self.able.remove(&(before, Reverse(id)));
            }
            if let Some(rank) = rank {
                self.able.insert((rank, Reverse(id)));
            }
        }
    }
}

impl Worker {
    /// How many more it may be given.
    fn room(&self, max_held: usize) -> usize {
        let asked = usize::try_from(self.asked - self.given).unwrap_or(usize::MAX);
        asked.min(max_held - self.held.len())
    }

    /// When it is silent if nothing is heard of it: something waits there, and it has begun with nothing.
    fn stalls_at(&self, wait: Duration) -> Option<Instant> {
        let waits = self.announces && self.line.len() > 0 && self.begun == 0;
        self.moved_at.filter(|_| waits)?.checked_add(wait)
    }

    fn rank(&self, assignment: Assignment, max_held: usize) -> Option<usize> {
        if self.is_silent || self.is_retired {
            return None;
        }
        let room = self.room(max_held);
        match assignment {
            Assignment::ByDemand => (room > 0).then_some(room),
            Assignment::RoundRobin => Some(0),
            Assignment::ByKey => (room > 0 && !self.lanes.is_empty()).then_some(0),
        }
    }
}

/// How many lanes tasks wait in.
pub(super) fn lane_count(assignment: Assignment) -> usize {
    if assignment == Assignment::ByKey { LANES } else { 1 }
}

/// Rendezvous hashing: a lane belongs to the worker with the highest score.
fn score(lane: usize, worker: WorkerId) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(lane as u64).to_le_bytes());
    bytes[8..].copy_from_slice(&worker.0.to_le_bytes());
    xxh3_64(&bytes)
}

/// What a worker wants comes in so many rows at least: so it is at most a thirty-second ahead of those who want as much, and one
/// with a window of 16 is not ahead at all.
const ROWS: usize = 32;
/// How many groups keys fall into: several for each of a hundred workers, and few enough to go through when one joins.
const LANES: usize = 1024;
