//! [`Outbound`]: the publisher's end of a link.

use std::collections::VecDeque;

use aqueduct_stage::Demand;
use bytes::Bytes;

use crate::Limits;
use crate::codec::Encoded;
use crate::frame::{Accepted, Chunk, Done, Events, Failed, Frame, Parts, Reason, Refused};
use crate::link::LinkError;

/// The publisher's end of a link: sends events as far as the subscriber allows.
///
/// It begins when a [`Subscribe`](Frame::Subscribe) frame has been read; whoever read it looks the producer up and
/// answers with [`accept`](Self::accept) or [`refuse`](Self::refuse).
///
/// * mutators: [`accept`](Self::accept), [`refuse`](Self::refuse), [`send`](Self::send), [`finish`](Self::finish),
///   [`fail`](Self::fail)
/// * handlers: [`handle_frame`](Self::handle_frame), [`end_of_stream`](Self::end_of_stream)
/// * polls: [`poll_transmit`](Self::poll_transmit), [`poll_event`](Self::poll_event)
/// * getters: [`queued_bytes`](Self::queued_bytes), [`is_finished`](Self::is_finished)
///
/// Once it has been refused, finished, failed or cancelled, mutators do nothing.
#[derive(Debug)]
pub(crate) struct Outbound {
    limits: Limits,
    state: State,
    /// How many events the subscriber allows in all. It never falls.
    allowed: Demand,
    /// `allowed` has grown since it was last polled.
    is_demand_new: bool,
    /// The number of the last event that was queued; `<= allowed`.
    sent: u64,
    queue: VecDeque<Parts>,
    /// The rest of a frame whose head has been given out: it must follow whatever happens.
    rest: Option<Bytes>,
    /// The sum of the lengths in `queue` and `rest`.
    queued_bytes: usize,
}

/// What the publisher's driver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutboundEvent {
    /// The subscriber allows `up_to` events in all. Each is larger than the one before.
    Demand {
        /// Counted from the start of the subscription.
        up_to: Demand,
    },
    /// The subscriber wants no more. What was queued is dropped, and nothing follows this.
    Cancelled {
        /// Why; [`Reason::Disconnected`] if its stream just stopped.
        reason: Reason,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Not answered yet.
    Asked,
    Accepted,
    /// The last frame is queued.
    Ended,
    /// By the subscriber; with the reason until it is polled.
    Cancelled(Option<Reason>),
}

