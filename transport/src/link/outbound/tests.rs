//! What [`Outbound`] does, one rule after the other.

use super::*;
use crate::codec::{Encoded, encode};
use crate::frame::{FrameDecoder, Subscribe};

fn outbound(up_to: u64) -> Outbound {
    let mut outbound = Outbound::new(Limits::default());
    credit(&mut outbound, up_to);
    outbound
}

fn credit(outbound: &mut Outbound, up_to: u64) {
    outbound.handle_frame(0, &Frame::Credit(Credit { up_to, bytes_up_to: None })).unwrap();
}

fn cancel(outbound: &mut Outbound) {
    outbound.handle_frame(0, &Frame::Cancel(Cancel { reason: Reason::Normal, begun: 0, is_down: false })).unwrap();
}

fn send(outbound: &mut Outbound, lengths: &[usize]) {
    outbound.send(events(lengths), Attempt::FIRST);
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
    send(&mut outbound, &[10, 10]);
    send(&mut outbound, &[]);
    send(&mut outbound, &[10]);
    outbound.finish();
    let frames = sent(&mut outbound);
    assert_eq!(frames[0], Frame::Accepted(Accepted::default()));
    assert!(matches!(&frames[1], Frame::Events(Events { first_seq: 1, count: 2, .. })));
    assert!(matches!(&frames[2], Frame::Events(Events { first_seq: 3, count: 1, .. })));
    assert_eq!(frames[3..], [Frame::Done(Done { last_seq: 3 })]);
    assert!(outbound.is_finished());
}

#[test]
fn batches_are_cut_at_64_kib() {
    let mut outbound = outbound(1000);
    send(&mut outbound, &[16_384; 9]);
    assert_eq!(runs(&mut outbound), [(1, 4, 65_536), (5, 4, 65_536), (9, 1, 16_384)]);
    send(&mut outbound, &[40_000, 40_000, 10]);
    assert_eq!(runs(&mut outbound), [(10, 1, 40_000), (11, 2, 40_010)]);
}

#[test]
fn an_event_over_128_kib_goes_out_in_pieces_and_alone() {
    let mut outbound = outbound(1000);
    send(&mut outbound, &[10, 131_072, 131_073, 10, 300_000, 10]);
    let pieces = [(1, 1, 10), (2, 1, 131_072), (3, 0, 131_072), (3, 0, 1), (4, 1, 10)];
    let more = [(5, 0, 131_072), (5, 0, 131_072), (5, 0, 37_856), (6, 1, 10)];
    assert_eq!(runs(&mut outbound), [&pieces[..], &more[..]].concat());
}

#[test]
fn pieces_are_counted_and_the_last_is_marked() {
    let mut outbound = outbound(1);
    send(&mut outbound, &[200_000]);
    let frames = sent(&mut outbound);
    assert!(matches!(&frames[1], Frame::Chunk(Chunk { seq: 1, index: 0, is_last: false, total_len: 200_000, .. })));
    assert!(matches!(&frames[2], Frame::Chunk(Chunk { seq: 1, index: 1, is_last: true, total_len: 200_000, .. })));
}

#[test]
#[should_panic(expected = "expected no event after 2, sent 3")]
fn more_than_the_credit_is_a_bug_of_ours() {
    let mut outbound = outbound(2);
    send(&mut outbound, &[10, 10]);
    send(&mut outbound, &[10]);
}

