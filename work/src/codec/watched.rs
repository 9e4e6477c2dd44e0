//! [`Watched`]: a serializer that writes as the one inside, and notes what a reader may not understand.

use std::cell::{Cell, RefCell};

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::shapes::{Shape, Shapes};

/// What is noted while one value is written.
pub(super) struct Watch<'a> {
    known: &'a Shapes,
    /// The latest shape that was noted.
    latest: Cell<Option<u64>>,
    /// Shapes that still need to be read back.
    fresh: RefCell<Vec<Shape>>,
    skipped: Cell<Option<Field>>,
    needs_names: Cell<bool>,
    /// A `Some` of something that is written as nothing.
    hides_some: Cell<bool>,
    somes: Cell<u64>,
    depth: Cell<usize>,
    deepest: Cell<usize>,
    /// If they are wanted, the fields, the inner ones first.
    fields: Option<RefCell<Vec<Written>>>,
}

/// What a field was written as.
#[derive(Debug, PartialEq)]
pub(super) struct Written {
    pub(super) field: Field,
    bytes: Vec<u8>,
    somes: u64,
}

/// A field of a structure, by its names on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) of: &'static str,
    pub(super) name: &'static str,
}

impl<'a> Watch<'a> {
    pub(super) fn new(known: &'a Shapes) -> Self {
        Self {
            known,
            latest: Cell::new(None),
            fresh: RefCell::new(Vec::new()),
            skipped: Cell::new(None),
            needs_names: Cell::new(false),
            hides_some: Cell::new(false),
            somes: Cell::new(0),
            depth: Cell::new(0),
            deepest: Cell::new(0),
            fields: None,
        }
    }

    /// What each field of `value` is written as, the inner ones first.
    pub(super) fn fields<T: Serialize>(value: &T) -> Vec<Written> {
        let known = Shapes::default();
        let watch = Watch { fields: Some(RefCell::default()), ..Watch::new(&known) };
        // What cannot be written has no fields.
        let _ = watch.write(value, &mut rmp_serde::Serializer::new(std::io::sink()).with_struct_map());
        watch.fields.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Writes `value` to `inner`.
    pub(super) fn write<T: Serialize + ?Sized, S: Serializer>(&self, value: &T, inner: S) -> Result<S::Ok, S::Error> {
        value.serialize(Watched { inner, watch: self, is_in_some: false })
    }

    /// A field that `skip_serializing_if` has left out, if there is one.
    pub(super) fn skipped(&self) -> Option<Field> {
        self.skipped.get()
    }

    /// Whether a structure in it is read right only with the names of its fields.
    pub(super) fn needs_names(&self) -> bool {
        self.needs_names.get() || self.skipped.get().is_some()
    }

    pub(super) fn hides_some(&self) -> bool {
        self.hides_some.get()
    }

    /// How many `Some` there are.
    pub(super) fn somes(&self) -> u64 {
        self.somes.get()
    }

    /// How many arrays and maps are open at a time.
    pub(super) fn depth(&self) -> usize {
        self.deepest.get()
    }

    pub(super) fn take_fresh(&self) -> Vec<Shape> {
        self.fresh.take()
    }

    fn note(&self, shape: Shape) {
        if self.latest.get() == Some(shape.id) {
            return;
        }
        self.latest.set(Some(shape.id));
        let state = self.known.state(shape.id);
        if state.needs_names {
            self.needs_names.set(true);
        }
        if state.is_fresh() {
            let mut fresh = self.fresh.borrow_mut();
            if fresh.len() < MOST_FRESH && fresh.iter().all(|other| other.id != shape.id) {
                fresh.push(shape);
            }
        }
    }

    fn open(&self, levels: usize) {
        let depth = self.depth.get() + levels;
        self.depth.set(depth);
        self.deepest.set(self.deepest.get().max(depth));
    }

    fn close(&self, levels: usize) {
        self.depth.set(self.depth.get() - levels);
    }
}

/// Writes one value.
struct Watched<'w, S> {
    inner: S,
    watch: &'w Watch<'w>,
    is_in_some: bool,
}

/// A value inside another one.
struct Inner<'w, T: ?Sized> {
    value: &'w T,
    watch: &'w Watch<'w>,
    is_in_some: bool,
}

impl<T: Serialize + ?Sized> Serialize for Inner<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, inner: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Watched { inner, watch: self.watch, is_in_some: self.is_in_some })
    }
}

impl<'w, S> Watched<'w, S> {
    fn nothing(&self) {
        if self.is_in_some {
            self.watch.hides_some.set(true);
        }
    }

    fn variant(&self, name: &'static str, index: u32) {
        self.watch.note(Shape { id: fold(fold(0, name), "").wrapping_add(u64::from(index)), name });
    }

    fn parts<C>(watch: &'w Watch<'w>, levels: usize, inner: C) -> Parts<'w, C> {
        watch.open(levels);
        Parts { inner, watch, levels }
    }
}

macro_rules! as_it_is {
    ($($method:ident: $type:ty),* $(,)?) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$method(value)
        }
    )*};
}

