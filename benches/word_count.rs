//! Question: how many words per second does the main example count, beside the same count written by hand?
//!
//!     cargo bench -p aqueduct-benches --bench word_count
//!
//! Four contenders count the same generated 100 MB of text (50,000 distinct words): `examples/word_count.rs` with
//! `--workers 0` and with `--workers 2`, one thread by hand and two threads by hand. Each is a process of its own that
//! prints the same JSON, so that all start equally cold. They take turns, A B C D, A B C D …: one round to warm up (the
//! file is in the page cache afterwards), then five that count. The figures are medians. "counting" is the time that
//! the process reports itself, from opening the file to the last count; "process" is from spawn to exit. A difference
//! between any two results is a failure.
//!
//! `RATIO` lines: words per second of counting, ours over one thread by hand; bigger is better.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aqueduct_benches::by_hand;
use aqueduct_benches::text::Text;
use serde::{Deserialize, Serialize};

const TEXT_BYTES: u64 = 100_000_000;
const DISTINCT_WORDS: usize = 50_000;
const TOP: usize = 20;
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let args: Vec<String> = env::args().collect();
    if let [_, by_hand, threads, path] = &args[..]
        && by_hand == "by-hand"
    {
        return count_by_hand(threads, Path::new(path));
    }

    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("word_count.txt");
    let expected = write_text(&path)?;
    let measured = measure(&path, &expected);
    fs::remove_file(&path)?;
    print_table(&measured?, expected.words);
    Ok(())
}

/// What every contender prints on its last line.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    words: u64,
    distinct: usize,
    top: Vec<(String, u64)>,
    seconds: f64,
}

impl Report {
    fn counts(&self) -> (u64, usize, &[(String, u64)]) {
        (self.words, self.distinct, &self.top)
    }
}

struct Contender {
    name: &'static str,
    command: Command,
    counting: Vec<Duration>,
    process: Vec<Duration>,
}

impl Contender {
    fn new(name: &'static str, program: &Path) -> Self {
        Self { name, command: Command::new(program), counting: Vec::new(), process: Vec::new() }
    }

    fn run(&mut self, expected: &Report) -> Result<()> {
        let started = Instant::now();
        let output = self.command.stderr(Stdio::inherit()).output().context(self.name)?;
        self.process.push(started.elapsed());
        ensure!(output.status.success(), "{} ended with {}", self.name, output.status);
        let report: Report = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{} printed {:?}", self.name, String::from_utf8_lossy(&output.stdout)))?;
        self.counting.push(Duration::try_from_secs_f64(report.seconds)?);
        if report.counts() != expected.counts() {
            bail!("{} counted {:?}, expected {:?}", self.name, report.counts(), expected.counts());
        }
        Ok(())
    }
}

fn measure(path: &Path, expected: &Report) -> Result<[Contender; 4]> {
    let example = build_example()?;
    let this = env::current_exe()?;
    let mut contenders = [
        Contender::new("word_count --workers 0", &example),
        Contender::new("word_count --workers 2", &example),
        Contender::new("one thread by hand", &this),
        Contender::new("two threads by hand", &this),
    ];
    let top = TOP.to_string();
    for (contender, workers) in contenders.iter_mut().zip(["0", "2"]) {
        contender.command.args(["--json", "--top", &top, "--workers", workers, "--input"]).arg(path);
    }
    for (contender, threads) in contenders[2..].iter_mut().zip(["1", "2"]) {
        contender.command.args(["by-hand", threads]).arg(path);
    }
    for round in 0..=ROUNDS {
        for contender in &mut contenders {
            contender.run(expected)?;
            if round == 0 {
                contender.counting.clear();
                contender.process.clear();
            }
        }
    }
    Ok(contenders)
}

fn print_table(contenders: &[Contender], words: u64) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{} MB of text, {words} words, {DISTINCT_WORDS} distinct; {cores} cores", TEXT_BYTES / 1_000_000);
    println!("medians of {ROUNDS} rounds after one to warm up\n");
    println!("{:<24} {:>15} {:>12} {:>12}", "", "M words/s", "counting s", "process s");
    let [.., one_thread, _] = contenders else { unreachable!("there are four") };
    let reference = median(&one_thread.counting);
    for contender in contenders {
        let (counting, process) = (median(&contender.counting), median(&contender.process));
        println!("{:<24} {:>15.1} {counting:>12.3} {process:>12.3}", contender.name, words as f64 / counting / 1e6);
    }
    println!();
    for (contender, workers) in contenders.iter().zip([0, 2]) {
        println!("RATIO word_count_workers_{workers} {:.3}", reference / median(&contender.counting));
    }
}

fn median(times: &[Duration]) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

/// Writes the text and returns what must be counted in it, which the generator knows without counting.
fn write_text(path: &Path) -> Result<Report> {
    let mut text = Text::new(1, DISTINCT_WORDS, TEXT_BYTES)?;
    File::create(path)
        .and_then(|file| text.write_to(file))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let counts = text.counts();
    Ok(Report {
        words: counts.iter().map(|(_, count)| count).sum(),
        distinct: counts.len(),
        top: counts.iter().take(TOP).map(|(word, count)| ((*word).to_owned(), *count)).collect(),
        seconds: 0.0,
    })
}

/// This program as the contender: counts by hand and reports as the example does.
fn count_by_hand(threads: &str, path: &Path) -> Result<()> {
    let started = Instant::now();
    let counts = match threads {
        "1" => by_hand::count_file(path)?,
        "2" => by_hand::count_file_in_two_threads(path)?,
        _ => bail!("by-hand takes 1 or 2 threads"),
    };
    let top = counts.top(TOP).into_iter().map(|(word, count)| (word.to_owned(), count)).collect();
    let (words, distinct) = (counts.words(), counts.distinct());
    let report = Report { words, distinct, top, seconds: started.elapsed().as_secs_f64() };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Builds the example as a user would and returns the path of its program, which cargo tells.
fn build_example() -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--example", "word_count", "--message-format", "json-render-diagnostics"])
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    ensure!(output.status.success(), "the example word_count does not build");
    output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "word_count")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no program for the example word_count")
}