#[test]
fn nothing_is_sent_after_the_end() {
    for end in [Outbound::finish, |outbound: &mut Outbound| outbound.fail(Reason::Panic, "sum", "boom")] {
        let mut outbound = outbound(5);
        outbound.poll_event();
        end(&mut outbound);
        assert_eq!(sent(&mut outbound).len(), 2);
        send(&mut outbound, &[10]);
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
    send(&mut outbound, &[50_000, 50_000]);
    let accepted = outbound.poll_transmit().unwrap();
    let head = outbound.poll_transmit().unwrap();
    cancel(&mut outbound);
    cancel(&mut outbound);
    assert_eq!(outbound.poll_event(), Some(OutboundEvent::Cancelled { reason: Reason::Normal, is_down: false }));
    assert_eq!(outbound.poll_event(), None);
    assert!(!outbound.is_finished());
    let rest = outbound.poll_transmit().unwrap();
    assert_eq!((accepted.len(), head.len(), rest.len()), (6, 8, 50_000));
    send(&mut outbound, &[10]);
    outbound.finish();
    assert_eq!(outbound.poll_transmit(), None);
    assert!(outbound.is_finished());
}

fn allow_bytes(outbound: &mut Outbound, bytes: u64) {
    outbound.handle_frame(0, &Frame::Credit(Credit { up_to: 0, bytes_up_to: Some(bytes) })).unwrap();
}

#[test]
fn no_event_begins_after_the_bytes_that_were_allowed_and_the_end_waits_for_all() {
    let mut outbound = outbound(10);
    allow_bytes(&mut outbound, 25);
    send(&mut outbound, &[10, 10, 10, 10, 10]);
    outbound.finish();
    assert_eq!(runs(&mut outbound), [(1, 2, 20), (3, 1, 10)]);
    assert!(!outbound.is_finished());
    // Neither a lower bound nor one that is missing changes anything.
    allow_bytes(&mut outbound, 5);
    credit(&mut outbound, 10);
    assert_eq!(runs(&mut outbound), []);
    allow_bytes(&mut outbound, 31);
    assert_eq!(runs(&mut outbound), [(4, 1, 10)]);
    allow_bytes(&mut outbound, 1000);
    assert!(matches!(sent(&mut outbound)[..], [Frame::Events(_), Frame::Done(Done { last_seq: 5 })]));
}

#[test]
fn an_event_longer_than_all_bytes_that_were_allowed_goes_out_whole() {
    let mut outbound = outbound(10);
    allow_bytes(&mut outbound, 1);
    send(&mut outbound, &[300_000, 10]);
    assert_eq!(runs(&mut outbound), [(1, 0, 131_072), (1, 0, 131_072), (1, 0, 37_856)]);
    // On another stream, it goes out again.
    outbound.resume(1, 0).unwrap();
    assert_eq!(runs(&mut outbound).len(), 3);
    outbound.resume(2, 1).unwrap();
    assert_eq!(runs(&mut outbound), []);
}

#[test]
fn a_stream_that_stops_cancels() {
    let mut outbound = outbound(0);
    outbound.end_of_stream();
    assert_eq!(outbound.poll_event(), Some(OutboundEvent::Cancelled { reason: Reason::Disconnected, is_down: false }));
}

#[test]
fn a_refusal_is_the_first_frame_and_the_last() {
    let mut outbound = outbound(1);
    outbound.refuse(Reason::TypeMismatch, "no", Some("order v2"));
    outbound.accept();
    send(&mut outbound, &[10]);
    let refused = Refused { reason: Reason::TypeMismatch, message: "no".into(), published: Some("order v2".into()) };
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
    let subscribe = Subscribe {
        producer: "p".into(),
        signature: "u64".into(),
        max_demand: 1,
        min_demand: 0,
        session: None,
        selector: None,
        instance: 0,
        consumer: None,
        announces: false,
        takes_columns: false,
    };
    let error = outbound(0).handle_frame(0, &Frame::Subscribe(subscribe)).unwrap_err();
    assert_eq!(error.to_string(), "unexpected subscribe frame from a subscriber");
}

fn ack(outbound: &mut Outbound, up_to: u64, handled: bool) -> Result<(), LinkError> {
    outbound.handle_frame(0, &Frame::Ack(Ack { up_to, handled }))
}

/// (number of the first event, number of events, attempt) of what is to be given to somebody else.
fn unfinished(outbound: &mut Outbound) -> Vec<(u64, u64, u32)> {
    std::iter::from_fn(|| outbound.poll_unfinished()).map(|run| (run.first, run.count, run.attempt.number())).collect()
}

#[test]
fn what_is_acknowledged_is_not_kept() {
    let mut outbound = outbound(10);
    send(&mut outbound, &[10, 10, 10]);
    sent(&mut outbound);
    assert_eq!(outbound.unacknowledged_bytes(), 30);
    ack(&mut outbound, 2, false).unwrap();
    ack(&mut outbound, 1, false).unwrap();
    assert_eq!(outbound.unacknowledged_bytes(), 10);
    assert_eq!(outbound.allows_up_to(Demand::new(5)), Demand::new(7));
    assert_eq!(outbound.allows_up_to(Demand::new(50)), Demand::new(10));
}

#[test]
fn what_was_not_sent_cannot_be_acknowledged() {
    let mut outbound = outbound(10);
    send(&mut outbound, &[10, 10]);
    let error = ack(&mut outbound, 1, true).unwrap_err();
    assert_eq!(error.to_string(), "expected no acknowledgement after event 0, got 1");
    sent(&mut outbound);
    ack(&mut outbound, 2, true).unwrap();
    ack(&mut outbound, 3, true).unwrap_err();
    assert_eq!(outbound.unacknowledged_bytes(), 0);
}

#[test]
fn what_was_handled_is_told_before_demand() {
    let mut outbound = outbound(10);
    ack(&mut outbound, 0, true).unwrap();
    assert_eq!(outbound.poll_event(), Some(OutboundEvent::Handled { up_to: Demand::ZERO }));
    assert_eq!(outbound.poll_event(), Some(OutboundEvent::Demand { up_to: Demand::new(10) }));
    send(&mut outbound, &[10, 10]);
    sent(&mut outbound);
    ack(&mut outbound, 2, false).unwrap();
    assert_eq!(outbound.poll_event(), None);
    ack(&mut outbound, 1, true).unwrap();
    ack(&mut outbound, 1, true).unwrap();
    assert_eq!(outbound.poll_event(), Some(OutboundEvent::Handled { up_to: Demand::new(1) }));
    assert_eq!((outbound.poll_event(), outbound.unacknowledged_bytes()), (None, 10));
}

#[test]
fn what_was_not_handled_is_given_to_others_after_a_cancel() {
    let mut outbound = outbound(10);
    ack(&mut outbound, 0, true).unwrap();
    send(&mut outbound, &[10, 10, 10]);
    outbound.send(events(&[10, 10]), Attempt::FIRST.next());
    sent(&mut outbound);
    ack(&mut outbound, 1, true).unwrap();
    assert_eq!(unfinished(&mut outbound), []);
    outbound.handle_frame(0, &Frame::Cancel(Cancel { reason: Reason::Error, begun: 1, is_down: true })).unwrap();
    let cancelled = std::iter::from_fn(|| outbound.poll_event()).last();
    assert_eq!(cancelled, Some(OutboundEvent::Cancelled { reason: Reason::Error, is_down: true }));
    assert_eq!(unfinished(&mut outbound), [(2, 1, 2), (3, 1, 1), (4, 2, 2)]);
    assert_eq!(unfinished(&mut outbound), []);
}

#[test]
fn after_a_lost_stream_only_what_was_never_sent_was_no_attempt() {
    let mut outbound = outbound(10);
    ack(&mut outbound, 0, true).unwrap();
    send(&mut outbound, &[10, 10, 10]);
    sent(&mut outbound);
    send(&mut outbound, &[10]);
    ack(&mut outbound, 1, true).unwrap();
    outbound.end_of_stream();
    assert_eq!(unfinished(&mut outbound), [(2, 2, 2), (4, 1, 1)]);
}

#[test]
fn without_acknowledgement_nothing_is_given_to_others() {
    let mut outbound = outbound(10);
    send(&mut outbound, &[10, 10, 10]);
    sent(&mut outbound);
    ack(&mut outbound, 1, false).unwrap();
    outbound.end_of_stream();
    assert_eq!(unfinished(&mut outbound), []);
}

#[test]
fn a_later_stream_gets_what_has_not_arrived_and_the_end_again() {
    let mut outbound = outbound(10);
    send(&mut outbound, &[10, 10, 10]);
    outbound.finish();
    sent(&mut outbound);
    outbound.cut();
    assert_eq!(sent(&mut outbound), []);
    outbound.resume(1, 1).unwrap();
    let frames = sent(&mut outbound);
    assert_eq!(frames[0], Frame::Resumed(Resumed {}));
    assert!(matches!(&frames[1], Frame::Events(Events { first_seq: 2, count: 2, .. })));
    assert_eq!(frames[2..], [Frame::Done(Done { last_seq: 3 })]);
    assert!(outbound.is_finished() && !outbound.is_over());
    outbound.end_of_stream();
    assert!(outbound.is_over());
    assert_eq!(outbound.resume(2, 3), Err(Reason::NoSession));
}

#[test]
fn a_stream_that_is_older_or_impossible_does_not_resume() {
    let mut outbound = outbound(10);
    send(&mut outbound, &[10, 10, 10]);
    sent(&mut outbound);
    ack(&mut outbound, 1, false).unwrap();
    assert_eq!(outbound.resume(0, 1), Err(Reason::Superseded));
    assert_eq!([0, 4].map(|arrived| outbound.resume(7, arrived)), [Err(Reason::Protocol); 2]);
    outbound.resume(7, 2).unwrap();
    assert_eq!(outbound.resume(7, 2), Err(Reason::Superseded));
    // What the older stream still brings is not heard.
    outbound.handle_frame(0, &Frame::Cancel(Cancel { reason: Reason::Normal, begun: 0, is_down: false })).unwrap();
    assert!(!outbound.is_over());
}

/// An outbound whose subscriber answers events, and has been sent `count` of 10 bytes.
fn answered(count: usize) -> Outbound {
    let mut outbound = Outbound::new(Limits::default());
    outbound.take_answers();
    ack(&mut outbound, 0, true).unwrap();
    credit(&mut outbound, 1000);
    send(&mut outbound, &vec![10; count]);
    sent(&mut outbound);
    while outbound.poll_event().is_some() {}
    outbound
}

fn answer(number: u64, verdict: Verdict, ranges: &[(u64, u64)]) -> Frame {
    let (ranges, message) = (ranges.to_vec(), "m".to_owned());
    Frame::Answer(frame::Answer { number, ranges, verdict, delay_ms: 5, message, result: None })
}

/// The answers that are told, as (first, last, is final).
fn told(outbound: &mut Outbound) -> Vec<(u64, u64, bool)> {
    std::iter::from_fn(|| outbound.poll_event())
        .map(|event| match event {
            OutboundEvent::Answered { first, last, answer } => (first, last, answer.is_final()),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn answered_events_are_not_kept_wherever_they_stand() {
    let mut outbound = answered(10);
    outbound.handle_frame(0, &answer(1, Verdict::Done, &[(3, 5), (9, 9)])).unwrap();
    outbound.handle_frame(0, &answer(2, Verdict::Retry, &[(7, 7)])).unwrap();
    outbound.handle_frame(0, &answer(0, Verdict::InProgress, &[(1, 1), (3, 3)])).unwrap();
    assert_eq!(told(&mut outbound), [(3, 5, true), (9, 9, true), (7, 7, true), (1, 1, false)]);
    assert_eq!(outbound.unacknowledged_bytes(), 50);
    // One event that takes long does not stop the others.
    assert_eq!(outbound.allows_up_to(Demand::new(10)), Demand::new(15));
    outbound.handle_frame(0, &Frame::Cancel(Cancel { reason: Reason::Normal, begun: 0, is_down: false })).unwrap();
    assert!(matches!(outbound.poll_event(), Some(OutboundEvent::Cancelled { .. })));
    assert_eq!(unfinished(&mut outbound), [(1, 2, 1), (6, 1, 1), (8, 1, 1), (10, 1, 1)]);
}

#[test]
fn an_answer_that_comes_again_is_taken_once() {
    let mut outbound = answered(10);
    outbound.handle_frame(0, &answer(1, Verdict::Done, &[(1, 3)])).unwrap();
    outbound.resume(1, 10).unwrap();
    outbound.handle_frame(1, &answer(1, Verdict::Done, &[(1, 3)])).unwrap();
    outbound.handle_frame(1, &answer(2, Verdict::Done, &[(2, 5)])).unwrap();
    assert_eq!(told(&mut outbound), [(1, 3, true), (4, 5, true)]);
}

#[test]
fn answers_are_told_before_the_cancel_that_follows_them() {
    let mut outbound = answered(3);
    outbound.handle_frame(0, &answer(1, Verdict::GiveUp, &[(2, 2)])).unwrap();
    outbound.give_up();
    assert!(matches!(outbound.poll_event(), Some(OutboundEvent::Answered { first: 2, last: 2, .. })));
    assert!(matches!(outbound.poll_event(), Some(OutboundEvent::Cancelled { .. })));
    assert_eq!((outbound.poll_event(), unfinished(&mut outbound)), (None, vec![(1, 1, 2), (3, 1, 2)]));
}

#[test]
fn many_answers_are_confirmed() {
    let mut outbound = answered(100);
    for number in 1..=CONFIRM_EVERY {
        assert_eq!(sent(&mut outbound), []);
        outbound.handle_frame(0, &answer(number, Verdict::Done, &[(number, number)])).unwrap();
    }
    let confirmed = [Frame::Answered(Answered { up_to: CONFIRM_EVERY })];
    assert_eq!(sent(&mut outbound), confirmed);
    outbound.resume(1, 100).unwrap();
    assert_eq!(sent(&mut outbound)[1..], confirmed);
}

fn result(number: u64, verdict: Verdict, seq: u64, piece: &[u8]) -> Frame {
    let Frame::Answer(answer) = answer(number, verdict, &[(seq, seq)]) else { unreachable!() };
    Frame::Answer(frame::Answer { result: Some(Bytes::copy_from_slice(piece)), ..answer })
}

#[test]
fn a_result_is_put_together_and_no_longer_than_an_event() {
    let mut outbound = answered(3);
    outbound.limits = Limits::default().max_event_bytes(5);
    outbound.handle_frame(0, &result(1, Verdict::Part, 2, b"ab")).unwrap();
    outbound.handle_frame(0, &result(1, Verdict::Part, 2, b"ab")).unwrap();
    outbound.handle_frame(0, &result(2, Verdict::Done, 2, b"cde")).unwrap();
    let whole = OutboundEvent::Answered { first: 2, last: 2, answer: Answer::DoneWith(b"abcde".to_vec()) };
    assert_eq!(outbound.poll_event(), Some(whole));
    outbound.handle_frame(0, &result(3, Verdict::Part, 3, b"abcd")).unwrap();
    for (frame, expected) in [
        (result(4, Verdict::Done, 3, b"ef"), "expected event 3 of at most 5 bytes, got 6"),
        (result(4, Verdict::Done, 1, b"e"), "expected the rest of event 3, got answer frame"),
        (answer(4, Verdict::Done, &[(1, 1)]), "expected the rest of event 3, got answer frame"),
        (answer(4, Verdict::Part, &[(3, 3)]), "unexpected answer frame without a piece of a result"),
    ] {
        assert_eq!(outbound.handle_frame(0, &frame).unwrap_err().to_string(), expected);
    }
    assert_eq!(outbound.poll_event(), None);
}

#[test]
fn answers_to_nothing_are_errors_and_change_nothing() {
    let many = vec![(1, 1); MAX_RANGES + 1];
    let cases = [
        (answer(1, Verdict::Done, &[]), "expected an answer about 1 to 64 ranges of events, got 0"),
        (answer(1, Verdict::Done, &many), "expected an answer about 1 to 64 ranges of events, got 65"),
        (answer(1, Verdict::Done, &[(0, 1)]), "not a range of events to answer: 0 to 1"),
        (answer(1, Verdict::Done, &[(2, 1)]), "not a range of events to answer: 2 to 1"),
        (answer(1, Verdict::Retry, &[(1, 2)]), "not a range of events to answer: 1 to 2"),
        (answer(0, Verdict::InProgress, &[(1, 2)]), "not a range of events to answer: 1 to 2"),
        (answer(1, Verdict::Done, &[(1, 1), (3, 4)]), "expected no acknowledgement after event 3, got 4"),
        (answer(2, Verdict::Done, &[(1, 1)]), "expected answer 1, got 2"),
    ];
    for (frame, message) in cases {
        let mut outbound = answered(3);
        assert_eq!(outbound.handle_frame(0, &frame).unwrap_err().to_string(), message);
        assert_eq!((told(&mut outbound), outbound.unacknowledged_bytes()), (vec![], 30));
    }
    let mut outbound = outbound(5);
    let error = outbound.handle_frame(0, &answer(1, Verdict::Done, &[(1, 1)])).unwrap_err();
    assert_eq!(error.to_string(), "unexpected answer frame from a subscriber that may not answer");
}

#[test]
fn what_was_answered_has_arrived() {
    let mut outbound = answered(5);
    outbound.handle_frame(0, &answer(1, Verdict::Done, &[(4, 4)])).unwrap();
    assert_eq!(outbound.resume(1, 3), Err(Reason::Protocol));
    outbound.resume(1, 4).unwrap();
}

#[test]
fn what_was_handled_is_told_before_the_cancel_that_came_with_it() {
    let mut outbound = outbound(10);
    ack(&mut outbound, 0, true).unwrap();
    send(&mut outbound, &[10, 10, 10]);
    sent(&mut outbound);
    while outbound.poll_event().is_some() {}
    credit(&mut outbound, 20);
    ack(&mut outbound, 2, true).unwrap();
    cancel(&mut outbound);
    assert_eq!(outbound.poll_event(), Some(OutboundEvent::Handled { up_to: Demand::new(2) }));
    assert_eq!(outbound.poll_event(), Some(OutboundEvent::Cancelled { reason: Reason::Normal, is_down: false }));
    assert_eq!((outbound.poll_event(), unfinished(&mut outbound)), (None, vec![(3, 1, 1)]));
}

#[test]
fn who_lets_go_hears_what_becomes_of_its_events() {
    for is_lost in [false, true] {
        let mut outbound = outbound(10);
        ack(&mut outbound, 0, true).unwrap();
        send(&mut outbound, &[10, 10, 10]);
        outbound.let_go(Reason::Normal, "numbers", "enough");
        sent(&mut outbound);
        while outbound.poll_event().is_some() {}
        ack(&mut outbound, 1, true).unwrap();
        assert_eq!(outbound.poll_event(), Some(OutboundEvent::Handled { up_to: Demand::new(1) }));
        assert_eq!((unfinished(&mut outbound), outbound.is_over()), (vec![], false));
        if is_lost {
            outbound.give_up();
        } else {
            outbound
                .handle_frame(0, &Frame::Cancel(Cancel { reason: Reason::Error, begun: 1, is_down: true }))
                .unwrap();
        }
        assert_eq!((outbound.poll_event(), outbound.is_over()), (None, true));
        let expected = if is_lost { vec![(2, 2, 2)] } else { vec![(2, 1, 2), (3, 1, 1)] };
        assert_eq!(unfinished(&mut outbound), expected);
    }
}

#[test]
fn what_is_said_of_open_events_is_kept_once_however_often_it_comes() {
    let mut outbound = answered(10);
    outbound.handle_frame(0, &answer(1, Verdict::Done, &[(9, 9)])).unwrap();
    let open: Vec<_> = (1..=10).map(|seq| (seq, seq)).collect();
    for _ in 0..10_000 {
        outbound.handle_frame(0, &answer(0, Verdict::InProgress, &open)).unwrap();
        outbound.handle_frame(0, &answer(0, Verdict::Begun, &open[..3])).unwrap();
    }
    let told = told(&mut outbound);
    assert_eq!((told[0], told.len()), ((9, 9, true), 1 + 3 + 9));
}

#[test]
fn an_event_is_asked_back_once_on_each_stream_and_given_back_only_then() {
    let mut outbound = answered(5);
    outbound.revoke(2);
    assert_eq!(sent(&mut outbound), [], "nobody can give back who does not say so");
    outbound.announced();
    [2, 3, 5].into_iter().for_each(|seq| outbound.revoke(seq));
    assert_eq!(sent(&mut outbound), [Frame::Revoke(Revoke { ranges: vec![(2, 3), (5, 5)] })]);
    let unasked = outbound.handle_frame(0, &answer(1, Verdict::Returned, &[(1, 1)])).unwrap_err();
    assert_eq!(unasked.to_string(), "unexpected answer frame that gives back what was not asked for");
    outbound.handle_frame(0, &answer(1, Verdict::Returned, &[(5, 5)])).unwrap();
    outbound.resume(1, 5).unwrap();
    assert!(sent(&mut outbound).contains(&Frame::Revoke(Revoke { ranges: vec![(2, 3)] })));
    assert_eq!(told(&mut outbound), [(5, 5, true)]);
}

const PIECE: usize = 32 << 10;
const MIB: usize = 1 << 20;

/// Says 15 MiB of a result, and not its end; how many bytes were taken.
fn say_much(outbound: &mut Outbound) -> Result<usize, LinkError> {
    let piece = vec![7; PIECE];
    for number in 1..=7 * MIB / PIECE {
        outbound.handle_frame(0, &result(number as u64, Verdict::Part, 1, &piece))?;
    }
    Ok(7 * MIB)
}

#[test]
fn unfinished_results_of_a_node_share_a_bound() {
    let reassembly = Reassembly::new(16 * MIB);
    let mut links: Vec<_> = (0..40).map(|_| answered(1)).collect();
    let said: Vec<_> = links
        .iter_mut()
        .map(|outbound| {
            outbound.share_reassembly(reassembly.clone());
            say_much(outbound)
        })
        .collect();
    assert_eq!(said.iter().filter(|said| said.is_ok()).count(), 2, "two of 7 MiB in 16 MiB");
    assert!(said[2..].iter().all(|said| matches!(said, Err(LinkError::Reassembly { .. }))));
    // What has come stays accounted for while a link waits for its next connection.
    links[0].cut();
    assert!(reassembly.share().take(3 * MIB).is_err());
    drop(links);
    assert_eq!(reassembly.share().take(16 * MIB), Ok(()));
}

#[test]
fn a_partial_result_does_not_outlive_its_task() {
    let (mut outbound, reassembly) = (answered(2), Reassembly::new(8 * MIB));
    outbound.share_reassembly(reassembly.clone());
    say_much(&mut outbound).unwrap();
    outbound.expire(1);
    assert_eq!(reassembly.share().take(8 * MIB), Ok(()), "nothing of it is kept");
    let last = 7 * MIB / PIECE;
    outbound.handle_frame(0, &result(last as u64 + 1, Verdict::Part, 1, b"a")).unwrap();
    outbound.handle_frame(0, &result(last as u64 + 2, Verdict::Done, 1, b"b")).unwrap();
    let late = Answer::Retry { delay: Duration::ZERO, message: "the result came too late".to_owned() };
    assert_eq!(outbound.poll_event(), Some(OutboundEvent::Answered { first: 1, last: 1, answer: late }));
    let empty = outbound.handle_frame(0, &result(last as u64 + 3, Verdict::Part, 2, b""));
    assert!(empty.is_err(), "a piece without bytes brings a result no nearer to its end");
}

/// A frame of results, of as many bytes as said.
fn row(number: u64, results: &[(u64, usize)]) -> Frame {
    let mut row = ResultRow::default();
    results.iter().for_each(|(seq, bytes)| row.push(*seq, &vec![7; *bytes]));
    Frame::Results(Results { number, row: Arc::new(row) })
}

/// The events of the rows that are told.
fn results(outbound: &mut Outbound) -> Vec<Vec<u64>> {
    let row = |event| match event {
        OutboundEvent::Results { row } => row.iter().map(|(seq, _)| seq).collect(),
        other => panic!("{other:?}"),
    };
    std::iter::from_fn(|| outbound.poll_event()).map(row).collect()
}

#[test]
fn a_row_of_results_counts_as_one_answer_and_each_result_once() {
    let mut outbound = answered(9);
    outbound.handle_frame(0, &row(1, &[(3, 1), (4, 0), (2, 5)])).unwrap();
    outbound.handle_frame(0, &row(1, &[(5, 1)])).unwrap();
    assert_eq!(results(&mut outbound), [[3, 4, 2]], "the second came before a cut");
    // Of what a peer says twice, the first counts.
    outbound.handle_frame(0, &row(2, &[(4, 1), (5, 1), (6, 1), (5, 2)])).unwrap();
    assert_eq!(results(&mut outbound), [[5, 6]]);
    let lines = [row(4, &[(7, 1)]), row(3, &[(0, 1)]), row(3, &[(7, 1), (10, 1)]), row(3, &[(7, 1 << 24)])]
        .map(|row| outbound.handle_frame(0, &row).unwrap_err().to_string());
    let expected = [
        "expected answer 3, got 4",
        "expected no acknowledgement after event 9, got 0",
        "expected no acknowledgement after event 9, got 10",
        "expected event 7 of at most 8392704 bytes, got 16777216",
    ];
    assert_eq!(lines, expected);
    assert_eq!(outbound.poll_event(), None, "nothing has changed");
}

#[test]
fn of_a_row_only_what_somebody_waits_for_is_a_result() {
    let mut outbound = answered(4);
    outbound.expire(2);
    outbound.handle_frame(0, &row(1, &[(1, 1), (2, 1), (3, 1)])).unwrap();
    assert_eq!(outbound.poll_event(), Some(OutboundEvent::Answered { first: 2, last: 2, answer: too_late() }));
    assert_eq!(results(&mut outbound), [[1, 3]]);
    outbound.handle_frame(0, &result(2, Verdict::Part, 4, b"a")).unwrap();
    let between = outbound.handle_frame(0, &row(3, &[(4, 1)])).unwrap_err();
    assert_eq!(between, LinkError::Incomplete { seq: 4, frame: "answer" });
}
