//! The determinism shim: on a thread that called [`enter`], every source of entropy and every clock of the operating
//! system answers from the seed and from the virtual time.
//!
//! Real crates draw entropy in many places nobody can inject a generator into: ring's key shares, rustls' hellos, quinn's
//! connection ids and reset keys, `rand::rng()`, the keys of `HashMap`. All of them end in three functions of libc, which
//! this file defines for the whole test binary; threads that did not enter reach the kernel as always.
//!
//! Rules: one fresh thread per seed, because thread-local generators must start unseeded; and a thread inside never
//! blocks with a timeout, because its clock stands still.
//!
//! Linux on x86-64 only. Elsewhere [`enter`] changes nothing and [`is_effective`] says so.
#![expect(unsafe_code, reason = "functions of libc are defined here; nothing else in the crate is unsafe")]

use std::cell::Cell;
use std::time::Duration;

use rand::TryRngCore;
use rand::rngs::OsRng;

/// Whether this platform has the shim.
pub(crate) const IS_SUPPORTED: bool = cfg!(all(target_os = "linux", target_arch = "x86_64"));

/// What the wall clock shows when a simulation begins: 2026-01-01T00:00:00Z, in seconds since 1970. Certificates made in
/// a simulation are valid at that time.
pub(crate) const EPOCH_SECS: i64 = 1_767_225_600;

/// What the monotonic clock shows when a simulation begins, in seconds: not 0, so that code may subtract from it.
const MONOTONIC_SECS: i64 = 1_000_000;

thread_local! {
    /// The state of the entropy stream; `None` outside a simulation.
    static ENTROPY: Cell<Option<u64>> = const { Cell::new(None) };
    /// Virtual nanoseconds since the simulation began; `None` outside one.
    static VIRTUAL_NANOS: Cell<Option<u64>> = const { Cell::new(None) };
    /// How many calls for entropy were answered here.
    static ANSWERED: Cell<u64> = const { Cell::new(0) };
}

/// From now on this thread's entropy comes from `seed`, and its clocks stand at the epoch.
pub(crate) fn enter(seed: u64) {
    ENTROPY.set(Some(seed ^ 0x9E37_79B9_7F4A_7C15));
    VIRTUAL_NANOS.set(Some(0));
}

/// Gives this thread back to the operating system.
pub(crate) fn leave() {
    ENTROPY.set(None);
    VIRTUAL_NANOS.set(None);
}

/// Moves this thread's clocks to `since_start`. The simulator calls it whenever virtual time has advanced.
pub(crate) fn publish_now(since_start: Duration) {
    if VIRTUAL_NANOS.get().is_some() {
        VIRTUAL_NANOS.set(Some(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX)));
    }
}

