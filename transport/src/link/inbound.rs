//! [`Inbound`]: the subscriber's end of a link.

use std::collections::VecDeque;

use aqueduct_stage::{Answer, Attempt, Demand};
use bytes::Bytes;

use crate::bugs::bug;
use crate::frame::{Accepted, Ack, Cancel, Chunk, Credit, Events, Frame, Reason, Resume, Session, Subscribe};
use crate::gather::Gather;
use crate::link::answers::Answers;
use crate::link::bytes::ByteCredit;
use crate::link::reassembly::{Reassembly, Share};
use crate::link::{LinkError, MAX_INSTANCES};
use crate::{FrameError, Limits};

/// The subscriber's end of a link: asks, and checks that what comes is what was asked for.
///
/// When its stream is cut, it can be [resumed](Self::resume) on another one: it says what it has, and what it wants, again.
///
/// * mutators: [`bound_bytes`](Self::bound_bytes), [`share_reassembly`](Self::share_reassembly), [`ask`](Self::ask),
///   [`taken`](Self::taken), [`handled`](Self::handled), [`answer`](Self::answer), [`cancel`](Self::cancel),
///   [`down`](Self::down),
///   [`resume`](Self::resume), [`restate`](Self::restate)
/// * handlers: [`handle_frame`](Self::handle_frame), [`end_of_stream`](Self::end_of_stream)
/// * polls: [`poll_transmit`](Self::poll_transmit), [`poll_event`](Self::poll_event)
/// * getters: [`arrived`](Self::arrived), [`takes_answers`](Self::takes_answers),
///   [`raises_from`](Self::raises_from), [`is_finished`](Self::is_finished)
#[derive(Debug)]
pub(crate) struct Inbound {
    limits: Limits,
    state: State,
    /// What the publisher's end knows it by.
    session: Option<Session>,
    /// Which stream of the link this is, from 0: frames of others are ignored.
    epoch: u64,
    /// The publisher has not said yet that it goes on, on this stream.
    is_resuming: bool,
    /// The stream's first frame, until it is sent.
    first: Option<Bytes>,
    /// The present demand and acknowledgement are to be sent again.
    is_restating: bool,
    /// How many events the consumer wants in all. It never falls.
    asked: Demand,
    /// How many of them the publisher has been told of; `<= asked`.
    told: Demand,
    /// The number of the last event that has arrived whole; `<= told`.
    arrived: u64,
    /// How many the consumer has handled, if it says so: the publisher keeps the others.
    handled: Option<u64>,
    /// How many bytes of events may wait for the consumer, if it says what it takes.
    window_bytes: Option<u64>,
    /// What the publisher may send of them. There from the first credit on, or never.
    bytes: Option<ByteCredit>,
    /// The last acknowledgement that the publisher has been sent.
    acknowledged: Option<u64>,
    /// The length of what has arrived since.
    unacknowledged_bytes: usize,
    /// Which attempt the events after `handled` are: rising numbers of the last one, and the attempt of those up to it.
    attempts: VecDeque<(u64, Attempt)>,
    /// The publisher takes answers to single events.
    takes_answers: bool,
    answers: Answers,
    /// The event after the last, if a part of it is here.
    partial: Option<Partial>,
    /// What events of which pieces have arrived may hold, with the other links of the connection.
    reassembly: Reassembly,
    events: VecDeque<InboundEvent>,
}

/// What the consumer's driver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InboundEvent {
    /// The edge is made, to one of so many instances of the producer. It is the first, unless there is a refusal.
    Accepted { instances: u64 },
    /// There is no edge. Nothing follows.
    Refused {
        reason: Reason,
        message: String,
        /// What the producer publishes, if it is not what was expected.
        published: Option<String>,
    },
    /// The link goes on, on another stream.
    Resumed,
    /// The link cannot go on: its publisher does not know it any more. Nothing follows.
    Lost { reason: Reason, message: String },
    /// The next `count` events; not decoded yet.
    Events {
        /// At least 1.
        count: u64,
        /// Which attempt it is for all of them.
        attempt: Attempt,
        /// Their encodings, one after the other.
        payload: Bytes,
    },
    /// The producer is exhausted, and everything it sent has been told. Nothing follows.
    Done,
    /// The producer has ended otherwise, or cancelled the subscription, and everything it sent has been told. Nothing
    /// follows.
    Failed { reason: Reason, origin: String, message: String, is_cancel: bool },
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// No answer yet.
    Subscribing,
    Accepted,
    /// The publisher's last frame has arrived.
    Ended,
    /// By us, or the end is to be confirmed on another stream; and whether the frame is sent.
    Cancelled(Cancel, bool),
    /// The publisher broke the protocol.
    Broken,
}

/// An event of which some pieces have arrived.
#[derive(Debug)]
struct Partial {
    attempt: Attempt,
    pieces: u64,
    bytes: Gather,
    /// As much as `bytes` holds.
    share: Share,
}

impl Inbound {
    /// The end of a link that is to be made.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`] if the names do not fit into a frame (64 KiB by default).
    pub(crate) fn new(limits: Limits, subscribe: Subscribe) -> Result<Self, FrameError> {
        let session = subscribe.session;
        let first = Frame::Subscribe(subscribe).encode(&limits)?.head;
        // With its names, a piece must fit into a frame.
        let answers = Answers::new(limits.control_frame_bytes() / 2);
        Ok(Self {
            limits,
            state: State::Subscribing,
            session,
            epoch: 0,
            is_resuming: false,
            first: Some(first),
            is_restating: false,
            asked: Demand::ZERO,
            told: Demand::ZERO,
            arrived: 0,
            handled: None,
            window_bytes: None,
            bytes: None,
            acknowledged: None,
            unacknowledged_bytes: 0,
            attempts: VecDeque::new(),
            takes_answers: false,
            answers,
            partial: None,
            reassembly: Reassembly::new(usize::MAX),
            events: VecDeque::new(),
        })
    }

