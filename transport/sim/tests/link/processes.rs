//! The same seed does the same in another process, whatever that has in its memory and environment.

use std::process::Command;
use std::time::Duration;

use aqueduct_sim::{Outcome, SimNet};
use tokio::time::sleep;

use crate::stages::Pace;
use crate::world::{GRACE, SHORT_IDLE, World, everything, sim};

/// Set for the copy of this test binary that the test starts: it prints the hashes and compares nothing.
const IS_COPY: &str = "AQUEDUCT_SIM_PRINT_HASHES";

#[test]
fn another_process_gets_the_same_traces_of_links() {
    let reports = [1, 2, 3].map(|seed| sim().run(seed, cut_and_resumed).expect_ok());
    let hashes = reports.each_ref().map(|report| format!("trace {} {:016x}", report.seed, report.hash));
    if std::env::var_os(IS_COPY).is_some() {
        return hashes.iter().for_each(|line| println!("\n{line}"));
    }
    if !reports[0].entropy_is_seeded {
        return; // this platform does not promise it
    }
    let this = std::env::current_exe().expect("a test knows its binary");
    let test = ["--exact", "processes::another_process_gets_the_same_traces_of_links", "--nocapture"];
    let copy = Command::new(this).args(test).env(IS_COPY, "1").output().expect("it starts again");
    let output = String::from_utf8_lossy(&copy.stdout);
    let theirs: Vec<&str> = output.lines().filter(|line| line.starts_with("trace ")).collect();
    assert_eq!(theirs, hashes);
}

async fn cut_and_resumed(net: SimNet) -> Outcome {
    let mut world = World::with(&net, SHORT_IDLE, GRACE, Pace::Slow, true).await?;
    world.under_way().await;
    net.partition(&world.there, &world.here[0].host);
    sleep(Duration::from_secs(10)).await;
    net.heal_all();
    for here in &mut world.here {
        here.consuming.join().await?;
    }
    assert_eq!(world.all_seen(), everything(), "lost, or twice");
    world.end().await
}
