use std::rc::Rc;

use aqueduct_stage::*;

struct Print;

impl Consumer for Print {
    type In = u64;
    async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
        let shared = Rc::new(1);
        std::future::ready(()).await;
        drop(shared);
        Ok(())
    }
}

fn main() {}
