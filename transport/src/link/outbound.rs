//! [`Outbound`]: the publisher's end of a link.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use aqueduct_stage::{Answer, Attempt, Demand, ResultRow};
use bytes::Bytes;

use crate::Limits;
use crate::bugs::bug;
use crate::codec::{Form, Written};
use crate::frame::{
    self, Accepted, Ack, Answered, Cancel, Chunk, Columns, Credit, Done, Events, Failed, Frame, Reason, Refused,
    Results, Resumed, Revoke, Verdict,
};
use crate::link::LinkError;
use crate::link::answers::{CONFIRM_EVERY, MAX_RANGES};
use crate::link::log::{Log, Run};
use crate::link::pieces::Pieces;
use crate::link::reassembly::Reassembly;
use crate::link::words::{Expired, Recall, Words};

/// The publisher's end of a link: sends events as far as the subscriber allows, and keeps them until they are
/// acknowledged.
///
/// It begins when a [`Subscribe`](Frame::Subscribe) frame has been read; whoever read it looks the producer up and
/// answers with [`accept`](Self::accept) or [`refuse`](Self::refuse).
///
/// When its stream is cut, it waits for the subscriber to [`resume`](Self::resume) the link on another one, and sends again
/// what did not arrive; or it is [given up](Self::give_up).
///
/// * mutators: [`take_answers`](Self::take_answers), [`announced`](Self::announced),
///   [`share_reassembly`](Self::share_reassembly), [`accept`](Self::accept), [`refuse`](Self::refuse),
///   [`send`](Self::send), [`revoke`](Self::revoke), [`expire`](Self::expire), [`finish`](Self::finish), [`fail`](Self::fail), [`let_go`](Self::let_go),
///   [`give_up`](Self::give_up)
/// * handlers: [`handle_frame`](Self::handle_frame), [`end_of_stream`](Self::end_of_stream), [`cut`](Self::cut),
///   [`resume`](Self::resume)
/// * polls: [`poll_transmit`](Self::poll_transmit), [`poll_event`](Self::poll_event),
///   [`poll_unfinished`](Self::poll_unfinished)
/// * getters: [`allows_up_to`](Self::allows_up_to), [`unacknowledged_bytes`](Self::unacknowledged_bytes),
///   [`lost`](Self::lost), [`is_finished`](Self::is_finished), [`is_over`](Self::is_over)
///
/// Once it has been refused, finished, failed or cancelled, mutators do nothing. What the subscriber said of its events before
/// that, or says of them after the producer has ended the edge, is told all the same.
#[derive(Debug)]
pub(crate) struct Outbound {
    limits: Limits,
    state: State,
    /// Which stream of the link this is, from 0: frames of others are ignored.
    epoch: u64,
    /// That stream has been cut.
    is_cut: bool,
    /// How many events the subscriber allows in all. It never falls.
    allowed: Demand,
    /// No event begins after so many bytes, counted from the start, if there is a bound. It never falls.
    allowed_bytes: Option<u64>,
    /// `allowed` has grown since it was last polled.
    is_demand_new: bool,
    /// The subscriber says what it has handled, and what it does not handle is given to somebody else.
    is_acknowledged: bool,
    /// What was handled has grown since it was last polled.
    is_handled_new: bool,
    /// The subscriber may answer single events.
    takes_answers: bool,
    /// The number of the last answer that came; and of the last that the subscriber was told of, on this stream.
    taken: u64,
    confirmed: u64,
    /// Final answers that have not been polled; one for each event at most.
    answers: VecDeque<OutboundEvent>,
    /// What was said of open events, and has not been polled.
    words: Words,
    /// The subscriber says what it begins with, and gives back what it has not begun.
    is_announced: bool,
    recall: Recall,
    expired: Expired,
    /// What has come of a result in pieces.
    result: Option<Pieces>,
    /// What those may hold, with the unfinished events of the subscriber's node.
    reassembly: Reassembly,
    /// The events that are not acknowledged; the last one's number is `<= allowed`.
    log: Log,
    /// The number of the last event that has ever gone out whole; `<= log.last()`.
    sent: u64,
    /// The number of the next event to go out on this stream; `<= sent + 1`.
    next: u64,
    /// How many pieces of it have gone out.
    pieces: u64,
    /// What goes out before any event.
    answer: Option<Frame>,
    /// What goes out behind all events.
    end: Option<Frame>,
    /// It has gone out on this stream.
    is_end_sent: bool,
    /// The rest of a frame whose head has been given out: it must follow whatever happens.
    rest: Option<Bytes>,
    /// Of the events that are not acknowledged, those up to this number were an attempt. Known at the end.
    attempted: u64,
}

