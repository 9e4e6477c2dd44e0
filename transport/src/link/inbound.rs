//! [`Inbound`]: the subscriber's end of a link.

use std::collections::{BTreeSet, VecDeque};

use aqueduct_stage::{Answer, Attempt, Demand};
use bytes::Bytes;

use crate::bugs::bug;
use crate::codec::{Form, NUMBER_BYTES};
use crate::frame::gather::Gather;
use crate::frame::{
    Accepted, Ack, Cancel, Chunk, Columns, Credit, Events, Frame, Reason, Resume, Revoke, Session, Subscribe,
};
use crate::link::answers::{Answers, MAX_RANGES};
use crate::link::bytes::ByteCredit;
use crate::link::reassembly::{Reassembly, Share};
use crate::link::{LinkError, MAX_INSTANCES};
use crate::{FrameError, Limits};

/// The subscriber's end of a link: asks, and checks that what comes is what was asked for.
///
/// When its stream is cut, it can be [resumed](Self::resume) on another one: it says what it has, and what it wants, again.
///
/// * mutators: [`bound_bytes`](Self::bound_bytes), [`share_reassembly`](Self::share_reassembly), [`ask`](Self::ask),
///   [`taken`](Self::taken), [`handled`](Self::handled), [`answer`](Self::answer), [`result`](Self::result),
///   [`retire`](Self::retire), [`cancel`](Self::cancel), [`down`](Self::down),
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
    /// The consumer says what it begins with, and can be asked for the rest.
    announces: bool,
    /// The consumer takes numbers by their differences.
    takes_columns: bool,
    /// Events that the publisher has asked for on this stream, and that have no final answer.
    asked_back: BTreeSet<u64>,
    /// Events that were returned, while the consumer still holds them.
    returned: BTreeSet<u64>,
    /// The event after the last, if a part of it is here.
    partial: Option<Partial>,
    /// What events of which pieces have arrived may hold, with the other links of the connection.
    reassembly: Reassembly,
    /// Nothing more is delivered, and the link is cancelled once everything that was is handled.
    closing: Option<Closing>,
    events: VecDeque<InboundEvent>,
}

