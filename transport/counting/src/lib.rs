//! [`Counting`], the system's allocator with a count of what each thread holds: for tests of how much memory something takes.
//!
//! Threads count apart, so tests that run beside each other do not disturb each other. What one thread allocates and another
//! frees is counted wrongly at both.
//!
//! ```
//! use aqueduct_counting::{Counting, peak_bytes};
//!
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//!
//! let (length, bytes) = peak_bytes(|| vec![0_u8; 1000].len());
//! assert_eq!((length, bytes), (1000, 1000));
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// To be the `#[global_allocator]` of a test binary.
#[derive(Debug)]
pub struct Counting;

/// Runs something, and returns by how many bytes more than before this thread held at a time meanwhile.
///
/// What is moved counts twice while it is moved. Without [`Counting`] as the allocator, it is 0.
pub fn peak_bytes<R>(run: impl FnOnce() -> R) -> (R, usize) {
    let before = HELD.get();
    let outer = PEAK.replace(before);
    let result = run();
    let peak = PEAK.get();
    PEAK.set(outer.max(peak));
    (result, usize::try_from(peak - before).unwrap_or(0))
}

/// How many bytes this thread holds now. Only differences mean something: what another thread frees stays in the count.
///
/// Without [`Counting`] as the allocator, it is 0.
pub fn held_bytes() -> isize {
    HELD.get()
}

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // A thread that ends still frees.
    let held = HELD.try_with(|held| {
        held.set(held.get() + change);
        held.get()
    });
    if let Ok(held) = held {
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held)));
    }
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: every call goes on to the system's allocator unchanged. Counting neither allocates nor panics: the cells are
// initialised at compile time and have no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: the caller's.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(signed(size));
        // SAFETY: the caller's.
        let moved = unsafe { System.realloc(at, layout, size) };
        count(-signed(layout.size()));
        moved
    }
}
