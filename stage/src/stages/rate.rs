//! [`Rate`]: how fast a stage asks its producers, set from outside while it runs.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::allowance::Allowance;
use super::bell::{Bell, Chime, Ring};
use super::intake::Intake;
use crate::{Batch, Cx, Edge, EndCause, Handle, Mode, Peer, ProducerConsumer, Result};

/// A rate of events, and the handle to change it. Cheap to clone; the clones are the same rate.
///
/// The stages made by [`limit`](Self::limit) pass events on as they are, and limit the *demand*: within any stretch of
/// time as long as the period, they ask for no more events than the rate allows, all together. So nothing is dropped,
/// and nothing waits but within the producers. The window of each subscription holds as well, so its maximum should be
/// no less than the events of a period.
///
/// A period's events may come at once: 100 a second may be 100 in the first millisecond. 1 per 10 ms spreads them.
///
/// ```
/// # use aqueduct_stage::{Batch, Consumer, Cx, Exit, Graph, Producer, Result};
/// use std::time::Duration;
/// use aqueduct_stage::stages::Rate;
/// # struct Numbers;
/// # impl Producer for Numbers {
/// #     type Out = u64;
/// #     async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
/// #         cx.emit_all(0..demand as u64);
/// #         cx.stop(Exit::Normal);
/// #         Ok(())
/// #     }
/// # }
/// # struct Print;
/// # impl Consumer for Print {
/// #     type In = u64;
/// #     async fn handle_events(&mut self, events: Batch<u64>, _cx: &mut Cx<'_>) -> Result { Ok(()) }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result {
/// let rate = Rate::new(100, Duration::from_secs(1));
/// # let graph = Graph::new("demo");
/// # let numbers = graph.producer("numbers", || Numbers);
/// let limited = rate.clone();
/// let limited = graph.stage("limited", move || limited.limit()).subscribe(&numbers, 500..1000);
/// graph.consumer("print", || Print).subscribe(&limited, 500..1000);
/// let mut running = graph.start();
/// rate.set(200, Duration::from_secs(1));
/// running.join().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Rate {
    shared: Arc<Shared>,
}

struct Shared {
    allowance: Mutex<Allowance>,
    /// What was set last.
    current: watch::Sender<(usize, Duration)>,
}

/// The stage made by [`Rate::limit`].
pub struct RateLimit<T: Send + 'static> {
    rate: Rate,
    intake: Intake,
    bell: Option<Arc<Bell<Self, T>>>,
    /// When the timer runs out that is running.
    timer: Option<Instant>,
    events: PhantomData<fn() -> T>,
}

impl Rate {
    /// Allows `events` in each period of length `per`. 0 events stop the demand until [`set`](Self::set) says otherwise;
    /// in a period of no length, as many as are wanted are allowed.
    pub fn new(events: usize, per: Duration) -> Self {
        let (allowance, current) = (Mutex::new(Allowance::new(events, per)), watch::Sender::new((events, per)));
        Self { shared: Arc::new(Shared { allowance, current }) }
    }

    /// Sets another rate, from now on. What was asked for within the last period counts.
    pub fn set(&self, events: usize, per: Duration) {
        self.allowance().set(events, per);
        self.shared.current.send_replace((events, per));
    }

    /// How many events are allowed in a period, and its length.
    pub fn get(&self) -> (usize, Duration) {
        *self.shared.current.borrow()
    }

    /// A stage that passes events on and asks for them at this rate.
    pub fn limit<T: Send + 'static>(&self) -> RateLimit<T> {
        RateLimit { rate: self.clone(), intake: Intake::default(), bell: None, timer: None, events: PhantomData }
    }

    fn allowance(&self) -> MutexGuard<'_, Allowance> {
        self.shared.allowance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (events, per) = self.get();
        f.debug_struct("Rate").field("events", &events).field("per", &per).finish()
    }
}

impl<T: Send + 'static> ProducerConsumer for RateLimit<T> {
    type In = T;
    type Out = T;

    async fn handle_events(&mut self, events: Batch<T>, cx: &mut Cx<'_, T>) -> Result {
        self.intake.done(events.from(), events.len());
        cx.emit_all(events);
        self.ask(cx);
        Ok(())
    }

    async fn handle_subscribe(&mut self, edge: &Edge, cx: &mut Cx<'_, T>) -> Result<Mode> {
        if edge.peer == Peer::Producer {
            self.watch_the_rate(cx);
            self.intake.opened(edge);
            self.ask(cx);
        }
        Ok(Mode::Manual)
    }

    async fn handle_cancel(&mut self, edge: &Edge, _cause: &EndCause, _cx: &mut Cx<'_, T>) -> Result {
        self.intake.ended(edge.id);
        Ok(())
    }
}

/// The rate was changed, or the timer has run out.
#[diagnostic::do_not_recommend]
impl<T: Send + 'static> Handle<Ring, T> for RateLimit<T> {
    type Reply = ();

    async fn handle(&mut self, _: Ring, cx: &mut Cx<'_, T>) -> Result {
        if let Some(bell) = &self.bell {
            bell.answered();
        }
        self.ask(cx);
        Ok(())
    }
}

impl<T: Send + 'static> RateLimit<T> {
    /// Asks for what is wanted and allowed, and again when more is allowed.
    fn ask(&mut self, cx: &mut Cx<'_, T>) {
        let now = Instant::now();
        let mut allowance = self.rate.allowance();
        let mut wants_more = false;
        let take = |wanted| {
            let allowed = allowance.take(wanted, now);
            wants_more |= allowed < wanted;
            allowed
        };
        self.intake.asks(take, |id, events| cx.ask(id, events));
        let more_at = allowance.more_at(now);
        drop(allowance);
        if self.timer.is_some_and(|at| at <= now) {
            self.timer = None;
        }
        if let Some(at) = more_at
            && wants_more
            && self.timer.is_none_or(|timer| at < timer)
        {
            self.timer = Some(at);
            cx.stage_ref::<Self>().send_after(at - now, Ring);
        }
    }

    /// Has itself told when the rate is changed, for as long as somebody can change it.
    fn watch_the_rate(&mut self, cx: &Cx<'_, T>) {
        if self.bell.is_some() {
            return;
        }
        let stage = cx.stage_ref::<Self>();
        let bell = Arc::new(Bell::new(stage.clone()));
        self.bell = Some(Arc::clone(&bell));
        let mut rate = self.rate.shared.current.subscribe();
        stage.spawn("rate", async move {
            // Until the stage has ended.
            while rate.changed().await.is_ok() && bell.ring() {}
        });
    }
}

impl<T: Send + 'static> fmt::Debug for RateLimit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").field("rate", &self.rate).finish_non_exhaustive()
    }
}