/// How a link is about to end, in state [`Accepted`](State::Accepted).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Closing {
    reason: Reason,
    /// The number of the last event that was delivered.
    last: u64,
    /// The publisher has ended the edge, and sends no more.
    by_publisher: bool,
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
        form: Form,
        /// Their encodings, one after the other.
        payload: Bytes,
    },
    /// The publisher wants this event back, if it is not begun; to be [answered](Inbound::answer).
    Revoked { number: u64 },
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
        let (session, announces, takes_columns) = (subscribe.session, subscribe.announces, subscribe.takes_columns);
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
            announces,
            takes_columns,
            asked_back: BTreeSet::new(),
            returned: BTreeSet::new(),
            partial: None,
            reassembly: Reassembly::new(usize::MAX),
            closing: None,
            events: VecDeque::new(),
        })
    }

    /// Wants `up_to` events in all, counted from the start. A value that is no larger than an earlier one changes
    /// nothing, and so does any after the end. It need not wait for the publisher's answer.
    pub(crate) fn ask(&mut self, up_to: Demand) {
        if self.closing.is_none() {
            self.asked = self.asked.max(up_to);
        }
    }

    /// Lets less than `window` bytes of events wait for the consumer, and one event more, if the consumer says what it
    /// [takes](Self::taken). Otherwise it is only the demand that bounds them.
    pub(crate) fn bound_bytes(&mut self, window: u64) {
        self.window_bytes = Some(window);
    }

    /// Shares a bound on what is unfinished with all links of the publisher's node. To be called for each connection that
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
        self.close();
    }

    /// Says what became of event `number`, if it has arrived and has no final answer yet. The publisher must
    /// [take](Self::takes_answers) answers, and [`handled`](Self::handled) must have been called before the first ask.
    ///
    /// An event that is [returned](Answer::Returned) waits there for a while: a second answer says that the consumer does not
    /// hold it any more.
    pub(crate) fn answer(&mut self, number: u64, answer: Answer) {
        let is_known = self.announces || !matches!(answer, Answer::Begun | Answer::Returned);
        if !(is_known && self.may_answer(number)) {
            return;
        }
        let mut is_taken = self.returned.remove(&number);
        if !is_taken {
            let is_new = answer.is_final() && !self.answers.settled().contains(number);
            if answer.is_final() {
                self.asked_back.remove(&number);
            }
            if is_new && answer == Answer::Returned {
                self.returned.insert(number);
            } else {
                is_taken = is_new;
            }
            self.answers.add(number, answer);
        }
        self.answered(number, is_taken);
    }

    /// As [`answer`](Self::answer): event `number` is done, and this came of it.
    pub(crate) fn result(&mut self, number: u64, result: &[u8]) {
        if !self.may_answer(number) {
            return;
        }
        let mut is_taken = self.returned.remove(&number);
        if !is_taken {
            is_taken = !self.answers.settled().contains(number);
            self.asked_back.remove(&number);
            self.answers.add_result(number, result);
        }
        self.answered(number, is_taken);
    }

    fn may_answer(&self, number: u64) -> bool {
        let may_answer = self.state == State::Accepted && self.takes_answers && self.handled.is_some();
        may_answer && (1..=self.arrived).contains(&number)
    }

    /// Something was said of event `number`, and perhaps the consumer holds it no longer.
    fn answered(&mut self, number: u64, is_taken: bool) {
        let settled = self.answers.settled_up_to();
        while self.attempts.pop_front_if(|(last, _)| *last <= settled).is_some() {}
        if let Some(bytes) = self.bytes.as_mut().filter(|_| is_taken) {
            bytes.settle(number);
        }
        self.close();
    }

    /// Wants no more events. If the consumer says what it has handled, or answers, the link is [cancelled](Self::cancel) only
    /// once that is so of all that was delivered: what arrives from now on is dropped, and given to somebody else by the
    /// publisher. Otherwise it is cancelled at once.
    pub(crate) fn retire(&mut self, reason: Reason) {
        if self.state == State::Accepted && self.handled.is_some() && !bug!(CancelBeforeHandled) {
            let last = self.arrived;
            self.closing.get_or_insert(Closing { reason, last, by_publisher: false });
            self.close();
        } else {
            self.cancel(reason, &[]);
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
        self.asked_back.clear();
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
            State::Accepted if self.closing.is_some_and(|closing| closing.by_publisher) => Ok(()),
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
                let is_due = || self.bytes.as_ref().is_some_and(ByteCredit::is_due);
                let more_bytes = !self.told.is_zero() && self.closing.is_none() && is_due();
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

    /// Whether the link is to be [cancelled](Self::retire) once everything that was delivered is handled.
    pub(crate) fn is_retiring(&self) -> bool {
        self.state == State::Accepted && self.closing.is_some()
    }

    /// Whether nothing more is to be sent: the stream may be finished.
    pub(crate) fn is_finished(&self) -> bool {
        self.first.is_none() && matches!(self.state, State::Ended | State::Cancelled(_, true) | State::Broken)
    }

    /// Cancels a link that is about to end, if everything that was delivered is handled.
    fn close(&mut self) {
        if let Some(Closing { reason, last, .. }) = self.closing
            && self.handled.unwrap_or(0).max(self.answers.settled_up_to()) >= last
        {
            self.leave(reason, &[], false);
        }
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
        may_answer.then(|| self.answers.next())?
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
            Frame::Accepted(Accepted { instances, takes_answers, takes_rows })
                if (1..=MAX_INSTANCES).contains(&instances) =>
            {
                self.state = State::Accepted;
                self.takes_answers = takes_answers;
                if takes_rows {
                    self.answers.in_rows_of(ROW_BYTES.min(self.limits.chunk_bytes()));
                }
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
        let is_ended = self.closing.is_some_and(|closing| closing.by_publisher);
        match frame {
            Frame::Answered(_) => {}
            // After a cut it says its end again.
            Frame::Failed(ref failed) if failed.is_cancel => {}
            _ if is_ended => return Err(LinkError::Unexpected { frame: frame.name(), place: "after the end" }),
            _ => {}
        }
        match frame {
            Frame::Events(events) => self.handle_events(events),
            Frame::Columns(columns) => self.handle_columns(columns),
            Frame::Chunk(chunk) => self.handle_chunk(&chunk),
            Frame::Answered(answered) => self.answers.confirm(answered.up_to),
            Frame::Revoke(revoke) => self.handle_revoke(&revoke),
            Frame::Done(done) => self.handle_end(done.last_seq, InboundEvent::Done),
            Frame::Failed(failed) => {
                let crate::frame::Failed { last_seq, reason, origin, message, is_cancel } = failed;
                // An end that is not the end of the data is an early one, whatever it is called.
                let is_believed = is_cancel || reason != Reason::Normal || bug!(NormalFailureBelieved);
                let reason = if is_believed { reason } else { Reason::Shutdown };
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
        let bytes = payload.len();
        self.deliver(last, attempt, (Form::Values, payload, bytes));
        Ok(())
    }

    /// A few bytes can be many numbers: they count for what they take where they are kept, and no frame has more than would
    /// fit into one without it.
    fn handle_columns(&mut self, columns: Columns) -> Result<(), LinkError> {
        if !self.takes_columns {
            return Err(LinkError::Unexpected { frame: "columns", place: "for a subscriber that does not take them" });
        }
        let Columns { first_seq, count, attempt, payload } = columns;
        let bound = self.limits.data_frame_bytes() / NUMBER_BYTES;
        if count == 0 || count > bound as u64 {
            return Err(LinkError::Numbers { bound, got: count });
        }
        let last = self.expect(first_seq, count)?;
        let bytes = if bug!(NumbersCountShrunk) { payload.len() } else { count as usize * NUMBER_BYTES };
        self.bytes.as_ref().map_or(Ok(()), |credit| credit.check_behind(bytes.saturating_sub(NUMBER_BYTES)))?;
        self.deliver(last, attempt, (Form::Columns, payload, bytes));
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
            self.deliver(seq, partial.attempt, (Form::Values, partial.bytes.into_bytes(), expected));
        }
        Ok(())
    }

    /// Each event is told once on a stream, so that the publisher cannot ask without end.
    fn handle_revoke(&mut self, Revoke { ranges }: &Revoke) -> Result<(), LinkError> {
        if !self.announces {
            return Err(LinkError::Unexpected { frame: "revoke", place: "for a subscriber that cannot give back" });
        }
        let got = ranges.len();
        if !(1..=MAX_RANGES).contains(&got) {
            return Err(LinkError::AnswerRanges { bound: MAX_RANGES, got });
        }
        let (mut from, to) = (1, self.arrived);
        for &(first, last) in ranges {
            if !(from <= first && first <= last && last <= to) {
                return Err(LinkError::Revoked { from, to, first, last });
            }
            from = last + 1;
            let open = self.answers.settled().gaps(first, last);
            for number in open.into_iter().flat_map(|(first, last)| first..=last) {
                if self.asked_back.insert(number) {
                    self.events.push_back(InboundEvent::Revoked { number });
                }
            }
        }
        Ok(())
    }

    fn handle_end(&mut self, last_seq: u64, event: InboundEvent) -> Result<(), LinkError> {
        if last_seq != self.arrived {
            return Err(LinkError::Missing { got: last_seq, arrived: self.arrived });
        }
        let is_cancel = matches!(event, InboundEvent::Failed { is_cancel: true, .. });
        if is_cancel && self.handled.is_some() {
            // The producer lives on, and is to hear what becomes of its events. After a cut it says so again.
            let closing = Closing { reason: Reason::Normal, last: self.arrived, by_publisher: true };
            match &mut self.closing {
                Some(closing) => closing.by_publisher = true,
                None => {
                    self.closing = Some(closing);
                    self.events.push_back(event);
                }
            }
            self.close();
            return Ok(());
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

    /// Tells of the events up to number `last`, which count for so many bytes.
    fn deliver(&mut self, last: u64, attempt: Attempt, (form, payload, bytes): (Form, Bytes, usize)) {
        let count = last - self.arrived;
        self.arrived = last;
        self.unacknowledged_bytes += bytes;
        if let Some(credit) = &mut self.bytes {
            credit.arrive(last, bytes);
        }
        if self.handled.is_some() {
            match self.attempts.back_mut() {
                Some((to, same)) if *same == attempt => *to = last,
                _ => self.attempts.push_back((last, attempt)),
            }
        }
        debug_assert!(Demand::new(self.arrived) <= self.told && self.told <= self.asked);
        if self.closing.is_some() {
            return;
        }
        self.events.push_back(InboundEvent::Events { count, attempt, form, payload });
    }
}

/// The most bytes of results that are said together: as much as a stream moves at a time.
const ROW_BYTES: usize = 32 << 10;
/// What has arrived is acknowledged after so many events, and after so many bytes: a fraction of what a publisher keeps.
const ACK_EVENTS: u64 = 1024;
const ACK_BYTES: usize = 8 << 10;

#[cfg(test)]
mod tests;
