//! Bugs that are planted on purpose, one at a time, to see that the tests find them.
//!
//! They are compiled only with `--cfg aqueduct_bugs`; otherwise [`bug!`] is `false`, and nothing of them is left. Which one is on
//! is said by the environment variable `AQUEDUCT_BUG`, which is read once. `.ci/planted_bugs` builds the tests so, switches on one
//! after the other, and fails if one is not found. Each crate lists its own: dispatcher here, stage and transport in their `bugs.rs`.
//!
//! | bug | what is wrong | found by | with |
//! |---|---|---|---|
//! | `ServedStaysFirst` | the subscriber with the largest demand stays the first as long as it has any | laws, by_demand | seed 78 |
//! | `CancelledDemandStays` | what a subscriber wanted that has left still counts as wanted | laws, by_demand | seed 1 |
//! | `SelectorOfOneIgnored` | the selector of the only subscriber is not asked | laws, by_demand_with_selectors | seed 2 |
//! | `BlockedIsPassed` | what is given back lets newer events past one that waits for its subscriber | laws, by_demand_with_selectors | seed 1 |
//! | `SlowestLeftOut` | a broadcast goes on without a subscriber that has no demand | laws, broadcast | seed 1 |
//! | `HashRoundedUp` | a key near the edge of its partition goes to the next one | partition::key::tests | no seed |
//! | `GivenBackBehind` | what is given back to a partition stands behind what waits there | laws, three_partitions_that_block | seed 4 |
//! | `MarkerTooEarly` | a marker passes before the last event that was there before it | laws, three_partitions_that_block | seed 1 |
//! | `NewestDropped` | a full buffer that is to keep the newest drops them | buffer::tests | no seed |

/// Whether a planted bug is on.
#[cfg(aqueduct_bugs)]
#[macro_export]
macro_rules! bug {
    ($bug:ident) => {
        $crate::bugs::is_on(stringify!($bug))
    };
}

/// Whether a planted bug is on: never.
#[cfg(not(aqueduct_bugs))]
macro_rules! bug {
    ($bug:ident) => {
        false
    };
}

#[cfg(not(aqueduct_bugs))]
pub(crate) use bug;

#[cfg(aqueduct_bugs)]
pub use crate::bug;

/// Whether the bug of this name is on.
#[cfg(aqueduct_bugs)]
pub fn is_on(name: &str) -> bool {
    static ON: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| std::env::var("AQUEDUCT_BUG").unwrap_or_default());
    *ON == name
}
