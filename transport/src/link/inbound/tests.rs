//! What [`Inbound`] does, one rule after the other.

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
        announces: false,
        takes_columns: false,
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
            error(&mut inbound(), [Frame::Accepted(Accepted { instances: got, ..Accepted::default() })]),
            message
        );
    }
    let mut inbound = inbound();
    inbound.handle_frame(0, Frame::Accepted(Accepted { instances: 1024, ..Accepted::default() })).unwrap();
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
        Some(InboundEvent::Events { count: 2, attempt: Attempt::FIRST, form: Form::Values, payload: payload.clone() })
    );
    let three = InboundEvent::Events { count: 3, attempt: Attempt::FIRST, form: Form::Values, payload };
    assert_eq!(inbound.poll_event(), Some(three));
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
fn a_claimed_count_of_numbers_is_bounded_by_what_was_asked_for_by_the_frame_and_by_the_window() {
    // A number and a block of none: 17 bytes, whatever is claimed.
    let columns = |first_seq, count| {
        Frame::Columns(Columns { first_seq, count, attempt: Attempt::FIRST, payload: vec![0; 17].into() })
    };
    let taking = |told: u64, window: Option<u64>| {
        let mut inbound = Inbound::new(Limits::default(), Subscribe { takes_columns: true, ..subscribe() }).unwrap();
        if let Some(window) = window {
            inbound.bound_bytes(window);
            inbound.taken(Demand::ZERO);
        }
        inbound.ask(Demand::new(told));
        while inbound.poll_transmit().is_some() {}
        inbound.handle_frame(0, Frame::Accepted(Accepted::default())).unwrap();
        inbound.poll_event();
        inbound
    };
    let cases = [
        (100_000, None, 0, "expected 1 to 32768 numbers in a frame, got 0"),
        (100_000, None, 32_769, "expected 1 to 32768 numbers in a frame, got 32769"),
        (100_000, None, u64::MAX, "expected 1 to 32768 numbers in a frame, got 18446744073709551615"),
        (100, None, 101, "expected no event after 100, got 101"),
        (100, Some(80), 11, "expected no event to begin after 80 bytes, got one after 80"),
    ];
    for (told, window, count, expected) in cases {
        assert_eq!(error(&mut taking(told, window), [columns(1, count)]), expected);
    }
    let mut inbound = taking(100, Some(80));
    inbound.handle_frame(0, columns(1, 9)).unwrap();
    let Some(InboundEvent::Events { count: 9, form: Form::Columns, .. }) = inbound.poll_event() else { panic!() };
    // They count for 72 bytes, so one more may begin.
    assert_eq!(
        error(&mut inbound, [columns(10, 1), columns(11, 1)]),
        "expected no event to begin after 80 bytes, got one after 80"
    );
    let unasked = "unexpected columns frame for a subscriber that does not take them";
    assert_eq!(error(&mut accepted(5), [columns(1, 1)]), unasked);
}

#[test]
fn pieces_become_one_event() {
    let mut inbound = accepted(2);
    inbound.handle_frame(0, chunk(1, 0, false, 5, b"abc")).unwrap();
    assert_eq!((inbound.poll_event(), inbound.arrived()), (None, 0));
    inbound.handle_frame(0, chunk(1, 1, true, 5, b"de")).unwrap();
    let payload = Bytes::from_static(b"abcde");
    let one = InboundEvent::Events { count: 1, attempt: Attempt::FIRST, form: Form::Values, payload };
    assert_eq!(inbound.poll_event(), Some(one));
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
    let first = || chunk(1, 0, false, 8_000_000, piece);
    let (mut one, mut two, mut three) = (begun(), begun(), begun());
    one.handle_frame(0, first()).unwrap();
    two.handle_frame(0, first()).unwrap();
    let error = three.handle_frame(0, first()).unwrap_err();
    assert_eq!(error, LinkError::Reassembly { bound: 10_000, got: 3 * 4096 });
    assert!(error.to_string().contains("at most 10000 bytes from one node, got 12288"), "{error}");
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
    let (attempt, payload) = (Attempt::FIRST, vec![1; 3_000].into());
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
    let first = [Frame::Subscribe(subscribe()), ack(0, true), Frame::Credit(Credit { up_to: 5, bytes_up_to: None })];
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
    inbound.handle_frame(0, accepted_with_answers()).unwrap();
    inbound.handle_frame(0, events(1, count)).unwrap();
    inbound
}

