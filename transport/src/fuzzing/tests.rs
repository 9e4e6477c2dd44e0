//! The fuzz targets without a fuzzer: what is in the corpus, and many inputs made from it.
//!
//! `AQUEDUCT_FUZZ_INPUTS` says how many inputs there are over all targets: 2 million by default, which take about 35 s of one
//! core. A failure shows its input; put that into the corpus.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use aqueduct_counting::{Counting, peak_bytes};
use aqueduct_watchdog::Watch;
use bytes::Bytes;

use super::TARGETS;
use super::frames::{limits, pieces};
use super::mutations::Mutator;
use crate::Limits;
use crate::frame::tests::{bytes_of, examples};
use crate::frame::{Frame, FrameDecoder};

/// Of the whole test binary of this crate; it counts for each thread.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Inputs over all targets, and how a thousand of them are shared out: most go where they take least.
const INPUTS: u64 = 2_000_000;
const SHARES: [(&str, u64); 5] = [("frame", 450), ("stream", 250), ("handshake", 120), ("link", 160), ("pulling", 20)];

#[test]
fn any_bytes_are_frames_that_come_back_or_an_error() {
    fuzz("frame");
}

#[test]
fn any_bytes_in_any_pieces_are_the_same_frames_and_take_no_more_memory_than_the_limits_say() {
    fuzz_with("stream", |input| {
        super::stream(input);
        takes_little_memory(input);
    });
}

#[test]
fn any_introduction_is_agreed_on_by_both_or_refused() {
    fuzz("handshake");
}

#[test]
fn no_peer_puts_an_end_of_a_link_in_disorder() {
    fuzz("link");
}

#[test]
fn no_order_of_events_breaks_a_law_of_pulling() {
    fuzz("pulling");
}

#[test]
fn the_worst_frames_take_no_more_memory_than_twice_the_limit() {
    let limits = Limits::default();
    let body = |kind: u8, map: &[u8]| {
        let mut frame = (map.len() as u32 + 1).to_be_bytes().to_vec();
        frame.push(kind);
        [&frame, map].concat()
    };
    let array = |count: u16| [&[0xdc][..], &count.to_be_bytes()].concat();
    let most = 65_000_u16;
    let key = |name: &str| [&[0xa0 | name.len() as u8][..], name.as_bytes()].concat();
    let features = [&[0x81][..], &key("features"), &array(most), &vec![0xa0; usize::from(most)]].concat();
    let pairs = most / 3;
    let ranges = [&[0x81][..], &key("ranges"), &array(pairs), &[0x92, 1, 1].repeat(usize::from(pairs))].concat();
    let text = [&[0x81][..], &key("up_to"), &[0xda][..], &most.to_be_bytes(), &vec![1; usize::from(most)]].concat();
    let unknown = [&[0x81][..], &key("x"), &array(most), &vec![0xc0; usize::from(most)]].concat();
    let payload = vec![0xc0; 262_000];
    for (name, frame) in [
        ("features", body(1, &features)),
        ("ranges", body(24, &ranges)),
        ("a text for a number", body(19, &text)),
        ("an unknown field", body(19, &unknown)),
        ("events", body(32, &payload)),
    ] {
        for size in [frame.len(), 1200] {
            let pieces: Vec<_> = frame.chunks(size).map(Bytes::copy_from_slice).collect();
            let (_, peak) = peak_bytes(|| {
                let mut decoder = FrameDecoder::new(limits.clone());
                for piece in pieces {
                    decoder.push(piece);
                    if let Err(error) = decoder.next_frame() {
                        assert!(error.to_string().len() < 600, "{name}: a peer decides how long an error is");
                    }
                }
            });
            let bound = 2 * limits.data_frame_bytes();
            assert!(peak <= bound, "{name} in pieces of {size} bytes: {peak} bytes, of {bound}");
        }
    }
}

/// Whatever is announced, at no time is more held than twice the longest frame, and what little a decoder is itself.
fn takes_little_memory(input: &[u8]) {
    let (cuts, data) = input.split_at(input.len().min(8));
    let mut pieces = pieces(cuts, data);
    let mut decoder = FrameDecoder::new(limits());
    let bound = 2 * limits().data_frame_bytes() + 1024;
    for piece in pieces.drain(..) {
        let (is_over, peak) = peak_bytes(|| {
            decoder.push(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(_)) => {}
                    Ok(None) => return false,
                    Err(_) => return true,
                }
            }
        });
        assert!(peak <= bound, "{peak} bytes for a frame, of {bound}");
        if is_over {
            return;
        }
    }
}

