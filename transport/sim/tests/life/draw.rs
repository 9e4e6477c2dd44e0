//! What a seed decides: windows, paces, and how long each consumer lives and how it ends.

use std::ops::Range;
use std::time::Duration;

use aqueduct_sim::LinkConditions;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// How long a full window takes its consumer, at most.
const WINDOW_TIME: Duration = Duration::from_secs(10);
/// How long it takes, at most, until everything is handled that a producer has emitted before it was shut down: by one consumer of
/// as many instances as there can be, with a window for each instance of the producer.
pub(crate) const LONGEST_END: Duration = Duration::from_secs(10 * 4 * 3 + 10);

/// How long it takes, at most, until workers have answered what they have begun with: the longest task, or what a consumer has.
pub(crate) const LONGEST_TASK: Duration = Duration::from_secs(600 + 10).saturating_add(LONGEST_END);

/// One consumer's life.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) window: Range<usize>,
    /// How long an event takes.
    pub(crate) per_event: Duration,
    pub(crate) instances: usize,
    pub(crate) acknowledges: bool,
    /// When it comes, since the world began.
    pub(crate) joins: Duration,
    pub(crate) end: End,
    /// How long its early end may last before it is told to hurry, and by what.
    pub(crate) impatience: Option<(Duration, Way)>,
    /// How long after an early end it comes back: its machine with it, if it has one of its own.
    pub(crate) returns: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    /// In another graph of the producer's process.
    Near,
    /// On a machine of its own.
    Far,
}

/// How a consumer ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    /// With its source.
    WithSource,
    /// After so long, if its source has not ended before.
    After(Duration, Way),
}

/// The orderly ways to end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    Shutdown,
    Stop,
    Dropped,
    /// The handle of the graph cancels the subscriptions.
    Cancel,
    /// The stage cancels, in a callback.
    CancelInside,
    /// It goes on, with another subscription.
    Resubscribe,
}

const WAYS: [Way; 6] = [Way::Shutdown, Way::Stop, Way::Dropped, Way::Cancel, Way::CancelInside, Way::Resubscribe];

/// From 0..1 to 5,000..10,000.
pub(crate) fn window(rng: &mut StdRng) -> Range<usize> {
    let max = *[1, 1, 2, 5, 20, 20, 100, 1000, 10_000].choose(rng).expect("there are some");
    match rng.random_range(0..4) {
        0 => 0..max,
        1 => max - 1..max,
        2 => max / 2..max,
        _ => rng.random_range(0..max)..max,
    }
}

/// A network on which nothing fails: some delay, and now and then a lost datagram.
pub(crate) fn conditions(rng: &mut StdRng) -> LinkConditions {
    let delay = Duration::from_millis(*[0, 1, 5, 20, 60].choose(rng).expect("there are some"));
    let jitter = Duration::from_millis(if rng.random_bool(0.5) { rng.random_range(0..15) } else { 0 });
    let loss = if rng.random_bool(0.3) { 0.01 } else { 0.0 };
    LinkConditions::default().delay(delay).jitter(jitter).loss(loss)
}

/// How many events a world has: often few, so that ends and late starts meet.
fn count(rng: &mut StdRng) -> u64 {
    match rng.random_range(0..10) {
        0 => 0,
        1 => rng.random_range(1..5),
        2..6 => rng.random_range(5..100),
        6..9 => rng.random_range(100..1000),
        _ => rng.random_range(1000..12_000),
    }
}

/// How long a source lasts, if its consumers are fast.
pub(crate) fn lasts(rng: &mut StdRng) -> Duration {
    Duration::from_secs(*[0, 0, 1, 10, 60].choose(rng).expect("there are some"))
}

/// After how many events a source is silent, and for how long: longer than any end may take.
pub(crate) fn silence(rng: &mut StdRng, count: u64) -> Option<(u64, Duration)> {
    (count > 0 && rng.random_bool(0.3)).then(|| (rng.random_range(0..count), Duration::from_secs(300)))
}

/// When the producer's machine is restarted, since the last time, and how long it is away.
pub(crate) fn restarts(rng: &mut StdRng) -> Vec<(Duration, Duration)> {
    let count = if rng.random_bool(0.3) { rng.random_range(1..4) } else { 0 };
    (0..count).map(|_| (moment(rng), moment(rng))).collect()
}

/// The consumers of a world, of which the first stays to the end. Some worlds are but a short source, with one consumer in
/// several instances.
pub(crate) fn lives(rng: &mut StdRng) -> (u64, Vec<Life>) {
    let acknowledges = rng.random_bool(0.8);
    if rng.random_bool(0.15) {
        let count = rng.random_range(0..20);
        let life = life(rng, 0, Place::Far, count);
        let instances = rng.random_range(2..5);
        return (count, vec![Life { acknowledges, instances, end: End::WithSource, ..life }]);
    }
    let count = count(rng);
    let mut lives = Vec::new();
    for number in 0..rng.random_range(1..4) {
        let place = if rng.random_bool(0.4) { Place::Near } else { Place::Far };
        lives.push(Life { acknowledges, ..life(rng, number, place, count) });
    }
    lives[0].end = End::WithSource;
    (count, lives)
}

/// When something happens: at once, soon, or later.
pub(crate) fn moment(rng: &mut StdRng) -> Duration {
    let most = *[1, 50, 500, 3000, 10_000].choose(rng).expect("there are some");
    Duration::from_millis(rng.random_range(0..most))
}

