//! Runs every example and compares what it prints with the file of its name beside this one.
//!
//! `cargo test` builds the examples before it runs this; `cargo test --test examples` does not, and would run old ones:
//! `cargo build --examples` belongs before it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use std::{env, fs};

use aqueduct::Result;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

/// How long an example may run. The slowest takes a few seconds, without optimisation and on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a process that an example has started may take to notice that the example has ended.
const NOTICE: Duration = Duration::from_secs(5);
/// Set to store what the examples print instead of comparing it.
const RENEW: &str = "RENEW_EXAMPLES";
/// Inherited by whatever an example starts: how that is found if it is left behind.
const MARK: &str = "AQUEDUCT_EXAMPLE";

#[tokio::test]
async fn each_example_prints_what_is_stored() -> Result {
    let examples = names(&root().join("examples"), "rs")?;
    let mut complaints: Vec<String> = names(&root().join("examples/output"), "txt")?
        .difference(&examples)
        .map(|name| format!("examples/output/{name}.txt has no example: remove it"))
        .collect();
    assert!(!examples.is_empty(), "no examples in {}", root().display());
    // One after the other, so that the limit means the same for each.
    for name in &examples {
        if let Err(complaint) = check(name).await {
            complaints.push(complaint.to_string());
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n\n"));
    Ok(())
}

/// Runs an example, and compares or stores what it prints.
async fn check(name: &str) -> Result {
    let binary = binary(name)?;
    if !binary.exists() {
        return Err(format!("{} is not built: run `cargo build --examples`", binary.display()).into());
    }
    let mark = format!("{}-{name}", std::process::id());
    let run = run(&binary, &mark).await;
    let left = end_what_is_left(&format!("{MARK}={mark}")).await;
    let Output { status, stdout, stderr } = run.map_err(|error| format!("{name}: {error}"))?;
    let (stdout, stderr) = (String::from_utf8(stdout)?, String::from_utf8_lossy(&stderr));
    if !status.success() {
        return Err(format!("{name}: {status}\n{stderr}").into());
    }
    if !left.is_empty() {
        return Err(format!("{name} left processes behind:\n{}", left.join("\n")).into());
    }
    let stored = root().join(format!("examples/output/{name}.txt"));
    if env::var_os(RENEW).is_some() {
        return Ok(fs::write(stored, stdout)?);
    }
    let renew = format!("if that is right, store it: cargo build --examples && {RENEW}=1 cargo test --test examples");
    match fs::read_to_string(&stored) {
        Ok(expected) if expected == stdout => Ok(()),
        Ok(expected) => Err(format!("{name} {}; {renew}", difference(&expected, &stdout)).into()),
        Err(error) => Err(format!("{}: {error}; {name} prints:\n{stdout}{renew}", stored.display()).into()),
    }
}

/// Runs a program to its end, and kills it after the limit.
async fn run(binary: &Path, mark: &str) -> Result<Output> {
    let mut command = Command::new(binary);
    command.env(MARK, mark).current_dir(root()).stdin(Stdio::null()).kill_on_drop(true);
    match timeout(LIMIT, command.output()).await {
        Ok(output) => Ok(output?),
        Err(_) => Err(format!("had not ended, or something held its output open, after {LIMIT:?}").into()),
    }
}

/// Kills what still runs with `mark` in its environment, and returns what that was. Looks only where there is `/proc`.
async fn end_what_is_left(mark: &str) -> Vec<String> {
    let deadline = Instant::now() + NOTICE;
    loop {
        let left = marked(mark);
        if left.is_empty() || Instant::now() > deadline {
            for (process, _) in &left {
                // It may have ended by itself meanwhile.
                let _ = Command::new("kill").args(["-KILL", process]).status().await;
            }
            return left.into_iter().map(|(process, command)| format!("{process} {command}")).collect();
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The processes with `mark` in their environment: id and command line.
fn marked(mark: &str) -> Vec<(String, String)> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let mut marked = Vec::new();
    for process in processes.flatten() {
        let is_marked = |environment: Vec<u8>| environment.split(|byte| *byte == 0).any(|pair| pair == mark.as_bytes());
        if fs::read(process.path().join("environ")).is_ok_and(is_marked) {
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            marked.push((process.file_name().to_string_lossy().into_owned(), command));
        }
    }
    marked
}

/// The first line in which two texts differ.
fn difference(expected: &str, got: &str) -> String {
    let mut lines = (expected.lines(), got.lines());
    for number in 1.. {
        match (lines.0.next(), lines.1.next()) {
            (None, None) => break,
            (expected, got) if expected == got => {}
            (expected, got) => {
                let show = |line: Option<&str>| line.map_or_else(|| "nothing".to_owned(), |line| format!("{line:?}"));
                return format!("prints {} in line {number}, stored is {}", show(got), show(expected));
            }
        }
    }
    "prints other line ends than are stored".to_owned()
}

/// The file names with `extension` in `folder`, without it.
fn names(folder: &Path, extension: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if let (Some(stem), true) = (path.file_stem(), path.extension().is_some_and(|found| found == extension)) {
            names.insert(stem.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// Where cargo puts an example: `target/PROFILE/examples`, while this test is in `target/PROFILE/deps`.
fn binary(name: &str) -> Result<PathBuf> {
    let test = env::current_exe()?;
    let profile = test.parent().and_then(Path::parent).ok_or("the test binary stands in no folder")?;
    Ok(profile.join("examples").join(format!("{name}{}", env::consts::EXE_SUFFIX)))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
