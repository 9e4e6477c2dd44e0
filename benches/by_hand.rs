//! Counting words as one would write it for this one purpose, without any library: the reference for our own.
//!
//! A word is a run of ASCII letters, in lower case; every other byte separates words.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::thread;

use hashbrown::HashMap;

/// How often each word occurs.
#[derive(Debug, Default)]
pub struct Counts(HashMap<Vec<u8>, u64>);

impl Counts {
    /// Returns the number of words.
    pub fn words(&self) -> u64 {
        self.0.values().sum()
    }

    /// Returns the number of different words.
    pub fn distinct(&self) -> usize {
        self.0.len()
    }

    /// Returns the `k` most frequent words; words of equal frequency are in alphabetical order.
    pub fn top(&self, k: usize) -> Vec<(&str, u64)> {
        let mut top: Vec<_> = self
            .0
            .iter()
            .map(|(word, count)| (str::from_utf8(word).expect("words are made of ASCII letters"), *count))
            .collect();
        top.sort_unstable_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then(a.cmp(b)));
        top.truncate(k);
        top
    }

    /// Counts the words of `bytes`, which must be in lower case. Only a word never seen before is copied.
    fn add(&mut self, bytes: &[u8]) {
        for word in bytes.split(|byte| !byte.is_ascii_lowercase()).filter(|word| !word.is_empty()) {
            *self.0.entry_ref(word).or_default() += 1;
        }
    }

    fn merge(&mut self, other: Self) {
        for (word, count) in other.0 {
            *self.0.entry(word).or_default() += count;
        }
    }
}

/// Counts the words of `input` in this thread, through one buffer of 64 KiB that is put into lower case in place.
///
/// # Errors
///
/// The error of `input`.
pub fn count(mut input: impl Read) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    // The bytes before this are the beginning of a word whose end has not been read yet.
    let mut held = 0;
    loop {
        if held == buffer.len() {
            buffer.resize(2 * held, 0);
        }
        let read = input.read(&mut buffer[held..])?;
        let filled = held + read;
        buffer[held..filled].make_ascii_lowercase();
        if read == 0 {
            counts.add(&buffer[..held]);
            return Ok(counts);
        }
        let whole = buffer[held..filled].iter().rposition(|byte| !byte.is_ascii_lowercase());
        let Some(whole) = whole.map(|at| held + at) else {
            held = filled;
            continue;
        };
        counts.add(&buffer[..whole]);
        buffer.copy_within(whole..filled, 0);
        held = filled - whole;
    }
}

/// Counts the words of a file in this thread.
///
/// # Errors
///
/// When the file cannot be read.
pub fn count_file(path: &Path) -> io::Result<Counts> {
    count(File::open(path)?)
}

/// Counts the words of a file in two threads, half the text each.
///
/// # Errors
///
/// When the file cannot be read.
pub fn count_file_in_two_threads(path: &Path) -> io::Result<Counts> {
    let file_bytes = File::open(path)?.metadata()?.len();
    let middle = word_end(path, file_bytes / 2)?;
    let half = |from: u64, to: u64| {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        count(file.take(to - from))
    };
    thread::scope(|scope| {
        let second = scope.spawn(|| half(middle, file_bytes));
        let mut counts = half(0, middle)?;
        counts.merge(second.join().expect("counting does not panic")?);
        Ok(counts)
    })
}

/// The first place at or after `from` that is not inside a word.
fn word_end(path: &Path, from: u64) -> io::Result<u64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut end = from;
    for byte in io::BufReader::new(file).bytes() {
        if !byte?.is_ascii_alphabetic() {
            break;
        }
        end += 1;
    }
    Ok(end)
}

const BUFFER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DEVIL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/data/devils-dictionary.txt");

    #[test]
    fn the_real_text_has_the_documented_counts() {
        for counts in [count_file(DEVIL.as_ref()).unwrap(), count_file_in_two_threads(DEVIL.as_ref()).unwrap()] {
            assert_eq!((counts.words(), counts.distinct()), (61_571, 10_936));
            assert_eq!(counts.top(3), [("the", 4207), ("of", 2704), ("a", 1969)]);
        }
    }

    #[test]
    fn a_word_may_cross_buffers_and_end_the_file() {
        let long = "x".repeat(3 * BUFFER_BYTES + 1);
        let text = format!("{} One {long} oNE{}", " ".repeat(BUFFER_BYTES - 3), "");
        let counts = count(text.as_bytes()).unwrap();
        assert_eq!(counts.top(9), [("one", 2), (&long, 1)]);
    }

    #[test]
    fn the_middle_of_a_word_is_not_split() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let bytes = fs::read(&path).unwrap();
        for from in 0..bytes.len() {
            let end = word_end(&path, from as u64).unwrap() as usize;
            assert!(bytes[from..end].iter().all(u8::is_ascii_alphabetic));
            assert!(bytes.get(end).is_none_or(|byte| !byte.is_ascii_alphabetic()));
        }
    }
}
