use aqueduct_stage::*;

struct Numbers;

impl Producer for Numbers {
    type Out = u64;
    async fn handle_demand(&mut self, _: usize, _: &mut Cx<'_, u64>) -> Result {
        Ok(())
    }
}

struct Print;

impl Consumer for Print {
    type In = u64;
    async fn handle_events(&mut self, _: Batch<u64>, _: &mut Cx<'_>) -> Result {
        Ok(())
    }
}

fn main() {
    let graph = Graph::new("wiring");
    let numbers = graph.producer("numbers", || Numbers);
    graph.consumer("print", || Print).subscribe_each(&numbers, 5..10);
}