/// Whether entropy on this thread really comes from the seed, tried by drawing some of it the way most crates do.
pub(crate) fn is_effective() -> bool {
    let before = ANSWERED.get();
    let drawn = OsRng.try_next_u64();
    drawn.is_ok() && ANSWERED.get() > before
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod interposers {
    use super::*;

    /// # Safety
    /// The contract of getrandom(2).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, flags: libc::c_uint) -> isize {
        // `try_with`, as this may be called while the thread is being torn down.
        let Ok(Some(mut state)) = ENTROPY.try_with(Cell::get) else {
            // SAFETY: the caller's promises are passed on unchanged.
            return unsafe { kernel(libc::SYS_getrandom, buffer as i64, len as i64, i64::from(flags), 0, 0, 0) }
                as isize;
        };
        for at in (0..len).step_by(8) {
            let word = splitmix(&mut state).to_le_bytes();
            // SAFETY: the caller promises `len` writable bytes; at most that many are written, none is read.
            unsafe { std::ptr::copy_nonoverlapping(word.as_ptr(), buffer.add(at), word.len().min(len - at)) };
        }
        ENTROPY.set(Some(state));
        ANSWERED.set(ANSWERED.get() + 1);
        len as isize
    }

    /// # Safety
    /// The contract of clock_gettime(2).
    #[unsafe(no_mangle)]
    unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
        let Ok(Some(nanos)) = VIRTUAL_NANOS.try_with(Cell::get) else {
            // SAFETY: the caller's promises are passed on unchanged.
            return unsafe { kernel(libc::SYS_clock_gettime, i64::from(clock), time as i64, 0, 0, 0, 0) }
                as libc::c_int;
        };
        let base = if clock == libc::CLOCK_REALTIME { EPOCH_SECS } else { MONOTONIC_SECS };
        let (seconds, rest) = ((nanos / 1_000_000_000) as i64, (nanos % 1_000_000_000) as i64);
        // SAFETY: the caller promises that `time` is valid for writing.
        unsafe { time.write(libc::timespec { tv_sec: base + seconds, tv_nsec: rest }) };
        0
    }

    /// ring's getrandom 0.2 calls `syscall(SYS_getrandom, …)`; every other system call goes to the kernel.
    ///
    /// # Safety
    /// The contract of syscall(2). It is variadic in C; on x86-64 seven integers arrive in the same places.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn syscall(number: i64, a: i64, b: i64, c: i64, d: i64, e: i64, f: i64) -> i64 {
        if number == libc::SYS_getrandom {
            // SAFETY: these are the arguments of getrandom(2), with the caller's promises.
            return unsafe { getrandom(a as *mut u8, b as usize, c as libc::c_uint) } as i64;
        }
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { kernel(number, a, b, c, d, e, f) }
    }

    /// Makes the system call, and turns an error into -1 and `errno` as libc does.
    ///
    /// # Safety
    /// The contract of the system call `number`.
    unsafe fn kernel(number: i64, a: i64, b: i64, c: i64, d: i64, e: i64, f: i64) -> i64 {
        let mut result = number;
        // SAFETY: the calling convention of Linux on x86-64: the kernel changes rax, rcx and r11 only.
        unsafe {
            std::arch::asm!("syscall", inlateout("rax") result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
                in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        if (-4095..0).contains(&result) {
            // SAFETY: libc promises a valid pointer to this thread's `errno`.
            unsafe { *libc::__errno_location() = -result as libc::c_int };
            return -1;
        }
        result
    }

    /// The SplitMix64 generator: every state gives a full-period stream, and one `u64` is all its state.
    fn splitmix(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = *state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }
}

#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    fn on_a_fresh_thread<T: Send>(seed: u64, f: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            enter(seed);
            let answer = f();
            leave();
            answer
        };
        thread::scope(|scope| scope.spawn(inside).join().expect("the thread does not panic"))
    }

    fn draw() -> (u64, Option<u64>, Vec<u32>) {
        (rand::random(), OsRng.try_next_u64().ok(), HashSet::from([1, 2, 3, 4, 5, 6, 7, 8]).into_iter().collect())
    }

    #[test]
    fn every_kind_of_entropy_comes_from_the_seed() {
        assert_eq!(on_a_fresh_thread(1, draw), on_a_fresh_thread(1, draw));
        assert_ne!(on_a_fresh_thread(1, draw), on_a_fresh_thread(2, draw));
    }

    #[test]
    fn it_is_effective_inside_and_only_inside() {
        assert!(on_a_fresh_thread(1, is_effective));
        assert!(!is_effective());
    }

    #[test]
    fn the_kernel_answers_other_threads() {
        on_a_fresh_thread(1, || assert_ne!(thread::scope(|s| s.spawn(draw).join().unwrap()), draw()));
    }

    #[test]
    fn clocks_show_the_published_time() {
        #[expect(clippy::disallowed_methods, reason = "the clocks of the operating system are what is tested")]
        on_a_fresh_thread(1, || {
            let (wall, monotonic) = (std::time::SystemTime::now(), std::time::Instant::now());
            assert_eq!(wall.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64, EPOCH_SECS);
            publish_now(Duration::from_millis(1500));
            assert_eq!(wall.elapsed().unwrap(), Duration::from_millis(1500));
            assert_eq!(monotonic.elapsed(), Duration::from_millis(1500));
        });
    }
}
