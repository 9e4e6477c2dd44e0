//! The bugs that are planted in this crate, as `bugs` of `aqueduct-dispatcher` explains.
//!
//! | bug | what is wrong | found by | with |
//! |---|---|---|---|
//! | `CreditOffByOne` | the publisher allows itself one event more than it was told | link::answering | seed 1 |
//! | `CreditAdded` | credit is taken for what is wanted more, not in all | link::answering | seed 0 |
//! | `CreditNotRestated` | what is wanted is not said again on another stream | link::cuts | seed 1 |
//! | `ByteCreditIgnored` | events begin beyond the bytes that were allowed | link::cuts | seed 0 |
//! | `NumbersCountShrunk` | numbers count for what they took on their way, and not for what they take where they are kept | link::columns | seed 0 |
//! | `ResumeTooEarly` | a link goes on one event before the last that arrived | link::cuts | seed 0 |
//! | `ResumeTooLate` | a link goes on one event after the next | link::cuts | seed 0 |
//! | `OldStreamDelivers` | events are taken from a stream that was replaced | link::cuts | seed 0 |
//! | `OldStreamHeard` | a publisher hears a stream that was replaced | fuzzing, no_peer | input 38 |
//! | `PieceLost` | the pieces of an event go on where they stopped on another stream | fuzzing, no_peer | input 214 |
//! | `PiecesMixed` | pieces from before a cut are put together with those after it | sim link, failure_16 | seed 0 |
//! | `EndOvertakes` | the end goes out before events that may not go out yet | link::cuts | seed 0 |
//! | `EndLost` | the end is not sent again on another stream | link::cuts | seed 15 |
//! | `LastEventKeptBack` | the last event waits for another one | link::cuts | seed 0 |
//! | `AckBeforeHandling` | what has only arrived is acknowledged as handled | link::cuts | seed 0 |
//! | `AckAboveSent` | what was never sent can be acknowledged | fuzzing, no_peer | input 1262 |
//! | `AttemptNotRaised` | what is given to somebody else does not say so | link::cuts | seed 0 |
//! | `RequeueDropped` | an event of those that are handed back is forgotten | link::cuts | seed 0 |
//! | `RequeuedTwice` | an event is handed back twice | link::answering | seed 0 |
//! | `AnswerTakenAgain` | an answer that comes again is counted again | link::answering | seed 0 |
//! | `AnswersNotSaidAgain` | answers that were lost with their stream are not said again | link::answering | seed 0 |
//! | `LimitAfterAllocation` | memory is set aside for a frame before its length is judged | fuzzing, any_bytes_in_any_pieces | input 6 |
//! | `SelectorRefusalsNotAskedAgain` | what a far consumer's selector refuses costs its demand | sim link, choosy_consumers | seed 0 |
//! | `GraceAnew` | the grace of a link begins anew whenever it is connected again | link::timers::tests | no seed |
//! | `NormalFailureBelieved` | an end that is not the end of the data is believed to be it | link::inbound::tests | no seed |
//! | `ReadLost` | what a read has got is lost when something else happens at the same time | sim link, whatever_the_network_does | seed 24 |
//! | `LastHandledSwallowed` | what was handled is not told if a cancel comes in the same read | link::outbound::tests | no seed |
//! | `CancelBeforeHandled` | a link is cancelled before what its consumer has in hand is handled | link::inbound::tests | no seed |
//! | `DeadKeepsRoom` | a dead letter that was read keeps its room in the queue | channel::durable::desk::tests | no seed |
//! | `ShareOfAllNodes` | the connections of all nodes count for the share of each | connection::incarnations::tests | no seed |
//! | `ExpiredLetIn` | a subscription is taken though the certificate has expired | access, expiry | no seed |
//! | `RefusalsAreFree` | refused subscriptions cost their node nothing | connection::peers::tests | no seed |
//! | `OldSubscribersKept` | a list of subscribers that was changed is not looked at | access, expiry | no seed |

#[cfg(aqueduct_bugs)]
mod choosing_late;

#[cfg(aqueduct_bugs)]
pub(crate) use aqueduct_stage::bugs::{bug, is_on};
#[cfg(aqueduct_bugs)]
pub(crate) use choosing_late::choose_late;

/// Whether a planted bug is on: never.
#[cfg(not(aqueduct_bugs))]
macro_rules! bug {
    ($bug:ident) => {
        false
    };
}

#[cfg(not(aqueduct_bugs))]
pub(crate) use bug;
