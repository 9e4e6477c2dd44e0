//! The table of serde's attributes at [`Wire`]: a test for each row.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{decode, encode};
use crate::{Limits, Wire};

/// What comes of `value` at the other end, or why it is not sent.
fn sent<T: Wire>(value: &T) -> Result<T, String> {
    let encoded = encode(std::slice::from_ref(value), &Limits::default()).map_err(|error| error.cause.to_string())?;
    Ok(decode(encoded.bytes(), 1, &Limits::default()).expect("what is written is read").remove(0))
}

#[track_caller]
fn works<T: Wire + PartialEq + Debug>(values: impl IntoIterator<Item = T>) {
    for value in values {
        assert_eq!(sent(&value), Ok(value));
    }
}

#[track_caller]
fn refused<T: Wire + Debug>(value: &T, why: &str) {
    assert_eq!(sent(value).expect_err("it is not sent"), why);
}

macro_rules! wire_type {
    ($($type:ty),*) => {$( crate::wire!($type, "order", 1); )*};
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Part {
    id: u8,
    note: Option<String>,
}

fn part() -> Part {
    Part { id: 7, note: Some("fragile".to_owned()) }
}

#[test]
fn names_and_aliases_work() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename = "O", rename_all = "camelCase", deny_unknown_fields)]
    struct Order {
        #[serde(rename = "i", alias = "number")]
        id: u8,
        #[serde(alias = "cost", skip_serializing_if = "Option::is_none")]
        full_price: Option<u8>,
        kind: Kind,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase", rename_all_fields = "UPPERCASE")]
    enum Kind {
        Plain,
        #[serde(alias = "Titled")]
        Named {
            name: String,
        },
    }
    wire_type!(Order);
    let order = |full_price, kind| Order { id: 1, full_price, kind };
    works([order(None, Kind::Plain), order(Some(2), Kind::Named { name: "x".to_owned() })]);
}

#[test]
fn defaults_work() {
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Order {
        id: u8,
        #[serde(default = "seven")]
        count: u8,
    }
    fn seven() -> u8 {
        7
    }
    wire_type!(Order);
    works([Order::default(), Order { id: 1, count: 2 }]);
}

#[test]
fn a_field_that_is_skipped_both_ways_has_its_default() {
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u8,
        #[serde(skip)]
        cached: u8,
        price: u8,
    }
    wire_type!(Order);
    let order = |cached| Order { id: 1, cached, price: 2 };
    assert_eq!(sent(&order(9)), Ok(order(0)));
}

#[test]
fn a_field_that_is_skipped_at_times_moves_no_other() {
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        weight: Option<u64>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        items: Vec<Part>,
        #[serde(skip_serializing_if = "Option::is_none")]
        price: Option<u64>,
    }
    wire_type!(Order);
    for round in 0..40 {
        let order = |weight, items, price| Order { id: round, weight, items, price };
        works([
            order(None, Vec::new(), Some(700)),
            order(Some(2), Vec::new(), None),
            order(Some(2), vec![part()], Some(700)),
            order(None, vec![part()], None),
            order(None, Vec::new(), None),
        ]);
    }
}

#[test]
fn a_field_of_a_variant_that_is_skipped_at_times_moves_no_other() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Change {
        Set {
            #[serde(skip_serializing_if = "Option::is_none")]
            weight: Option<u64>,
            price: Option<u64>,
        },
        Pair(#[serde(skip_serializing_if = "Option::is_none")] Option<u8>, u8),
    }
    wire_type!(Change);
    works([Change::Set { weight: None, price: Some(700) }, Change::Set { weight: Some(1), price: None }]);
    works([Change::Pair(Some(1), 2)]);
    refused(
        &Change::Pair(None, 2),
        "a value of \"order v1\" would not be read as it is written, in `Change`: \
         invalid length 1, expected tuple variant Change::Pair with 2 elements",
    );
}

#[test]
fn a_field_that_is_skipped_at_times_and_has_no_default_is_refused() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u64,
        #[serde(skip_serializing_if = "String::is_empty")]
        note: String,
    }
    wire_type!(Order);
    let order = |note: &str| Order { id: 1, note: note.to_owned() };
    works([order("fragile")]);
    let why = "a value of \"order v1\" would not be read as it is written, in field `note` of `Order`: \
               missing field `note`";
    refused(&order(""), why);
    works([order("fragile")]);
}

