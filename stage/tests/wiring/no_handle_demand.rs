use aqueduct_stage::*;

struct Numbers;

impl Producer for Numbers {
    type Out = u64;
}

fn main() {}
