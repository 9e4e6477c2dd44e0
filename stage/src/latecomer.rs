//! [`Latecomer`]: what somebody is told who subscribes to an instance of a stage that has ended. Pure.

use crate::Exit;

/// What somebody is told who comes to an instance that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Latecomer {
    /// The stage as a whole goes on: this instance has nothing, and ends as it did.
    HasNothing,
    /// All of the stage is over. A consumer that has seen none of it must not take that for the end of the data.
    IsTooLate,
    /// This instance of several has not ended normally, and no other one makes up for that.
    MissesSomething,
}

/// The instances of one stage.
pub(crate) trait Siblings: Send + Sync {
    /// What somebody is told who comes to an instance that has ended by `exit`.
    fn latecomer(&self, instance: usize, exit: &Exit) -> Latecomer;
}

impl Latecomer {
    /// Of one that comes to an instance that ended by `exit`. `others` says of each other instance how it has ended, if it has.
    pub(crate) fn of<'a>(exit: &Exit, others: impl IntoIterator<Item = Option<&'a Exit>>) -> Self {
        let mut others = others.into_iter().peekable();
        let is_alone = others.peek().is_none();
        match exit {
            // What another one that has failed is missing, it says itself.
            Exit::Normal if others.any(|other| !matches!(other, Some(Exit::Normal))) => Self::HasNothing,
            Exit::Normal => Self::IsTooLate,
            _ if is_alone => Self::IsTooLate,
            _ => Self::MissesSomething,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failure, FailureKind};

    #[test]
    fn a_stage_is_over_when_all_of_its_instances_have_ended_normally() {
        let failed = Exit::Failed(Failure::new("numbers", FailureKind::Error, "boom"));
        let (normal, shutdown, failed) = (&Exit::Normal, &Exit::Shutdown, &failed);
        use Latecomer::{HasNothing, IsTooLate, MissesSomething};
        for (exit, others, expected) in [
            (normal, &[][..], IsTooLate),
            (normal, &[Some(normal), Some(normal)], IsTooLate),
            (normal, &[Some(normal), None], HasNothing),
            (normal, &[Some(failed), Some(normal)], HasNothing),
            (normal, &[Some(shutdown)], HasNothing),
            (failed, &[], IsTooLate),
            (shutdown, &[], IsTooLate),
            (failed, &[None], MissesSomething),
            (failed, &[Some(normal)], MissesSomething),
            (shutdown, &[Some(shutdown)], MissesSomething),
        ] {
            assert_eq!(Latecomer::of(exit, others.iter().copied()), expected, "{exit}, {others:?}");
        }
    }
}