#[test]
fn a_field_that_is_never_written_needs_a_default() {
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Order {
        #[serde(skip_serializing, default)]
        cached: u8,
        id: u8,
        #[serde(default)]
        price: u8,
    }
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Strict {
        #[serde(skip_serializing)]
        cached: u8,
        id: u8,
    }
    wire_type!(Order, Strict);
    works([Order { cached: 0, id: 1, price: 2 }, Order { cached: 0, id: 1, price: 0 }]);
    refused(
        &Strict { cached: 0, id: 1 },
        "a value of \"order v1\" would not be read as it is written, in `Strict`: missing field `cached`",
    );
}

#[test]
fn a_field_that_is_never_read_is_refused_when_it_holds_something() {
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Order {
        #[serde(skip_deserializing)]
        total: u8,
        id: u8,
    }
    wire_type!(Order);
    works([Order { total: 0, id: 1 }]);
    refused(
        &Order { total: 3, id: 1 },
        "a value of \"order v1\" would not be read as it is written, in field `total` of `Order`: \
         it is read as another value",
    );
}

#[test]
fn flattened_fields_work_but_for_128_bits() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        count: u8,
        #[serde(flatten)]
        part: Part,
        #[serde(flatten)]
        more: BTreeMap<String, u64>,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Large {
        #[serde(flatten)]
        inner: Hash,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Hash {
        hash: u128,
    }
    wire_type!(Order, Large);
    works([Order { count: 3, part: part(), more: BTreeMap::from([("weight".to_owned(), 5)]) }]);
    assert!(
        sent(&Large { inner: Hash { hash: 1 } })
            .unwrap_err()
            .starts_with("a value of \"order v1\" would not be read as it is written, as a whole: ")
    );
}

#[test]
fn tagged_enums_work_but_for_128_bits() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Event {
        Plain,
        New(Part),
        Named {
            name: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            note: Option<String>,
            parts: Vec<Part>,
        },
        Large {
            hash: u128,
        },
    }
    wire_type!(Event);
    let named = |note| Event::Named { name: None, note, parts: vec![part()] };
    works([Event::Plain, Event::New(part()), named(None), named(Some("x".to_owned()))]);
    assert!(sent(&Event::Large { hash: 1 }).is_err());
}

#[test]
fn enums_with_tag_and_content_work() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind", content = "data")]
    enum Event {
        Plain,
        New(Part),
        Pair(u8, u128),
        Named { name: Option<String> },
    }
    wire_type!(Event);
    works([vec![Event::Plain, Event::New(part()), Event::Pair(1, 2)], vec![Event::Named { name: None }]]);
    works([Event::Pair(1, 2), Event::Plain, Event::Pair(1, 2)]);
}

#[test]
fn untagged_enums_work_where_the_first_variant_that_fits_is_the_right_one() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Event {
        Cost { price: u8 },
        Load { weight: u8 },
        Text(String),
        Number(u64),
        Pair(u8, u8),
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Alike {
        Few { count: u8, unit: Option<u8> },
        Many { count: u8 },
    }
    wire_type!(Event, Alike);
    works([Event::Cost { price: 1 }, Event::Load { weight: 2 }, Event::Text("x".to_owned()), Event::Number(300)]);
    works([Event::Pair(1, 2), Event::Cost { price: 3 }, Event::Load { weight: 4 }]);
    works([Alike::Few { count: 1, unit: Some(1) }]);
    assert_eq!(
        sent(&Alike::Many { count: 1 }),
        Err("a value of \"order v1\" would not be read as it is written, in field `unit` of `Alike`: \
             it is read as another value"
            .to_owned())
    );
}

#[test]
fn a_variant_for_all_others_works() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Plain,
        #[serde(other)]
        Other,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Event {
        Named {
            name: String,
        },
        #[serde(other)]
        Other,
    }
    wire_type!(Kind, Event);
    works([Kind::Plain, Kind::Other]);
    works([Event::Named { name: "x".to_owned() }, Event::Other]);
}