impl Outbound {
    /// The end of a link that has not been answered yet.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Asked,
            allowed: Demand::ZERO,
            is_demand_new: false,
            sent: 0,
            queue: VecDeque::new(),
            rest: None,
            queued_bytes: 0,
        }
    }

    /// Tells the subscriber that the edge is made. [`send`](Self::send), [`finish`](Self::finish) and
    /// [`fail`](Self::fail) do it if it has not been done.
    pub(crate) fn accept(&mut self) {
        if self.state == State::Asked {
            self.queue(&Frame::Accepted(Accepted {}));
            self.state = State::Accepted;
        }
    }

    /// Tells the subscriber that there will be no edge; `published` is the producer's signature where the types differ.
    /// Does nothing once accepted.
    ///
    /// Texts are cut to a quarter of a control frame each (16 KiB by default).
    pub(crate) fn refuse(&mut self, reason: Reason, message: &str, published: Option<&str>) {
        if self.state == State::Asked {
            let (message, published) = (self.cut(message), published.map(|signature| self.cut(signature)));
            self.queue(&Frame::Refused(Refused { reason, message, published }));
            self.state = State::Ended;
        }
    }

    /// Queues events, in frames of about 64 KiB. They are numbered on from the last ones.
    ///
    /// # Panics
    ///
    /// If they are more than the subscriber allows: whoever dispatches events has lost count, and to go on would break
    /// the promise on which the subscriber's memory rests.
    #[track_caller]
    pub(crate) fn send(&mut self, events: &Encoded) {
        self.accept();
        if self.state != State::Accepted {
            return;
        }
        let last = self.sent + events.len() as u64;
        assert!(Demand::new(last) <= self.allowed, "expected no event after {}, sent {last}", self.allowed);

        let mut ends = events.ends();
        let mut start = 0;
        while !ends.is_empty() {
            let count = ends.partition_point(|end| end - start <= self.limits.batch_bytes()).max(1);
            let end = ends[count - 1];
            self.send_run(count as u64, events.bytes().slice(start..end));
            ends = &ends[count..];
            start = end;
        }
        debug_assert_eq!(self.sent, last, "every event is numbered once");
    }

    /// Queues the end of the producer, behind all events: it is exhausted.
    pub(crate) fn finish(&mut self) {
        self.end(&Frame::Done(Done { last_seq: self.sent }));
    }

    /// Queues the end of the producer, behind all events: it has been stopped, or it failed at `origin`.
    ///
    /// Texts are cut to a quarter of a control frame each (16 KiB by default).
    pub(crate) fn fail(&mut self, reason: Reason, origin: &str, message: &str) {
        let (origin, message) = (self.cut(origin), self.cut(message));
        self.end(&Frame::Failed(Failed { last_seq: self.sent, reason, origin, message }));
    }

    /// Takes a frame from the subscriber.
    ///
    /// # Errors
    ///
    /// [`LinkError::Unexpected`] if it is none that subscribers send. Nothing has changed then.
    pub(crate) fn handle_frame(&mut self, frame: &Frame) -> Result<(), LinkError> {
        match frame {
            Frame::Credit(credit) => self.allow(Demand::new(credit.up_to)),
            Frame::Cancel(cancel) => self.cancel(cancel.reason),
            other => return Err(LinkError::Unexpected { frame: other.name(), place: "from a subscriber" }),
        }
        Ok(())
    }

    /// The subscriber's stream has ended or was reset. If the link has not ended, that cancels it.
    pub(crate) fn end_of_stream(&mut self) {
        self.cancel(Reason::Disconnected);
    }

    /// Returns the next bytes to send, in order. A frame may come in two pieces.
    pub(crate) fn poll_transmit(&mut self) -> Option<Bytes> {
        let bytes = self.rest.take().or_else(|| {
            let Parts { head, payload } = self.queue.pop_front()?;
            self.rest = Some(payload).filter(|payload| !payload.is_empty());
            Some(head)
        })?;
        self.queued_bytes -= bytes.len();
        Some(bytes)
    }

    /// Returns what the producer must be told.
    pub(crate) fn poll_event(&mut self) -> Option<OutboundEvent> {
        match &mut self.state {
            State::Cancelled(reason) => reason.take().map(|reason| OutboundEvent::Cancelled { reason }),
            State::Asked | State::Accepted if self.is_demand_new => {
                self.is_demand_new = false;
                Some(OutboundEvent::Demand { up_to: self.allowed })
            }
            _ => None,
        }
    }

    /// How many bytes wait for [`poll_transmit`](Self::poll_transmit). What waits is bounded by the demand, in events;
    /// a driver that wants it bounded in bytes stops sending above a mark of its own.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether the last byte has been given out: the stream may be finished.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.state, State::Ended | State::Cancelled(_)) && self.queued_bytes == 0
    }

    /// Queues `count` events that go into one frame, or one that needs several.
    fn send_run(&mut self, count: u64, payload: Bytes) {
        let seq = self.sent + 1;
        self.sent += count;
        let chunk_bytes = self.limits.chunk_bytes();
        // Several events together are never longer than a batch, which is shorter than a chunk.
        if payload.len() <= chunk_bytes {
            return self.queue(&Frame::Events(Events { first_seq: seq, count, payload }));
        }
        debug_assert_eq!(count, 1, "only a single event is cut to pieces");
        let total_len = payload.len() as u64;
        let mut left = payload;
        for index in 0.. {
            let payload = left.split_to(chunk_bytes.min(left.len()));
            let is_last = left.is_empty();
            self.queue(&Frame::Chunk(Chunk { seq, index, is_last, total_len, payload }));
            if is_last {
                break;
            }
        }
    }

    fn end(&mut self, last: &Frame) {
        self.accept();
        if self.state == State::Accepted {
            self.queue(last);
            self.state = State::Ended;
        }
    }

    fn allow(&mut self, up_to: Demand) {
        if up_to > self.allowed {
            self.allowed = up_to;
            self.is_demand_new = true;
        }
    }

    fn cancel(&mut self, reason: Reason) {
        if matches!(self.state, State::Asked | State::Accepted) {
            self.state = State::Cancelled(Some(reason));
            self.queue.clear();
            self.queued_bytes = self.rest.as_ref().map_or(0, Bytes::len);
        }
    }

    fn queue(&mut self, frame: &Frame) {
        let parts = frame.encode(&self.limits).expect("events, chunks and texts were cut to fit into a frame");
        self.queued_bytes += parts.head.len() + parts.payload.len();
        self.queue.push_back(parts);
    }

    /// The part of a text that fits into a frame with others.
    fn cut(&self, text: &str) -> String {
        text[..text.floor_char_boundary(self.limits.text_bytes())].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode;
    use crate::frame::{Cancel, Credit, FrameDecoder, Subscribe};

    fn outbound(up_to: u64) -> Outbound {
        let mut outbound = Outbound::new(Limits::default());
        credit(&mut outbound, up_to);
        outbound
    }

    fn credit(outbound: &mut Outbound, up_to: u64) {
        outbound.handle_frame(&Frame::Credit(Credit { up_to })).unwrap();
    }

    fn cancel(outbound: &mut Outbound) {
        outbound.handle_frame(&Frame::Cancel(Cancel { reason: Reason::Normal })).unwrap();
    }

    /// A batch of events of these lengths in bytes, each of at least 6.
    fn events(lengths: &[usize]) -> Encoded {
        let events: Vec<_> = lengths.iter().map(|length| Bytes::from(vec![7; length - header(*length)])).collect();
        let encoded = encode(&events, &Limits::default()).unwrap();
        assert_eq!(encoded.bytes().len(), lengths.iter().sum::<usize>());
        encoded
    }

    fn header(length: usize) -> usize {
        match length {
            0..=257 => 2,
            258..=65_538 => 3,
            _ => 5,
        }
    }

    /// What is transmitted, as frames.
    fn sent(outbound: &mut Outbound) -> Vec<Frame> {
        let mut decoder = FrameDecoder::new(Limits::default());
        let mut frames = Vec::new();
        while let Some(bytes) = outbound.poll_transmit() {
            decoder.push(bytes);
            while let Some(frame) = decoder.next_frame().unwrap() {
                frames.push(frame);
            }
        }
        assert!(!decoder.is_mid_frame());
        assert_eq!(outbound.queued_bytes(), 0);
        frames
    }

    /// (first event, number of events, bytes) of each events or chunk frame; 0 events for a chunk.
    fn runs(outbound: &mut Outbound) -> Vec<(u64, u64, usize)> {
        sent(outbound)
            .into_iter()
            .filter_map(|frame| match frame {
                Frame::Events(events) => Some((events.first_seq, events.count, events.payload.len())),
                Frame::Chunk(chunk) => Some((chunk.seq, 0, chunk.payload.len())),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn demand_is_told_once_and_never_falls() {
        let mut outbound = outbound(5);
        for stale in [5, 3, 0] {
            credit(&mut outbound, stale);
        }
        assert_eq!(outbound.poll_event(), Some(OutboundEvent::Demand { up_to: Demand::new(5) }));
        credit(&mut outbound, 5);
        assert_eq!(outbound.poll_event(), None);
        credit(&mut outbound, u64::MAX);
        assert_eq!(outbound.poll_event(), Some(OutboundEvent::Demand { up_to: Demand::MAX }));
    }

    #[test]
    fn events_are_numbered_on_from_batch_to_batch() {
        let mut outbound = outbound(10);
        outbound.send(&events(&[10, 10]));
        outbound.send(&events(&[]));
        outbound.send(&events(&[10]));
        outbound.finish();
        let frames = sent(&mut outbound);
        assert_eq!(frames[0], Frame::Accepted(Accepted {}));
        assert!(matches!(&frames[1], Frame::Events(Events { first_seq: 1, count: 2, .. })));
        assert!(matches!(&frames[2], Frame::Events(Events { first_seq: 3, count: 1, .. })));
        assert_eq!(frames[3..], [Frame::Done(Done { last_seq: 3 })]);
        assert!(outbound.is_finished());
    }

    #[test]
    fn batches_are_cut_at_64_kib() {
        let mut outbound = outbound(1000);
        outbound.send(&events(&[16_384; 9]));
        assert_eq!(runs(&mut outbound), [(1, 4, 65_536), (5, 4, 65_536), (9, 1, 16_384)]);
        outbound.send(&events(&[40_000, 40_000, 10]));
        assert_eq!(runs(&mut outbound), [(10, 1, 40_000), (11, 2, 40_010)]);
    }

    #[test]
    fn an_event_over_128_kib_goes_out_in_pieces_and_alone() {
        let mut outbound = outbound(1000);
        outbound.send(&events(&[10, 131_072, 131_073, 10, 300_000, 10]));
        let pieces = [(1, 1, 10), (2, 1, 131_072), (3, 0, 131_072), (3, 0, 1), (4, 1, 10)];
        let more = [(5, 0, 131_072), (5, 0, 131_072), (5, 0, 37_856), (6, 1, 10)];
        assert_eq!(runs(&mut outbound), [&pieces[..], &more[..]].concat());
    }

    #[test]
    fn pieces_are_counted_and_the_last_is_marked() {
        let mut outbound = outbound(1);
        outbound.send(&events(&[200_000]));
        let frames = sent(&mut outbound);
        assert!(matches!(&frames[1], Frame::Chunk(Chunk { seq: 1, index: 0, is_last: false, total_len: 200_000, .. })));
        assert!(matches!(&frames[2], Frame::Chunk(Chunk { seq: 1, index: 1, is_last: true, total_len: 200_000, .. })));
    }

    #[test]
    #[should_panic(expected = "expected no event after 2, sent 3")]
    fn more_than_the_credit_is_a_bug_of_ours() {
        let mut outbound = outbound(2);
        outbound.send(&events(&[10, 10]));
        outbound.send(&events(&[10]));
    }

    #[test]
    fn nothing_is_sent_after_the_end() {
        for end in [Outbound::finish, |outbound: &mut Outbound| outbound.fail(Reason::Panic, "sum", "boom")] {
            let mut outbound = outbound(5);
            outbound.poll_event();
            end(&mut outbound);
            assert_eq!(sent(&mut outbound).len(), 2);
            outbound.send(&events(&[10]));
            outbound.finish();
            outbound.fail(Reason::Error, "sum", "again");
            outbound.refuse(Reason::Ended, "late", None);
            credit(&mut outbound, 9);
            cancel(&mut outbound);
            assert_eq!(sent(&mut outbound), []);
            assert_eq!(outbound.poll_event(), None);
        }
    }

    #[test]
    fn a_cancel_drops_what_is_queued_but_no_half_frame() {
        let mut outbound = outbound(5);
        outbound.poll_event();
        outbound.send(&events(&[50_000, 50_000]));
        let accepted = outbound.poll_transmit().unwrap();
        let head = outbound.poll_transmit().unwrap();
        cancel(&mut outbound);
        cancel(&mut outbound);
        assert_eq!(outbound.poll_event(), Some(OutboundEvent::Cancelled { reason: Reason::Normal }));
        assert_eq!(outbound.poll_event(), None);
        assert_eq!((outbound.queued_bytes(), outbound.is_finished()), (50_000, false));
        let rest = outbound.poll_transmit().unwrap();
        assert_eq!((accepted.len(), head.len(), rest.len()), (6, 7, 50_000));
        outbound.send(&events(&[10]));
        outbound.finish();
        assert_eq!(outbound.poll_transmit(), None);
        assert!(outbound.is_finished());
    }

    #[test]
    fn a_stream_that_stops_cancels() {
        let mut outbound = outbound(0);
        outbound.end_of_stream();
        assert_eq!(outbound.poll_event(), Some(OutboundEvent::Cancelled { reason: Reason::Disconnected }));
    }

    #[test]
    fn a_refusal_is_the_first_frame_and_the_last() {
        let mut outbound = outbound(1);
        outbound.refuse(Reason::TypeMismatch, "no", Some("order v2"));
        outbound.accept();
        outbound.send(&events(&[10]));
        let refused =
            Refused { reason: Reason::TypeMismatch, message: "no".into(), published: Some("order v2".into()) };
        assert_eq!(sent(&mut outbound), [Frame::Refused(refused)]);
        assert!(outbound.is_finished());
    }

    #[test]
    fn texts_are_cut_to_fit() {
        let mut outbound = outbound(0);
        let long = "é".repeat(100_000);
        outbound.fail(Reason::Error, &long, &long[..40_000]);
        let Some(Frame::Failed(failed)) = sent(&mut outbound).pop() else { panic!("failed") };
        assert_eq!((failed.origin.len(), failed.message.len()), (16_384, 16_384));
    }

    #[test]
    fn other_frames_are_refused() {
        let subscribe = Subscribe { producer: "p".into(), signature: "u64".into(), max_demand: 1, min_demand: 0 };
        let error = outbound(0).handle_frame(&Frame::Subscribe(subscribe)).unwrap_err();
        assert_eq!(error.to_string(), "unexpected subscribe frame from a subscriber");
    }
}
