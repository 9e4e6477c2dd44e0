//! Frames to bytes and back.

use std::sync::Arc;

use aqueduct_stage::{Attempt, ResultRow};

use super::*;
use crate::Signature;

/// One frame of every type.
pub(crate) fn examples() -> Vec<Frame> {
    let text = String::from;
    vec![
        Frame::Hello(Hello {
            proto_min: 1,
            proto_max: 2,
            cluster: text("c"),
            node: text("a"),
            incarnation: u64::MAX,
            features: vec![text("x"), text("y")],
            limits: Some(OfferedLimits { data_frame_bytes: 1, control_frame_bytes: 2, event_bytes: u64::MAX }),
            functions: Some([7; 16]),
        }),
        Frame::HelloAck(HelloAck {
            proto: 1,
            node: text("b"),
            incarnation: 1,
            features: vec![],
            limits: None,
            functions: None,
        }),
        Frame::Refuse(Refuse { reason: Reason::Superseded, message: text("m") }),
        Frame::AskFunctions(AskFunctions {}),
        Frame::FunctionsPart(FunctionsPart {
            functions: vec![FunctionRow(text("f"), 1, Signature::of::<u64, String>())],
            is_last: true,
        }),
        Frame::Subscribe(Subscribe {
            producer: text("numbers"),
            signature: text("u64"),
            max_demand: 10_000,
            min_demand: 5_000,
            session: Some(Session { incarnation: u64::MAX, number: 7 }),
            selector: Some(text("even")),
            instance: 3,
            consumer: Some(FarConsumer { incarnation: 7, number: 8 }),
            announces: true,
            takes_columns: false,
        }),
        Frame::Accepted(Accepted { instances: 7, takes_answers: true, takes_rows: true }),
        Frame::Refused(Refused { reason: Reason::TypeMismatch, message: text("m"), published: Some(text("order v2")) }),
        Frame::Credit(Credit { up_to: u64::MAX, bytes_up_to: None }),
        Frame::Credit(Credit { up_to: 5, bytes_up_to: Some(1 << 24) }),
        Frame::Cancel(Cancel { reason: Reason::Unknown(77), begun: 3, is_down: true }),
        Frame::Ack(Ack { up_to: 9, handled: true }),
        Frame::Resume(Resume { session: Session { incarnation: 1, number: 0 }, epoch: 2, arrived: 3 }),
        Frame::Resumed(Resumed {}),
        Frame::Answer(Answer {
            number: 3,
            ranges: vec![(7, 9), (11, u64::MAX)],
            verdict: Verdict::Retry,
            delay_ms: 1000,
            message: text("m"),
            result: Some(Bytes::from_static(b"r")),
        }),
        Frame::Answered(Answered { up_to: 3 }),
        Frame::Revoke(Revoke { ranges: vec![(4, 4), (6, 9)] }),
        Frame::Events(Events { first_seq: 1, count: 3, attempt: Attempt::FIRST, payload: Bytes::from_static(b"abc") }),
        Frame::Events(Events {
            first_seq: u64::MAX,
            count: 1,
            attempt: Attempt::FIRST.next(),
            payload: vec![7; 5_000].into(),
        }),
        Frame::Chunk(Chunk {
            seq: 9,
            attempt: Attempt::FIRST,
            index: 300,
            is_last: true,
            total_len: 1 << 30,
            payload: Bytes::from_static(b"p"),
        }),
        Frame::Done(Done { last_seq: 0 }),
        Frame::Failed(Failed {
            last_seq: 5,
            reason: Reason::Panic,
            origin: text("sum"),
            message: text("boom"),
            is_cancel: true,
        }),
        Frame::Results(Results { number: 4, row: row(&[(9, b"one"), (10, b""), (7, b"two"), (u64::MAX, b"three")]) }),
        Frame::Columns(Columns { first_seq: 5, count: 2, attempt: Attempt::FIRST.next(), payload: vec![1; 18].into() }),
    ]
}

fn row(results: &[(u64, &[u8])]) -> Arc<ResultRow> {
    let mut row = ResultRow::default();
    results.iter().for_each(|(number, result)| row.push(*number, result));
    Arc::new(row)
}

/// A frame's bytes in one piece.
pub(crate) fn bytes_of(frame: &Frame) -> Vec<u8> {
    let parts = frame.encode(&Limits::default()).unwrap();
    [parts.head, parts.payload].concat()
}

fn decode(kind: Kind, body: &[u8]) -> Result<Frame, FrameError> {
    Frame::decode(kind, &Bytes::copy_from_slice(body), &Limits::default())
}

