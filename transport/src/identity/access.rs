//! [`Access`]: which nodes of a cluster may do something.

use std::fmt;
use std::sync::Arc;

use crate::{NameError, NodeName};

/// Which nodes of the own cluster may do something, by the id in their certificates.
///
/// Nodes of other clusters never may. A pattern is a node's id, in which `*` stands for any characters, or for none:
/// `worker-*`, `*.eu`.
///
/// ```
/// use aqueduct_transport::{Access, NodeName};
///
/// let access = Access::only(["billing", "audit-*"])?;
/// assert!(access.allows(&NodeName::new("shop", "audit-2")?));
/// assert!(!access.allows(&NodeName::new("shop", "billing-2")?));
/// # Ok::<(), aqueduct_transport::NameError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// `None` for everybody.
    patterns: Option<Arc<[String]>>,
}

impl Access {
    /// Every node of the cluster. This is the default.
    #[must_use]
    pub fn everybody() -> Self {
        Self::default()
    }

    /// Only nodes that one of the patterns stands for. Without a pattern, nobody.
    ///
    /// # Errors
    ///
    /// [`NameError::Pattern`] for a pattern that can stand for no node, so that a misspelt one is noticed.
    pub fn only<P: Into<String>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, NameError> {
        let patterns: Result<Arc<[String]>, NameError> =
            patterns.into_iter().map(|pattern| check(pattern.into())).collect();
        Ok(Self { patterns: Some(patterns?) })
    }

    /// Whether a node may.
    #[must_use]
    pub fn allows(&self, node: &NodeName) -> bool {
        match &self.patterns {
            None => true,
            Some(patterns) => patterns.iter().any(|pattern| matches(pattern, node.node())),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.patterns {
            None => f.write_str("Access(everybody)"),
            Some(patterns) => write!(f, "Access(only {patterns:?})"),
        }
    }
}

/// A node lacks a right. The refused side gets its text, the refusing side logs it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("node {node} may not subscribe to {producer:?}")]
    Subscribe { node: NodeName, producer: String },
    #[error("node {node} may not publish {producer:?}")]
    Publish { node: NodeName, producer: String },
}

aqueduct_stage::debug_as_sentence!(AccessError);

fn check(pattern: String) -> Result<String, NameError> {
    // What a star stands for can be empty, or make a name of its neighbours: only the rest can be judged.
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte);
    let length = pattern.bytes().filter(|byte| *byte != b'*').count();
    let literal = !pattern.contains('*');
    let fits = !pattern.is_empty() && length <= MAX_PATTERN_BYTES && pattern.len() <= 2 * MAX_PATTERN_BYTES;
    let named = !literal || NodeName::new("cluster", &*pattern).is_ok();
    if fits && named && pattern.bytes().all(is_allowed) { Ok(pattern) } else { Err(NameError::Pattern { pattern }) }
}

/// Whether `name` is what `pattern` stands for. Each piece between stars is looked for as early as possible, so that the
/// time is bounded by the product of both lengths.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(inner) = name.strip_prefix(first).and_then(|name| name.strip_suffix(last)) else { return false };
    let found = |rest: &str, piece: &str| rest.find(piece).map(|at| at + piece.len());
    let mut rest = inner;
    middle.split('*').all(|piece| {
        found(rest, piece).is_some_and(|end| {
            rest = &rest[end..];
            true
        })
    })
}

/// A node's id is no longer.
const MAX_PATTERN_BYTES: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name) in [
            ("*", "a"),
            ("a", "a"),
            ("a*", "a"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "abc"),
            ("a*c", "ac"),
            ("a*b*c", "a-b-b-c"),
            ("a**c", "abc"),
            ("*b*", "abc"),
            ("worker-*.eu", "worker-1.eu"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("a", "ab"),
            ("a", "A"),
            ("a*", "ba"),
            ("*a", "ab"),
            ("ab*b", "ab"),
            ("a*b*c", "a-c-b"),
            ("*b*b*", "abc"),
            ("worker-*.eu", "worker-1.us"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_that_stands_for_nobody_is_refused() {
        for pattern in ["", "a b", "a/b", "-a", "a\n", "ä*", &"x".repeat(64), &"*".repeat(200)] {
            assert!(matches!(Access::only([pattern]), Err(NameError::Pattern { .. })), "{pattern:?}");
        }
        for pattern in ["a", "*", "-*-", "a.b-*"] {
            Access::only([pattern]).unwrap();
        }
    }

    #[test]
    fn nobody_is_less_than_everybody() {
        let node = NodeName::new("shop", "a").unwrap();
        assert!(Access::everybody().allows(&node));
        assert!(!Access::only::<String>([]).unwrap().allows(&node));
        assert_eq!(format!("{:?}", Access::only(["a", "b*"]).unwrap()), r#"Access(only ["a", "b*"])"#);
    }
}
