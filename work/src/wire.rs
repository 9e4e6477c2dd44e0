//! [`Wire`]: what an event type is called between nodes.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An event that can go to another node: it is encoded with serde, and its type has a name and a version there.
///
/// The subscriber sends the [`signature`](Self::signature) it expects; where the producer publishes another one, the
/// subscription is refused and both are named. Nothing else of the type is compared, so change the version whenever
/// the encoding changes.
///
/// Numbers, `bool`, `char`, `String`, `Arc<str>`, `()`, [`Bytes`], tuples of up to six, `Option`, `Vec`, `Box` and maps have it.
/// For types of your own use [`wire!`](macro@crate::wire):
///
/// ```
/// use aqueduct_work::{Wire, wire};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Order {
///     id: u64,
///     items: Vec<String>,
/// }
/// wire!(Order, "order", 2);
///
/// assert_eq!(Order::signature(), "order v2");
/// assert_eq!(<Vec<(u64, Option<Order>)>>::signature(), "vec<(u64, option<order v2>)>");
/// ```
///
/// # Encoding
///
/// Events are MessagePack, structs as arrays without field names: compact, and a field added or removed needs a new
/// version. A `Vec<u8>` is a list of numbers; [`Bytes`] are one value, and much cheaper. At most 64 arrays, maps and enum
/// variants with data may be nested ([`Limits::max_depth`](crate::Limits::max_depth)).
///
/// An event that would not be read so as it was written is written with the names of its fields, and reads as it would in
/// JSON. If that does not do either, it is refused where it is written, on links, in queues and in channels, with an
/// [`EncodeError`](crate::EncodeError) that names the type and the field. To find out, the first 16 values of each
/// structure, with the fields that serde wrote of it, and of each variant are read back where they are written, as is
/// every value that gives a reason: so `Deserialize` runs at the writing end, too.
///
/// | serde | here |
/// |---|---|
/// | `rename`, `rename_all`, `alias`, `deny_unknown_fields` | work |
/// | `default` | works; a field that was added needs a new version all the same |
/// | `skip` | works: it has its default at the other end |
/// | `skip_serializing_if` | works for an `Option` and with `default`, and costs the names of the fields where one is skipped; refused without a default, and on a field without a name |
/// | `skip_serializing` alone | works with `default`, and costs the names; refused without |
/// | `skip_deserializing` alone | refused when the field holds something else than its default |
/// | `flatten` | works, and costs the names; refused with 128 bits inside |
/// | enums | work |
/// | `tag` | works; refused with 128 bits inside |
/// | `tag` and `content` | works; a variant without data costs the names |
/// | `untagged` | works where the first variant that fits is the right one, if need be by the names of its fields; refused where it is not |
/// | `other` | works |
/// | `with`, `serialize_with`, `from`, `into`, `try_from` | work if one reads what the other writes; refused otherwise |
/// | `transparent`, newtypes, unit and empty structs | work |
/// | `u128`, `i128`, [`Bytes`] and their like | work |
/// | `borrow` | `Cow<'static, str>` works; `&str` does not compile |
/// | maps and sets, with any keys | work |
/// | `Option<Option<_>>`, `Option<()>` | `Some(None)` and `Some(())` are refused, as both ends would call them `None`, unless the field has a `deserialize_with` that knows them from a field that was skipped |
/// | a value that is written differently each time, such as the time since something | is not compared, only read |
///
/// # Texts and bytes that come again and again
///
/// To allocate a text for each event, and to free it on another core, costs more than to write and to read all four fields of a
/// small structure. So an event that its producer makes from what is there already should share it: as [`Bytes`], or as an
/// `Arc<str>`, which is a `String` on the wire, so that each end chooses for itself. Where events are read, a text of its own
/// costs one allocation as a `String` and two as an `Arc<str>`. If the texts are few, keep them:
///
/// ```
/// use std::cell::RefCell;
/// use std::collections::HashSet;
/// use std::sync::Arc;
///
/// use aqueduct_work::wire;
/// use serde::{Deserialize, Deserializer, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Trade {
///     price: u64,
///     #[serde(deserialize_with = "known")]
///     market: Arc<str>,
/// }
/// wire!(Trade, "trade", 1);
///
/// /// The text that is there already, if it is one of the first 1000.
/// fn known<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
///     thread_local! {
///         static KNOWN: RefCell<HashSet<Arc<str>>> = RefCell::default();
///     }
///     let text = <&str>::deserialize(from)?;
///     KNOWN.with_borrow_mut(|known| {
///         if let Some(text) = known.get(text) {
///             return Ok(Arc::clone(text));
///         }
///         let text: Arc<str> = text.into();
///         // Another node decides what comes: what is kept for good is bounded.
///         if known.len() < 1000 && text.len() <= 100 {
///             known.insert(Arc::clone(&text));
///         }
///         Ok(text)
///     })
/// }
/// # use aqueduct_work::{Limits, codec::{decode, encode}};
/// # let trades = ["EURUSD", "EURUSD"].map(|market| Trade { price: 1, market: market.into() });
/// # let encoded = encode(&trades, &Limits::default()).unwrap();
/// # let there = decode::<Trade>(encoded.bytes(), 2, &Limits::default()).unwrap();
/// # assert!(Arc::ptr_eq(&there[0].market, &there[1].market) && &*there[0].market == "EURUSD" && there[0].price == 1);
/// ```
///
/// It takes two thirds of the time at both ends together. Short `Bytes` that arrive together share memory as it is, up to 16
/// events and 4 KiB: whoever keeps one of them for long copies it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent to another node",
    label = "not an event type with a name on the wire",
    note = "derive serde's `Serialize` and `Deserialize`, and name it: `wire!({Self}, \"name\", 1);`"
)]
pub trait Wire: Serialize + DeserializeOwned + Send + 'static {
    /// The type's name and version, such as `order v2`: the same on every node that means the same encoding.
    fn signature() -> String;
}

