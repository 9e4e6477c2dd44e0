//! What must hold after each step, and at the end.

use super::*;

impl Model {
    /// By demand, each event goes to the subscriber that wants the most when it is dispatched, of those that accept it.
    pub(super) fn check_order(&self, mut wanted: Vec<Wanted>, events: &[u64], given: &BTreeMap<u64, usize>) {
        let is_known = wanted.iter().all(|wanted| wanted.taste != Taste::Panics);
        if !matches!(self.subject, Subject::ByDemand { shuffled: false }) || !is_known {
            return;
        }
        for event in events {
            let Some(number) = given.get(event) else { continue };
            let could = wanted.iter().filter(|one| !one.left.is_zero() && one.taste.accepts(*event) == Some(true));
            let most = could.map(|one| one.demand).max();
            let to = wanted.iter_mut().find(|one| one.number == *number).expect("somebody who is there");
            assert_eq!(Some(to.demand), most, "{event} to somebody who wanted less");
            to.left = to.left.saturating_sub(Demand::new(1));
        }
    }

    /// What must hold between any two calls.
    pub(super) fn check_state(&self) {
        let demand = self.dispatcher.demand();
        let unserved = || self.live.values().map(|seen| seen.unserved);
        let sum = unserved().fold(Demand::ZERO, Demand::saturating_add);
        let waiting = self.returned.front().and_then(|(_, events)| events.front()).or(self.buffer.front());
        assert_eq!(self.dispatcher.held() as i64, self.held);
        assert!(self.open >= demand, "the producer was asked for all of it");
        match self.subject {
            Subject::Broadcast => {
                assert_eq!(demand, unserved().min().unwrap_or_default());
                assert!(demand.is_zero() || waiting.is_none(), "held back");
            }
            Subject::Partition(rules) => self.check_partitions(rules, demand, sum, waiting.is_some()),
            Subject::ByDemand { .. } | Subject::RoundRobin | Subject::FirstCome => match waiting {
                Some(event) if !sum.is_zero() => {
                    let accepts = |seen: &&Seen| seen.taste.accepts(*event) != Some(false);
                    assert!(self.live.values().any(|seen| accepts(&seen)), "nobody wants {event}");
                    assert!(self.live.values().filter(accepts).all(|seen| seen.unserved.is_zero()), "held back");
                    assert_eq!(demand, Demand::ZERO, "the producer cannot help");
                }
                _ => assert_eq!(demand, sum),
            },
        }
    }

    fn check_partitions(&self, rules: Rules, demand: Demand, sum: Demand, is_waiting: bool) {
        assert!(demand.is_zero() || !is_waiting, "held back");
        let bound = rules.capacity * rules.count + self.handed_back.len();
        assert!(self.held as usize <= bound, "{} are held, bound {bound}", self.held);
        if rules.overflow != Overflow::Block {
            return assert_eq!(demand, sum);
        }
        let mut fits = sum;
        for (lane, queued) in self.queued.iter().enumerate() {
            let of_lane = self.live.values().filter(|seen| seen.lane == lane);
            let unserved = of_lane.fold(Demand::ZERO, |sum, seen| sum.saturating_add(seen.unserved));
            assert!(unserved.is_zero() || queued.is_empty(), "held back in {lane}");
            let back = queued.iter().filter(|event| self.handed_back.contains(event)).count();
            assert!(queued.len() <= rules.capacity + back, "{} in {lane}", queued.len());
            fits = fits.min(unserved.saturating_add(Demand::from(rules.capacity.saturating_sub(queued.len()))));
        }
        assert_eq!(demand, fits);
    }

    /// Lets the producer answer until nothing is open, and holds the end against the laws. Returns the digest.
    pub(crate) fn check(mut self) -> u64 {
        let is_bounded = |seen: &Seen| seen.taste == Taste::All && seen.unserved < Demand::new(1_000_000);
        if self.live.values().all(is_bounded) {
            self.serve_everybody();
        }
        self.empty();
        let mut all: Vec<_> = self.finished.iter().chain(self.live.values().flat_map(|seen| &seen.got)).collect();
        if matches!(self.subject, Subject::Broadcast) {
            return self.digest;
        }
        // Nothing is lost and nothing is there twice.
        all.sort_unstable();
        assert!(all.windows(2).all(|two| two[0].0 < two[1].0), "twice");
        assert_eq!(all.len() as u64 + self.discarded + self.failed, self.next, "lost");
        self.digest
    }

    /// Demand is conserved: a producer that answers what it is asked serves every ask.
    fn serve_everybody(&mut self) {
        if matches!(self.subject, Subject::Broadcast) {
            // The slowest must ask for as much as the others.
            let most = self.live.values().map(|seen| seen.unserved).max().unwrap_or_default();
            let missing = |(id, seen): (&SubscriptionId, &Seen)| (*id, most.saturating_sub(seen.unserved).count());
            for (id, count) in self.live.iter().map(missing).collect::<Vec<_>>() {
                self.ask(id, count);
            }
            self.pull();
        }
        let mut idle = 0;
        while self.live.values().any(|seen| !seen.unserved.is_zero()) {
            if !self.open.is_zero() {
                self.apply(Step::Produce);
                idle = 0;
                continue;
            }
            // What waits in the buffer fills the room that is made, until it is empty.
            assert!(idle < 100, "somebody waits, and the producer was not asked");
            self.make_room();
            idle += 1;
        }
    }

    /// Takes what every partition holds.
    fn make_room(&mut self) {
        for lane in 0..self.queued.len() {
            if !self.queued[lane].is_empty() {
                let id = self.subscribe(Taste::All, lane);
                self.ask(id, self.queued[lane].len() as u64);
                self.leave(id, 0, When::AtOnce);
            }
        }
        self.pull();
    }

    /// Somebody with more demand than there are events gets whatever is left.
    fn empty(&mut self) {
        for id in self.live.keys().copied().collect::<Vec<_>>() {
            self.leave(id, 0, When::AtOnce);
        }
        for lane in 0..self.queued.len() {
            let id = self.subscribe(Taste::All, lane);
            self.ask(id, 1_000_000);
        }
        self.pull();
        self.check_state();
        assert_eq!((self.dispatcher.held(), self.returned.len(), self.buffer.len()), (0, 0, 0));
        assert!(self.markers.is_empty(), "a marker was lost");
    }
}