/// What the publisher's driver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutboundEvent {
    /// The consumer has handled `up_to` events in all, and will say so of the others. The first comes before any demand.
    Handled {
        /// Counted from the start of the subscription.
        up_to: Demand,
    },
    /// The subscriber allows `up_to` events in all. Each is larger than the one before.
    Demand {
        /// Counted from the start of the subscription.
        up_to: Demand,
    },
    /// What became of some events. A final answer comes once for each event.
    Answered {
        /// The number of the first of them.
        first: u64,
        /// And of the last.
        last: u64,
        answer: Answer,
    },
    /// What came of some events, each of which is done. It is the final answer, and comes once for each event.
    Results { row: Arc<ResultRow> },
    /// The subscriber wants no more. What was not sent is dropped, and nothing follows this but what
    /// [`poll_unfinished`](Outbound::poll_unfinished) returns.
    Cancelled {
        /// Why; [`Reason::Disconnected`] if its stream just stopped.
        reason: Reason,
        /// The consumer says that it has ended itself.
        is_down: bool,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Not answered yet.
    Asked,
    Accepted,
    /// By the producer, or refused.
    Ended,
    /// By the producer, and the subscriber knows everything.
    Confirmed,
    /// By the subscriber; with the reason, and whether the consumer has ended itself, until that is polled.
    Cancelled(Option<(Reason, bool)>),
}

