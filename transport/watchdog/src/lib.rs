//! [`Watch`]: a run of a test that hangs is a failure, and its seed is known, within [a minute](LIMIT).
//!
//! ```text
//!   test:      begin(17) ── begin(18) ── …hangs          one thread for the whole process looks every second
//!   watchdog:                              ── 60 s ──►   "seed 18: no end after 60s", and the process is aborted
//! ```
//!
//! A task that never waits can only be ended with its process; so this is what it does, for whoever hangs. It is for tests
//! with a seed, an input or a case, and for those that start further processes; what they name must be enough to run it again.
//!
//! ```
//! use aqueduct_watchdog::Watch;
//!
//! let watch = Watch::over("SEED=");
//! for seed in 0..1000 {
//!     watch.begin(seed);
//!     // … what may hang
//! }
//! ```

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

/// How long a run may take, or may show no progress: several times what the slowest takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Something that must come to its end, or [go on](Self::begin), within [`LIMIT`]. Dropping it ends the watch.
pub struct Watch {
    entry: Arc<Entry>,
}

struct Entry {
    what: String,
    number: AtomicU64,
    /// In which second it went on last.
    since: AtomicU64,
    limit: Duration,
}

/// Everything that is watched.
#[derive(Default)]
struct Watchdog {
    entries: Mutex<Vec<Weak<Entry>>>,
    /// Seconds of the watching thread. Those who are watched read no clock: it is cheaper, theirs may be simulated, and
    /// while a whole process is held up, none of it hangs.
    seconds: AtomicU64,
}

impl Watch {
    /// Watches what follows. `what` stands before the number in the report, as in `SEED=17`.
    pub fn over(what: impl Into<String>) -> Self {
        Self::within(LIMIT, what)
    }

    /// As [`over`](Self::over), for what takes longer by its nature: a process that is given a minute of real time.
    pub fn within(limit: Duration, what: impl Into<String>) -> Self {
        let (number, since) = (AtomicU64::new(0), AtomicU64::new(WATCHDOG.second()));
        let entry = Arc::new(Entry { what: what.into(), number, since, limit });
        WATCHDOG.entries().push(Arc::downgrade(&entry));
        Self { entry }
    }

    /// The run of this number begins.
    pub fn begin(&self, number: u64) {
        self.entry.number.store(number, Ordering::Relaxed);
        self.goes_on();
    }

    /// The run shows that it does not hang.
    pub fn goes_on(&self) {
        self.entry.since.store(WATCHDOG.second(), Ordering::Relaxed);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({self})")
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.entry.what, self.entry.number.load(Ordering::Relaxed))
    }
}

static WATCHDOG: LazyLock<Watchdog> = LazyLock::new(|| {
    let name = thread::Builder::new().name("watchdog".to_owned());
    name.spawn(watch).expect("the system can start one more thread");
    Watchdog::default()
});

impl Watchdog {
    fn entries(&self) -> MutexGuard<'_, Vec<Weak<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn second(&self) -> u64 {
        self.seconds.load(Ordering::Relaxed)
    }

    /// Who has not gone on for too long.
    fn hangs(&self) -> Option<Watch> {
        let (mut entries, now) = (self.entries(), self.second());
        entries.retain(|entry| entry.strong_count() > 0);
        let mut alive = entries.iter().filter_map(Weak::upgrade);
        let late = |entry: &Arc<Entry>| Duration::from_secs(now.saturating_sub(entry.since())) >= entry.limit;
        alive.find(late).map(|entry| Watch { entry })
    }
}

impl Entry {
    fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }
}

#[expect(clippy::disallowed_methods, reason = "what hangs does so in real time")]
fn watch() {
    loop {
        thread::sleep(Duration::from_secs(1));
        WATCHDOG.seconds.fetch_add(1, Ordering::Relaxed);
        if let Some(watch) = WATCHDOG.hangs() {
            // Not by a macro: what tests print is kept until they end.
            let message = format!("\n{watch}: no end after {:?} of real time, so it hangs\n", watch.entry.limit);
            let _ = io::stderr().write_all(message.as_bytes());
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_go_on_hangs_and_it_is_named() {
        let dog = Watchdog::default();
        let entry = |what: &str, limit| {
            let (what, number, since) = (what.to_owned(), AtomicU64::new(17), AtomicU64::new(0));
            let entry = Arc::new(Entry { what, number, since, limit });
            dog.entries().push(Arc::downgrade(&entry));
            entry
        };
        let brisk = entry("brisk ", Duration::from_secs(3600));
        assert!(dog.hangs().is_none());
        let hanging = entry("SEED=", Duration::ZERO);
        assert_eq!(dog.hangs().map(|watch| watch.to_string()).as_deref(), Some("SEED=17"));
        drop(hanging);
        assert!(dog.hangs().is_none() && dog.entries().len() == 1);
        drop(brisk);
    }
}
