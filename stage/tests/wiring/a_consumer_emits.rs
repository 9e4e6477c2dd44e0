use aqueduct_stage::*;

struct Print;

impl Consumer for Print {
    type In = u64;
    async fn handle_events(&mut self, events: Batch<u64>, cx: &mut Cx<'_>) -> Result {
        for event in events {
            cx.emit(event);
        }
        Ok(())
    }
}

fn main() {}