    /// Wants `up_to` events in all, counted from the start. A value that is no larger than an earlier one changes
    /// nothing, and so does any after the end. It need not wait for the publisher's answer.
    pub(crate) fn ask(&mut self, up_to: Demand) {
        self.asked = self.asked.max(up_to);
    }

    /// Lets less than `window` bytes of events wait for the consumer, and one event more, if the consumer says what it
    /// [takes](Self::taken). Otherwise it is only the demand that bounds them.
    pub(crate) fn bound_bytes(&mut self, window: u64) {
        self.window_bytes = Some(window);
    }

    /// Shares a bound on unfinished events with the other links of a connection. To be called for each connection that
    /// the link has, while no event is unfinished; without it, only the length of an event is bounded.
    pub(crate) fn share_reassembly(&mut self, reassembly: Reassembly) {
        debug_assert!(self.partial.is_none());
        self.reassembly = reassembly;
    }

    /// The consumer has taken `up_to` events in all, and does not hold them any more. The first call comes before the first
    /// [`ask`](Self::ask): after it, events are not bounded in bytes.
    pub(crate) fn taken(&mut self, up_to: Demand) {
        if let Some(window) = self.window_bytes.filter(|_| self.bytes.is_none() && self.told.is_zero()) {
            self.bytes = Some(ByteCredit::new(window));
        }
        if let Some(bytes) = &mut self.bytes {
            bytes.take(up_to.count());
        }
    }

    /// The consumer has handled `up_to` events in all, and so has [taken](Self::taken) them. The first call, before the first [`ask`](Self::ask), chooses *at
    /// least once*: from then on the publisher keeps what is not handled, for somebody else.
    pub(crate) fn handled(&mut self, up_to: Demand) {
        let handled = up_to.count().min(self.arrived).max(self.handled.unwrap_or(0));
        self.handled = Some(handled);
        while self.attempts.pop_front_if(|(last, _)| *last <= handled).is_some() {}
        self.taken(Demand::new(handled));
    }

    /// Says what became of event `number`, if it has arrived and has no final answer yet. The publisher must
    /// [take](Self::takes_answers) answers, and [`handled`](Self::handled) must have been called before the first ask.
    pub(crate) fn answer(&mut self, number: u64, answer: Answer) {
        let may_answer = self.state == State::Accepted && self.takes_answers && self.handled.is_some();
        if may_answer && (1..=self.arrived).contains(&number) {
            self.answers.add(number, answer);
            let settled = self.answers.settled_up_to();
            while self.attempts.pop_front_if(|(last, _)| *last <= settled).is_some() {}
            if let Some(bytes) = &mut self.bytes {
                bytes.settle(self.answers.settled());
            }
        }
    }

    /// Wants no more. What arrives from now on is dropped, and no event tells of the end; those that had arrived before
    /// can still be polled. Does nothing after the end.
    ///
    /// `unfinished` is what follows the events that were [handled](Self::handled): numbers of events, and the attempt that
    /// is to follow. Where that is a later one than these events came with, they had been begun.
    pub(crate) fn cancel(&mut self, reason: Reason, unfinished: &[(u64, Attempt)]) {
        self.leave(reason, unfinished, false);
    }

    /// As [`cancel`](Self::cancel), of a consumer that has ended itself.
    pub(crate) fn down(&mut self, reason: Reason, unfinished: &[(u64, Attempt)]) {
        self.leave(reason, unfinished, true);
    }

    /// Goes on with another stream, after the present one was cut: says what it has and what it wants. After a
    /// [`cancel`](Self::cancel) or the end of the producer, it says that. Returns the number of the stream, for
    /// [`handle_frame`](Self::handle_frame); `None` if the link cannot be resumed.
    pub(crate) fn resume(&mut self) -> Option<u64> {
        let session = self.session?;
        match &mut self.state {
            State::Subscribing | State::Broken => return None,
            State::Accepted => {}
            State::Ended => {
                self.state = State::Cancelled(Cancel { reason: Reason::Normal, begun: 0, is_down: false }, false);
            }
            State::Cancelled(_, is_sent) => *is_sent = false,
        }
        self.epoch += 1;
        self.partial = self.partial.take().filter(|_| bug!(PiecesMixed));
        self.is_resuming = true;
        if !bug!(AnswersNotSaidAgain) {
            self.answers.restart();
        }
        let arrived = self.arrived.saturating_sub(bug!(ResumeTooEarly).into()) + u64::from(bug!(ResumeTooLate));
        let resume = Resume { session, epoch: self.epoch, arrived };
        self.first = Some(self.encode(&Frame::Resume(resume)));
        if !bug!(CreditNotRestated) {
            self.restate();
        }
        Some(self.epoch)
    }

    /// Says again how much the consumer wants and what it has, in case that was not heard.
    pub(crate) fn restate(&mut self) {
        self.is_restating = true;
        self.acknowledged = None;
    }

    /// Takes a frame that has come from the publisher on stream `epoch` of the link; it is ignored if that is not the
    /// present one.
    ///
    /// # Errors
    ///
    /// [`LinkError`] names what was expected and what came. Whatever comes after it is ignored, as it is after a
    /// [`cancel`](Self::cancel); the driver resets the stream.
    pub(crate) fn handle_frame(&mut self, epoch: u64, frame: Frame) -> Result<(), LinkError> {
        if epoch != self.epoch && !bug!(OldStreamDelivers) {
            return Ok(());
        }
        let handled = match self.state {
            State::Accepted if self.is_resuming => self.handle_resumption(frame),
            State::Subscribing => self.handle_answer(frame),
            State::Accepted => self.handle_stream(frame),
            State::Ended => Err(LinkError::Unexpected { frame: frame.name(), place: "after the end" }),
            State::Cancelled(..) | State::Broken => return Ok(()),
        };
        if handled.is_err() {
            self.state = State::Broken;
            self.partial = None;
        }
        handled
    }

