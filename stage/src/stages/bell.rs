//! [`Bell`]: wakes a stage from a task, with no more than one message under way.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::handle::Message;
use crate::{CallError, StageRef};

/// Tells a stage that there is something to look at. Its handlers carry `do_not_recommend`: who forgets a handler of their
/// own should not be shown those of the ready-made stages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring;

/// Sends its stage a [`Ring`]; not another before that one was answered.
pub(super) struct Bell<S, O> {
    stage: StageRef<S, O>,
    rung: AtomicBool,
}

/// A bell of any stage.
pub(super) trait Chime: Send + Sync {
    /// Wakes the stage. Returns whether it is still there.
    fn ring(&self) -> bool;
    /// The stage is about to look: what comes from now on rings anew.
    fn answered(&self);
}

impl<S, O> Bell<S, O> {
    pub(super) fn new(stage: StageRef<S, O>) -> Self {
        Self { stage, rung: AtomicBool::new(false) }
    }
}

impl<S, O> Chime for Bell<S, O>
where
    S: 'static,
    O: Send + 'static,
    Ring: Message<S, O>,
{
    fn ring(&self) -> bool {
        if self.rung.swap(true, Ordering::AcqRel) {
            return true;
        }
        match self.stage.cast(Ring) {
            Ok(()) => true,
            // Others have sent it too much; a timer's message is taken all the same.
            Err(CallError::Overloaded { .. }) => {
                self.stage.send_after(Duration::ZERO, Ring);
                true
            }
            Err(_) => false,
        }
    }

    fn answered(&self) {
        self.rung.store(false, Ordering::Release);
    }
}

impl<S, O> fmt::Debug for Bell<S, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bell").field(&self.stage).finish()
    }
}
