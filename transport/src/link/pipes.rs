//! The streams between the two ends of a link, for models of them: bytes on their way that can be cut anywhere, and schedules
//! that follow from a seed.

use std::collections::VecDeque;

use aqueduct_watchdog::Watch;
use bytes::Bytes;

use super::{Inbound, Outbound};
use crate::Limits;
use crate::frame::{Frame, FrameDecoder};

/// All streams of a link. The last is the present one, as the subscriber sees it; the others were cut, and may still deliver.
pub(super) struct Pipes(Vec<Pipe>);

/// One stream of a link: what is on its way, and how it is read.
struct Pipe {
    epoch: u64,
    up: VecDeque<u8>,
    down: VecDeque<u8>,
    at_publisher: FrameDecoder,
    at_subscriber: FrameDecoder,
    /// Its first frame has reached the publisher.
    is_open: bool,
}

impl Pipes {
    pub(super) fn new() -> Self {
        Self(vec![Pipe::new(0)])
    }

    /// Which one is the present one.
    pub(super) fn last(&self) -> usize {
        self.0.len() - 1
    }

    /// Cuts the present one. The publisher may notice, or learn of it from the next. Returns whether there is another one.
    pub(super) fn cut(&mut self, inbound: &mut Inbound, outbound: &mut Outbound, random: &mut Random) -> bool {
        let Some(epoch) = inbound.resume() else { return false };
        if random.below(2) == 0 {
            outbound.cut();
        }
        self.0.push(Pipe::new(epoch));
        if self.0.len() > 4 {
            self.0.remove(0);
        }
        true
    }

    /// Carries bytes of one of them to the publisher. Returns whether it takes what comes on it: a stream that is late is refused,
    /// and reset. `seen` is told of every frame but the first.
    pub(super) fn up(
        &mut self,
        at: usize,
        bytes: usize,
        outbound: &mut Outbound,
        mut seen: impl FnMut(&Frame),
    ) -> bool {
        let pipe = &mut self.0[at];
        let bytes = bytes.min(pipe.up.len());
        pipe.at_publisher.push(take(&mut pipe.up, bytes));
        while let Some(frame) = pipe.at_publisher.next_frame().unwrap() {
            match &frame {
                Frame::Subscribe(_) => outbound.accept(),
                Frame::Resume(resume) => {
                    if outbound.resume(resume.epoch, resume.arrived).is_err() {
                        pipe.up.clear();
                        return false;
                    }
                }
                frame => {
                    seen(frame);
                    outbound.handle_frame(pipe.epoch, frame).unwrap();
                }
            }
            pipe.is_open = true;
        }
        true
    }

    /// Carries bytes of one of them to the subscriber. Returns how many frames have arrived.
    pub(super) fn down(&mut self, at: usize, bytes: usize, inbound: &mut Inbound) -> u64 {
        let (pipe, mut frames) = (&mut self.0[at], 0);
        let bytes = bytes.min(pipe.down.len());
        pipe.at_subscriber.push(take(&mut pipe.down, bytes));
        while let Some(frame) = pipe.at_subscriber.next_frame().unwrap() {
            frames += 1;
            inbound.handle_frame(pipe.epoch, frame).unwrap();
        }
        frames
    }

    /// Each end writes to the stream that it knows of.
    pub(super) fn transmit(&mut self, inbound: &mut Inbound, outbound: &mut Outbound) {
        let last = self.last();
        while let Some(bytes) = inbound.poll_transmit() {
            self.0[last].up.extend(&bytes[..]);
        }
        if let Some(pipe) = self.0.iter_mut().rfind(|pipe| pipe.is_open) {
            while let Some(bytes) = outbound.poll_transmit() {
                pipe.down.extend(&bytes[..]);
            }
        }
    }

    /// Whether everything has reached the publisher on the present one.
    pub(super) fn is_drained(&self) -> bool {
        let pipe = &self.0[self.last()];
        pipe.is_open && pipe.up.is_empty()
    }
}

impl Pipe {
    fn new(epoch: u64) -> Self {
        Self {
            epoch,
            up: VecDeque::new(),
            down: VecDeque::new(),
            at_publisher: FrameDecoder::new(limits()),
            at_subscriber: FrameDecoder::new(limits()),
            is_open: false,
        }
    }
}

/// The first bytes of what is on its way.
fn take(queue: &mut VecDeque<u8>, bytes: usize) -> Bytes {
    let taken = Bytes::copy_from_slice(&queue.make_contiguous()[..bytes]);
    queue.drain(..bytes);
    taken
}

pub(super) fn limits() -> Limits {
    Limits::default().max_data_frame_bytes(4096).max_control_frame_bytes(4096)
}

/// Names the seed of a run that fails, or hangs.
pub(super) struct Named(u64, #[expect(dead_code, reason = "it watches while it is there")] Watch);

impl Named {
    pub(super) fn new(seed: u64) -> Self {
        let watch = Watch::over("seed ");
        watch.begin(seed);
        Self(seed, watch)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

/// Numbers that follow from a seed: splitmix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    /// The next number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0) % bound
    }
}

pub(super) fn mixed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
