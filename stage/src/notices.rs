//! [`Notices`]: lets what others can cause be logged so often, and counts what is left out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Bounds how often each message is logged: [16](AT_ONCE) may come at once, and one every [second](EVERY) after that. Whoever can
/// make this process log (another node, a dialler, whoever sends a datagram) cannot fill its disk so, or keep it busy.
///
/// To be used through the macro `notice!`. A message that comes after others of its kind were left out says how many
/// (`left_out`), and [`left_out`](Self::left_out) counts all of them.
#[derive(Debug, Default)]
pub struct Notices {
    /// By message. They are written in the program, so there are few.
    kinds: Mutex<BTreeMap<&'static str, Kind>>,
    left_out: AtomicU64,
}

#[derive(Debug)]
struct Kind {
    /// When as many as came would have been logged one every second.
    full_at: Instant,
    /// How many were left out since the last that was not.
    left_out: u64,
}

impl Notices {
    /// Whether a message is logged now: `Some` with how many of its kind were left out before it, if any were.
    pub fn admit(&self, message: &'static str) -> Option<Option<u64>> {
        let now = Instant::now();
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(message).or_insert(Kind { full_at: now, left_out: 0 });
        let full_at = kind.full_at.max(now) + EVERY;
        if full_at > now + EVERY * AT_ONCE {
            kind.left_out += 1;
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        kind.full_at = full_at;
        let left_out = std::mem::take(&mut kind.left_out);
        Some((left_out > 0).then_some(left_out))
    }

    /// How many messages were left out.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}

/// Logs a message that others can cause, unless it was logged too often lately: `notice!(notices, warn, "message", field = 1)`.
#[doc(hidden)]
#[macro_export]
macro_rules! notice {
    ($notices:expr, $level:ident, $message:literal $(, $($fields:tt)*)?) => {
        if let Some(left_out) = $notices.admit($message) {
            tracing::$level!($($($fields)*,)? left_out, $message);
        }
    };
}

const EVERY: Duration = Duration::from_secs(1);
const AT_ONCE: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_is_logged_so_often_and_says_how_many_were_left_out() {
        let notices = Notices::default();
        let logged = (0..1000).filter(|_| notices.admit("a").is_some()).count();
        assert_eq!((logged, notices.left_out()), (16, 984));
        assert_eq!(notices.admit("b"), Some(None), "another message");
        tokio::time::advance(EVERY).await;
        assert_eq!((notices.admit("a"), notices.admit("a")), (Some(Some(984)), None));
        tokio::time::advance(EVERY * 100).await;
        assert_eq!((notices.admit("a"), notices.admit("a")), (Some(Some(1)), Some(None)));
    }
}