impl Outbound {
    /// The end of a link that has not been answered yet.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Asked,
            epoch: 0,
            is_cut: false,
            allowed: Demand::ZERO,
            allowed_bytes: None,
            is_demand_new: false,
            is_acknowledged: false,
            is_handled_new: false,
            takes_answers: false,
            taken: 0,
            confirmed: 0,
            answers: VecDeque::new(),
            words: Words::default(),
            is_announced: false,
            recall: Recall::default(),
            expired: Expired::default(),
            result: None,
            reassembly: Reassembly::new(usize::MAX),
            log: Log::default(),
            sent: 0,
            next: 1,
            pieces: 0,
            answer: None,
            end: None,
            is_end_sent: false,
            rest: None,
            attempted: 0,
        }
    }

    /// Lets the subscriber answer single events. To be said before [`accept`](Self::accept).
    pub(crate) fn take_answers(&mut self) {
        self.takes_answers = true;
    }

    /// The subscriber says what it begins with, and gives back what it has not begun. To be said before
    /// [`accept`](Self::accept).
    pub(crate) fn announced(&mut self) {
        self.is_announced = true;
    }

    /// Shares a bound on what has come of results with all that is unfinished of the subscriber's node. To be called before
    /// [`accept`](Self::accept); without it, only the length of a result is bounded.
    pub(crate) fn share_reassembly(&mut self, reassembly: Reassembly) {
        debug_assert!(self.result.is_none());
        self.reassembly = reassembly;
    }

    /// Tells the subscriber that the edge is made. [`send`](Self::send), [`finish`](Self::finish) and
    /// [`fail`](Self::fail) do it if it has not been done.
    pub(crate) fn accept(&mut self) {
        self.accept_one_of(1);
    }

    /// As [`accept`](Self::accept), of a producer of so many instances.
    pub(crate) fn accept_one_of(&mut self, instances: u64) {
        if self.state == State::Asked {
            self.answer = Some(Frame::Accepted(Accepted {
                instances,
                takes_answers: self.takes_answers,
                takes_rows: self.takes_answers,
            }));
            self.state = State::Accepted;
        }
    }

    /// Tells the subscriber that there will be no edge; `published` is the producer's signature where the types differ.
    /// Does nothing once accepted.
    ///
    /// Texts are cut to a quarter of a control frame each (16 KiB by default).
    pub(crate) fn refuse(&mut self, reason: Reason, message: &str, published: Option<&str>) {
        if self.state == State::Asked {
            let (message, published) = (self.cut_text(message), published.map(|signature| self.cut_text(signature)));
            self.answer = Some(Frame::Refused(Refused { reason, message, published }));
            self.state = State::Ended;
        }
    }

    /// Sends events, in frames of about 64 KiB. They are numbered on from the last ones.
    ///
    /// # Panics
    ///
    /// If they are more than the subscriber allows: whoever dispatches events has lost count, and to go on would break
    /// the promise on which the subscriber's memory rests.
    #[track_caller]
    pub(crate) fn send(&mut self, events: impl Into<Written>, attempt: Attempt) {
        self.accept();
        if self.state != State::Accepted {
            return;
        }
        let events = events.into();
        let last = self.log.last() + events.len() as u64;
        assert!(Demand::new(last) <= self.allowed, "expected no event after {}, sent {last}", self.allowed);
        self.log.push(events, attempt);
    }

    /// Asks for event `number` back, if the subscriber has not begun with it. It is answered, unless it has its final answer.
    /// Does nothing if the subscriber is not [able](Self::announced) to.
    pub(crate) fn revoke(&mut self, number: u64) {
        if self.is_announced && number <= self.log.last() && !self.log.settled().contains(number) {
            self.recall.want(number);
        }
    }

    /// Nobody waits for what comes of event `number` any more: its result is dropped, whatever has come of it and what follows.
    pub(crate) fn expire(&mut self, number: u64) {
        self.expired.insert(number, self.log.settled());
        if let Some(result) = self.result.as_mut().filter(|result| result.seq == number) {
            result.give_up();
        }
    }

    /// Sends the end of the producer, behind all events: it is exhausted.
    pub(crate) fn finish(&mut self) {
        self.end(Frame::Done(Done { last_seq: self.log.last() }));
    }

    /// Sends the end of the producer, behind all events: it has been stopped, or it failed at `origin`.
    ///
    /// Texts are cut to a quarter of a control frame each (16 KiB by default).
    pub(crate) fn fail(&mut self, reason: Reason, origin: &str, message: &str) {
        self.end_early(reason, origin, message, false);
    }

    /// Sends, behind all events, that the producer has cancelled the subscription and lives on. Otherwise as
    /// [`fail`](Self::fail).
    pub(crate) fn let_go(&mut self, reason: Reason, origin: &str, message: &str) {
        self.end_early(reason, origin, message, true);
    }

    /// Takes a frame that has come from the subscriber on stream `epoch` of the link; it is ignored if that is not the
    /// present one.
    ///
    /// # Errors
    ///
    /// [`LinkError::Unexpected`] if it is none that subscribers send, [`LinkError::NotSent`] if it acknowledges what has
    /// not been sent, and others if it answers what cannot be answered. Nothing has changed then.
    pub(crate) fn handle_frame(&mut self, epoch: u64, frame: &Frame) -> Result<(), LinkError> {
        if epoch != self.epoch && !bug!(OldStreamHeard) {
            return Ok(());
        }
        match frame {
            Frame::Credit(credit) => self.allow(*credit),
            Frame::Ack(ack) => self.acknowledge(*ack)?,
            Frame::Answer(answer) => self.take(answer)?,
            Frame::Results(results) => self.take_row(results)?,
            Frame::Cancel(Cancel { reason, begun, is_down }) => {
                let attempted = self.log.acknowledged().saturating_add(*begun);
                self.cancel(*reason, *is_down, attempted);
            }
            other => return Err(LinkError::Unexpected { frame: other.name(), place: "from a subscriber" }),
        }
        Ok(())
    }

    /// The subscriber's stream has ended in order. Behind the end of the producer, that confirms it; otherwise it cancels
    /// the link.
    pub(crate) fn end_of_stream(&mut self) {
        if self.is_end_sent && self.state == State::Ended {
            self.state = State::Confirmed;
        } else {
            self.give_up();
        }
    }

    /// The present stream was cut. What it carried may have arrived or not.
    pub(crate) fn cut(&mut self) {
        self.is_cut = true;
        self.rest = None;
    }

    /// The subscriber has a new stream, its `epoch`th, and `arrived` events: sends what follows.
    ///
    /// # Errors
    ///
    /// [`Reason::Superseded`] if there is a later stream already, [`Reason::Protocol`] if so many events cannot have
    /// arrived, [`Reason::NoSession`] if the link has ended. Nothing has changed then.
    pub(crate) fn resume(&mut self, epoch: u64, arrived: u64) -> Result<(), Reason> {
        if !matches!(self.state, State::Accepted | State::Ended) {
            return Err(Reason::NoSession);
        }
        if epoch <= self.epoch {
            return Err(Reason::Superseded);
        }
        if !(self.log.settled().last()..=self.sent).contains(&arrived) {
            return Err(Reason::Protocol);
        }
        (self.epoch, self.is_cut) = (epoch, false);
        (self.next, self.pieces, self.rest, self.is_end_sent) =
            (arrived + 1, if bug!(PieceLost) { self.pieces } else { 0 }, None, bug!(EndLost) && self.is_end_sent);
        self.answer = Some(Frame::Resumed(Resumed {}));
        self.confirmed = 0;
        self.recall.restart();
        if !self.is_acknowledged {
            self.log.acknowledge(arrived);
        }
        Ok(())
    }

    /// Cancels the link, as its subscriber is gone. What was sent and is not acknowledged may have been handled.
    pub(crate) fn give_up(&mut self) {
        self.cancel(Reason::Disconnected, false, u64::MAX);
    }

    /// Returns the next bytes to send, in order. A frame may come in two pieces.
    pub(crate) fn poll_transmit(&mut self) -> Option<Bytes> {
        if let Some(rest) = self.rest.take() {
            return Some(rest);
        }
        if self.is_cut || matches!(self.state, State::Cancelled(_)) {
            return None;
        }
        let frame = self
            .answer
            .take()
            .or_else(|| self.next_confirmation())
            .or_else(|| self.next_revoke())
            .or_else(|| self.next_run())
            .or_else(|| self.next_end())?;
        let parts = frame.encode(&self.limits).expect("events, chunks and texts were cut to fit into a frame");
        self.rest = Some(parts.payload).filter(|payload| !payload.is_empty());
        Some(parts.head)
    }

    /// Returns what the producer must be told.
    pub(crate) fn poll_event(&mut self) -> Option<OutboundEvent> {
        if self.state == State::Cancelled(None) {
            return None;
        }
        let is_live = matches!(self.state, State::Asked | State::Accepted);
        // What was handled or answered before an end came before it, also if it came with it.
        if std::mem::take(&mut self.is_handled_new) && (is_live || !bug!(LastHandledSwallowed)) {
            return Some(OutboundEvent::Handled { up_to: Demand::new(self.log.acknowledged()) });
        }
        if std::mem::take(&mut self.is_demand_new) && is_live {
            return Some(OutboundEvent::Demand { up_to: self.allowed });
        }
        if let Some(answered) = self.answers.pop_front() {
            return Some(answered);
        }
        if self.state == State::Accepted
            && let Some((seq, answer)) = self.words.next()
        {
            return Some(OutboundEvent::Answered { first: seq, last: seq, answer });
        }
        match &mut self.state {
            State::Cancelled(why) => why.take().map(|(reason, is_down)| OutboundEvent::Cancelled { reason, is_down }),
            _ => None,
        }
    }

    /// Returns the next events that are to be given to somebody else, once the link [is over](Self::is_over): oldest first,
    /// with the number of the attempt that is to follow. There are none if the subscriber does not acknowledge what it has
    /// handled. It is to be called after [`poll_event`](Self::poll_event) has told everything.
    pub(crate) fn poll_unfinished(&mut self) -> Option<Run> {
        if !self.is_acknowledged || !self.is_over() {
            return None;
        }
        let first = self.log.acknowledged() + 1;
        let was_attempted = first <= self.attempted;
        let last = if was_attempted { self.attempted } else { u64::MAX };
        let last = self.log.settled().after_first_gap().map_or(last, |settled| last.min(settled - 1));
        let mut run = self.log.run(first, last, self.limits.batch_bytes())?;
        let twice = u64::from(bug!(RequeuedTwice) && run.count > 1);
        self.log.acknowledge(first + run.count - 1 - twice + u64::from(bug!(RequeueDropped)));
        if was_attempted && !bug!(AttemptNotRaised) {
            run.attempt = run.attempt.next();
        }
        Some(run)
    }

    /// How far the producer may be asked: as far as the subscriber allows, but for no more than `open` events that are not
    /// acknowledged, as they are kept here.
    pub(crate) fn allows_up_to(&self, open: Demand) -> Demand {
        self.allowed.min(Demand::new(self.log.settled().count()).saturating_add(open))
    }

    /// The number of the last event that was sent here.
    pub(crate) fn last(&self) -> u64 {
        self.log.last()
    }

    /// Whether the subscriber says what it has handled.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.is_acknowledged
    }

    /// How many bytes of events are kept until they are acknowledged. It is bounded by the demand, in events; a driver
    /// that wants it bounded in bytes stops sending above a mark of its own.
    pub(crate) fn unacknowledged_bytes(&self) -> usize {
        self.log.bytes()
    }

    /// How many events may have been lost when the link was cancelled: those that were sent, and neither acknowledged nor
    /// given to somebody else.
    pub(crate) fn lost(&self) -> u64 {
        if self.is_acknowledged { 0 } else { self.sent - self.log.acknowledged() }
    }

    /// Whether the last byte has been given out: the stream may be finished.
    pub(crate) fn is_finished(&self) -> bool {
        let is_last = match self.state {
            State::Asked | State::Accepted => false,
            State::Ended => self.answer.is_none() && (self.end.is_none() || self.is_end_sent),
            State::Confirmed | State::Cancelled(_) => true,
        };
        is_last && self.rest.is_none()
    }

    /// Whether the subscriber knows the end, or brought it about: nothing would be said on another stream.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Confirmed | State::Cancelled(_))
    }

    /// The answers that were taken, if they are many by now; not between the pieces of an event.
    fn next_confirmation(&mut self) -> Option<Frame> {
        let is_due = self.taken >= self.confirmed + CONFIRM_EVERY && self.pieces == 0 && !self.is_end_sent;
        is_due.then(|| {
            self.confirmed = self.taken;
            Frame::Answered(Answered { up_to: self.taken })
        })
    }

    /// What is asked back of the events that have gone out; not between the pieces of an event.
    fn next_revoke(&mut self) -> Option<Frame> {
        if self.pieces > 0 || self.is_end_sent {
            return None;
        }
        self.recall.next_before(self.next).map(|ranges| Frame::Revoke(Revoke { ranges }))
    }

    fn next_end(&mut self) -> Option<Frame> {
        // Behind all events, also behind those that may not go out yet.
        if self.next <= self.log.last() && !bug!(EndOvertakes) {
            return None;
        }
        let is_new = !std::mem::replace(&mut self.is_end_sent, self.end.is_some());
        self.end.clone().filter(|_| is_new)
    }

    /// The next frame of events: several that go into one, or a piece of one that needs several.
    fn next_run(&mut self) -> Option<Frame> {
        let before = self.log.bytes_before(self.next)?;
        let left = self.allowed_bytes.map_or(u64::MAX, |allowed| allowed.saturating_sub(before));
        let is_kept_back = bug!(LastEventKeptBack) && self.next == self.log.last() && self.end.is_none();
        if is_kept_back || (left == 0 && self.pieces == 0 && !bug!(ByteCreditIgnored)) {
            return None;
        }
        let at_most = usize::try_from(left).map_or(usize::MAX, |left| left).min(self.limits.batch_bytes());
        let Run { first, count, attempt, form, payload } = self.log.run(self.next, u64::MAX, at_most)?;
        let chunk_bytes = self.limits.chunk_bytes();
        // Several events together are never longer than a batch, which is shorter than a chunk.
        if payload.len() <= chunk_bytes {
            self.next += count;
            self.sent = self.sent.max(self.next - 1);
            return Some(match form {
                Form::Values => Frame::Events(Events { first_seq: first, count, attempt, payload }),
                Form::Columns => Frame::Columns(Columns { first_seq: first, count, attempt, payload }),
            });
        }
        debug_assert_eq!(count, 1, "only a single event is cut to pieces");
        let index = self.pieces;
        let start = usize::try_from(index).map_or(usize::MAX, |index| index.saturating_mul(chunk_bytes));
        let end = start.saturating_add(chunk_bytes).min(payload.len());
        let is_last = end == payload.len();
        (self.next, self.pieces) = if is_last { (first + 1, 0) } else { (first, index + 1) };
        self.sent = self.sent.max(self.next - 1);
        let total_len = payload.len() as u64;
        Some(Frame::Chunk(Chunk { seq: first, attempt, index, is_last, total_len, payload: payload.slice(start..end) }))
    }

    fn end_early(&mut self, reason: Reason, origin: &str, message: &str, is_cancel: bool) {
        let (origin, message) = (self.cut_text(origin), self.cut_text(message));
        self.end(Frame::Failed(Failed { last_seq: self.log.last(), reason, origin, message, is_cancel }));
    }

    fn end(&mut self, last: Frame) {
        self.accept();
        if self.state == State::Accepted {
            self.end = Some(last);
            self.state = State::Ended;
        }
    }

    fn allow(&mut self, Credit { up_to, bytes_up_to }: Credit) {
        let added = if bug!(CreditAdded) { self.allowed.count() } else { bug!(CreditOffByOne).into() };
        let up_to = Demand::new(up_to.saturating_add(added));
        self.allowed_bytes = self.allowed_bytes.max(bytes_up_to);
        if up_to > self.allowed {
            self.allowed = up_to;
            self.is_demand_new = true;
        }
    }

    fn acknowledge(&mut self, Ack { up_to, handled }: Ack) -> Result<(), LinkError> {
        if up_to > self.sent && !bug!(AckAboveSent) {
            return Err(LinkError::NotSent { bound: self.sent, got: up_to });
        }
        let is_first = handled && !self.is_acknowledged;
        self.is_acknowledged |= handled;
        // What has only arrived may still have to be given to somebody else.
        if handled == self.is_acknowledged && (is_first || up_to > self.log.acknowledged()) {
            self.log.acknowledge(up_to);
            self.words.settle(1, up_to);
            self.recall.settle(1, up_to);
            self.expired.settle(1, up_to);
            self.is_handled_new = handled;
        }
        Ok(())
    }

    fn take(&mut self, answer: &frame::Answer) -> Result<(), LinkError> {
        if !(self.takes_answers && self.is_acknowledged) {
            return Err(LinkError::Unexpected { frame: "answer", place: "from a subscriber that may not answer" });
        }
        let got = answer.ranges.len();
        if !(1..=MAX_RANGES).contains(&got) {
            return Err(LinkError::AnswerRanges { bound: MAX_RANGES, got });
        }
        for &(first, last) in &answer.ranges {
            let is_single = answer.verdict != Verdict::Done || answer.result.is_some();
            if first == 0 || first > last || (is_single && first < last) {
                return Err(LinkError::AnswerRange { first, last });
            }
            if last > self.sent {
                return Err(LinkError::NotSent { bound: self.sent, got: last });
            }
        }
        if let (Verdict::Done | Verdict::Part, Some(piece)) = (answer.verdict, &answer.result) {
            return self.take_result(answer, piece);
        }
        let said = match answer.verdict {
            Verdict::Done => Answer::Done,
            Verdict::Part => {
                return Err(LinkError::Unexpected { frame: "answer", place: "without a piece of a result" });
            }
            Verdict::Retry => {
                let delay = Duration::from_millis(answer.delay_ms);
                Answer::Retry { delay, message: answer.message.clone() }
            }
            Verdict::GiveUp => Answer::GiveUp { message: answer.message.clone() },
            Verdict::InProgress | Verdict::Begun => {
                self.note(answer);
                return Ok(());
            }
            Verdict::Returned => Answer::Returned,
        };
        // One that is lower came before a cut already.
        if self.is_next(answer.number)? || bug!(AnswerTakenAgain) {
            self.result_is_whole()?;
            let is_asked = |(first, _): &(u64, u64)| self.recall.wants(*first) || self.log.settled().contains(*first);
            if said == Answer::Returned && !answer.ranges.iter().all(is_asked) {
                return Err(LinkError::Unexpected { frame: "answer", place: "that gives back what was not asked for" });
            }
            self.taken = answer.number;
            for &(first, last) in &answer.ranges {
                self.settle(first, last, &said);
            }
        }
        Ok(())
    }

    /// Takes a word on open events, which are all single.
    fn note(&mut self, answer: &frame::Answer) {
        for (seq, _) in &answer.ranges {
            match answer.verdict {
                _ if self.log.settled().contains(*seq) => {}
                Verdict::Begun => self.words.begun(*seq),
                _ => self.words.in_progress(*seq),
            }
        }
    }

    /// Takes the final answer to those of some events that have none.
    fn settle(&mut self, first: u64, last: u64, answer: &Answer) {
        for (first, last) in self.release(first, last) {
            self.expired.settle(first, last);
            self.answers.push_back(OutboundEvent::Answered { first, last, answer: answer.clone() });
        }
    }

    /// Some events have got their final answers: lets go of those that had none, and returns them.
    fn release(&mut self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let released = self.log.release(first, last);
        for (first, last) in &released {
            self.words.settle(*first, *last);
            self.recall.settle(*first, *last);
        }
        released
    }

    /// Whether that is the number of the next answer. One that is lower came before a cut already.
    fn is_next(&self, got: u64) -> Result<bool, LinkError> {
        let expected = self.taken + 1;
        if got > expected { Err(LinkError::Answer { expected, got }) } else { Ok(got == expected) }
    }

    /// A result must not be left in the middle.
    fn result_is_whole(&self) -> Result<(), LinkError> {
        match &self.result {
            Some(result) => Err(LinkError::Incomplete { seq: result.seq, frame: "answer" }),
            None => Ok(()),
        }
    }

    /// A piece of what came of an event, or all of it.
    fn take_result(&mut self, answer: &frame::Answer, piece: &Bytes) -> Result<(), LinkError> {
        let &[(seq, _)] = &answer.ranges[..] else {
            return Err(LinkError::AnswerRanges { bound: 1, got: answer.ranges.len() });
        };
        if !self.is_next(answer.number)? {
            return Ok(());
        }
        if self.result.as_ref().is_some_and(|result| result.seq != seq) {
            self.result_is_whole()?;
        }
        let (bound, before) = (self.limits.event_bytes(), self.result.as_ref().map_or(0, Pieces::len));
        let got = before.saturating_add(piece.len());
        if got > bound {
            return Err(LinkError::EventTooLong { seq, bound, got: got as u64 });
        }
        if answer.verdict == Verdict::Part {
            // One without bytes brings the result no nearer to its end.
            if piece.is_empty() {
                return Err(LinkError::Unexpected { frame: "answer", place: "without a piece of a result" });
            }
            let result = self.result.get_or_insert_with(|| Pieces::new(seq, bound, &self.reassembly));
            if self.expired.contains(seq) {
                result.give_up();
            }
            result.push(piece)?;
            self.taken = answer.number;
            return Ok(());
        }
        self.taken = answer.number;
        let result = match self.result.take() {
            Some(pieces) => pieces.finish(piece).map(Vec::from),
            None => Some(piece.to_vec()).filter(|_| !self.expired.contains(seq)),
        };
        self.settle(seq, seq, &result.map_or_else(too_late, Answer::DoneWith));
        Ok(())
    }

    /// Results of several events, all of them whole.
    fn take_row(&mut self, Results { number, row }: &Results) -> Result<(), LinkError> {
        if !(self.takes_answers && self.is_acknowledged) {
            return Err(LinkError::Unexpected { frame: "results", place: "from a subscriber that may not answer" });
        }
        for (seq, result) in row.iter() {
            if !(1..=self.sent).contains(&seq) {
                return Err(LinkError::NotSent { bound: self.sent, got: seq });
            }
            let (bound, got) = (self.limits.event_bytes(), result.len());
            if got > bound {
                return Err(LinkError::EventTooLong { seq, bound, got: got as u64 });
            }
        }
        if !(self.is_next(*number)? || bug!(AnswerTakenAgain)) {
            return Ok(());
        }
        self.result_is_whole()?;
        self.taken = *number;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (seq, _) in row.iter() {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == seq => *last = seq,
                _ => runs.push((seq, seq)),
            }
        }
        let is_waited_for = runs.iter().all(|(first, last)| !self.expired.contains_any(*first, *last));
        let new: Vec<_> = runs.iter().flat_map(|(first, last)| self.release(*first, *last)).collect();
        let count: u64 = new.iter().map(|(first, last)| last - first + 1).sum();
        if is_waited_for && count == row.len() as u64 {
            self.answers.push_back(OutboundEvent::Results { row: Arc::clone(row) });
        } else {
            self.take_some(row, &new);
        }
        Ok(())
    }

    /// The results of a row that are the first of their events; those that came too late are none.
    fn take_some(&mut self, row: &ResultRow, new: &[(u64, u64)]) {
        let mut new: BTreeSet<u64> = new.iter().flat_map(|(first, last)| *first..=*last).collect();
        let mut rest = ResultRow::default();
        for (seq, result) in row.iter() {
            if !new.remove(&seq) {
                continue;
            }
            if self.expired.contains(seq) {
                self.expired.settle(seq, seq);
                self.answers.push_back(OutboundEvent::Answered { first: seq, last: seq, answer: too_late() });
            } else {
                rest.push(seq, result);
            }
        }
        if !rest.is_empty() {
            self.answers.push_back(OutboundEvent::Results { row: Arc::new(rest) });
        }
    }

    fn cancel(&mut self, reason: Reason, is_down: bool, attempted: u64) {
        self.state = match self.state {
            State::Asked | State::Accepted => State::Cancelled(Some((reason, is_down))),
            State::Ended => State::Confirmed,
            _ => return,
        };
        self.attempted = attempted.min(self.sent);
    }

    /// The part of a text that fits into a frame with others.
    fn cut_text(&self, text: &str) -> String {
        text[..text.floor_char_boundary(self.limits.text_bytes())].to_owned()
    }
}

/// What becomes of an event whose result nobody waits for any more.
fn too_late() -> Answer {
    Answer::Retry { delay: Duration::ZERO, message: "the result came too late".to_owned() }
}

#[cfg(test)]
mod tests;
