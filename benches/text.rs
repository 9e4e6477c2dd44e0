//! English-like text of any size from a seed, with counts that are known before anybody counts.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};

use hashbrown::HashSet;

/// A text of exactly so many bytes that holds exactly so many distinct words: an iterator of chunks.
///
/// The same arguments give the same bytes on every machine and in every version of this file's dependencies: only integers
/// are involved, and the generator of random numbers is the small one below.
///
/// * Words have 2 to 12 letters, the frequent ones fewer; letters are as frequent as in English.
/// * The word of rank *r* is about *1/r* as frequent as the first (Zipf's law), in steps: ranks 2 and 3 alike, 4 to 7 alike.
/// * Sentences start with a capital and end with a full stop, some words are followed by a comma, lines have about 72
///   characters. The text ends with a line break. A word is a run of ASCII letters, and case does not distinguish words.
///
/// # Examples
///
/// ```
/// use aqueduct_benches::text::Text;
///
/// let mut text = Text::new(1, 100, 10_000)?;
/// let mut bytes = Vec::new();
/// text.write_to(&mut bytes)?;
/// assert_eq!(bytes.len(), 10_000);
/// assert_eq!(text.counts().len(), 100);
/// assert!(text.counts().iter().all(|(_, count)| *count > 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Text {
    random: SplitMix64,
    /// By rank, the most frequent first, in lower case.
    words: Vec<Vec<u8>>,
    /// How often each word has been written, by rank.
    counts: Vec<u64>,
    /// Words below this rank have been written at least once for certain.
    introduced: usize,
    /// Room that the words from `introduced` on need.
    owed_bytes: u64,
    written_bytes: u64,
    total_bytes: u64,
    line_bytes: usize,
    starts_sentence: bool,
}

impl Text {
    /// Describes a text of `bytes` bytes with `distinct_words` distinct words.
    ///
    /// # Errors
    ///
    /// [`TextError`] when that many distinct words do not fit, or when a text without any word is asked for.
    pub fn new(seed: u64, distinct_words: usize, bytes: u64) -> Result<Self, TextError> {
        let mut random = SplitMix64(seed);
        if distinct_words == 0 {
            return Err(TextError::NoWords);
        }
        // Before anything is allocated: a mistyped size must not ask for all memory first.
        let least = distinct_words as u64 * (MIN_LETTERS + MAX_SEPARATOR_BYTES) as u64;
        if bytes < least {
            return Err(TextError::TooSmall { bytes, needed_bytes: least });
        }
        let words = vocabulary(&mut random, distinct_words);
        let owed_bytes = words.iter().map(|word| room_for(word)).sum();
        if bytes < owed_bytes {
            return Err(TextError::TooSmall { bytes, needed_bytes: owed_bytes });
        }
        Ok(Self {
            random,
            counts: vec![0; words.len()],
            words,
            introduced: 0,
            owed_bytes,
            written_bytes: 0,
            total_bytes: bytes,
            line_bytes: 0,
            starts_sentence: true,
        })
    }

    /// Writes what is left of the text.
    ///
    /// # Errors
    ///
    /// The error of `out`.
    pub fn write_to(&mut self, mut out: impl Write) -> io::Result<()> {
        for chunk in self {
            out.write_all(&chunk)?;
        }
        out.flush()
    }

