//! [`Functions`]: what a node can be asked to run by name. Nodes compare it here; what runs it is built on top.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::Wire;

/// Named, versioned functions: code does not cross the wire, so every node registers what others may have it run.
///
/// Each has a [`Signature`], made of the names that [`Wire`] gives to types. Two nodes whose
/// [digests](Self::digest) are equal have the same functions.
///
/// ```
/// use aqueduct_work::{Functions, Signature};
///
/// let mut functions = Functions::new();
/// functions.register("double", 1, |n: u64| n * 2)?.register("length", 1, |text: String| text.len() as u64)?;
///
/// let double = functions.function::<u64, u64>("double", 1)?;
/// assert_eq!(double(21), 42);
/// assert_eq!(functions.signature("length", 1)?, &Signature::of::<String, u64>());
/// assert_eq!(
///     functions.function::<u64, u64>("double", 2).err().map(|error| error.to_string()),
///     Some("there is no function \"double\" v2; its versions here: 1".into()),
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What is stored for a name need not be a closure of one argument: other crates
/// [insert](Self::insert) callables of their own kinds and [get](Self::get) them back.
#[derive(Clone, Default)]
pub struct Functions {
    /// By name and version: the order that the digest needs.
    entries: BTreeMap<String, BTreeMap<u32, Entry>>,
    /// How many versions there are of all names.
    len: usize,
}

/// A function of one argument, as [`Functions::function`] finds it.
pub type Function<In, Out> = Arc<dyn Fn(In) -> Out + Send + Sync>;

#[derive(Clone)]
struct Entry {
    signature: Signature,
    callable: Arc<dyn Any + Send + Sync>,
}

impl Functions {
    /// No functions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a function of one argument. Change the version whenever what it does changes, even if its types do not:
    /// nodes of different programs may then work side by side.
    ///
    /// # Errors
    ///
    /// [`RegisterError`], and nothing has changed.
    pub fn register<In: Wire, Out: Wire>(
        &mut self,
        name: &str,
        version: u32,
        function: impl Fn(In) -> Out + Send + Sync + 'static,
    ) -> Result<&mut Self, RegisterError> {
        let function: Function<In, Out> = Arc::new(function);
        self.insert(name, version, Signature::of::<In, Out>(), function)
    }

    /// Registers anything that can be called, of whatever kind.
    ///
    /// # Errors
    ///
    /// [`RegisterError::Taken`] if there is a function of this name and version, were it the same one;
    /// [`RegisterError::Name`], [`RegisterError::Signature`] and [`RegisterError::TooMany`]. Nothing has changed then.
    pub fn insert<C: Any + Send + Sync>(
        &mut self,
        name: &str,
        version: u32,
        signature: Signature,
        callable: C,
    ) -> Result<&mut Self, RegisterError> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(RegisterError::Name { length: name.len(), bound: MAX_NAME_BYTES });
        }
        let length = signature.len();
        if length > MAX_SIGNATURE_BYTES {
            return Err(RegisterError::Signature { name: name.to_owned(), length, bound: MAX_SIGNATURE_BYTES });
        }
        if let Some(present) = self.entries.get(name).and_then(|versions| versions.get(&version)) {
            return Err(RegisterError::Taken {
                name: name.to_owned(),
                version,
                present: Box::new(present.signature.clone()),
                offered: Box::new(signature),
            });
        }
        if self.len >= MAX_FUNCTIONS {
            return Err(RegisterError::TooMany { bound: MAX_FUNCTIONS });
        }
        let entry = Entry { signature, callable: Arc::new(callable) };
        self.entries.entry(name.to_owned()).or_default().insert(version, entry);
        self.len += 1;
        Ok(self)
    }

    /// Finds a function of one argument.
    ///
    /// # Errors
    ///
    /// [`LookupError`] if there is none of this name and version, or if it has other types.
    pub fn function<In: Wire, Out: Wire>(&self, name: &str, version: u32) -> Result<Function<In, Out>, LookupError> {
        self.require(name, version, &Signature::of::<In, Out>())?;
        self.get::<Function<In, Out>>(name, version).cloned()
    }

    /// Finds what was [inserted](Self::insert).
    ///
    /// # Errors
    ///
    /// [`LookupError::Missing`], or [`LookupError::Kind`] if it is no `C`.
    pub fn get<C: Any + Send + Sync>(&self, name: &str, version: u32) -> Result<&C, LookupError> {
        let entry = self.entry(name, version)?;
        entry.callable.downcast_ref().ok_or_else(|| LookupError::Kind { name: name.to_owned(), version })
    }

    /// The signature of a function.
    ///
    /// # Errors
    ///
    /// [`LookupError::Missing`].
    pub fn signature(&self, name: &str, version: u32) -> Result<&Signature, LookupError> {
        Ok(&self.entry(name, version)?.signature)
    }

    /// Makes sure that there is a function as somebody else means it.
    ///
    /// # Errors
    ///
    /// [`LookupError::Missing`], or [`LookupError::Signature`] with both.
    pub fn require(&self, name: &str, version: u32, expected: &Signature) -> Result<(), LookupError> {
        let got = self.signature(name, version)?;
        if got == expected {
            return Ok(());
        }
        let (expected, got) = (Box::new(expected.clone()), Box::new(got.clone()));
        Err(LookupError::Signature { name: name.to_owned(), version, expected, got })
    }

    /// What all functions amount to: equal for the same names, versions and signatures, in whatever order they were
    /// registered, on every machine.
    #[must_use]
    pub fn digest(&self) -> FunctionsDigest {
        let mut bytes = Vec::new();
        let text = |text: &str, bytes: &mut Vec<u8>| {
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        };
        for (name, version, signature) in self.iter() {
            text(name, &mut bytes);
            bytes.extend_from_slice(&version.to_le_bytes());
            for part in [&signature.kind, &signature.input, &signature.output, &signature.parameters] {
                text(part, &mut bytes);
            }
        }
        FunctionsDigest(xxh3_128(&bytes))
    }

    /// All functions, by name and version.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32, &Signature)> {
        self.entries.iter().flat_map(|(name, versions)| {
            versions.iter().map(|(version, entry)| (name.as_str(), *version, &entry.signature))
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn entry(&self, name: &str, version: u32) -> Result<&Entry, LookupError> {
        let versions = self.entries.get(name);
        versions.and_then(|versions| versions.get(&version)).ok_or_else(|| LookupError::Missing {
            name: name.to_owned(),
            version,
            present: versions.map(|versions| versions.keys().copied().collect()).unwrap_or_default(),
        })
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, version, signature)| ((name, version), signature.to_string())))
            .finish()
    }
}

