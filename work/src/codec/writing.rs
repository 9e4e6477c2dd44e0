//! Writes an event, and makes sure that it is read as it was written.

use std::sync::Arc;

use rmp_serde::Serializer;

use super::shapes::{Shape, Shapes};
use super::watched::{Field, Watch};
use super::{EncodeErrorCause, decode};
use crate::prescan::{self, StructureError};
use crate::{Limits, Wire};

/// Writes one event behind the others.
///
/// What is read right is not known from a type. So the first values of each shape are read back here, and so is every value
/// that shows that it may not be.
pub(super) fn write<T: Wire>(
    event: &T,
    bytes: &mut Vec<u8>,
    shapes: &mut Arc<Shapes>,
    limits: &Limits,
) -> Result<(), EncodeErrorCause> {
    let start = bytes.len();
    let watch = Watch::new(shapes);
    watch.write(event, &mut Serializer::new(&mut *bytes)).map_err(EncodeErrorCause::Value)?;
    let mut needs_names = watch.needs_names();
    if needs_names {
        write_named(event, bytes, start)?;
    }
    check_size(&bytes[start..], watch.depth(), limits)?;
    let fresh = watch.take_fresh();
    let is_fresh = !fresh.is_empty() || shapes.whole().is_fresh();
    if !(is_fresh || watch.hides_some()) {
        return Ok(());
    }
    let mut found = difference(event, &bytes[start..], limits);
    if found.is_some() && !needs_names {
        needs_names = true;
        write_named(event, bytes, start)?;
        check_size(&bytes[start..], watch.depth(), limits)?;
        found = difference(event, &bytes[start..], limits);
    }
    match found {
        None => {
            let ids = fresh.iter().map(|shape| shape.id);
            *shapes = Shapes::learn::<T>(ids, needs_names);
            Ok(())
        }
        Some(Difference { field, reason }) => {
            let place = place(field.or(watch.skipped()), fresh.last());
            Err(EncodeErrorCause::Unreadable { signature: T::signature(), place, reason })
        }
    }
}

fn write_named<T: Wire>(event: &T, bytes: &mut Vec<u8>, start: usize) -> Result<(), EncodeErrorCause> {
    bytes.truncate(start);
    rmp_serde::encode::write_named(bytes, event).map_err(EncodeErrorCause::Value)
}

/// What is refused where it arrives is refused here.
fn check_size(event: &[u8], depth: usize, limits: &Limits) -> Result<(), EncodeErrorCause> {
    let (got, bound) = (event.len(), limits.event_bytes());
    if got > bound {
        return Err(EncodeErrorCause::TooLarge { got, bound });
    }
    if depth > limits.depth() {
        return Err(StructureError::TooDeep { bound: limits.depth() }.into());
    }
    // Each value is a byte at least.
    if got as u64 > limits.items() {
        prescan::check(event, 1, limits.items(), limits.depth())?;
    }
    Ok(())
}

/// How what is read differs from what was written.
struct Difference {
    field: Option<Field>,
    reason: String,
}

/// `None` if `written` is read as `event`.
fn difference<T: Wire>(event: &T, written: &[u8], limits: &Limits) -> Option<Difference> {
    let copy = match decode::<T>(written, 1, limits) {
        Ok(mut events) => events.pop()?,
        Err(error) => return Some(Difference { field: None, reason: error.of_one() }),
    };
    let (before, after) = (Print::of(event), Print::of(&copy));
    // What is never written twice alike, such as the time that has passed since something, cannot be compared.
    if before == after || before != Print::of(event) {
        return None;
    }
    let (before, after) = (Watch::fields(event), Watch::fields(&copy));
    let at = before.iter().zip(&after).take_while(|(before, after)| before == after).count();
    let field = before.get(at).or(after.get(at)).map(|written| written.field);
    Some(Difference { field, reason: "it is read as another value".to_owned() })
}

fn place(field: Option<Field>, shape: Option<&Shape>) -> String {
    match (field, shape) {
        (Some(Field { of, name }), _) => format!("in field `{name}` of `{of}`"),
        (None, Some(shape)) => format!("in `{}`", shape.name),
        (None, None) => "as a whole".to_owned(),
    }
}

/// What two values have in common that are the same but for the order of a map or a set.
#[derive(PartialEq)]
struct Print {
    /// How often each byte occurs in what is written with names.
    counts: [u64; 256],
    /// How many `Some` there are, since `Some(None)` is written as `None` is.
    somes: u64,
}

impl Print {
    fn of<T: Wire>(value: &T) -> Self {
        let known = Shapes::default();
        let watch = Watch::new(&known);
        let mut written = Vec::new();
        let mut counts = [0; 256];
        // It could be written before, or was read.
        if watch.write(value, &mut Serializer::new(&mut written).with_struct_map()).is_ok() {
            for byte in written {
                counts[usize::from(byte)] += 1;
            }
        }
        Self { counts, somes: watch.somes() }
    }
}
