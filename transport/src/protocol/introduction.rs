//! What two nodes agree on when they meet: the version they speak, what both can do, and how large anything may be.

use std::fmt;

use crate::Limits;
use crate::frame::OfferedLimits;

/// The versions of the protocol that this crate speaks.
pub(crate) const SPOKEN: Versions = Versions { oldest: 1, newest: 1 };
/// Events that wait at a subscriber can be asked back, from one that says what it has begun.
pub(crate) const REVOKE: &str = "revoke";
/// What this crate can do beyond the version.
const FEATURES: &[&str] = &[REVOKE];
/// How many features of a peer are looked at. There are far fewer; the rest is ignored, as unknown ones are.
const MAX_FEATURES: usize = 64;
/// The longest name of a feature that is looked at, in bytes.
const MAX_FEATURE_BYTES: usize = 64;

/// A range of versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) oldest: u16,
    pub(crate) newest: u16,
}

/// What one of two nodes says of itself.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) versions: Versions,
    pub(crate) features: Vec<String>,
    /// `None` from a node that does not say: it is taken to have the limits of the other one.
    pub(crate) limits: Option<OfferedLimits>,
}

/// What holds for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agreement {
    pub(crate) version: u16,
    /// What both can do, in order, each once.
    pub(crate) features: Vec<String>,
    /// The smaller of both.
    pub(crate) limits: Limits,
}

/// Two nodes do not understand each other. Both ends report it in the same words.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the dialler speaks versions {dialler} of the protocol, the listener speaks versions {listener}")]
pub(crate) struct NoCommonVersion {
    pub(crate) dialler: Versions,
    pub(crate) listener: Versions,
}

aqueduct_stage::debug_as_sentence!(NoCommonVersion);

/// What a node with these settings offers.
pub(crate) fn offer(versions: Versions, limits: &Limits) -> Offer {
    let limits = OfferedLimits {
        data_frame_bytes: limits.data_frame_bytes() as u64,
        control_frame_bytes: limits.control_frame_bytes() as u64,
        event_bytes: limits.event_bytes() as u64,
    };
    let features = FEATURES.iter().map(|feature| (*feature).to_owned()).collect();
    Offer { versions, features, limits: Some(limits) }
}

/// The listener's decision, given what it offers itself: the highest version that both speak, the features of both, and
/// the smaller limits.
///
/// `limits` are the listener's own, for what is not exchanged.
pub(crate) fn negotiate(ours: &Offer, limits: &Limits, theirs: &Offer) -> Result<Agreement, NoCommonVersion> {
    let version = ours.versions.newest.min(theirs.versions.newest);
    if !ours.versions.contain(version) || !theirs.versions.contain(version) {
        return Err(NoCommonVersion { dialler: theirs.versions, listener: ours.versions });
    }
    let features = common(&ours.features, &theirs.features);
    Ok(Agreement { version, features, limits: smaller(limits, theirs.limits) })
}

/// The dialler's view of the listener's decision. `theirs.versions` is what the listener has chosen.
///
/// # Errors
///
/// The listener chose a version that was not offered.
pub(crate) fn confirm(ours: &Offer, limits: &Limits, theirs: &Offer) -> Result<Agreement, NoCommonVersion> {
    negotiate(ours, limits, theirs)
        .map_err(|NoCommonVersion { dialler, listener }| NoCommonVersion { dialler: listener, listener: dialler })
}

impl Agreement {
    /// Whether both nodes can do this.
    pub(crate) fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|other| other == feature)
    }
}