impl<'w, S: Serializer> Serializer for Watched<'w, S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Parts<'w, S::SerializeSeq>;
    type SerializeTuple = Parts<'w, S::SerializeTuple>;
    type SerializeTupleStruct = Parts<'w, S::SerializeTupleStruct>;
    type SerializeTupleVariant = Parts<'w, S::SerializeTupleVariant>;
    type SerializeMap = Parts<'w, S::SerializeMap>;
    type SerializeStruct = Fields<'w, S::SerializeStruct>;
    type SerializeStructVariant = Fields<'w, S::SerializeStructVariant>;

    as_it_is! {
        serialize_bool: bool, serialize_char: char, serialize_str: &str, serialize_bytes: &[u8],
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128,
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_f32: f32, serialize_f64: f64,
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }

    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.nothing();
        self.inner.serialize_none()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.watch.somes.set(self.watch.somes.get() + 1);
        self.inner.serialize_some(&Inner { value, watch: self.watch, is_in_some: true })
    }

    #[inline]
    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.nothing();
        self.inner.serialize_unit()
    }

    #[inline]
    fn serialize_unit_struct(self, name: &'static str) -> Result<S::Ok, S::Error> {
        self.nothing();
        self.inner.serialize_unit_struct(name)
    }

    #[inline]
    fn serialize_unit_variant(self, name: &'static str, index: u32, variant: &'static str) -> Result<S::Ok, S::Error> {
        self.variant(name, index);
        self.inner.serialize_unit_variant(name, index, variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<S::Ok, S::Error> {
        let value = Inner { value, watch: self.watch, is_in_some: self.is_in_some };
        self.inner.serialize_newtype_struct(name, &value)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.variant(name, index);
        self.watch.open(1);
        let value = Inner { value, watch: self.watch, is_in_some: false };
        let done = self.inner.serialize_newtype_variant(name, index, variant, &value)?;
        self.watch.close(1);
        Ok(done)
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self::SerializeSeq, S::Error> {
        Ok(Self::parts(self.watch, 1, self.inner.serialize_seq(len)?))
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, S::Error> {
        Ok(Self::parts(self.watch, 1, self.inner.serialize_tuple(len)?))
    }

    #[inline]
    fn serialize_tuple_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeTupleStruct, S::Error> {
        Ok(Self::parts(self.watch, 1, self.inner.serialize_tuple_struct(name, len)?))
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, S::Error> {
        self.variant(name, index);
        Ok(Self::parts(self.watch, 2, self.inner.serialize_tuple_variant(name, index, variant, len)?))
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self::SerializeMap, S::Error> {
        Ok(Self::parts(self.watch, 1, self.inner.serialize_map(len)?))
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Self::SerializeStruct, S::Error> {
        Ok(Fields::new(self.watch, 1, name, fold(1, name), self.inner.serialize_struct(name, len)?))
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        let inner = self.inner.serialize_struct_variant(name, index, variant, len)?;
        Ok(Fields::new(self.watch, 2, variant, fold(fold(2, name), variant), inner))
    }
}

/// The parts of a list, a tuple or a map.
struct Parts<'w, C> {
    inner: C,
    watch: &'w Watch<'w>,
    levels: usize,
}

macro_rules! parts {
    ($($trait:ident: $($method:ident),*;)*) => {$(
        impl<C: $trait> $trait for Parts<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            $(
                #[inline]
                fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                    self.inner.$method(&Inner { value, watch: self.watch, is_in_some: false })
                }
            )*

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.watch.close(self.levels);
                self.inner.end()
            }
        }
    )*};
}

parts! {
    SerializeSeq: serialize_element;
    SerializeTuple: serialize_element;
    SerializeTupleStruct: serialize_field;
    SerializeTupleVariant: serialize_field;
    SerializeMap: serialize_key, serialize_value;
}

/// The fields of a structure.
struct Fields<'w, C> {
    inner: C,
    watch: &'w Watch<'w>,
    levels: usize,
    name: &'static str,
    /// Of the structure, and of those of its fields that were written so far.
    id: u64,
}

impl<'w, C> Fields<'w, C> {
    fn new(watch: &'w Watch<'w>, levels: usize, name: &'static str, id: u64, inner: C) -> Self {
        watch.open(levels);
        Self { inner, watch, levels, name, id }
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T, somes_before: u64) {
        self.id = fold(self.id, name);
        if let Some(fields) = &self.watch.fields {
            // What fails here fails where it is written, too.
            let bytes = rmp_serde::to_vec_named(value).unwrap_or_default();
            let (field, somes) = (Field { of: self.name, name }, self.watch.somes() - somes_before);
            fields.borrow_mut().push(Written { field, bytes, somes });
        }
    }

    fn skip(&self, name: &'static str) {
        if self.watch.skipped.get().is_none() {
            self.watch.skipped.set(Some(Field { of: self.name, name }));
        }
    }

    fn end(&self) {
        self.watch.close(self.levels);
        self.watch.note(Shape { id: self.id, name: self.name });
    }
}

macro_rules! fields {
    ($($trait:ident),*) => {$(
        impl<C: $trait> $trait for Fields<'_, C> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), C::Error> {
                let somes = self.watch.somes();
                let inner = Inner { value, watch: self.watch, is_in_some: false };
                self.inner.serialize_field(name, &inner)?;
                self.field(name, value, somes);
                Ok(())
            }

            #[inline]
            fn skip_field(&mut self, name: &'static str) -> Result<(), C::Error> {
                self.skip(name);
                self.inner.skip_field(name)
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                Fields::end(&self);
                self.inner.end()
            }
        }
    )*};
}

fields!(SerializeStruct, SerializeStructVariant);

/// Goes by where a name stands, which is quick; one name that stands at two places only is two shapes.
#[inline]
fn fold(id: u64, name: &'static str) -> u64 {
    (id ^ name.as_ptr() as u64 ^ (name.len() as u64) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// More shapes than these are learned from later values.
const MOST_FRESH: usize = 64;
