//! [`Shapes`]: which structures of a type are known to be read as they are written.

use std::any::TypeId;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// A structure with the fields that were written of it, or a variant of an enum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) id: u64,
    pub(super) name: &'static str,
}

/// What is known of a type. It is the same for everybody in a process, so it is learned once.
#[derive(Clone, Debug, Default)]
pub(super) struct Shapes {
    /// The type as a whole: apart, as every value asks for it.
    whole: State,
    states: BTreeMap<u64, State>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    /// How often it was read back.
    read_back: u8,
    /// It is read right only with the names of its fields.
    pub(super) needs_names: bool,
}

impl State {
    /// Whether it is to be read back once more.
    #[inline]
    pub(super) fn is_fresh(self) -> bool {
        self.read_back < ENOUGH
    }

    fn is_read_back(&mut self) {
        self.read_back = self.read_back.saturating_add(1);
    }
}

impl Shapes {
    /// Calls `write` with what is known of `T`, which it may replace by what it learns.
    ///
    /// A thread mostly writes values of one type, many of them one by one: what it knew last is kept for the next one. What
    /// others have learned since is missing then, and learned again.
    pub(super) fn with<T: 'static, R>(write: impl FnOnce(&mut Arc<Self>) -> R) -> R {
        let id = TypeId::of::<T>();
        // Taken, as `Serialize` may write something, too.
        let last = LAST.take().filter(|(last, _)| *last == id);
        let mut shapes = last.map_or_else(Self::of::<T>, |(_, shapes)| shapes);
        let written = write(&mut shapes);
        LAST.set(Some((id, shapes)));
        written
    }

    /// What is known of `T`.
    fn of<T: 'static>() -> Arc<Self> {
        let types = TYPES.read().unwrap_or_else(PoisonError::into_inner);
        types.get(&TypeId::of::<T>()).cloned().unwrap_or_default()
    }

    /// Notes that values with these shapes were read back, and are written with the names of their fields if they need it.
    pub(super) fn learn<T: 'static>(ids: impl IntoIterator<Item = u64>, needs_names: bool) -> Arc<Self> {
        let mut types = TYPES.write().unwrap_or_else(PoisonError::into_inner);
        let known = types.entry(TypeId::of::<T>()).or_default();
        let shapes = Arc::make_mut(known);
        if shapes.states.len() >= MOST_SHAPES {
            shapes.states.clear();
        }
        shapes.whole.is_read_back();
        for id in ids {
            let state = shapes.states.entry(id).or_default();
            state.is_read_back();
            state.needs_names |= needs_names;
        }
        Arc::clone(known)
    }

    /// What is known of the type as a whole.
    #[inline]
    pub(super) fn whole(&self) -> State {
        self.whole
    }

    /// What is known of a shape.
    #[inline]
    pub(super) fn state(&self, id: u64) -> State {
        self.states.get(&id).copied().unwrap_or_default()
    }
}

thread_local! {
    static LAST: Cell<Option<(TypeId, Arc<Shapes>)>> = const { Cell::new(None) };
}

static TYPES: RwLock<BTreeMap<TypeId, Arc<Shapes>>> = RwLock::new(BTreeMap::new());

/// A value that looks the same by chance, such as a zero in place of a zero, is not the rule.
const ENOUGH: u8 = 16;
/// A structure with ten fields that may be skipped has as many; beyond that, all is learned anew.
const MOST_SHAPES: usize = 1024;
