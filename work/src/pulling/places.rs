//! [`Places`]: where each task is.

use std::collections::HashMap;

use super::rising::Rising;
use super::{Place, TaskId};

/// The places of tasks by their ids. Where ids are numbers that rise, as those of a pool, none is hashed; of users' receipts
/// the hash is a seeded one, as others may choose them. It is never iterated.
#[derive(Default)]
pub(super) struct Places {
    rising: Rising<Place>,
    others: HashMap<TaskId, Place>,
}

impl Places {
    pub(super) fn get(&self, task: TaskId) -> Option<Place> {
        let found = number(task).and_then(|number| self.rising.get(number));
        found.or_else(|| if self.others.is_empty() { None } else { self.others.get(&task) }).copied()
    }

    pub(super) fn insert(&mut self, task: TaskId, place: Place) {
        let Some(number) = number(task).filter(|number| self.rising.is_next(*number)) else {
            let known = number(task).and_then(|number| self.rising.get_mut(number));
            return match known {
                Some(known) => *known = place,
                None => drop(self.others.insert(task, place)),
            };
        };
        self.rising.push(number, place);
    }

    pub(super) fn remove(&mut self, task: TaskId) {
        let removed = number(task).and_then(|number| self.rising.remove(number));
        if removed.is_none() {
            self.others.remove(&task);
        }
    }
}

fn number(task: TaskId) -> Option<u64> {
    u64::try_from(task.number()).ok().filter(|number| *number < u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_its_place_in_whatever_order_they_come() {
        let mut places = Places::default();
        let ids = [5, 6, 1 << 100, 3, 9, u128::MAX, u64::MAX.into(), u128::from(u64::MAX) - 1, 7, 0];
        for (slot, id) in (0..).zip(ids) {
            assert!(places.get(TaskId::new(id)).is_none());
            places.insert(TaskId::new(id), Place::Slot(slot));
        }
        for (slot, id) in (0..).zip(ids) {
            assert!(matches!(places.get(TaskId::new(id)), Some(Place::Slot(found)) if found == slot));
            places.insert(TaskId::new(id), Place::Ended);
        }
        for id in ids {
            assert!(matches!(places.get(TaskId::new(id)), Some(Place::Ended)));
            places.remove(TaskId::new(id));
            assert!(places.get(TaskId::new(id)).is_none());
        }
    }
}
