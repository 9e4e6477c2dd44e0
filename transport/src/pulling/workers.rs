//! [`Workers`]: who has joined, what they may still be given, and who is next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    /// The tasks it has, oldest first.
    pub(super) held: Chain,
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

    /// Gives a worker a task from a lane: it has used up one of what it asked for.
    pub(super) fn give(&mut self, id: WorkerId, lane: usize, lanes: &Lanes, links: &mut Links, slot: u32) {
        let worker = self.workers.get_mut(&id).expect("only those who have joined are next");
        worker.held.push_back(links, slot);
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
        self.rank(id);
    }

    /// Takes a task from a worker, done or not.
    pub(super) fn take(&mut self, id: WorkerId, links: &mut Links, slot: u32) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.held.remove(links, slot);
            self.rank(id);
        }
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
    fn rank(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
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

/// How many groups keys fall into: several for each of a hundred workers, and few enough to go through when one joins.
const LANES: usize = 1024;