/// A consumer whose full window is handled within [`WINDOW_TIME`], and the events of the world in minutes.
pub(crate) fn life(rng: &mut StdRng, number: usize, place: Place, count: u64) -> Life {
    let window = window(rng);
    let slowest = Duration::from_secs(5).min(WINDOW_TIME / window.end as u32);
    let all = Duration::from_secs(*[0, 1, 5, 20, 60].choose(rng).expect("there are some"));
    // Often it is busy all the time, so that its end finds it at work.
    let per_event = if rng.random_bool(0.4) {
        slowest.min(Duration::from_secs(120) / (count as u32 + 1))
    } else {
        slowest.min(all / (count as u32 + 1))
    };
    let hurries = if rng.random_bool(0.5) { Way::Stop } else { Way::Dropped };
    let impatience = rng.random_bool(0.3).then(|| (moment(rng).min(per_event * window.end as u32), hurries));
    let end = if rng.random_bool(0.7) {
        End::After(moment(rng), *WAYS.choose(rng).expect("there are some"))
    } else {
        End::WithSource
    };
    Life {
        name: format!("{place:?}-{number}").to_lowercase(),
        place,
        window,
        per_event,
        instances: *[1, 1, 1, 2, 4].choose(rng).expect("there are some"),
        acknowledges: true,
        joins: if rng.random_bool(0.5) { Duration::ZERO } else { moment(rng) },
        end,
        impatience,
        returns: rng.random_bool(0.3).then(|| moment(rng)),
    }
}

impl Life {
    /// It ends by `stop` where it would have been dropped: of a worker that is killed when it has begun with nothing, the oldest
    /// task counts as begun.
    fn is_never_dropped(&mut self) {
        if let Some((_, way)) = &mut self.impatience {
            *way = Way::Stop;
        }
        if let End::After(_, way @ Way::Dropped) = &mut self.end {
            *way = Way::Stop;
        }
    }

    /// It is on another machine than its producer, which is restarted, and gives nothing back to it that nobody would be there for.
    pub(crate) fn outlives_its_source(&mut self) {
        (self.place, self.impatience) = (Place::Far, None);
        if let End::After(_, way @ (Way::Stop | Way::Dropped)) = &mut self.end {
            *way = Way::Shutdown;
        }
    }

    /// What it does when it has come back, if it has ended early and does.
    pub(crate) fn again(&self) -> Option<(Duration, Self)> {
        let after = self.returns.filter(|_| self.end != End::WithSource)?;
        let name = format!("{}-again", self.name);
        Some((after, Self { name, joins: Duration::ZERO, end: End::WithSource, ..self.clone() }))
    }

    /// How long a full window takes.
    pub(crate) fn window_time(&self) -> Duration {
        self.per_event * self.window.end as u32
    }

    /// How many events may be with it at a time, from one instance of its source.
    pub(crate) fn at_most(&self) -> u64 {
        (self.window.end * self.instances) as u64
    }
}

/// One worker's life.
#[derive(Clone, Debug)]
pub(crate) struct Working {
    pub(crate) name: String,
    pub(crate) place: Place,
    /// As it is by default, or another.
    pub(crate) window: Option<Range<usize>>,
    pub(crate) per_task: Duration,
    pub(crate) joins: Duration,
    /// After how many tasks it does something else, and for how long.
    pub(crate) idles: Option<(usize, Duration)>,
    pub(crate) leaves: Option<(Duration, Leaves)>,
    /// How long after that it comes back, and its machine with it.
    pub(crate) returns: Option<Duration>,
}

/// How a worker leaves: always by dropping its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Leaves {
    BetweenTasks,
    InTheMiddle,
}

/// The workers of a world and how many tasks there are, of which the first worker stays to the end and could do all.
pub(crate) fn workers(rng: &mut StdRng) -> (u64, Vec<Working>) {
    let per_task = Duration::from_millis(*[0, 1, 100, 5000, 5000, 600_000].choose(rng).expect("there are some"));
    let most = (1200.0 / per_task.as_secs_f64().max(0.001)).clamp(1.0, 500.0) as u64;
    let count = rng.random_range(0..=most);
    let mut workers = Vec::new();
    for number in 0..rng.random_range(1..4) {
        let place = if rng.random_bool(0.3) { Place::Near } else { Place::Far };
        let idles =
            rng.random_bool(0.2).then(|| (rng.random_range(1..4), Duration::from_secs(rng.random_range(1..200))));
        let how = if rng.random_bool(0.5) { Leaves::BetweenTasks } else { Leaves::InTheMiddle };
        workers.push(Working {
            name: format!("{place:?}-{number}").to_lowercase(),
            place,
            window: rng.random_bool(0.5).then(|| window(rng)),
            per_task,
            joins: if rng.random_bool(0.5) { Duration::ZERO } else { moment(rng) },
            idles,
            leaves: rng.random_bool(0.5).then(|| (moment(rng) * 3, how)),
            returns: rng.random_bool(0.3).then(|| moment(rng)),
        });
    }
    workers[0].leaves = None;
    (count, workers)
}

/// Those that work for a pool as stages of graphs, and whether each of their tasks is answered on its own.
pub(crate) fn in_graphs(rng: &mut StdRng, count: u64) -> Vec<(Life, bool)> {
    let many = if rng.random_bool(0.5) { rng.random_range(1..3) } else { 0 };
    let stage = |number| {
        let place = if rng.random_bool(0.4) { Place::Near } else { Place::Far };
        let (mut life, answers_each) = (life(rng, number, place, count), rng.random_bool(0.4));
        life.name = format!("stage-{}", life.name);
        if answers_each {
            life.is_never_dropped();
        }
        (life, answers_each)
    };
    (0..many).map(stage).collect()
}

impl Working {
    /// What it does when it has come back, if it has left and does.
    pub(crate) fn again(&self) -> Option<(Duration, Self)> {
        let after = self.returns.filter(|_| self.leaves.is_some())?;
        let name = format!("{}-again", self.name);
        Some((after, Self { name, joins: Duration::ZERO, leaves: None, ..self.clone() }))
    }
}
