//! A process that hangs, and what is said of it.

use std::process::Command;
use std::time::Duration;

use aqueduct_watchdog::Watch;

/// Set for the copy of this binary that hangs.
const HANGS: &str = "AQUEDUCT_WATCHDOG_HANGS";

#[test]
fn what_hangs_is_aborted_and_its_seed_is_said() {
    if std::env::var_os(HANGS).is_some() {
        let watch = Watch::within(Duration::from_secs(2), "SEED=");
        for seed in 0.. {
            watch.begin(seed);
            if seed == 17 {
                loop {
                    std::hint::spin_loop();
                }
            }
        }
    }
    let this = std::env::current_exe().expect("a test knows its binary");
    let test = "what_hangs_is_aborted_and_its_seed_is_said";
    let copy = Command::new(this).args(["--exact", test]).env(HANGS, "1").output().expect("it starts again");
    let said = String::from_utf8_lossy(&copy.stderr);
    assert!(!copy.status.success() && said.contains("SEED=17: no end after 2s of real time"), "{said}");
}
