//! The trace of a run: a rolling hash over everything that happened and when, and on request the same as text.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// What becomes of the text of a trace. The hash is always kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextLog {
    /// No text: the fastest, and the default.
    #[default]
    Off,
    /// The lines are kept for [`Report::log`](crate::Report::log).
    Keep,
    /// The lines go to standard error as they happen, so that a run that hangs shows where.
    Print,
}

/// Hash and text of what happened so far.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    text_log: TextLog,
    lines: Vec<String>,
    names: BTreeMap<IpAddr, Arc<str>>,
}

impl Trace {
    pub(crate) fn new(text_log: TextLog) -> Self {
        Self { hash: 0, events: 0, text_log, lines: Vec::new(), names: BTreeMap::new() }
    }

    /// From now on the text calls the host at `ip` by `name`.
    pub(crate) fn name(&mut self, ip: IpAddr, name: Arc<str>) {
        self.names.insert(ip, name);
    }

    /// Adds something the network did with a datagram.
    pub(crate) fn datagram(&mut self, at: Duration, what: &str, route: (SocketAddr, SocketAddr), contents: &[u8]) {
        self.mix_address(route.0);
        self.mix_address(route.1);
        self.add(at, what, contents);
        if self.text_log != TextLog::Off {
            let (from, to) = (self.describe(route.0), self.describe(route.1));
            self.line(at, format_args!("{what:<9} {from} > {to} {} bytes", contents.len()));
        }
    }

    /// Adds something a test or the simulator wants to have in the trace.
    pub(crate) fn note(&mut self, at: Duration, what: &str, bytes: &[u8]) {
        self.add(at, what, bytes);
        if self.text_log != TextLog::Off {
            self.line(at, format_args!("{what} {bytes:02x?}"));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    fn add(&mut self, at: Duration, what: &str, bytes: &[u8]) {
        self.events += 1;
        self.mix(at.as_nanos() as u64);
        self.mix_bytes(what.as_bytes());
        self.mix_bytes(bytes);
    }

    fn line(&mut self, at: Duration, text: std::fmt::Arguments<'_>) {
        let line = format!("{:>11.6} {text} #{:016x}", at.as_secs_f64(), self.hash);
        match self.text_log {
            TextLog::Off => {}
            TextLog::Keep => self.lines.push(line),
            TextLog::Print => eprintln!("{line}"),
        }
    }

    fn describe(&self, address: SocketAddr) -> String {
        match self.names.get(&address.ip()) {
            Some(name) => format!("{name}:{}", address.port()),
            None => address.to_string(),
        }
    }

    fn mix_address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => self.mix(u64::from(u32::from(ip))),
            IpAddr::V6(ip) => self.mix_bytes(&ip.octets()),
        }
        self.mix(u64::from(address.port()));
    }

    /// Eight bytes at a time: byte by byte, the hash would be the slowest part of a run in debug mode.
    fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn mix(&mut self, word: u64) {
        let mixed = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95);
        self.hash = mixed ^ (mixed >> 32);
    }
}

/// Describes where two traces part, with the lines before it; `None` if they are equal.
pub(crate) fn first_divergence(first: &[String], second: &[String]) -> Option<String> {
    const END: &str = "(the end)";
    let at = (0..first.len().max(second.len())).find(|&at| first.get(at) != second.get(at))?;
    let before: String = first[at.saturating_sub(3)..at].iter().map(|line| format!("\n    {line}")).collect();
    let line = |lines: &[String]| lines.get(at).map_or(END.to_owned(), Clone::clone);
    Some(format!("at trace event {at}:{before}\n  1 {}\n  2 {}", line(first), line(second)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(notes: &[(u64, &str, &[u8])]) -> u64 {
        let mut trace = Trace::new(TextLog::Off);
        for (ms, what, bytes) in notes {
            trace.note(Duration::from_millis(*ms), what, bytes);
        }
        trace.hash()
    }

    #[test]
    fn time_words_bytes_and_order_all_count() {
        let base = hash_of(&[(1, "a", &[0]), (2, "b", &[])]);
        assert_eq!(base, hash_of(&[(1, "a", &[0]), (2, "b", &[])]));
        assert_ne!(base, hash_of(&[(1, "a", &[0]), (3, "b", &[])]));
        assert_ne!(base, hash_of(&[(1, "a", &[0]), (2, "c", &[])]));
        assert_ne!(base, hash_of(&[(1, "a", &[0, 0]), (2, "b", &[])]));
        assert_ne!(base, hash_of(&[(2, "b", &[]), (1, "a", &[0])]));
    }

    #[test]
    fn the_first_divergence_is_shown_with_what_came_before() {
        let lines = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(first_divergence(&lines("a b"), &lines("a b")), None);
        let text = first_divergence(&lines("a b c"), &lines("a b d")).unwrap();
        assert_eq!(text, "at trace event 2:\n    a\n    b\n  1 c\n  2 d");
        assert!(first_divergence(&lines("a b"), &lines("a")).unwrap().ends_with("1 b\n  2 (the end)"));
    }
}
