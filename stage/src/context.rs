//! [`Cx`]: what a callback may do besides touching its own state.

use std::fmt;

use aqueduct_dispatcher::Demand;

use crate::Exit;

/// The output of a stage that has none: there are no values of it, so a consumer cannot emit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Never {}

/// Handed to every callback: emits events, tells the open demand, ends the stage.
///
/// What is emitted leaves when the callback returns. If the callback fails, what it emitted before is dropped with it.
pub struct Cx<'a, O = Never> {
    out: &'a mut Vec<O>,
    demand: Demand,
    stop: &'a mut Option<Exit>,
}

impl<'a, O> Cx<'a, O> {
    pub(crate) fn new(out: &'a mut Vec<O>, demand: Demand, stop: &'a mut Option<Exit>) -> Self {
        Self { out, demand, stop }
    }

    /// Emits one event.
    ///
    /// Events beyond the open [`demand`](Self::demand) go into the stage's buffer.
    pub fn emit(&mut self, event: O) {
        self.out.push(event);
    }

    /// Emits events in order.
    pub fn emit_all(&mut self, events: impl IntoIterator<Item = O>) {
        self.out.extend(events);
    }

    /// How many more events consumers have asked for and not been given, this callback's emissions already counted.
    ///
    /// A producer that answered an ask with fewer events finds here what it still owes: nobody asks for the same
    /// events twice.
    pub fn demand(&self) -> usize {
        self.demand.saturating_sub(Demand::from(self.out.len())).as_len()
    }

    /// Ends the stage after this callback.
    ///
    /// With [`Exit::Normal`] everything emitted so far is delivered first: a producer says so when its source is
    /// exhausted, and its consumers then end in their turn. With another exit the stage ends at once, and what is in
    /// its buffer is dropped. The first call counts.
    pub fn stop(&mut self, exit: Exit) {
        self.stop.get_or_insert(exit);
    }
}

impl<O> fmt::Debug for Cx<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx").field("demand", &self.demand()).field("emitted", &self.out.len()).finish_non_exhaustive()
    }
}