fn fuzz(name: &str) {
    let (_, target) = TARGETS.into_iter().find(|(other, _)| *other == name).expect("a target");
    fuzz_with(name, target);
}

fn fuzz_with(name: &str, target: impl Fn(&[u8])) {
    let corpus = corpus(name);
    assert!(corpus.len() >= 12, "{} inputs in the corpus of {name}", corpus.len());
    let watch = Watch::over(format!("{name} fails with input "));
    for (at, input) in corpus.iter().enumerate() {
        watch.begin(at as u64);
        try_one(name, at as u64, input, &target);
    }
    let all = std::env::var("AQUEDUCT_FUZZ_INPUTS").map_or(INPUTS, |count| count.parse().expect("a number"));
    let share = SHARES.into_iter().find(|(other, _)| *other == name).expect("a share").1;
    let mut inputs = Mutator::new(corpus, SEED);
    for at in 0..all * share / 1000 {
        watch.begin(at);
        try_one(name, at, &inputs.next(), &target);
    }
}

fn try_one(name: &str, at: u64, input: &[u8], target: impl Fn(&[u8])) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!(
            "{name} fails with input {at}; to replay it: echo {hex} | xxd -r -p > transport/fuzz/corpus/{name}/found"
        );
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> =
        fs::read_dir(folder(name)).expect("a corpus").map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file")).collect()
}

fn folder(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", name].iter().collect()
}

/// `cargo test -p aqueduct-transport --lib corpus -- --ignored`, after a change of the frames.
#[test]
#[ignore = "it writes into the sources"]
fn the_corpus_is_written_from_real_encodings() {
    let frames: Vec<_> = examples().iter().map(bytes_of).collect();
    let unknown = [0, 0, 0, 3, 200, 9, 9].to_vec();
    let whole = frames.iter().cloned().chain([frames.concat(), unknown, vec![0; 5]]);
    write("frame", whole.clone());
    write("stream", whole.map(|bytes| [&[1, 3, 200, 7, 250, 19, 2, 5][..], &bytes].concat()));
    let is_greeting = |frame: &&Frame| matches!(frame, Frame::Hello(_) | Frame::HelloAck(_) | Frame::Refuse(_));
    let greetings: Vec<_> = examples().iter().filter(is_greeting).map(bytes_of).collect();
    let said = greetings.iter().flat_map(|frame| {
        let length = frame.len().div_ceil(2) as u8;
        [[1, 1], [0, 4], [2, 8]].map(|versions| [&versions[..], &[1, 0, 1, 1, 1, length], frame].concat())
    });
    let mut random = Mutator::new(vec![vec![0]], 1);
    write("handshake", said.chain((0..8).map(|_| schedule(&mut random, &[1, 3, 1, 1, 1, 1, 0, 1, 2]))));
    // Whoever says something says each frame once, with something done before and after it.
    let links = frames.iter().filter(|frame| frame.len() < 500).flat_map(|frame| {
        let padded = [&frame[..], &vec![0; frame.len() % 2]].concat();
        [0, 1].map(|side| {
            let accepted = if side == 1 { [7, 9, 0, 0, 1, 1] } else { [0, 2, 20, 0, 7, 3] };
            let begun = [&[side, 7, 100][..], &accepted].concat();
            [&begun[..], &[6, (padded.len() / 2) as u8], &padded, &[12, 7, 12, 11]].concat()
        })
    });
    write("link", links.chain((0..8).map(|at| schedule(&mut random, &[at % 2, 7, 100, 7, 20, 0, 0, 1, 1]))));
    write("pulling", (0..16).map(|_| schedule(&mut random, &[])));
}

/// A beginning, and random decisions behind it.
fn schedule(random: &mut Mutator, beginning: &[u8]) -> Vec<u8> {
    let more = std::iter::repeat_with(|| random.next()).flatten().take(400);
    beginning.iter().copied().chain(more).collect()
}

fn write(name: &str, inputs: impl Iterator<Item = Vec<u8>>) {
    let folder = folder(name);
    fs::create_dir_all(&folder).expect("a folder");
    for (at, input) in inputs.enumerate() {
        fs::write(folder.join(format!("{at:02}")), input).expect("a file");
    }
}

/// Another one makes other inputs.
const SEED: u64 = 26;
