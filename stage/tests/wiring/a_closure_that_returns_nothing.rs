use aqueduct_stage::*;

fn main() {
    let graph = Graph::new("wiring");
    let numbers = graph.iterate("numbers", || 0..10u64);
    graph.consumer("print", || each(async |n: u64| drop(n))).subscribe(&numbers, 5..10);
}
