//! The bugs that are planted in this crate, as `bugs` of `aqueduct-dispatcher` explains.
//!
//! | bug | what is wrong | found by | with |
//! |---|---|---|---|
//! | `MinOffByOne` | a consumer asks again only below its `min_demand` | upstream::tests | no seed |
//! | `OutstandingAskedAgain` | what is outstanding is asked for once more | upstream::tests | no seed |
//! | `EarlyEndIsComplete` | a producer that ended early counts as exhausted | upstream::tests | no seed |
//! | `RefusedHasCome` | a subscriber that was refused counts as one that has come | downstream::tests | no seed |
//! | `CancelledIsDone` | what a subscriber has in hand is forgotten as soon as it cancels | downstream::tests | no seed |
//! | `ReturnedReversed` | batches that are handed back together are given again in the wrong order | genstage, redelivery | no seed |
//! | `CumulativeTakenForMore` | an ask is taken for so many more, not for so many in all | downstream::tests | no seed |
//! | `CancelNotTold` | a subscriber that cancels is not told that its subscription has ended | genstage, subscribing | no seed |
//! | `LostSubscriberForgotten` | a producer whose last subscriber has failed ends as if its work was done | genstage, parting | no seed |
//! | `EndBeforeAcknowledged` | a stage that is exhausted ends before what it gave is acknowledged | genstage, redelivery | no seed |
//! | `BegunIsNoAttempt` | an event that a consumer failed on comes back without having been attempted | genstage, redelivery | no seed |
//! | `HandledGivenAway` | what was handled last is handed back when its stage ends in good order | genstage, redelivery | no seed |
//! | `NearIsOurs` | a graph that drains waits for another graph of its process | genstage, parting | no seed |
//! | `LateSiblingFails` | an instance fails that subscribes after its siblings saw the end of the source | graph::siblings::tests | no seed |
//! | `OneRestartTooMany` | one restart more is borne than the intensity allows | restart::tests | no seed |
//! | `WaitsInSilence` | a graph that waits in vain for a subscriber says nothing | sim life, waits | seed 1 |

#[cfg(aqueduct_bugs)]
pub use aqueduct_dispatcher::{bug, bugs::is_on};

/// Whether a planted bug is on: never.
#[cfg(not(aqueduct_bugs))]
macro_rules! bug {
    ($bug:ident) => {
        false
    };
}

#[cfg(not(aqueduct_bugs))]
pub(crate) use bug;