impl Versions {
    fn contain(self, version: u16) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

fn common(ours: &[String], theirs: &[String]) -> Vec<String> {
    let theirs = theirs.iter().take(MAX_FEATURES).filter(|feature| feature.len() <= MAX_FEATURE_BYTES);
    let mut common: Vec<_> = theirs.filter(|feature| ours.contains(feature)).cloned().collect();
    common.sort_unstable();
    common.dedup();
    common
}

/// Never below what a frame needs, whatever the other node says.
fn smaller(ours: &Limits, theirs: Option<OfferedLimits>) -> Limits {
    let Some(theirs) = theirs else { return ours.clone() };
    let bytes = |theirs: u64| usize::try_from(theirs).unwrap_or(usize::MAX);
    let frame = |ours: usize, theirs: u64| ours.min(bytes(theirs)).max(Limits::MIN_FRAME_BYTES);
    ours.clone()
        .max_data_frame_bytes(frame(ours.data_frame_bytes(), theirs.data_frame_bytes))
        .max_control_frame_bytes(frame(ours.control_frame_bytes(), theirs.control_frame_bytes))
        .max_event_bytes(ours.event_bytes().min(bytes(theirs.event_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(oldest: u16, newest: u16) -> Offer {
        offer(Versions { oldest, newest }, &Limits::default())
    }

    fn with_features(features: &[&str]) -> Offer {
        Offer { features: features.iter().map(|feature| (*feature).to_owned()).collect(), ..versions(1, 1) }
    }

    fn agree(ours: &Offer, theirs: &Offer) -> Agreement {
        negotiate(ours, &Limits::default(), theirs).unwrap()
    }

    #[test]
    fn old_and_new_agree_on_the_highest_version_that_both_speak() {
        for (listener, dialler, expected) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 1), (1, 2), Some(1)),
            ((1, 2), (1, 1), Some(1)),
            ((1, 3), (2, 5), Some(3)),
            ((2, 5), (1, 3), Some(3)),
            ((1, 9), (4, 4), Some(4)),
            ((1, 1), (2, 2), None),
            ((3, 4), (1, 2), None),
            // Not a range at all.
            ((1, 4), (3, 2), None),
            ((0, u16::MAX), (u16::MAX, u16::MAX), Some(u16::MAX)),
        ] {
            let (ours, theirs) = (versions(listener.0, listener.1), versions(dialler.0, dialler.1));
            let got = negotiate(&ours, &Limits::default(), &theirs).ok().map(|agreement| agreement.version);
            assert_eq!(got, expected, "listener {listener:?}, dialler {dialler:?}");
        }
    }

    #[test]
    fn both_ends_name_both_ranges_in_the_same_words() {
        let (listener, dialler) = (versions(3, 4), versions(1, 2));
        let said = "the dialler speaks versions 1 to 2 of the protocol, the listener speaks versions 3 to 4";
        assert_eq!(negotiate(&listener, &Limits::default(), &dialler).unwrap_err().to_string(), said);
        assert_eq!(confirm(&dialler, &Limits::default(), &listener).unwrap_err().to_string(), said);
    }

    #[test]
    fn features_are_those_of_both_in_order_and_each_once() {
        let (ours, theirs) = (with_features(&["b", "c", "a"]), with_features(&["c", "x", "a", "c"]));
        assert_eq!(agree(&ours, &theirs).features, ["a", "c"]);
        assert_eq!(agree(&theirs, &ours).features, ["a", "c"]);
    }

    #[test]
    fn a_list_of_features_is_not_read_without_end() {
        let long = "a".repeat(MAX_FEATURE_BYTES + 1);
        let mut many = vec!["x"; MAX_FEATURES];
        many.push("b");
        let ours = with_features(&[&long, "b"]);
        assert!(agree(&ours, &with_features(&[&long])).features.is_empty());
        assert!(agree(&ours, &with_features(&many)).features.is_empty());
        assert_eq!(agree(&ours, &with_features(&many[1..])).features, ["b"]);
    }

    #[test]
    fn the_smaller_limit_holds_at_both_ends() {
        let small = Limits::default().max_data_frame_bytes(8192).max_event_bytes(5000);
        let large = Limits::default().max_control_frame_bytes(1 << 20).max_event_bytes(1 << 30);
        let (here, there) = (offer(SPOKEN, &small), offer(SPOKEN, &large));
        let agreed = negotiate(&here, &small, &there).unwrap().limits;
        assert_eq!(agreed, confirm(&there, &large, &here).unwrap().limits);
        assert_eq!(
            (agreed.data_frame_bytes(), agreed.control_frame_bytes(), agreed.event_bytes()),
            (8192, 65_536, 5000)
        );
    }

    #[test]
    fn absurd_limits_leave_room_for_a_frame_and_silence_changes_nothing() {
        let absurd = |bytes| {
            let limits = OfferedLimits { data_frame_bytes: bytes, control_frame_bytes: bytes, event_bytes: bytes };
            agree(&versions(1, 1), &Offer { limits: Some(limits), ..versions(1, 1) }).limits
        };
        assert_eq!(absurd(0).data_frame_bytes(), Limits::MIN_FRAME_BYTES);
        assert_eq!(absurd(0).control_frame_bytes(), Limits::MIN_FRAME_BYTES);
        assert_eq!(absurd(u64::MAX), Limits::default());
        assert_eq!(agree(&versions(1, 1), &Offer { limits: None, ..versions(1, 1) }).limits, Limits::default());
    }
}
