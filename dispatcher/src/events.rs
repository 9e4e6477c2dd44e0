//! [`Events`]: a batch on its way, owned by one subscriber or shared by several.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A batch of events: it reads as a slice, and iterating by value moves the events out.
///
/// A broadcast gives the same batch to every subscriber. It is shared, not copied; only a subscriber that takes events
/// out by value clones those, and the last one to hold the batch not even that.
pub struct Events<T> {
    inner: Inner<T>,
    begins: Option<Begins<T>>,
}

/// Begins with an event, just before its consumer is given it; `false` if it was taken back before that.
pub type Begins<T> = fn(&T) -> bool;

enum Inner<T> {
    Owned(Vec<T>),
    Shared(Shared<T>),
}

struct Shared<T> {
    events: Arc<dyn Holder<T>>,
    /// This batch is `events[from..to]`.
    from: usize,
    to: usize,
}

/// Holds events that can be shared between threads, which is known only where they were shared.
trait Holder<T>: Send + Sync {
    fn events(&self) -> &[T];
    /// Events `from..to`: moved if nobody else holds them, else cloned.
    fn take(self: Arc<Self>, from: usize, to: usize) -> Vec<T>;
}

struct Held<T>(Vec<T>);

impl<T: Clone + Send + Sync> Holder<T> for Held<T> {
    fn events(&self) -> &[T] {
        &self.0
    }

    fn take(self: Arc<Self>, from: usize, to: usize) -> Vec<T> {
        match Arc::try_unwrap(self) {
            Ok(Self(mut events)) => {
                events.truncate(to);
                events.drain(..from);
                events
            }
            Err(shared) => shared.0[from..to].to_vec(),
        }
    }
}

impl<T> Events<T> {
    /// A batch of which [`another`](Self::another) handle can be had.
    pub fn share(events: Vec<T>) -> Self
    where
        T: Clone + Send + Sync + 'static,
    {
        let to = events.len();
        Inner::Shared(Shared { events: Arc::new(Held(events)), from: 0, to }).into()
    }

    /// A batch of events that can be taken back for as long as they wait at their consumer. It is given them one by one:
    /// `begins` is called with each just before that, and one for which it says `false` is passed over.
    pub fn revocable(events: Vec<T>, begins: Begins<T>) -> Self {
        Self { inner: Inner::Owned(events), begins: Some(begins) }
    }

    /// What begins with each of them, if they can be [taken back](Self::revocable).
    pub fn begins(&self) -> Option<Begins<T>> {
        self.begins
    }

    /// Another handle to the same events; `None` if they are not shared.
    pub fn another(&self) -> Option<Self> {
        match &self.inner {
            Inner::Owned(_) => None,
            Inner::Shared(shared) => Some(Inner::Shared(shared.another()).into()),
        }
    }

    /// Cuts the batch after the first `count` events, and returns the rest. A shared batch is not copied for it.
    ///
    /// # Panics
    ///
    /// If there are fewer than `count` events.
    #[track_caller]
    pub fn split_off(&mut self, count: usize) -> Self {
        assert!(count <= self.len(), "cannot cut {} events after {count}", self.len());
        let inner = match &mut self.inner {
            Inner::Owned(events) => Inner::Owned(events.split_off(count)),
            Inner::Shared(shared) => {
                let mut rest = shared.another();
                rest.from = shared.from + count;
                shared.to = rest.from;
                Inner::Shared(rest)
            }
        };
        Self { inner, begins: self.begins }
    }

    /// The events as a vector: cloned if others hold them too.
    pub fn into_vec(self) -> Vec<T> {
        match self.inner {
            Inner::Owned(events) => events,
            Inner::Shared(Shared { events, from, to }) => events.take(from, to),
        }
    }
}

impl<T> Shared<T> {
    fn another(&self) -> Self {
        Self { events: Arc::clone(&self.events), from: self.from, to: self.to }
    }
}

impl<T> From<Inner<T>> for Events<T> {
    fn from(inner: Inner<T>) -> Self {
        Self { inner, begins: None }
    }
}

impl<T> From<Vec<T>> for Events<T> {
    fn from(events: Vec<T>) -> Self {
        Inner::Owned(events).into()
    }
}

impl<T> Deref for Events<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.inner {
            Inner::Owned(events) => events,
            Inner::Shared(shared) => &shared.events.events()[shared.from..shared.to],
        }
    }
}

impl<T> IntoIterator for Events<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.into_vec().into_iter()
    }
}

impl<T: fmt::Debug> fmt::Debug for Events<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: PartialEq> PartialEq<Vec<T>> for Events<T> {
    fn eq(&self, other: &Vec<T>) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_batch_is_cut_without_a_copy_and_taken_by_each() {
        let mut first = Events::share(vec![1, 2, 3, 4, 5]);
        let second = first.another().expect("it is shared");
        let rest = first.split_off(2);
        assert_eq!((&*first, &*rest, &*second), (&[1, 2][..], &[3, 4, 5][..], &[1, 2, 3, 4, 5][..]));
        assert_eq!(second.as_ptr(), first.as_ptr());
        assert_eq!(
            (rest.into_vec(), first.into_vec(), second.into_vec()),
            (vec![3, 4, 5], vec![1, 2], vec![1, 2, 3, 4, 5])
        );
    }

    #[test]
    fn the_last_holder_takes_the_events_without_cloning_them() {
        #[derive(Debug)]
        struct Once;
        impl Clone for Once {
            fn clone(&self) -> Self {
                panic!("cloned")
            }
        }
        let first = Events::share(vec![Once, Once, Once]);
        let mut second = first.another().expect("it is shared");
        drop(first);
        let rest = second.split_off(1);
        drop(second);
        assert_eq!(rest.into_vec().len(), 2);
    }

    #[test]
    fn an_owned_batch_is_not_shared() {
        let mut events = Events::from(vec![1, 2, 3]);
        assert!(events.another().is_none());
        assert_eq!(events.split_off(1), vec![2, 3]);
        assert_eq!(events.into_iter().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn what_is_cut_off_can_be_taken_back_as_well() {
        let mut events = Events::revocable(vec![1, 2, 3], |event| *event != 2);
        let rest = events.split_off(1);
        assert_eq!([events.begins(), rest.begins()].map(|begins| begins.map(|begins| begins(&2))), [Some(false); 2]);
        assert!(Events::from(vec![1]).begins().is_none());
    }
}
