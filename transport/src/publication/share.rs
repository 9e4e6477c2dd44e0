//! [`Share`]: how much a publisher keeps for one subscriber, and so how many events it asks the source for. Pure, but for what
//! links of one peer know of each other.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use aqueduct_stage::Demand;

/// How long the events of a source are, in bytes, as far as is known from those that were encoded. Shared by all links of what is
/// published: another subscriber brings no new ignorance.
#[derive(Debug, Default)]
pub(crate) struct EventSize(AtomicU64);

impl EventSize {
    /// So many events were so long together. The reckoning rises at once, and falls by an eighth at a time.
    pub(crate) fn learn(&self, events: usize, bytes: usize) {
        let mean = (bytes / events.max(1)).max(1) as u64;
        let before = self.0.load(Ordering::Relaxed);
        let falls_to = before - before.div_ceil(8);
        self.0.store(if before == 0 { mean } else { mean.max(falls_to) }, Ordering::Relaxed);
    }

    fn bytes(&self) -> usize {
        match self.0.load(Ordering::Relaxed) {
            0 => UNKNOWN_BYTES,
            known => usize::try_from(known).unwrap_or(usize::MAX),
        }
    }
}

/// What a publisher may keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepBounds {
    /// For one link.
    pub(crate) link_bytes: usize,
    /// For all links of one peer, but for [`LEAST_BYTES`] each.
    pub(crate) peer_bytes: usize,
}

/// What one link keeps, of all that is kept for its peer.
#[derive(Debug)]
pub(crate) struct Share {
    bounds: KeepBounds,
    kept: usize,
}

impl Share {
    pub(crate) const fn new(bounds: KeepBounds) -> Self {
        Self { bounds, kept: 0 }
    }

    pub(crate) const fn link_bytes(&self) -> usize {
        self.bounds.link_bytes
    }

    /// Up to which event the source may be asked, of which `last` was the last to be encoded and `kept_bytes` are encoded and
    /// kept; it was `asked` for before, which cannot be taken back. `of_peer` is what all links of the peer keep.
    pub(crate) fn ask_up_to(
        &mut self,
        of_peer: &AtomicUsize,
        size: &EventSize,
        (last, asked): (u64, Demand),
        kept_bytes: usize,
    ) -> Demand {
        let others = of_peer.load(Ordering::Relaxed).saturating_sub(self.kept);
        let KeepBounds { link_bytes, peer_bytes } = self.bounds;
        let room = (peer_bytes.saturating_sub(others) / 2).max(LEAST_BYTES).min(link_bytes);
        let size = size.bytes();
        let fit = room.saturating_sub(kept_bytes) / size;
        // One that is longer than everything gets through alone.
        let fit = if kept_bytes == 0 { fit.max(1) } else { fit };
        let up_to = asked.max(Demand::new(last.saturating_add(fit as u64)));
        let open = usize::try_from(up_to.count().saturating_sub(last)).unwrap_or(usize::MAX);
        self.keeps(of_peer, kept_bytes.saturating_add(open.saturating_mul(size)));
        up_to
    }

    /// The link keeps nothing any more.
    pub(crate) fn release(&mut self, of_peer: &AtomicUsize) {
        self.keeps(of_peer, 0);
    }

    fn keeps(&mut self, of_peer: &AtomicUsize, bytes: usize) {
        if bytes >= self.kept {
            of_peer.fetch_add(bytes - self.kept, Ordering::Relaxed);
        } else {
            of_peer.fetch_sub(self.kept - bytes, Ordering::Relaxed);
        }
        self.kept = bytes;
    }
}

/// What an event is taken for before the first of its source was encoded: it lets a first subscriber ask for 512.
const UNKNOWN_BYTES: usize = 16 << 10;
/// What each link may keep, whatever others keep: twice what a subscriber acknowledges at a time.
const LEAST_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: KeepBounds = KeepBounds { link_bytes: 8 << 20, peer_bytes: 24 << 20 };

    #[test]
    fn a_source_is_asked_for_what_fits_and_for_one_event_at_least() {
        let (of_peer, size, mut share) = (AtomicUsize::new(0), EventSize::default(), Share::new(BOUNDS));
        let mut ask = |last, asked, kept| share.ask_up_to(&of_peer, &size, (last, Demand::new(asked)), kept).count();
        assert_eq!(ask(0, 0, 0), 512, "nothing is known");
        size.learn(10, 100_000);
        // What was asked for stays; and no more while it would be too much.
        assert_eq!((ask(10, 512, 100_000), ask(510, 838, 8 << 20)), (838, 838));
        size.learn(1, 64 << 20);
        assert_eq!((ask(848, 848, 8 << 20), ask(848, 848, 0)), (848, 849));
        // It forgets the long one slowly.
        (0..200).for_each(|_| size.learn(1000, 5000));
        assert!(ask(849, 849, 0) > 65_536);
        share.release(&of_peer);
        assert_eq!(of_peer.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_links_of_a_peer_keep_a_bounded_amount_and_none_is_left_without() {
        let (of_peer, size) = (AtomicUsize::new(0), EventSize::default());
        size.learn(1, 10_000);
        let mut links: Vec<_> = (0..1024).map(|_| Share::new(BOUNDS)).collect();
        let asked: Vec<_> =
            links.iter_mut().map(|link| link.ask_up_to(&of_peer, &size, (0, Demand::ZERO), 0).count()).collect();
        assert_eq!((asked[0], asked[1023]), (838, 1));
        let kept = of_peer.load(Ordering::Relaxed);
        assert!(kept < (24 << 20) + 1024 * LEAST_BYTES, "{kept}");
        links.iter_mut().for_each(|link| link.release(&of_peer));
        assert_eq!(of_peer.load(Ordering::Relaxed), 0);
    }
}