    /// Returns each word, in lower case, and how often it has been written so far: the most frequent first, words of
    /// equal frequency in alphabetical order.
    pub fn counts(&self) -> Vec<(&str, u64)> {
        let mut counts: Vec<_> = self
            .words
            .iter()
            .map(|word| str::from_utf8(word).expect("words are made of ASCII letters"))
            .zip(self.counts.iter().copied())
            .collect();
        counts.sort_unstable_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then(a.cmp(b)));
        counts
    }

    /// The rank of the word to write next, or `None` when no further word fits.
    fn next_rank(&mut self) -> Option<usize> {
        let left_bytes = self.total_bytes - self.written_bytes;
        let any_fits = left_bytes >= self.owed_bytes + (MAX_LETTERS + MAX_SEPARATOR_BYTES) as u64;
        if self.introduced == self.words.len() {
            return any_fits.then(|| self.random_rank());
        }
        // Every word must appear: they are introduced one by one, evenly over the whole text.
        let is_due = self.introduced as u128 * u128::from(self.total_bytes)
            <= u128::from(self.written_bytes) * self.words.len() as u128;
        if any_fits && !is_due {
            return Some(self.random_rank());
        }
        let rank = self.introduced;
        self.introduced += 1;
        self.owed_bytes -= room_for(&self.words[rank]);
        Some(rank)
    }

    /// A rank from 0, by Zipf's law in steps: first the power of two, then evenly within it.
    fn random_rank(&mut self) -> usize {
        let bands = u64::from(self.words.len().ilog2()) + 1;
        loop {
            let first = 1 << self.random.below(bands);
            let rank = first + self.random.below(first) - 1;
            if rank < self.words.len() as u64 {
                return rank as usize;
            }
        }
    }

    fn write_word(&mut self, rank: usize, chunk: &mut Vec<u8>) {
        let before = chunk.len();
        chunk.extend_from_slice(&self.words[rank]);
        if self.starts_sentence {
            chunk[before].make_ascii_uppercase();
        }
        let mark = match self.random.below(32) {
            0..2 => Some(b'.'),
            2..5 => Some(b','),
            _ => None,
        };
        chunk.extend(mark);
        self.starts_sentence = mark == Some(b'.');
        self.line_bytes += chunk.len() - before + 1;
        if self.line_bytes > LINE_BYTES {
            chunk.push(b'\n');
            self.line_bytes = 0;
        } else {
            chunk.push(b' ');
        }
        self.counts[rank] += 1;
        self.written_bytes += (chunk.len() - before) as u64;
    }
}

impl Iterator for Text {
    type Item = Vec<u8>;

    /// Returns the next 64 KiB or a little less, always whole words.
    fn next(&mut self) -> Option<Vec<u8>> {
        if self.written_bytes == self.total_bytes {
            return None;
        }
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        while chunk.len() + MAX_LETTERS + MAX_SEPARATOR_BYTES <= CHUNK_BYTES {
            let Some(rank) = self.next_rank() else {
                // Half a word would be a new word, so the rest is blank. It is shorter than a word and fits any chunk.
                let left_bytes = self.total_bytes - self.written_bytes;
                chunk.resize(chunk.len() + left_bytes as usize, b' ');
                if let Some(last) = chunk.last_mut() {
                    *last = b'\n';
                }
                self.written_bytes = self.total_bytes;
                break;
            };
            self.write_word(rank, &mut chunk);
        }
        Some(chunk)
    }
}

/// Why a text cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextError {
    /// A text needs at least one distinct word.
    NoWords,
    /// The distinct words do not fit into the text.
    TooSmall {
        /// The size asked for.
        bytes: u64,
        /// A size that would do for this seed, or a lower bound of it when `bytes` is very far off.
        needed_bytes: u64,
    },
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWords => write!(f, "a text needs at least one distinct word"),
            Self::TooSmall { bytes, needed_bytes } => {
                write!(f, "{bytes} bytes cannot hold so many distinct words, they need at least {needed_bytes} bytes")
            }
        }
    }
}

impl Error for TextError {}

