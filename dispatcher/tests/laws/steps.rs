//! What happens to a dispatcher, in a random order.

use std::panic::resume_unwind;
use std::sync::Arc;

use aqueduct_dispatcher::Interest;

/// What a subscriber takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Taste {
    /// Everything; it has no selector.
    All,
    /// Everything; it has a selector.
    Selected,
    Even,
    Odd,
    Third,
    Nothing,
    /// Everything, but its selector panics at some events.
    Panics,
}

impl Taste {
    /// Those that leave events to others are there more often: what waits for one of them is in front of the others.
    const EACH: [Self; 10] = [
        Self::All,
        Self::Selected,
        Self::Even,
        Self::Odd,
        Self::Even,
        Self::Odd,
        Self::Third,
        Self::Third,
        Self::Nothing,
        Self::Panics,
    ];

    /// `None` where the selector panics.
    pub(crate) fn accepts(self, event: u64) -> Option<bool> {
        match self {
            Self::All | Self::Selected => Some(true),
            Self::Even => Some(event.is_multiple_of(2)),
            Self::Odd => Some(!event.is_multiple_of(2)),
            Self::Third => Some(event.is_multiple_of(3)),
            Self::Nothing => Some(false),
            Self::Panics => (event % 20 != 17).then_some(true),
        }
    }

    pub(crate) fn interest(self, lane: Option<usize>) -> Interest<u64> {
        let partition = lane.map(Into::into);
        if self == Self::All {
            return Interest { selector: None, partition };
        }
        let selector = move |event: &u64| self.accepts(*event).unwrap_or_else(|| resume_unwind(Box::new("taste")));
        Interest { selector: Some(Arc::new(selector)), partition }
    }
}

/// What happens to a dispatcher. A number stands for one of the subscribers that are there, as its remainder says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Subscribe(Taste, usize),
    Ask(usize, u64),
    /// The producer answers all of its demand.
    Produce,
    /// The producer emits events that nobody asked for.
    Surprise(u64),
    /// A subscriber leaves and hands the last `n` of its events back: at once, or when the others have been served.
    Leave(usize, usize, When),
    /// Asking and leaving once more after the end.
    Ghost(usize),
    Info,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum When {
    AtOnce,
    Later,
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub(crate) fn steps(&mut self, selectors: bool) -> Vec<Step> {
        (0..self.below(40)).map(|_| self.step(selectors)).collect()
    }

    pub(crate) fn step(&mut self, selectors: bool) -> Step {
        let who = self.below(1 << 16) as usize;
        match self.below(34) {
            0..4 => Step::Subscribe(if selectors { Taste::EACH[self.below(10) as usize] } else { Taste::All }, who),
            4..16 => Step::Ask(who, self.below(30)),
            16 if self.below(10) == 0 => Step::Ask(who, u64::MAX),
            16..24 => Step::Produce,
            24..26 => Step::Surprise(1 + self.below(19)),
            26 => Step::Leave(who, self.below(20) as usize, When::AtOnce),
            27..30 => Step::Leave(who, self.below(20) as usize, When::Later),
            30..32 => Step::Ghost(who),
            _ => Step::Info,
        }
    }
}
