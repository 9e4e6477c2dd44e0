//! [`Number`]: the types of events that are numbers of at most 64 bits, found by their type alone.
//!
//! Whoever implements [`Wire`](crate::Wire) need not say that a type is a number, and cannot say it of one that is none.

use std::any::{Any, TypeId};

use super::columns::{ColumnsError, Reading};

/// A number of at most 64 bits.
pub(super) trait Number: Copy + 'static {
    /// Its bits, extended to 64 as the type is.
    fn bits(self) -> u64;

    /// `None` if these are not the bits of such a number.
    fn of_bits(bits: u64) -> Option<Self>;
}

macro_rules! integer {
    ($($type:ty as $wide:ty),*) => {$(
        impl Number for $type {
            #[inline]
            fn bits(self) -> u64 {
                self as $wide as u64
            }

            #[inline]
            fn of_bits(bits: u64) -> Option<Self> {
                Self::try_from(bits as $wide).ok()
            }
        }
    )*};
}

integer!(u8 as u64, u16 as u64, u32 as u64, u64 as u64, usize as u64);
integer!(i8 as i64, i16 as i64, i32 as i64, i64 as i64, isize as i64);

impl Number for f32 {
    #[inline]
    fn bits(self) -> u64 {
        self.to_bits().into()
    }

    #[inline]
    fn of_bits(bits: u64) -> Option<Self> {
        u32::try_from(bits).ok().map(Self::from_bits)
    }
}

impl Number for f64 {
    #[inline]
    fn bits(self) -> u64 {
        self.to_bits()
    }

    #[inline]
    fn of_bits(bits: u64) -> Option<Self> {
        Some(Self::from_bits(bits))
    }
}

/// Calls a macro with every type that is a [`Number`].
macro_rules! for_each_number {
    ($macro:ident) => {
        $macro!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize, f32, f64)
    };
}

/// Whether `T` is a number.
pub fn is_number<T: 'static>() -> bool {
    macro_rules! is_one_of {
        ($($type:ty),*) => {
            [$(TypeId::of::<$type>()),*].contains(&TypeId::of::<T>())
        };
    }
    for_each_number!(is_one_of)
}

/// The bits of `events`; `None` if they are no numbers.
pub(super) fn bits_of<T: 'static>(events: &[T]) -> Option<Vec<u64>> {
    macro_rules! as_one_of {
        ($($type:ty),*) => {$(
            if TypeId::of::<T>() == TypeId::of::<$type>() {
                let number = |event: &T| (event as &dyn Any).downcast_ref::<$type>().copied();
                return Some(events.iter().map(|event| number(event).expect("it is of that type").bits()).collect());
            }
        )*};
    }
    for_each_number!(as_one_of);
    None
}

/// Reads numbers behind those that are there already; `None` if `events` is no `Vec` of numbers.
pub(super) fn read_numbers(events: &mut dyn Any, reading: Reading<'_>) -> Option<Result<(), ColumnsError>> {
    macro_rules! as_one_of {
        ($($type:ty),*) => {$(
            if let Some(numbers) = events.downcast_mut::<Vec<$type>>() {
                return Some(reading.read(numbers));
            }
        )*};
    }
    for_each_number!(as_one_of);
    None
}
