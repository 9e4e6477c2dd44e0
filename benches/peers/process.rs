//! What a process has used, as Linux tells.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The processor time of all its threads, in user mode and in the kernel.
///
/// # Errors
///
/// If the system does not tell.
pub fn processor_time(id: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{id}/task")).context("processor time is read as Linux tells it")? {
        // A thread may end meanwhile.
        let Ok(statistics) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += statistics.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}
