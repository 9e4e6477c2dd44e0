//! [`PeerFunctions`]: what can be called by name at another node.

use std::sync::Arc;

use crate::{Functions, FunctionsDigest, LookupError, NodeName, Signature};

/// What can be called by name at another node, as that said: see [`Node::functions_at`](crate::Node::functions_at).
///
/// It holds for the start of the node that was asked. A node that is started again may have other functions.
#[derive(Clone, Debug)]
pub struct PeerFunctions {
    node: NodeName,
    functions: Arc<Functions>,
}

impl PeerFunctions {
    pub(crate) fn new(node: NodeName, functions: Arc<Functions>) -> Self {
        Self { node, functions }
    }

    /// Who was asked.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Makes sure that the node has a function as it is meant here, before any work is sent there.
    ///
    /// # Errors
    ///
    /// [`LookupError::Missing`] with the versions that it has of this name, or [`LookupError::Signature`] with both.
    pub fn require(&self, name: &str, version: u32, expected: &Signature) -> Result<(), LookupError> {
        self.functions.require(name, version, expected)
    }

    /// What they amount to: equal to that of one's own [`Functions`] if both have the same.
    #[must_use]
    pub fn digest(&self) -> FunctionsDigest {
        self.functions.digest()
    }

    /// All functions, by name and version.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32, &Signature)> {
        self.functions.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }
}