#[test]
fn functions_and_conversions_work_if_one_reads_what_the_other_writes() {
    mod text {
        use super::*;

        pub(super) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
            to.collect_str(value)
        }

        pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
            String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
        }
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        #[serde(with = "text")]
        id: u64,
        price: Cents,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(try_from = "u16", into = "u16")]
    struct Cents(u16);
    impl From<Cents> for u16 {
        fn from(cents: Cents) -> Self {
            cents.0
        }
    }
    impl TryFrom<u16> for Cents {
        type Error = &'static str;
        fn try_from(cents: u16) -> Result<Self, &'static str> {
            if cents < 1000 { Ok(Self(cents)) } else { Err("too much") }
        }
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct OneWay {
        #[serde(serialize_with = "text::serialize")]
        id: u64,
    }
    wire_type!(Order, OneWay);
    works([Order { id: 7, price: Cents(1) }]);
    refused(
        &Order { id: 7, price: Cents(2000) },
        "a value of \"order v1\" would not be read as it is written, in `Order`: too much",
    );
    assert!(sent(&OneWay { id: 7 }).unwrap_err().contains("in `OneWay`: "));
}

#[test]
fn transparent_and_empty_structures_work() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(transparent)]
    struct Id {
        number: u64,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Order(Id, Nothing, (u8, [u8; 3]), Empty);
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Nothing;
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Empty {}
    wire_type!(Order, Id);
    works([Order(Id { number: 1 }, Nothing, (1, [1, 2, 3]), Empty {})]);
    works([Id { number: 300 }]);
}

#[test]
fn bytes_and_128_bits_work() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        hash: u128,
        change: Option<i128>,
        image: bytes::Bytes,
        list: Vec<u8>,
    }
    wire_type!(Order);
    works([Order { hash: u128::MAX, change: Some(i128::MIN), image: vec![0xff; 300].into(), list: vec![0xff; 300] }]);
}

#[test]
fn borrowed_text_works_if_it_may_be_owned() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        name: Cow<'static, str>,
    }
    wire_type!(Order);
    works([Order { name: Cow::Borrowed("a pen") }]);
}

#[test]
fn maps_and_sets_work_in_any_order() {
    #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    struct Key {
        shop: u8,
        id: String,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Order(HashMap<Key, HashSet<u64>>);
    wire_type!(Order);
    let sets = |of: u64| (0..of).map(|n| (Key { shop: 1, id: n.to_string() }, (0..50 * n).collect())).collect();
    works((0..20).map(sets).map(Order));
}

#[test]
fn some_that_is_written_as_nothing_is_refused_unless_its_field_knows_better() {
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Change {
        id: u8,
        note: Option<Option<u8>>,
    }
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Patch {
        id: u8,
        #[serde(default, deserialize_with = "double", skip_serializing_if = "Option::is_none")]
        note: Option<Option<u8>>,
        price: Option<u8>,
    }
    fn double<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<u8>>, D::Error> {
        Option::deserialize(from).map(Some)
    }
    wire_type!(Change, Patch);
    works([Change { id: 1, note: None }, Change { id: 1, note: Some(Some(1)) }]);
    for _ in 0..40 {
        refused(
            &Change { id: 1, note: Some(None) },
            "a value of \"order v1\" would not be read as it is written, in field `note` of `Change`: \
             it is read as another value",
        );
        let patch = |note| Patch { id: 1, note, price: Some(3) };
        works([patch(None), patch(Some(None)), patch(Some(Some(2)))]);
    }
    assert!(sent(&Some(())).is_err() && sent(&Some(None::<u8>)).is_err());
    works([None::<()>]);
}

#[test]
fn what_is_never_written_twice_alike_is_not_compared() {
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug, Deserialize)]
    struct Age(#[expect(dead_code, reason = "only the time counts")] u64);
    impl Serialize for Age {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            static NOW: AtomicU64 = AtomicU64::new(1);
            to.serialize_u64(NOW.fetch_add(1, Ordering::Relaxed))
        }
    }
    wire_type!(Age);
    assert!(sent(&Age(0)).is_ok());
}

#[test]
fn what_is_nested_too_deep_or_has_too_many_parts_is_refused_where_it_is_written() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum List {
        End,
        Node(Box<Self>),
    }
    wire_type!(List);
    let list = |depth| (0..depth).fold(List::End, |list, _| List::Node(Box::new(list)));
    works([list(64)]);
    refused(&list(65), "it would be refused where it arrives: nested deeper than 64 levels");
    let few = Limits::default().max_items(10);
    assert!(encode(&[vec![0_u8; 9]], &few).is_ok());
    let error = encode(&[vec![0_u8; 10]], &few).unwrap_err();
    assert_eq!(error.cause.to_string(), "it would be refused where it arrives: more than 10 values");
}
