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

/// The bytes of memory that it has in use, in pages.
///
/// # Errors
///
/// If the system does not tell.
pub fn resident_bytes(id: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).context("memory is read as Linux tells it")?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process without memory")?;
    let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes << 10)
}
