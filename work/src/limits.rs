//! [`Limits`]: how large anything may be that another node sends.

/// How large anything may be that another node sends. Every limit is checked before memory is set aside for it.
///
/// Two nodes that meet tell each other how large frames and events may be, and both keep to the smaller limits. Those on
/// items and depth are not exchanged: give all nodes of a cluster the same ones.
///
/// ```
/// use aqueduct_work::Limits;
///
/// let limits = Limits::default().max_event_bytes(1 << 20);
/// # let _ = limits;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    max_data_frame_bytes: usize,
    max_control_frame_bytes: usize,
    max_event_bytes: usize,
    max_items: u64,
    /// `<= prescan::MAX_DEPTH`
    max_depth: usize,
}

impl Limits {
    /// The least that a frame may be limited to: room for a header and for names and reasons of a sensible length.
    pub const MIN_FRAME_BYTES: usize = 4 * KIB;
    /// The deepest nesting that can be allowed.
    pub const MAX_DEPTH: usize = crate::prescan::MAX_DEPTH;

    /// Sets the longest frame that carries events, in bytes, its type included. Default 256 KiB.
    ///
    /// We cut events to frames of a quarter of it (64 KiB), and an event longer than half of it into pieces of half of
    /// it (128 KiB). Raising it saves a few bytes and wakes for each frame; lowering it lets other subscriptions of the
    /// connection have their turn sooner, and bounds what a subscription holds of an unfinished frame.
    ///
    /// # Panics
    ///
    /// Below [`MIN_FRAME_BYTES`](Self::MIN_FRAME_BYTES), or above 1 GiB.
    #[must_use]
    #[track_caller]
    pub fn max_data_frame_bytes(mut self, bytes: usize) -> Self {
        assert_frame(bytes);
        self.max_data_frame_bytes = bytes;
        self
    }

    /// Sets the longest frame that carries anything else, in bytes, its type included. Default 64 KiB.
    ///
    /// It bounds names, signatures and messages; we cut a failure's message to a quarter of it.
    ///
    /// # Panics
    ///
    /// Below [`MIN_FRAME_BYTES`](Self::MIN_FRAME_BYTES), or above 1 GiB.
    #[must_use]
    #[track_caller]
    pub fn max_control_frame_bytes(mut self, bytes: usize) -> Self {
        assert_frame(bytes);
        self.max_control_frame_bytes = bytes;
        self
    }

    /// Sets the longest event, in bytes of its encoding. Default 8 MiB and 4 KiB: an event that carries 8 MiB of data,
    /// and its own fields besides.
    ///
    /// It bounds what one subscription holds of an event that arrives in pieces. Memory grows with what has arrived, not
    /// with what was announced. Where it is raised, raise
    /// its `max_reassembly_bytes` to two or three of them.
    #[must_use]
    pub fn max_event_bytes(mut self, bytes: usize) -> Self {
        self.max_event_bytes = bytes;
        self
    }

    /// Sets the most MessagePack values, nested ones counted, in one frame or in one event that came in pieces. Default
    /// 1 Mi (2^20).
    ///
    /// One byte on the wire can decode to a value of any size: a mebibyte of `nil` into `Vec<Option<[u64; 32]>>` takes
    /// 800 MB. Raise it for events that really are lists of millions of numbers; bytes are better sent as
    /// `bytes::Bytes`, which is one value. A data frame of the default size cannot hold as many.
    #[must_use]
    pub fn max_items(mut self, items: u64) -> Self {
        self.max_items = items;
        self
    }

    /// Sets how deep MessagePack arrays and maps may be nested. Default, and maximum, 64.
    ///
    /// Decoding recurses for some types, and each level costs stack.
    ///
    /// # Panics
    ///
    /// Above [`MAX_DEPTH`](Self::MAX_DEPTH).
    #[must_use]
    #[track_caller]
    pub fn max_depth(mut self, depth: usize) -> Self {
        assert!(depth <= Self::MAX_DEPTH, "expected max_depth to be at most {}, got {depth}", Self::MAX_DEPTH);
        self.max_depth = depth;
        self
    }

    #[doc(hidden)]
    pub fn data_frame_bytes(&self) -> usize {
        self.max_data_frame_bytes
    }

    #[doc(hidden)]
    pub fn control_frame_bytes(&self) -> usize {
        self.max_control_frame_bytes
    }

    #[doc(hidden)]
    pub fn event_bytes(&self) -> usize {
        self.max_event_bytes
    }

    #[doc(hidden)]
    pub fn items(&self) -> u64 {
        self.max_items
    }

    #[doc(hidden)]
    pub fn depth(&self) -> usize {
        self.max_depth
    }

    /// How many bytes of events are put into one frame. Default 64 KiB.
    #[doc(hidden)]
    pub fn batch_bytes(&self) -> usize {
        self.max_data_frame_bytes / 4
    }

    /// The longest event that goes into one frame, and the size of the pieces of a longer one. Default 128 KiB.
    #[doc(hidden)]
    pub fn chunk_bytes(&self) -> usize {
        self.max_data_frame_bytes / 2
    }

    /// How much of a message or a name is told to the other side. Default 16 KiB.
    #[doc(hidden)]
    pub fn text_bytes(&self) -> usize {
        self.max_control_frame_bytes / 4
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_data_frame_bytes: 256 * KIB,
            max_control_frame_bytes: 64 * KIB,
            max_event_bytes: 8 * MIB + 4 * KIB,
            max_items: 1 << 20,
            max_depth: Self::MAX_DEPTH,
        }
    }
}

#[track_caller]
fn assert_frame(bytes: usize) {
    let bounds = Limits::MIN_FRAME_BYTES..=1024 * MIB;
    assert!(bounds.contains(&bytes), "expected a frame limit of {bounds:?} bytes, got {bytes}");
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let limits = Limits::default();
        assert_eq!(limits.data_frame_bytes(), 262_144);
        assert_eq!(limits.batch_bytes(), 65_536);
        assert_eq!(limits.chunk_bytes(), 131_072);
        assert_eq!(limits.control_frame_bytes(), 65_536);
        assert_eq!(limits.event_bytes(), 8_392_704);
        assert_eq!((limits.items(), limits.depth()), (1_048_576, 64));
    }

    #[test]
    #[should_panic(expected = "expected a frame limit of 4096..=1073741824 bytes, got 100")]
    fn a_frame_has_room_for_its_header() {
        let _ = Limits::default().max_data_frame_bytes(100);
    }

    #[test]
    #[should_panic(expected = "expected max_depth to be at most 64, got 65")]
    fn depth_is_bounded_by_the_stack_of_the_check() {
        let _ = Limits::default().max_depth(65);
    }
}
