//! One worker's life: it takes tasks one after the other, and answers each.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use aqueduct_sim::Outcome;
use aqueduct_stage::Attempt;
use aqueduct_transport::ChannelTask;
use aqueduct_transport::pulling::Work;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_stream::{Stream, StreamExt};

use crate::consumer::Then;
use crate::draw::{Leaves, Working};
use crate::ledger::Who;
use crate::world::World;

/// What a worker is given: a number.
pub(crate) trait Task: Send {
    fn number(&self) -> u64;
    fn attempt(&self) -> Attempt;
    fn in_progress(&self);
    fn answer(self);
}

impl Task for Work<u64> {
    fn number(&self) -> u64 {
        *self.event()
    }

    fn attempt(&self) -> Attempt {
        self.attempt()
    }

    fn in_progress(&self) {
        self.in_progress();
    }

    fn answer(self) {
        self.done();
    }
}

impl Task for ChannelTask<u64, u64> {
    fn number(&self) -> u64 {
        *self.value()
    }

    fn attempt(&self) -> Attempt {
        self.attempt()
    }

    fn in_progress(&self) {
        self.in_progress();
    }

    fn answer(self) {
        let result = self.value() * 3;
        self.answer(&result).expect("a number can be written");
    }
}

/// Works until the end of its source, or until it leaves.
pub(crate) async fn work<T, E>(
    world: &World,
    life: &Working,
    tasks: impl Stream<Item = Result<T, E>> + Send,
) -> Outcome<Then>
where
    T: Task,
    E: fmt::Display,
{
    world.net.note(&format!("{life:?} begins"), &[]);
    let leaves_at = Instant::now() + life.leaves.map_or(NEVER, |(after, _)| after);
    let (mut tasks, mut taken, who) = (pin!(tasks), 0_usize, Who::new(&life.name));
    loop {
        if life.idles.is_some_and(|(after, _)| after == taken) {
            // Alive, and busy with something else.
            sleep(life.idles.map_or(Duration::ZERO, |(_, pause)| pause)).await;
        }
        let next = match timeout_at(leaves_at, tasks.next()).await {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(Then::Nothing),
            Err(_) => return leave(world, life),
        };
        let task = match next {
            Ok(task) => task,
            // Whoever comes after the end may be told so.
            Err(error) if error.to_string().contains("has ended") && taken == 0 && world.ledger.is_exhausted() => {
                return Ok(Then::Nothing);
            }
            Err(error) if world.restarts && SHUT_DOWN.iter().any(|end| error.to_string().contains(end)) => {
                return Ok(Then::ComesBack);
            }
            Err(error) => return Err(format!("{}: {error}; {life:?}", life.name).into()),
        };
        taken += 1;
        let work = handle(world, life, &who, task);
        if life.leaves.is_some_and(|(_, how)| how == Leaves::InTheMiddle) {
            who.may_break_off();
            if timeout_at(leaves_at, work).await.is_err() {
                return leave(world, life);
            }
        } else {
            work.await;
        }
    }
}

async fn handle(world: &World, life: &Working, who: &Who, task: impl Task) {
    // Dropped before the task is, if the worker leaves.
    let in_hand = world.ledger.begin(who, vec![task.number()], task.attempt());
    let done_at = Instant::now() + life.per_task;
    while done_at - Instant::now() > REPORTS {
        sleep(REPORTS).await;
        task.in_progress();
    }
    sleep_until(done_at).await;
    task.answer();
    in_hand.handled();
}

fn leave(world: &World, life: &Working) -> Outcome<Then> {
    world.net.note(&format!("{} leaves", life.name), &[]);
    Ok(Then::Nothing)
}

/// What a worker hears of a source that is shut down, or was.
const SHUT_DOWN: [&str; 2] = ["down: shutdown", "has ended"];

/// A third of what is borne without a word.
const REPORTS: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_secs(100_000);
