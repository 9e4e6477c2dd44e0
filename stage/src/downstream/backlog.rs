//! [`Backlog`]: what was emitted or given back and waits for demand, and what keeps its place among that. Pure.

use std::collections::VecDeque;

use aqueduct_dispatcher::{Attempt, Buffer, Deliveries, Dispatcher, Keep, Marker};

/// The events of a stage that its dispatcher has not taken, oldest first.
pub(super) struct Backlog<T> {
    /// Events that were given back, in groups of one attempt; older than everything in the buffer.
    returned: VecDeque<(Attempt, VecDeque<T>)>,
    buffer: Buffer<T>,
    /// How many events have ever entered the buffer, and how many have left it: places in it are counted so.
    entered: u64,
    left: u64,
    /// What waits for a place in the buffer to be left: in the order of places.
    markers: VecDeque<(u64, Marker)>,
    next_marker: u64,
    /// Empty between calls; kept for its memory.
    scratch: VecDeque<T>,
}

impl<T> Backlog<T> {
    pub(super) fn new(buffer: Buffer<T>) -> Self {
        Self {
            returned: VecDeque::new(),
            buffer,
            entered: 0,
            left: 0,
            markers: VecDeque::new(),
            next_marker: 0,
            scratch: VecDeque::new(),
        }
    }

    /// Dispatches new events, unless they are to be `held` or older ones wait; what finds no demand goes into the buffer.
    /// Returns how many events were dropped because it is full.
    pub(super) fn emit(
        &mut self,
        events: &mut Vec<T>,
        held: bool,
        dispatcher: &mut dyn Dispatcher<T>,
        deliveries: &mut Deliveries<T>,
    ) -> usize {
        debug_assert!(self.scratch.is_empty());
        self.scratch = VecDeque::from(std::mem::take(events));
        if !held && self.buffer.is_empty() && self.returned.is_empty() {
            dispatcher.dispatch(&mut self.scratch, Attempt::FIRST, deliveries);
        }
        self.entered += self.scratch.len() as u64;
        let dropped = self.buffer.store(&mut self.scratch);
        match self.buffer.keep() {
            Keep::First | Keep::Fail => self.entered -= dropped as u64,
            Keep::Last => self.left += dropped as u64,
        }
        // Hand the memory back for the next emission, unless it went to a subscriber.
        self.scratch.clear();
        *events = std::mem::take(&mut self.scratch).into();
        self.pass_markers(dispatcher, deliveries);
        dropped
    }

    /// Puts groups of one attempt, the oldest first, in front of everything.
    pub(super) fn put_in_front(&mut self, groups: Vec<(Attempt, VecDeque<T>)>) {
        groups.into_iter().rev().for_each(|group| self.returned.push_front(group));
    }

    /// Gives out what waits, oldest first, as far as there is demand.
    pub(super) fn serve(&mut self, dispatcher: &mut dyn Dispatcher<T>, deliveries: &mut Deliveries<T>) {
        while let Some((attempt, events)) = self.returned.front_mut() {
            dispatcher.dispatch(events, *attempt, deliveries);
            if !events.is_empty() {
                return;
            }
            self.returned.pop_front();
        }
        self.pass_markers(dispatcher, deliveries);
        while !self.buffer.is_empty() && !dispatcher.demand().is_zero() {
            // A marker keeps its place: what stands behind it is given out after it was passed.
            let place = self.markers.front().map_or(u64::MAX, |(place, _)| place - self.left);
            let count = dispatcher.demand().as_len().min(usize::try_from(place).unwrap_or(usize::MAX));
            self.buffer.take(count, &mut self.scratch);
            let taken = self.scratch.len();
            dispatcher.dispatch(&mut self.scratch, Attempt::FIRST, deliveries);
            self.left += (taken - self.scratch.len()) as u64;
            self.pass_markers(dispatcher, deliveries);
            if !self.scratch.is_empty() {
                self.buffer.put_back(&mut self.scratch);
                self.scratch.clear();
                return;
            }
        }
    }

    /// A marker behind everything that waits here now.
    pub(super) fn mark(&mut self, dispatcher: &mut dyn Dispatcher<T>, deliveries: &mut Deliveries<T>) -> Marker {
        let marker = Marker(self.next_marker);
        self.next_marker += 1;
        self.markers.push_back((self.entered, marker));
        self.pass_markers(dispatcher, deliveries);
        marker
    }

    /// How many events wait here.
    pub(super) fn len(&self) -> usize {
        self.returned.iter().map(|(_, events)| events.len()).sum::<usize>() + self.buffer.len()
    }

    /// Lets the markers through whose place has been reached. What was given back stands before every place.
    fn pass_markers(&mut self, dispatcher: &mut dyn Dispatcher<T>, deliveries: &mut Deliveries<T>) {
        if !self.returned.is_empty() {
            return;
        }
        while let Some((_, marker)) = self.markers.pop_front_if(|(place, _)| *place <= self.left) {
            dispatcher.info(marker, deliveries);
        }
    }
}