/// What a function takes and gives, by the names of the types between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signature {
    kind: String,
    input: String,
    output: String,
    parameters: String,
}

impl Signature {
    /// That of a function of one argument, which the kind `map` stands for.
    #[must_use]
    pub fn of<In: Wire, Out: Wire>() -> Self {
        Self::new::<In, Out, ()>("map")
    }

    /// That of a function of some other kind (`flat_map`, say), which may have parameters that come with the call and not
    /// with each value; `()` where there are none.
    #[must_use]
    pub fn new<In: Wire, Out: Wire, Parameters: Wire>(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            input: In::signature(),
            output: Out::signature(),
            parameters: Parameters::signature(),
        }
    }

    /// Its length in bytes.
    fn len(&self) -> usize {
        [&self.kind, &self.input, &self.output, &self.parameters].map(String::len).iter().sum()
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, input, output, parameters } = self;
        write!(f, "{kind}({input}) -> {output}")?;
        if parameters == "()" { Ok(()) } else { write!(f, " with {parameters}") }
    }
}

/// What all functions of a node amount to: see [`Functions::digest`]. Written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FunctionsDigest(u128);

impl FunctionsDigest {
    /// The digest, as it goes over the wire.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// A digest that came over the wire.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for FunctionsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Why a function was not registered.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// There is one already.
    #[error("function {name:?} v{version} is {present} already, got {offered}")]
    Taken {
        /// Its name.
        name: String,
        /// Its version.
        version: u32,
        /// The signature of the one that is there.
        present: Box<Signature>,
        /// The signature of the other one.
        offered: Box<Signature>,
    },
    /// The name is empty or too long.
    #[error("expected a name of 1 to {bound} bytes, got {length}")]
    Name {
        /// Its length in bytes.
        length: usize,
        /// The most that it may have.
        bound: usize,
    },
    /// The names of the types are too long together.
    #[error("expected function {name:?} to have a signature of at most {bound} bytes, got {length}")]
    Signature {
        /// The function's name.
        name: String,
        /// The signature's length in bytes.
        length: usize,
        /// The most that it may have.
        bound: usize,
    },
    /// There are as many functions as may be.
    #[error("there are {bound} functions already")]
    TooMany {
        /// The most there may be.
        bound: usize,
    },
}

aqueduct_stage::debug_as_sentence!(RegisterError);

/// Why a function was not found.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// There is none of this name and version.
    #[error("there is no function {name:?} v{version}{}", versions(.present))]
    Missing {
        /// The name.
        name: String,
        /// The version.
        version: u32,
        /// The versions there are of this name.
        present: Vec<u32>,
    },
    /// It has another signature.
    #[error("expected function {name:?} v{version} to be {expected}, got {got}")]
    Signature {
        /// The name.
        name: String,
        /// The version.
        version: u32,
        /// The signature that was looked for.
        expected: Box<Signature>,
        /// The signature it has.
        got: Box<Signature>,
    },
    /// It is called in another way: a crate other than the one that asks has inserted it.
    #[error("function {name:?} v{version} is not of the kind that was asked for")]
    Kind {
        /// The name.
        name: String,
        /// The version.
        version: u32,
    },
}

aqueduct_stage::debug_as_sentence!(LookupError);

