//! What a seed has in memory: its machines share one thread, and an allocator counts what that takes.

#![expect(unsafe_code, reason = "an allocator cannot be written without; this one only counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    // Neither is made nor dropped by any code, so both can be used wherever memory is.
    static PRESENT: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The most bytes that a seed of a test had in memory at one time, and how many it may have.
pub(crate) struct Memory {
    bound: usize,
    peak: AtomicUsize,
}

impl Memory {
    pub(crate) const fn bounded(bound: usize) -> Self {
        Self { bound, peak: AtomicUsize::new(0) }
    }

    /// A seed begins, on this thread.
    pub(crate) fn begin(&self) -> Since {
        PEAK.set(PRESENT.get());
        Since(PRESENT.get())
    }

    /// It has ended, on the same thread.
    #[track_caller]
    pub(crate) fn check(&self, since: &Since) {
        let peak = usize::try_from(PEAK.get() - since.0).unwrap_or(0);
        self.peak.fetch_max(peak, Ordering::Relaxed);
        assert!(peak <= self.bound, "expected at most {} bytes in memory, got {peak}", self.bound);
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bound, peak } = self;
        write!(f, "at most {} KiB in memory in a seed, of {} KiB", peak.load(Ordering::Relaxed) >> 10, bound >> 10)
    }
}

/// What was there when a seed began.
pub(crate) struct Since(isize);

struct Counting;

impl Counting {
    fn count(bytes: isize) {
        let present = PRESENT.get() + bytes;
        PRESENT.set(present);
        PEAK.set(PEAK.get().max(present));
    }
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        Self::count(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
