//! A producer of as many numbers as it is asked for.

use aqueduct_stage::{Cx, Exit, Producer, Result};

/// Emits the numbers up to `end`, exactly as many as it is asked for.
pub(crate) struct Count {
    next: u64,
    end: u64,
}

pub(crate) fn count(end: u64) -> impl Fn() -> Count {
    move || Count { next: 0, end }
}

impl Producer for Count {
    type Out = u64;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, u64>) -> Result {
        let to = self.end.min(self.next + demand as u64);
        cx.emit_all(self.next..to);
        self.next = to;
        if to == self.end {
            cx.stop(Exit::Normal);
        }
        Ok(())
    }
}