fn versions(present: &[u32]) -> String {
    if present.is_empty() {
        return String::new();
    }
    format!("; its versions here: {}", present.iter().map(u32::to_string).collect::<Vec<_>>().join(", "))
}

/// So that a name fits into every frame.
const MAX_NAME_BYTES: usize = 255;
/// So that a function with its name and signature does.
const MAX_SIGNATURE_BYTES: usize = 2048;
/// Far more than anybody writes by hand; a list of them with their signatures still takes only a few megabytes.
const MAX_FUNCTIONS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn double() -> Functions {
        let mut functions = Functions::new();
        functions.register("double", 1, |n: u64| n * 2).unwrap();
        functions
    }

    #[test]
    fn registering_twice_names_both() {
        let mut functions = double();
        let same = functions.register("double", 1, |n: u64| n + n).unwrap_err();
        assert_eq!(same.to_string(), r#"function "double" v1 is map(u64) -> u64 already, got map(u64) -> u64"#);
        let other = functions.register("double", 1, |text: String| text.repeat(2)).unwrap_err();
        assert_eq!(other.to_string(), r#"function "double" v1 is map(u64) -> u64 already, got map(string) -> string"#);
        assert_eq!(functions.function::<u64, u64>("double", 1).unwrap()(4), 8, "the first one stays");
    }

    #[test]
    fn versions_stand_side_by_side() {
        let mut functions = double();
        functions.register("double", 2, |n: u64| n.saturating_mul(2)).unwrap();
        assert_eq!(functions.function::<u64, u64>("double", 2).unwrap()(u64::MAX), u64::MAX);
        assert_eq!(functions.len(), 2);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let functions = double();
        let error = |result: Result<Function<u64, String>, LookupError>| result.err().unwrap().to_string();
        assert_eq!(error(functions.function("triple", 1)), r#"there is no function "triple" v1"#);
        assert_eq!(
            error(functions.function("double", 1)),
            r#"expected function "double" v1 to be map(u64) -> string, got map(u64) -> u64"#
        );
        assert!(matches!(functions.get::<u8>("double", 1), Err(LookupError::Kind { .. })));
    }

    #[test]
    fn other_kinds_and_parameters_are_part_of_the_signature() {
        let mut functions = double();
        let signature = Signature::new::<u64, Vec<u64>, (u32, bool)>("flat_map");
        assert_eq!(signature.to_string(), "flat_map(u64) -> vec<u64> with (u32, bool)");
        functions.insert("split", 1, signature.clone(), "anything").unwrap();
        assert_eq!(functions.get::<&str>("split", 1), Ok(&"anything"));
        assert!(functions.require("split", 1, &Signature::of::<u64, Vec<u64>>()).is_err());
        assert_eq!(functions.require("split", 1, &signature), Ok(()));
    }

    #[test]
    fn names_are_bounded() {
        let mut functions = Functions::new();
        for (name, length) in [(String::new(), 0), ("x".repeat(256), 256)] {
            let error = functions.register(&name, 1, |n: u64| n).unwrap_err();
            assert_eq!(error, RegisterError::Name { length, bound: 255 });
        }
    }

    #[test]
    fn signatures_are_bounded() {
        let kind = "k".repeat(MAX_SIGNATURE_BYTES);
        let error = Functions::new().insert("long", 1, Signature::new::<u64, u64, ()>(&kind), ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"expected function "long" to have a signature of at most 2048 bytes, got 2056"#
        );
    }

    #[test]
    fn the_digest_is_that_of_every_machine_and_order() {
        let mut here = double();
        here.register("length", 7, |text: String| text.len() as u64).unwrap();
        let mut there = Functions::new();
        there.register("length", 7, |_: String| 0_u64).unwrap().register("double", 1, |n: u64| n).unwrap();
        assert_eq!(here.digest(), there.digest());
        assert_eq!(here.digest().to_string(), GOLDEN);
        assert_eq!(FunctionsDigest::from_bytes(here.digest().to_bytes()), here.digest());
    }

    #[test]
    fn every_part_changes_the_digest() {
        let register = |name: &str, version, signature| {
            let mut functions = Functions::new();
            functions.insert(name, version, signature, ()).unwrap();
            functions.digest()
        };
        let digests = [
            Functions::new().digest(),
            register("a", 1, Signature::of::<u64, u64>()),
            register("b", 1, Signature::of::<u64, u64>()),
            register("a", 2, Signature::of::<u64, u64>()),
            register("a", 1, Signature::of::<u32, u64>()),
            register("a", 1, Signature::of::<u64, u32>()),
            register("a", 1, Signature::new::<u64, u64, ()>("filter")),
            register("a", 1, Signature::new::<u64, u64, u8>("map")),
        ];
        for (at, digest) in digests.iter().enumerate() {
            assert!(!digests[..at].contains(digest), "{at}");
        }
    }

    /// Nodes compare this: it must never change for these functions.
    const GOLDEN: &str = "46866509136a5102d74322d9a28b50d8";
}