/// `count` different words, the short ones first on the whole.
fn vocabulary(random: &mut SplitMix64, count: usize) -> Vec<Vec<u8>> {
    let mut seen = HashSet::with_capacity(count);
    let mut words = Vec::with_capacity(count);
    while words.len() < count {
        // The bounds rise with the rank, so there are always far more possible words than ranks: this loop ends.
        let band = (words.len() + 1).ilog2() as usize;
        let shortest = (MIN_LETTERS + band / 4).min(MAX_LETTERS);
        let longest = (MIN_LETTERS + 2 + band / 2).min(MAX_LETTERS);
        let letters = shortest + random.below((longest - shortest + 1) as u64) as usize;
        let word: Vec<u8> = (0..letters).map(|_| LETTERS[random.below(LETTERS.len() as u64) as usize]).collect();
        if seen.insert(word.clone()) {
            words.push(word);
        }
    }
    words
}

fn room_for(word: &[u8]) -> u64 {
    (word.len() + MAX_SEPARATOR_BYTES) as u64
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014. Written out because the generators of
/// the `rand` crate may change with its version, and a seed in a bug report must stay good.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to, but not including, `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

const CHUNK_BYTES: usize = 64 * 1024;
const LINE_BYTES: usize = 72;
const MIN_LETTERS: usize = 2;
const MAX_LETTERS: usize = 12;
/// A comma or a full stop, and the blank or line break after it.
const MAX_SEPARATOR_BYTES: usize = 2;
/// Each letter as often as in a hundred letters of English.
const LETTERS: &[u8] =
    b"eeeeeeeeeeeetttttttttaaaaaaaaooooooooiiiiiiinnnnnnnsssssshhhhhhrrrrrrddddlllluuucccmmmwwffggyyppbbvkxjqz";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::by_hand;

    fn bytes_of(text: &mut Text) -> Vec<u8> {
        let mut bytes = Vec::new();
        text.write_to(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let text = |seed| bytes_of(&mut Text::new(seed, 500, 100_000).unwrap());
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
        // Pinned: a change here makes every figure measured on an older text incomparable.
        assert_eq!(str::from_utf8(&text(1)[..PINNED.len()]).unwrap(), PINNED);
    }

    const PINNED: &str = "Uxn uxn loy hpams. Nhrhlhe nsnt ugs ugs st vdtbr fsrgi, uxn uxn qjne seoet\n";

    #[test]
    fn size_and_distinct_words_are_exact() {
        for (distinct, bytes) in [(1, 6), (1, 7), (1, 100), (2, 1000), (100, 900), (3000, 100_000), (50_000, 1_000_000)]
        {
            let mut text = Text::new(7, distinct, bytes).unwrap();
            let written = bytes_of(&mut text);
            assert_eq!(written.len() as u64, bytes, "{distinct} words");
            assert_eq!(written.last(), Some(&b'\n'));
            let counted = by_hand::count(&written[..]).unwrap();
            assert_eq!(counted.distinct(), distinct, "{bytes} bytes");
            assert_eq!(counted.top(distinct), text.counts());
        }
    }

    #[test]
    fn the_tightest_text_holds_each_word_once() {
        let Err(TextError::TooSmall { needed_bytes, .. }) = Text::new(3, 1000, 4500) else { panic!("4500 bytes do") };
        assert!(Text::new(3, 1000, needed_bytes - 1).is_err());
        let mut text = Text::new(3, 1000, needed_bytes).unwrap();
        assert_eq!(bytes_of(&mut text).len() as u64, needed_bytes);
        assert!(text.counts().iter().all(|(_, count)| *count >= 1));
    }

    #[test]
    fn frequencies_fall_as_in_a_language() {
        let mut text = Text::new(5, 10_000, 3_000_000).unwrap();
        bytes_of(&mut text);
        let counts = text.counts();
        let words: u64 = counts.iter().map(|(_, count)| count).sum();
        let first_share = words / counts[0].1;
        assert!((10..20).contains(&first_share), "the first word is one in {first_share}");
        assert!(counts[0].1 > 50 * counts[100].1);
    }

    #[test]
    fn a_text_needs_words() {
        assert_eq!(Text::new(1, 0, 100).unwrap_err(), TextError::NoWords);
        assert!(Text::new(1, usize::MAX >> 8, 100).is_err());
    }
}