#[test]
fn the_bytes_are_those_of_the_documentation() {
    let credit = bytes_of(&Frame::Credit(Credit { up_to: 3, bytes_up_to: None }));
    assert_eq!(credit, b"\x00\x00\x00\x09\x13\x81\xa5up_to\x03");
    let (attempt, payload) = (Attempt::FIRST.next(), Bytes::from_static(b"\x01\x02"));
    let events = Frame::Events(Events { first_seq: 300, count: 2, attempt, payload });
    assert_eq!(bytes_of(&events), b"\x00\x00\x00\x07\x20\xac\x02\x02\x02\x01\x02");
    let payload = Bytes::from_static(b"\x05");
    let chunk = Chunk { seq: 1, attempt: Attempt::FIRST, index: 0, is_last: false, total_len: 128, payload };
    assert_eq!(bytes_of(&Frame::Chunk(chunk)), b"\x00\x00\x00\x08\x21\x01\x01\x00\x00\x80\x01\x05");
    let results = Frame::Results(Results { number: 5, row: row(&[(300, b"ab"), (301, b""), (299, b"c")]) });
    assert_eq!(bytes_of(&results), b"\x00\x00\x00\x0d\x24\x05\x03\xd6\x04\x02\x00\x00\x05\x01abc");
    assert_eq!(bytes_of(&Frame::Accepted(Accepted::default())), b"\x00\x00\x00\x02\x11\x80");
}

#[test]
fn a_long_payload_is_not_copied() {
    let payload = Bytes::from(vec![7; APART_BYTES]);
    let frame = Frame::Events(Events { first_seq: 1, count: 1, attempt: Attempt::FIRST, payload: payload.clone() });
    let parts = frame.encode(&Limits::default()).unwrap();
    assert_eq!(parts.payload.as_ptr(), payload.as_ptr());
    assert_eq!(parts.head.len(), 8);
}

#[test]
fn unknown_fields_are_ignored() {
    let body = b"\x83\xa5later\x93\x01\x02\x03\xa5up_to\x05\xa1z\xc0";
    assert_eq!(decode(Kind::Credit, body).unwrap(), Frame::Credit(Credit { up_to: 5, bytes_up_to: None }));
    assert_eq!(decode(Kind::Accepted, b"\x81\xa1z\xc0").unwrap(), Frame::Accepted(Accepted::default()));
}

#[test]
fn fields_with_a_default_may_be_missing_and_others_may_not() {
    let refused = Refused { reason: Reason::Overloaded, message: String::new(), published: None };
    assert_eq!(decode(Kind::Refused, b"\x81\xa6reason\x07").unwrap(), Frame::Refused(refused));
    assert!(matches!(decode(Kind::Credit, b"\x80"), Err(FrameError::Body { frame: "credit", .. })));
}

#[test]
fn a_body_is_one_value_of_bounded_depth() {
    let trailing = decode(Kind::Credit, b"\x81\xa5up_to\x05\xc0").unwrap_err();
    assert_eq!(trailing.to_string(), "malformed body of credit frame: 1 bytes after the last value");
    let deep = [&b"\x82\xa5up_to\x05\xa1z"[..], &[0x91; 100], &[0xc0]].concat();
    let deep = decode(Kind::Credit, &deep).unwrap_err();
    assert_eq!(deep.to_string(), "malformed body of credit frame: nested deeper than 64 levels");
}

#[test]
fn a_malformed_header_is_refused() {
    for body in [&b""[..], b"\x01", b"\x80\x00\x01\x01", b"\x01\x01\x00"] {
        assert!(matches!(decode(Kind::Events, body), Err(FrameError::Header { .. })), "{body:?}");
    }
    let too_many = [&b"\x01\x81\x08"[..], &[0; 2 * 1025]].concat();
    for body in [&b"\x01"[..], b"\x01\x00", b"\x01\x01\x00", b"\x01\x01\x00\x02a", b"\x01\x01\x00\x01ab", &too_many] {
        assert!(matches!(decode(Kind::Results, body), Err(FrameError::Header { .. })), "{body:?}");
    }
    for body in [&b"\x01\x01\x00"[..], b"\x01\x01\x00\x02\x05abcde", b"\x01\x01\x00\x01", b"\x01\x00\x00\x01\x01a"] {
        assert!(matches!(decode(Kind::Chunk, body), Err(FrameError::Header { .. })), "{body:?}");
    }
}

#[test]
fn a_frame_that_nobody_would_take_is_not_made() {
    let subscribe = Subscribe {
        producer: "x".repeat(70_000),
        signature: String::new(),
        max_demand: 1,
        min_demand: 0,
        session: None,
        selector: None,
        instance: 0,
        consumer: None,
        announces: false,
        takes_columns: false,
    };
    let error = Frame::Subscribe(subscribe).encode(&Limits::default()).unwrap_err();
    assert!(error.to_string().starts_with("expected subscribe frame of at most 65536 bytes, got 70"), "{error}");
}

#[test]
fn an_answer_says_no_more_than_it_has_to() {
    let (verdict, message) = (Verdict::Done, String::new());
    let answer = Frame::Answer(Answer { number: 1, ranges: vec![(2, 3)], verdict, delay_ms: 0, message, result: None });
    let body = b"\x83\xa6number\x01\xa6ranges\x91\x92\x02\x03\xa7verdict\x01";
    assert_eq!(bytes_of(&answer)[5..], body[..]);
    assert_eq!(decode(Kind::Answer, body).unwrap(), answer);
    let unknown = b"\x83\xa6number\x01\xa6ranges\x91\x92\x02\x03\xa7verdict\x09";
    let error = decode(Kind::Answer, unknown).unwrap_err();
    assert_eq!(error.to_string(), "malformed body of answer frame: unknown verdict 9");
}