/// Gives a type its name and version between nodes: `wire!(Type, "name", version)` implements [`Wire`].
///
/// The type needs serde's `Serialize` and `Deserialize`. A generic type implements the trait by hand:
///
/// ```
/// use aqueduct_work::Wire;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Page<T> {
///     rows: Vec<T>,
/// }
///
/// impl<T: Wire> Wire for Page<T> {
///     fn signature() -> String {
///         format!("page<{}> v1", T::signature())
///     }
/// }
/// ```
#[macro_export]
macro_rules! wire {
    ($type:ty, $name:literal, $version:literal $(,)?) => {
        impl $crate::Wire for $type {
            fn signature() -> ::std::string::String {
                ::std::string::String::from(::std::concat!($name, " v", $version))
            }
        }
    };
}

macro_rules! built_in {
    ($($type:ty: $name:literal),* $(,)?) => {$(
        impl Wire for $type {
            fn signature() -> String {
                String::from($name)
            }
        }
    )*};
}

built_in! {
    (): "()", bool: "bool", char: "char", String: "string", Bytes: "bytes",
    u8: "u8", u16: "u16", u32: "u32", u64: "u64", u128: "u128", usize: "usize",
    i8: "i8", i16: "i16", i32: "i32", i64: "i64", i128: "i128", isize: "isize",
    f32: "f32", f64: "f64",
}

macro_rules! tuple {
    ($($element:ident),*) => {
        impl<$($element: Wire),*> Wire for ($($element,)*) {
            fn signature() -> String {
                format!("({})", [$($element::signature()),*].join(", "))
            }
        }
    };
}

tuple!(A);
tuple!(A, B);
tuple!(A, B, C);
tuple!(A, B, C, D);
tuple!(A, B, C, D, E);
tuple!(A, B, C, D, E, F);

impl<T: Wire> Wire for Option<T> {
    fn signature() -> String {
        format!("option<{}>", T::signature())
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn signature() -> String {
        format!("vec<{}>", T::signature())
    }
}

/// A box is not seen on the wire.
impl<T: Wire> Wire for Box<T> {
    fn signature() -> String {
        T::signature()
    }
}

/// The same on the wire as a `String`.
impl Wire for Arc<str> {
    fn signature() -> String {
        String::signature()
    }
}

/// The same on the wire as a `HashMap`.
impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn signature() -> String {
        map_signature::<K, V>()
    }
}

/// The same on the wire as a `BTreeMap`.
impl<K: Wire + Eq + Hash, V: Wire, S: BuildHasher + Default + Send + 'static> Wire for HashMap<K, V, S> {
    fn signature() -> String {
        map_signature::<K, V>()
    }
}

fn map_signature<K: Wire, V: Wire>() -> String {
    format!("map<{}, {}>", K::signature(), V::signature())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_name_what_is_inside() {
        assert_eq!(<(u8, (), Box<f64>)>::signature(), "(u8, (), f64)");
        assert_eq!(<Option<Vec<Bytes>>>::signature(), "option<vec<bytes>>");
        assert_eq!(<(char,)>::signature(), "(char)");
    }

    #[test]
    fn the_two_maps_are_one_type_on_the_wire() {
        assert_eq!(HashMap::<String, u64>::signature(), "map<string, u64>");
        assert_eq!(HashMap::<String, u64>::signature(), BTreeMap::<String, u64>::signature());
    }

    #[test]
    fn a_shared_text_is_a_text_on_the_wire() {
        assert_eq!(<Vec<Arc<str>>>::signature(), <Vec<String>>::signature());
    }

    #[test]
    fn a_type_of_the_users_has_name_and_version() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Reading(f32);
        crate::wire!(Reading, "reading", 3);
        assert_eq!(Reading::signature(), "reading v3");
    }
}