    /// The publisher's stream has ended or was reset.
    ///
    /// # Errors
    ///
    /// [`LinkError::CutOff`], unless the link had ended, was cancelled or is broken.
    pub(crate) fn end_of_stream(&mut self) -> Result<(), LinkError> {
        match self.state {
            State::Subscribing | State::Accepted => {
                self.state = State::Broken;
                self.partial = None;
                Err(LinkError::CutOff { arrived: self.arrived })
            }
            State::Ended | State::Cancelled(..) | State::Broken => Ok(()),
        }
    }

    /// Returns the next frame to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let frame = self.next_ack().or_else(|| self.next_answer()).or_else(|| match &mut self.state {
            State::Subscribing | State::Accepted => {
                let more_bytes = !self.told.is_zero() && self.bytes.as_ref().is_some_and(ByteCredit::is_due);
                let is_due = std::mem::take(&mut self.is_restating) || self.asked > self.told || more_bytes;
                self.told = self.asked;
                is_due.then(|| {
                    let bytes_up_to = self.bytes.as_mut().map(ByteCredit::tell);
                    Frame::Credit(Credit { up_to: self.told.count(), bytes_up_to })
                })
            }
            State::Cancelled(cancel, is_sent) => {
                let is_due = !std::mem::replace(is_sent, true);
                is_due.then(|| Frame::Cancel(*cancel))
            }
            _ => None,
        })?;
        Some(self.encode(&frame))
    }

    /// Returns what the consumer must be told.
    pub(crate) fn poll_event(&mut self) -> Option<InboundEvent> {
        self.events.pop_front()
    }

    /// How many events have arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// With which event, once it is [taken](Self::taken), the publisher may send more; `None` if that does not matter yet.
    pub(crate) fn raises_from(&self) -> Option<u64> {
        self.bytes.as_ref()?.due_from()
    }

    /// Whether the publisher takes answers to single events; known once it has accepted.
    pub(crate) fn takes_answers(&self) -> bool {
        self.takes_answers
    }

    /// Whether nothing more is to be sent: the stream may be finished.
    pub(crate) fn is_finished(&self) -> bool {
        self.first.is_none() && matches!(self.state, State::Ended | State::Cancelled(_, true) | State::Broken)
    }

    fn leave(&mut self, reason: Reason, unfinished: &[(u64, Attempt)], is_down: bool) {
        if matches!(self.state, State::Subscribing | State::Accepted) {
            let begun = self.begun(unfinished);
            self.state = State::Cancelled(Cancel { reason, begun, is_down }, false);
            self.partial = None;
        }
    }

    /// The acknowledgement that is due. Of what was handled, at once; of what has only arrived, with the next credit or
    /// when the publisher would otherwise have to keep much of it.
    fn next_ack(&mut self) -> Option<Frame> {
        let is_over = match self.state {
            State::Subscribing | State::Accepted => false,
            State::Cancelled(_, false) => true,
            _ => return None,
        };
        let up_to = self.handled.filter(|_| !bug!(AckBeforeHandling)).unwrap_or(self.arrived);
        let is_due = match (self.handled, self.acknowledged) {
            (Some(_), acknowledged) => acknowledged != Some(up_to),
            (None, acknowledged) => {
                let more = up_to - acknowledged.unwrap_or(0);
                let is_much = more >= ACK_EVENTS || self.unacknowledged_bytes >= ACK_BYTES;
                more > 0 && !is_over && (is_much || self.is_restating || self.asked > self.told)
            }
        };
        is_due.then(|| {
            self.acknowledged = Some(up_to);
            self.unacknowledged_bytes = 0;
            Frame::Ack(Ack { up_to, handled: self.handled.is_some() })
        })
    }

    /// The next answer to single events. A cancel comes behind all of them.
    fn next_answer(&mut self) -> Option<Frame> {
        let may_answer = matches!(self.state, State::Accepted | State::Cancelled(_, false));
        may_answer.then(|| self.answers.next())?.map(Frame::Answer)
    }

    /// How many of the events that are not handled were begun with.
    fn begun(&self, unfinished: &[(u64, Attempt)]) -> u64 {
        let handled = self.handled.unwrap_or(0);
        let mut begun = 0;
        for (count, attempt) in unfinished {
            let at = self.attempts.partition_point(|(last, _)| *last <= handled + begun);
            match self.attempts.get(at) {
                Some((_, came_with)) if attempt > came_with => begun += count,
                _ => break,
            }
        }
        begun
    }

    fn handle_answer(&mut self, frame: Frame) -> Result<(), LinkError> {
        match frame {
            Frame::Accepted(Accepted { instances, takes_answers }) if (1..=MAX_INSTANCES).contains(&instances) => {
                self.state = State::Accepted;
                self.takes_answers = takes_answers;
                self.events.push_back(InboundEvent::Accepted { instances });
            }
            Frame::Accepted(Accepted { instances, .. }) => {
                return Err(LinkError::Instances { bound: MAX_INSTANCES, got: instances });
            }
            Frame::Refused(refused) => {
                self.state = State::Ended;
                let (reason, message, published) = (refused.reason, refused.message, refused.published);
                self.events.push_back(InboundEvent::Refused { reason, message, published });
            }
            other => return Err(LinkError::Unexpected { frame: other.name(), place: "before the answer" }),
        }
        Ok(())
    }

    fn handle_resumption(&mut self, frame: Frame) -> Result<(), LinkError> {
        match frame {
            Frame::Resumed(_) => {
                self.is_resuming = false;
                self.events.push_back(InboundEvent::Resumed);
            }
            Frame::Refused(refused) => {
                self.state = State::Broken;
                self.events.push_back(InboundEvent::Lost { reason: refused.reason, message: refused.message });
            }
            other => return Err(LinkError::Unexpected { frame: other.name(), place: "before the answer" }),
        }
        Ok(())
    }

    fn handle_stream(&mut self, frame: Frame) -> Result<(), LinkError> {
        if self.partial.is_some() && !matches!(frame, Frame::Chunk(_)) {
            return Err(LinkError::Incomplete { seq: self.arrived + 1, frame: frame.name() });
        }
        match frame {
            Frame::Events(events) => self.handle_events(events),
            Frame::Chunk(chunk) => self.handle_chunk(&chunk),
            Frame::Answered(answered) => self.answers.confirm(answered.up_to),
            Frame::Done(done) => self.handle_end(done.last_seq, InboundEvent::Done),
            Frame::Failed(failed) => {
                let crate::frame::Failed { last_seq, reason, origin, message, is_cancel } = failed;
                self.handle_end(last_seq, InboundEvent::Failed { reason, origin, message, is_cancel })
            }
            other => Err(LinkError::Unexpected { frame: other.name(), place: "from a publisher" }),
        }
    }

    fn handle_events(&mut self, events: Events) -> Result<(), LinkError> {
        let Events { first_seq, count, attempt, payload } = events;
        // An event has a byte at least.
        if count == 0 || count > payload.len() as u64 {
            return Err(LinkError::Count { bound: payload.len(), got: count });
        }
        let last = self.expect(first_seq, count)?;
        self.bytes.as_ref().map_or(Ok(()), ByteCredit::check)?;
        self.deliver(last, attempt, payload);
        Ok(())
    }

    fn handle_chunk(&mut self, chunk: &Chunk) -> Result<(), LinkError> {
        let seq = self.expect(chunk.seq, 1)?;
        let partial = match &mut self.partial {
            Some(partial) => partial,
            None => {
                self.bytes.as_ref().map_or(Ok(()), ByteCredit::check)?;
                let bound = self.limits.event_bytes();
                let total = usize::try_from(chunk.total_len).ok().filter(|total| *total <= bound);
                let total = total.ok_or(LinkError::EventTooLong { seq, bound, got: chunk.total_len })?;
                let share = self.reassembly.share();
                self.partial.insert(Partial { attempt: chunk.attempt, pieces: 0, bytes: Gather::new(total), share })
            }
        };
        let expected = partial.bytes.total();
        if chunk.total_len != expected as u64 {
            return Err(LinkError::EventLength { seq, expected, got: chunk.total_len });
        }
        if chunk.index != partial.pieces && !bug!(PiecesMixed) {
            return Err(LinkError::Piece { seq, expected: partial.pieces, got: chunk.index });
        }
        let got = partial.bytes.len() + chunk.payload.len();
        let is_right = if chunk.is_last { got == expected } else { got < expected };
        // A piece without bytes brings its event no nearer to its end.
        if !is_right || chunk.payload.is_empty() {
            return Err(LinkError::EventLength { seq, expected, got: got as u64 });
        }
        partial.share.take(partial.bytes.growth(chunk.payload.len()))?;
        partial.bytes.push(&chunk.payload);
        partial.pieces += 1;
        if chunk.is_last
            && let Some(partial) = self.partial.take()
        {
            self.deliver(seq, partial.attempt, partial.bytes.into_bytes());
        }
        Ok(())
    }

    fn handle_end(&mut self, last_seq: u64, event: InboundEvent) -> Result<(), LinkError> {
        if last_seq != self.arrived {
            return Err(LinkError::Missing { got: last_seq, arrived: self.arrived });
        }
        self.state = State::Ended;
        self.events.push_back(event);
        Ok(())
    }

    /// Checks that `count` events from number `first` on are the next ones and were asked for. Returns the number of
    /// the last.
    fn expect(&self, first: u64, count: u64) -> Result<u64, LinkError> {
        let expected = self.arrived.saturating_add(1);
        if first != expected {
            return Err(LinkError::Sequence { expected, got: first });
        }
        let bound = self.told.count();
        match self.arrived.checked_add(count) {
            Some(last) if last <= bound => Ok(last),
            last => Err(LinkError::BeyondCredit { bound, got: last.unwrap_or(u64::MAX) }),
        }
    }

    fn encode(&self, frame: &Frame) -> Bytes {
        frame.encode(&self.limits).expect("numbers and their names fit into any frame").head
    }

    /// Tells of the events up to number `last`.
    fn deliver(&mut self, last: u64, attempt: Attempt, payload: Bytes) {
        let count = last - self.arrived;
        self.arrived = last;
        self.unacknowledged_bytes += payload.len();
        if let Some(bytes) = &mut self.bytes {
            bytes.arrive(last, payload.len());
        }
        if self.handled.is_some() {
            match self.attempts.back_mut() {
                Some((to, same)) if *same == attempt => *to = last,
                _ => self.attempts.push_back((last, attempt)),
            }
        }
        debug_assert!(Demand::new(self.arrived) <= self.told && self.told <= self.asked);
        self.events.push_back(InboundEvent::Events { count, attempt, payload });
    }
}