fn accepted_with_answers() -> Frame {
    Frame::Accepted(Accepted { instances: 1, takes_answers: true, takes_rows: false })
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

/// A link that says what it has handled, with three events of nine.
fn acknowledging() -> Inbound {
    let session = Some(Session { incarnation: 1, number: 1 });
    let mut inbound = Inbound::new(Limits::default(), Subscribe { session, ..subscribe() }).unwrap();
    inbound.handled(Demand::ZERO);
    inbound.ask(Demand::new(9));
    sent(&mut inbound);
    inbound.handle_frame(0, Frame::Accepted(Accepted::default())).unwrap();
    inbound.handle_frame(0, events(1, 3)).unwrap();
    while inbound.poll_event().is_some() {}
    inbound
}

fn normal_cancel(begun: u64) -> Frame {
    Frame::Cancel(Cancel { reason: Reason::Normal, begun, is_down: false })
}

#[test]
fn who_retires_is_cancelled_behind_the_last_that_it_handles() {
    let mut inbound = acknowledging();
    inbound.retire(Reason::Normal);
    inbound.ask(Demand::new(20));
    inbound.handle_frame(0, events(4, 2)).unwrap();
    assert_eq!((inbound.poll_event(), sent(&mut inbound)), (None, vec![]), "what comes now is for somebody else");
    inbound.handled(Demand::new(2));
    assert_eq!((sent(&mut inbound), inbound.is_retiring()), (vec![ack(2, true)], true));
    inbound.handled(Demand::new(3));
    assert_eq!(sent(&mut inbound), [ack(3, true), normal_cancel(0)]);
    assert!(inbound.is_finished() && !inbound.is_retiring());
}

#[test]
fn who_retires_and_fails_then_says_what_was_begun() {
    let mut inbound = acknowledging();
    inbound.retire(Reason::Normal);
    inbound.handled(Demand::new(1));
    inbound.down(Reason::Error, &[(1, Attempt::FIRST.next()), (1, Attempt::FIRST)]);
    let down = Frame::Cancel(Cancel { reason: Reason::Error, begun: 1, is_down: true });
    assert_eq!(sent(&mut inbound), [ack(1, true), down]);
}

#[test]
fn who_retires_with_nothing_in_hand_is_cancelled_at_once() {
    let mut inbound = acknowledging();
    inbound.handled(Demand::new(3));
    inbound.retire(Reason::Normal);
    assert_eq!(sent(&mut inbound), [ack(3, true), normal_cancel(0)]);
    let mut inbound = accepted(3);
    inbound.handle_frame(0, events(1, 3)).unwrap();
    inbound.retire(Reason::Normal);
    assert_eq!(sent(&mut inbound), [normal_cancel(0)], "it does not say what it handles");
}

#[test]
fn who_retires_answers_everything_first() {
    let mut inbound = answering(3);
    inbound.retire(Reason::Normal);
    [1, 3].iter().for_each(|number| inbound.answer(*number, Answer::Done));
    assert_eq!(sent(&mut inbound), [done(1, &[(1, 1), (3, 3)])]);
    inbound.answer(2, Answer::Done);
    assert_eq!(sent(&mut inbound), [done(2, &[(2, 2)]), normal_cancel(0)]);
}

#[test]
fn a_publisher_that_lets_go_is_told_what_was_handled_also_after_a_cut() {
    let failed = || {
        let (origin, message) = ("numbers".to_owned(), "enough".to_owned());
        Frame::Failed(Failed { last_seq: 3, reason: Reason::Normal, origin, message, is_cancel: true })
    };
    let mut inbound = acknowledging();
    inbound.handle_frame(0, failed()).unwrap();
    assert!(matches!(inbound.poll_event(), Some(InboundEvent::Failed { is_cancel: true, .. })));
    assert_eq!((inbound.end_of_stream(), inbound.is_finished()), (Ok(()), false));
    inbound.handled(Demand::new(1));
    assert_eq!(sent(&mut inbound), [ack(1, true)]);
    inbound.resume().unwrap();
    assert_eq!(sent(&mut inbound)[1], ack(1, true));
    let [(), ()] = [Frame::Resumed(Resumed {}), failed()].map(|frame| inbound.handle_frame(1, frame).unwrap());
    assert_eq!((inbound.poll_event(), inbound.poll_event()), (Some(InboundEvent::Resumed), None));
    inbound.handled(Demand::new(3));
    assert_eq!(sent(&mut inbound), [ack(3, true), normal_cancel(0)]);
    assert!(inbound.is_finished());
    let mut inbound = acknowledging();
    inbound.handle_frame(0, failed()).unwrap();
    let error = inbound.handle_frame(0, events(4, 1)).unwrap_err();
    assert_eq!(error.to_string(), "unexpected events frame after the end");
}

#[test]
fn a_failure_that_calls_itself_normal_is_not_believed_to_be_the_end() {
    for (is_cancel, believed) in [(false, Reason::Shutdown), (true, Reason::Normal)] {
        let mut inbound = accepted(10);
        let (origin, message) = (String::new(), String::new());
        let failed = Failed { last_seq: 0, reason: Reason::Normal, origin, message, is_cancel };
        inbound.handle_frame(0, Frame::Failed(failed)).unwrap();
        let Some(InboundEvent::Failed { reason, is_cancel: told, .. }) = inbound.poll_event() else { panic!("no end") };
        assert_eq!((reason, told), (believed, is_cancel));
    }
}
