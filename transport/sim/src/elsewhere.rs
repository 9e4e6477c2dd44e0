//! [`same_elsewhere`]: whether a seed does the same in another process.

use std::env;
use std::process::Command;

use crate::Report;

/// Set for the copy of a test binary that a test starts: it prints the hashes and compares nothing.
const IS_COPY: &str = "AQUEDUCT_SIM_PRINT_HASHES";

/// Starts the running test binary again, with only the test of this name (with its modules, as `--exact` takes it), which calls
/// this function too, and compares the traces of both: whatever is in the memory and the environment of a process must not
/// matter. Does nothing where the platform gives processes randomness that cannot be seeded.
///
/// # Panics
///
/// If a trace differs, or the copy does not start.
#[track_caller]
pub fn same_elsewhere(test: &str, reports: &[Report]) {
    let hashes: Vec<_> = reports.iter().map(|report| format!("trace {} {:016x}", report.seed, report.hash)).collect();
    if env::var_os(IS_COPY).is_some() {
        return hashes.iter().for_each(|line| println!("\n{line}"));
    }
    if !reports.iter().all(|report| report.entropy_is_seeded) {
        return;
    }
    let this = env::current_exe().expect("a test knows its binary");
    let copy = Command::new(this).args(["--exact", test, "--nocapture"]).env(IS_COPY, "1").output();
    let output = copy.expect("it starts again").stdout;
    let output = String::from_utf8_lossy(&output);
    let theirs: Vec<&str> = output.lines().filter(|line| line.starts_with("trace ")).collect();
    assert_eq!(theirs, hashes);
}
