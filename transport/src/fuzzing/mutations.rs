//! [`Mutator`]: inputs from other inputs, as fuzzers make them, from a seed.

use super::input::EDGES;

/// Makes inputs out of a corpus. The same seed gives the same ones.
pub(super) struct Mutator {
    corpus: Vec<Vec<u8>>,
    state: u64,
}

impl Mutator {
    pub(super) fn new(corpus: Vec<Vec<u8>>, seed: u64) -> Self {
        assert!(!corpus.is_empty(), "there is something to begin with");
        Self { corpus, state: seed }
    }

    /// The next input: mostly one of the corpus with a few changes, and now and then random bytes.
    pub(super) fn next(&mut self) -> Vec<u8> {
        if self.below(16) == 0 {
            let length = self.below(200);
            return (0..length).map(|_| self.byte()).collect();
        }
        let mut input = self.pick();
        for _ in 0..1 + self.below(4) {
            self.change(&mut input);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let Some(here) = input.get_mut(at) else {
            let byte = self.byte();
            return input.push(byte);
        };
        match self.below(9) {
            0 => *here ^= 1 << self.below(8),
            1 => *here = self.byte(),
            2 => *here = here.wrapping_add(self.byte() % 9).wrapping_sub(4),
            3 => input.truncate(at),
            4 => {
                let to = at + self.below(input.len() - at + 1);
                input.drain(at..to);
            }
            5 => {
                let other = self.pick();
                let (from, length) = (self.below(other.len() + 1), self.below(40));
                let piece = other[from..].iter().take(length).copied().collect::<Vec<_>>();
                input.splice(at..at, piece);
            }
            6 => {
                let other = self.pick();
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            7 => {
                let to = at + self.below((input.len() - at).min(64) + 1);
                let times = 1 + self.below(20);
                let piece = input[at..to].repeat(times);
                input.splice(at..at, piece);
            }
            _ => {
                let number = EDGES[self.below(EDGES.len())];
                let width = [1, 2, 4, 8][self.below(4)];
                let bytes = number.to_be_bytes();
                let to = input.len().min(at + width);
                input.splice(at..to, bytes[8 - width..].iter().copied());
            }
        }
    }

    fn pick(&mut self) -> Vec<u8> {
        let at = self.below(self.corpus.len());
        self.corpus[at].clone()
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    /// The next number below `bound`, of splitmix64.
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// Longer inputs find nothing that these do not, and take longer.
const LONGEST: usize = 8192;