/// What has arrived is acknowledged after so many events, and after so many bytes: a fraction of what a publisher keeps.
const ACK_EVENTS: u64 = 1024;
const ACK_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::frame::{self, Accepted, Answered, Done, Failed, FrameDecoder, Refused, Resumed, Verdict};

    fn subscribe() -> Subscribe {
        Subscribe {
            producer: "numbers".into(),
            signature: "u64".into(),
            max_demand: 10,
            min_demand: 5,
            session: None,
            selector: None,
            instance: 0,
            consumer: None,
        }
    }

    fn inbound() -> Inbound {
        Inbound::new(Limits::default().max_event_bytes(1000), subscribe()).unwrap()
    }

    /// An accepted link that has asked for `up_to` events.
    fn accepted(up_to: u64) -> Inbound {
        let mut inbound = inbound();
        inbound.ask(Demand::new(up_to));
        sent(&mut inbound);
        inbound.handle_frame(0, Frame::Accepted(Accepted::default())).unwrap();
        assert_eq!(inbound.poll_event(), Some(InboundEvent::Accepted { instances: 1 }));
        inbound
    }

    fn sent(inbound: &mut Inbound) -> Vec<Frame> {
        let mut decoder = FrameDecoder::new(Limits::default());
        let mut frames = Vec::new();
        while let Some(bytes) = inbound.poll_transmit() {
            decoder.push(bytes);
            frames.push(decoder.next_frame().unwrap().unwrap());
        }
        frames
    }

    fn events(first_seq: u64, count: u64) -> Frame {
        Frame::Events(Events { first_seq, count, attempt: Attempt::FIRST, payload: Bytes::from_static(&[1; 4]) })
    }

    fn chunk(seq: u64, index: u64, is_last: bool, total_len: u64, payload: &'static [u8]) -> Frame {
        let (attempt, payload) = (Attempt::FIRST, Bytes::from_static(payload));
        Frame::Chunk(Chunk { seq, attempt, index, is_last, total_len, payload })
    }

    /// The message of the error that the last of `frames` causes.
    #[track_caller]
    fn error(inbound: &mut Inbound, frames: impl IntoIterator<Item = Frame>) -> String {
        let mut results: Vec<_> = frames.into_iter().map(|frame| inbound.handle_frame(0, frame)).collect();
        let last = results.pop().unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        last.unwrap_err().to_string()
    }

    #[test]
    fn it_subscribes_and_asks_at_once() {
        let mut inbound = inbound();
        inbound.ask(Demand::new(5));
        inbound.ask(Demand::new(10));
        inbound.ask(Demand::new(7));
        assert_eq!(
            sent(&mut inbound),
            [Frame::Subscribe(subscribe()), Frame::Credit(Credit { up_to: 10, bytes_up_to: None })]
        );
        inbound.ask(Demand::new(10));
        assert_eq!(sent(&mut inbound), []);
        inbound.ask(Demand::MAX);
        assert_eq!(sent(&mut inbound), [Frame::Credit(Credit { up_to: u64::MAX, bytes_up_to: None })]);
    }

    #[test]
    fn a_refusal_says_what_is_published() {
        let mut inbound = inbound();
        let published = Some("order v2".to_owned());
        let (reason, message) = (Reason::TypeMismatch, "no".to_owned());
        let refused = Refused { reason, message: message.clone(), published: published.clone() };
        inbound.handle_frame(0, Frame::Refused(refused)).unwrap();
        assert_eq!(inbound.poll_event(), Some(InboundEvent::Refused { reason, message, published }));
        assert_eq!(inbound.end_of_stream(), Ok(()));
    }

    #[test]
    fn the_answer_comes_first_and_once() {
        assert_eq!(error(&mut inbound(), [events(1, 1)]), "unexpected events frame before the answer");
        let again = Frame::Accepted(Accepted::default());
        assert_eq!(error(&mut accepted(1), [again]), "unexpected accepted frame from a publisher");
    }

    #[test]
    fn a_producer_has_a_sensible_number_of_instances() {
        for got in [0, 1025, u64::MAX] {
            let message = format!("expected a producer of 1 to 1024 instances, got {got}");
            assert_eq!(
                error(&mut inbound(), [Frame::Accepted(Accepted { instances: got, takes_answers: false })]),
                message
            );
        }
        let mut inbound = inbound();
        inbound.handle_frame(0, Frame::Accepted(Accepted { instances: 1024, takes_answers: false })).unwrap();
        assert_eq!(inbound.poll_event(), Some(InboundEvent::Accepted { instances: 1024 }));
    }

    #[test]
    fn events_come_in_order_and_are_told() {
        let mut inbound = accepted(5);
        inbound.handle_frame(0, events(1, 2)).unwrap();
        inbound.handle_frame(0, events(3, 3)).unwrap();
        inbound.handle_frame(0, Frame::Done(Done { last_seq: 5 })).unwrap();
        let payload = Bytes::from_static(&[1; 4]);
        assert_eq!(
            inbound.poll_event(),
            Some(InboundEvent::Events { count: 2, attempt: Attempt::FIRST, payload: payload.clone() })
        );
        assert_eq!(inbound.poll_event(), Some(InboundEvent::Events { count: 3, attempt: Attempt::FIRST, payload }));
        assert_eq!(inbound.poll_event(), Some(InboundEvent::Done));
        assert_eq!((inbound.poll_event(), inbound.end_of_stream(), inbound.is_finished()), (None, Ok(()), true));
    }

    #[test]
    fn gaps_repeats_and_wrong_counts_are_errors() {
        let cases = [
            (events(2, 1), "expected event 1, got 2"),
            (events(0, 1), "expected event 1, got 0"),
            (events(1, 4), "expected no event after 3, got 4"),
            (events(1, 0), "expected 1 to 4 events in 4 bytes, got 0"),
            (events(1, 5), "expected 1 to 4 events in 4 bytes, got 5"),
            (events(1, u64::MAX), "expected 1 to 4 events in 4 bytes, got 18446744073709551615"),
        ];
        for (frame, message) in cases {
            assert_eq!(error(&mut accepted(3), [frame]), message);
        }
        assert_eq!(error(&mut accepted(3), [events(1, 2), events(2, 1)]), "expected event 3, got 2");
        assert_eq!(error(&mut accepted(3), [events(1, 2), events(3, 2)]), "expected no event after 3, got 4");
    }

    #[test]
    fn what_the_publisher_was_not_told_of_is_no_credit() {
        let mut inbound = accepted(3);
        inbound.ask(Demand::new(4));
        assert_eq!(error(&mut inbound, [events(1, 4)]), "expected no event after 3, got 4");
    }

    #[test]
    fn pieces_become_one_event() {
        let mut inbound = accepted(2);
        inbound.handle_frame(0, chunk(1, 0, false, 5, b"abc")).unwrap();
        assert_eq!((inbound.poll_event(), inbound.arrived()), (None, 0));
        inbound.handle_frame(0, chunk(1, 1, true, 5, b"de")).unwrap();
        let payload = Bytes::from_static(b"abcde");
        assert_eq!(inbound.poll_event(), Some(InboundEvent::Events { count: 1, attempt: Attempt::FIRST, payload }));
        inbound.handle_frame(0, chunk(2, 0, true, 1, b"f")).unwrap();
        assert_eq!(inbound.arrived(), 2);
    }

    #[test]
    fn pieces_that_do_not_fit_are_errors() {
        let first = || chunk(1, 0, false, 5, b"abc");
        let cases = [
            (vec![chunk(2, 0, false, 5, b"abc")], "expected event 1, got 2"),
            (vec![chunk(1, 1, false, 5, b"abc")], "expected piece 0 of event 1, got 1"),
            (vec![first(), chunk(1, 0, false, 5, b"d")], "expected piece 1 of event 1, got 0"),
            (vec![first(), chunk(1, 2, false, 5, b"d")], "expected piece 1 of event 1, got 2"),
            (vec![first(), chunk(2, 0, false, 5, b"abc")], "expected event 1, got 2"),
            (vec![first(), chunk(1, 1, true, 6, b"def")], "expected event 1 of 5 bytes, got 6"),
            (vec![first(), chunk(1, 1, true, 5, b"def")], "expected event 1 of 5 bytes, got 6"),
            (vec![first(), chunk(1, 1, true, 5, b"d")], "expected event 1 of 5 bytes, got 4"),
            (vec![first(), chunk(1, 1, false, 5, b"de")], "expected event 1 of 5 bytes, got 5"),
            (vec![first(), chunk(1, 1, false, 5, b"")], "expected event 1 of 5 bytes, got 3"),
            (vec![chunk(1, 0, true, 0, b"")], "expected event 1 of 0 bytes, got 0"),
            (vec![chunk(1, 0, false, 1001, b"abc")], "expected event 1 of at most 1000 bytes, got 1001"),
            (vec![first(), events(2, 1)], "expected the rest of event 1, got events frame"),
            (vec![first(), Frame::Done(Done { last_seq: 0 })], "expected the rest of event 1, got done frame"),
        ];
        for (frames, message) in cases {
            assert_eq!(error(&mut accepted(3), frames), message);
        }
        assert_eq!(error(&mut accepted(0), [first()]), "expected no event after 0, got 1");
    }

    #[test]
    fn an_end_with_events_missing_is_an_error() {
        let (origin, message) = ("sum".into(), "boom".into());
        let failed = Failed { last_seq: 1, reason: Reason::Error, origin, message, is_cancel: false };
        for end in [Frame::Done(Done { last_seq: 1 }), Frame::Failed(failed)] {
            let name = end.name();
            assert_eq!(error(&mut accepted(3), [end.clone()]), "expected the end after 1 events, got 0");
            assert_eq!(error(&mut accepted(3), [events(1, 2), end.clone()]), "expected the end after 1 events, got 2");
            let after = [events(1, 1), end.clone(), end];
            assert_eq!(error(&mut accepted(3), after), format!("unexpected {name} frame after the end"));
        }
    }

    #[test]
    fn a_failure_says_where_it_began_and_whether_it_was_a_cancel() {
        for is_cancel in [false, true] {
            let mut inbound = accepted(1);
            let (reason, origin, message) = (Reason::Panic, "sum".to_owned(), "boom".to_owned());
            let failed = Failed { last_seq: 0, reason, origin: origin.clone(), message: message.clone(), is_cancel };
            inbound.handle_frame(0, Frame::Failed(failed)).unwrap();
            assert_eq!(inbound.poll_event(), Some(InboundEvent::Failed { reason, origin, message, is_cancel }));
            inbound.ask(Demand::new(9));
            inbound.cancel(Reason::Normal, &[]);
            assert_eq!(sent(&mut inbound), []);
        }
    }

    #[test]
    fn a_stream_that_stops_early_is_cut_off() {
        assert_eq!(inbound().end_of_stream(), Err(LinkError::CutOff { arrived: 0 }));
        let mut inbound = accepted(3);
        inbound.handle_frame(0, events(1, 2)).unwrap();
        assert_eq!(inbound.end_of_stream().unwrap_err().to_string(), "stream cut off after 2 events");
    }

    #[test]
    fn a_cancel_is_sent_once_and_drops_what_follows() {
        let mut inbound = accepted(3);
        inbound.handle_frame(0, chunk(1, 0, false, 5, b"abc")).unwrap();
        inbound.ask(Demand::new(9));
        inbound.cancel(Reason::Shutdown, &[]);
        inbound.cancel(Reason::Normal, &[]);
        assert_eq!(sent(&mut inbound), [Frame::Cancel(Cancel { reason: Reason::Shutdown, begun: 0, is_down: false })]);
        assert!(inbound.is_finished());
        inbound.handle_frame(0, chunk(1, 1, true, 5, b"de")).unwrap();
        inbound.handle_frame(0, Frame::Done(Done { last_seq: 7 })).unwrap();
        assert_eq!((inbound.poll_event(), inbound.end_of_stream()), (None, Ok(())));
    }

    #[test]
    fn a_cancel_says_whether_the_consumer_has_ended_itself() {
        let mut inbound = accepted(3);
        inbound.down(Reason::Error, &[]);
        inbound.cancel(Reason::Normal, &[]);
        assert_eq!(sent(&mut inbound), [Frame::Cancel(Cancel { reason: Reason::Error, begun: 0, is_down: true })]);
    }

    #[test]
    fn a_cancel_before_anything_was_sent_still_follows_the_subscription() {
        let mut inbound = inbound();
        inbound.cancel(Reason::Normal, &[]);
        let cancel = Frame::Cancel(Cancel { reason: Reason::Normal, begun: 0, is_down: false });
        assert_eq!(sent(&mut inbound), [Frame::Subscribe(subscribe()), cancel]);
    }

    #[test]
    fn nothing_is_told_after_an_error() {
        let mut inbound = accepted(3);
        inbound.handle_frame(0, events(2, 1)).unwrap_err();
        inbound.handle_frame(0, events(1, 1)).unwrap();
        inbound.handle_frame(0, Frame::Done(Done { last_seq: 0 })).unwrap();
        assert_eq!((inbound.poll_event(), inbound.is_finished()), (None, true));
    }

    #[test]
    fn unfinished_events_of_all_links_share_a_bound() {
        let (reassembly, piece) = (Reassembly::new(10_000), &[7; 4096]);
        let begun = || {
            let mut inbound = Inbound::new(Limits::default(), subscribe()).unwrap();
            inbound.share_reassembly(reassembly.clone());
            inbound.ask(Demand::new(9));
            sent(&mut inbound);
            inbound.handle_frame(0, Frame::Accepted(Accepted::default())).unwrap();
            inbound
        };
        // It announces much, and holds what has arrived.
        let first = || chunk(1, 0, false, 60_000_000, piece);
        let (mut one, mut two, mut three) = (begun(), begun(), begun());
        one.handle_frame(0, first()).unwrap();
        two.handle_frame(0, first()).unwrap();
        let error = three.handle_frame(0, first()).unwrap_err();
        assert_eq!(error, LinkError::Reassembly { bound: 10_000, got: 3 * 4096 });
        assert!(error.to_string().contains("at most 10000 bytes on a connection, got 12288"), "{error}");
        // What ends makes room, and so does what is whole.
        two.cancel(Reason::Normal, &[]);
        let mut four = begun();
        four.handle_frame(0, chunk(1, 0, false, 4097, piece)).unwrap();
        four.handle_frame(0, chunk(1, 1, true, 4097, &[7])).unwrap();
        begun().handle_frame(0, first()).unwrap();
        drop(one);
        let (mut five, mut six) = (begun(), begun());
        five.handle_frame(0, first()).unwrap();
        six.handle_frame(0, first()).unwrap();
    }

    /// A link that has asked for many events, of which 100 bytes may wait.
    fn bounded() -> Inbound {
        let mut inbound = inbound();
        inbound.bound_bytes(100);
        inbound.taken(Demand::ZERO);
        inbound.ask(Demand::new(50));
        let credit = Frame::Credit(Credit { up_to: 50, bytes_up_to: Some(100) });
        assert_eq!(sent(&mut inbound), [Frame::Subscribe(subscribe()), credit]);
        inbound.handle_frame(0, Frame::Accepted(Accepted::default())).unwrap();
        inbound
    }

    fn long(first_seq: u64, bytes: usize) -> Frame {
        let (attempt, payload) = (Attempt::FIRST, vec![1; bytes].into());
        Frame::Events(Events { first_seq, count: 1, attempt, payload })
    }

    #[test]
    fn no_event_begins_beyond_the_bytes_that_were_allowed() {
        let message = "expected no event to begin after 100 bytes, got one after 120";
        assert_eq!(error(&mut bounded(), [long(1, 60), long(2, 60), long(3, 1)]), message);
        let first = || chunk(2, 0, false, 5, b"abc");
        assert_eq!(error(&mut bounded(), [long(1, 120), first()]), message);
        // What has begun may go on.
        let mut inbound = bounded();
        for frame in [long(1, 99), first(), chunk(2, 1, true, 5, b"de")] {
            inbound.handle_frame(0, frame).unwrap();
        }
        assert_eq!(inbound.arrived(), 2);
    }

    #[test]
    fn bytes_that_were_taken_are_allowed_again_and_are_said_with_each_credit() {
        let mut inbound = bounded();
        for event in 1..=3 {
            inbound.handle_frame(0, long(event, 40)).unwrap();
        }
        inbound.taken(Demand::new(1));
        assert_eq!((sent(&mut inbound), inbound.raises_from()), (vec![], Some(2)));
        inbound.taken(Demand::new(2));
        assert_eq!(sent(&mut inbound), [Frame::Credit(Credit { up_to: 50, bytes_up_to: Some(180) })]);
        inbound.restate();
        let again = sent(&mut inbound).pop();
        assert_eq!(again, Some(Frame::Credit(Credit { up_to: 50, bytes_up_to: Some(180) })));
    }

    #[test]
    fn who_does_not_say_what_it_takes_has_no_bound_in_bytes() {
        let mut inbound = inbound();
        inbound.bound_bytes(100);
        inbound.ask(Demand::new(9));
        assert_eq!(sent(&mut inbound)[1..], [Frame::Credit(Credit { up_to: 9, bytes_up_to: None })]);
        inbound.handle_frame(0, Frame::Accepted(Accepted::default())).unwrap();
        inbound.taken(Demand::ZERO);
        for event in 1..=5 {
            inbound.handle_frame(0, long(event, 90)).unwrap();
        }
    }

    /// Events that are another attempt.
    fn again(first_seq: u64, count: u64, attempt: u32) -> Frame {
        let (attempt, payload) = (Attempt::new(NonZeroU32::new(attempt).unwrap()), Bytes::from_static(&[1; 4]));
        Frame::Events(Events { first_seq, count, attempt, payload })
    }

    fn ack(up_to: u64, handled: bool) -> Frame {
        Frame::Ack(Ack { up_to, handled })
    }

    #[test]
    fn what_has_arrived_is_acknowledged_with_the_next_credit() {
        let mut inbound = accepted(5);
        inbound.handle_frame(0, events(1, 3)).unwrap();
        assert_eq!(sent(&mut inbound), []);
        inbound.ask(Demand::new(8));
        assert_eq!(sent(&mut inbound), [ack(3, false), Frame::Credit(Credit { up_to: 8, bytes_up_to: None })]);
        inbound.ask(Demand::new(9));
        assert_eq!(sent(&mut inbound), [Frame::Credit(Credit { up_to: 9, bytes_up_to: None })]);
    }

    #[test]
    fn much_that_has_arrived_is_acknowledged_at_once() {
        let mut inbound = accepted(10_000);
        for first in (1..=1023).step_by(3) {
            inbound.handle_frame(0, events(first, 3)).unwrap();
            assert_eq!(sent(&mut inbound), []);
        }
        inbound.handle_frame(0, events(1024, 1)).unwrap();
        assert_eq!(sent(&mut inbound), [ack(1024, false)]);
        let (attempt, payload) = (Attempt::FIRST, vec![1; 100_000].into());
        let frame = Frame::Events(Events { first_seq: 1025, count: 1, attempt, payload });
        inbound.handle_frame(0, frame.clone()).unwrap();
        let Frame::Events(large) = frame else { unreachable!() };
        inbound.handle_frame(0, Frame::Events(Events { first_seq: 1026, ..large.clone() })).unwrap();
        assert_eq!(sent(&mut inbound), []);
        inbound.handle_frame(0, Frame::Events(Events { first_seq: 1027, ..large })).unwrap();
        assert_eq!(sent(&mut inbound), [ack(1027, false)]);
    }

    #[test]
    fn a_consumer_that_says_what_it_has_handled_is_believed_that_only() {
        let mut inbound = inbound();
        inbound.handled(Demand::ZERO);
        inbound.ask(Demand::new(5));
        let first =
            [Frame::Subscribe(subscribe()), ack(0, true), Frame::Credit(Credit { up_to: 5, bytes_up_to: None })];
        assert_eq!(sent(&mut inbound), first);
        inbound.handle_frame(0, Frame::Accepted(Accepted::default())).unwrap();
        inbound.handle_frame(0, events(1, 4)).unwrap();
        inbound.ask(Demand::new(6));
        assert_eq!(sent(&mut inbound), [Frame::Credit(Credit { up_to: 6, bytes_up_to: None })]);
        for up_to in [2, 1, 2] {
            inbound.handled(Demand::new(up_to));
        }
        assert_eq!(sent(&mut inbound), [ack(2, true)]);
        inbound.handled(Demand::new(9));
        assert_eq!(sent(&mut inbound), [ack(4, true)]);
    }

    #[test]
    fn a_cancel_says_what_was_begun() {
        let (first, second, third) = (Attempt::FIRST, Attempt::FIRST.next(), Attempt::FIRST.next().next());
        let cases: [(&[(u64, Attempt)], u64); 5] = [
            (&[], 0),
            (&[(2, second), (3, second)], 2),
            (&[(5, first)], 0),
            (&[(2, second), (1, third), (2, second)], 3),
            (&[(2, first), (3, third)], 0),
        ];
        for (unfinished, begun) in cases {
            let mut inbound = accepted(9);
            inbound.handled(Demand::ZERO);
            inbound.handle_frame(0, again(1, 4, 1)).unwrap();
            inbound.handle_frame(0, again(5, 3, 2)).unwrap();
            sent(&mut inbound);
            inbound.handled(Demand::new(2));
            inbound.cancel(Reason::Error, unfinished);
            let cancel = Frame::Cancel(Cancel { reason: Reason::Error, begun, is_down: false });
            assert_eq!(sent(&mut inbound), [ack(2, true), cancel], "{unfinished:?}");
        }
    }

    /// A link on which events are answered, with `count` of them.
    fn answering(count: u64) -> Inbound {
        let session = Some(Session { incarnation: 1, number: 1 });
        let mut inbound = Inbound::new(Limits::default(), Subscribe { session, ..subscribe() }).unwrap();
        inbound.handled(Demand::ZERO);
        inbound.ask(Demand::new(9));
        sent(&mut inbound);
        inbound.handle_frame(0, Frame::Accepted(Accepted { instances: 1, takes_answers: true })).unwrap();
        inbound.handle_frame(0, events(1, count)).unwrap();
        inbound
    }

    fn done(number: u64, ranges: &[(u64, u64)]) -> Frame {
        let (verdict, message) = (Verdict::Done, String::new());
        Frame::Answer(frame::Answer { number, ranges: ranges.to_vec(), verdict, delay_ms: 0, message, result: None })
    }

    #[test]
    fn answers_go_out_before_the_cancel_and_again_after_a_cut() {
        let mut inbound = answering(4);
        for number in [0, 2, 4, 5] {
            inbound.answer(number, Answer::Done);
        }
        let answer = done(1, &[(2, 2), (4, 4)]);
        assert_eq!(sent(&mut inbound), std::slice::from_ref(&answer));
        inbound.cancel(Reason::Normal, &[]);
        inbound.answer(3, Answer::Done);
        let cancel = Frame::Cancel(Cancel { reason: Reason::Normal, begun: 0, is_down: false });
        assert_eq!(sent(&mut inbound), std::slice::from_ref(&cancel));
        inbound.resume().unwrap();
        assert_eq!(sent(&mut inbound)[1..], [ack(0, true), answer, cancel]);
    }

    #[test]
    fn what_the_publisher_has_taken_is_not_said_again() {
        let mut inbound = answering(4);
        inbound.answer(2, Answer::Done);
        sent(&mut inbound);
        inbound.handle_frame(0, Frame::Answered(Answered { up_to: 1 })).unwrap();
        inbound.answer(3, Answer::Done);
        inbound.resume().unwrap();
        let credit = Frame::Credit(Credit { up_to: 9, bytes_up_to: None });
        assert_eq!(sent(&mut inbound)[1..], [ack(0, true), done(2, &[(3, 3)]), credit]);
        inbound.handle_frame(1, Frame::Resumed(Resumed {})).unwrap();
        let error = inbound.handle_frame(1, Frame::Answered(Answered { up_to: 3 })).unwrap_err();
        assert_eq!(error, LinkError::Answer { expected: 2, got: 3 });
    }

    #[test]
    fn nobody_answers_whom_the_publisher_does_not_hear() {
        let mut inbound = accepted(4);
        inbound.handle_frame(0, events(1, 2)).unwrap();
        inbound.answer(1, Answer::Done);
        assert_eq!(sent(&mut inbound), []);
    }
}
