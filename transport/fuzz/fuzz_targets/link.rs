#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| aqueduct_transport::fuzzing::link(data));
