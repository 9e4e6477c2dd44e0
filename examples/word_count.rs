//! Counts the words of a text in several processes, connected by demand over QUIC.
//!
//! ```text
//!                    ┌── chunks ──► count (worker 1) ── counts ──┐
//!   chunks (here) ───┤                                           ├──► merge (here)
//!                    └── chunks ──► count (worker 2) ── counts ──┘
//! ```
//!
//! `cargo run --release --example word_count` starts two workers, which are further processes of this program, and prints
//!
//! ```text
//! 61,571 words, 10,936 distinct
//!   4,207 the
//!   2,704 of
//!   ...
//! ```
//!
//! A word is a maximal run of ASCII letters, in lower case; every other byte separates words. With `--workers 0` the
//! same stages run in this process. `--help` tells the other options.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use aqueduct::transport::{Authority, Identity, Limits, Node, NodeConfig, local};
use aqueduct::{Batch, Consumer, Cx, Exit, Graph, Producer, ProducerConsumer, Result, Stage};
use bytes::Bytes;
use clap::Parser;
use hashbrown::HashMap;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How much is read at a time, in bytes. A chunk of a little less than 128 KiB crosses to a worker in one frame.
const BLOCK: usize = 126 << 10;
/// The longest word, in bytes: so much of a text without separators is held in memory.
const MAX_WORD: usize = 64 << 20;
/// How many chunks are on their way to each worker: 1 to 2 MiB.
const CHUNKS: std::ops::Range<usize> = 8..16;

/// Counts words, in several processes.
#[derive(Parser)]
struct Args {
    /// A file, or a folder of files; may be repeated [default: a text that comes with the example]
    #[arg(long, value_name = "PATH")]
    input: Vec<PathBuf>,
    /// How many worker processes to start; 0 counts in this process
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(..=64))]
    workers: u16,
    /// How many of the most frequent words to print
    #[arg(long, value_name = "K", default_value_t = 10)]
    top: usize,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("word_count: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match local::worker() {
            Ok(Some(worker)) => work(&worker).await,
            Ok(None) => coordinate(&Args::parse()).await,
            Err(error) => Err(error.into()),
        }
    });
    // A read that blocks, of a pipe say, must not keep the process alive.
    runtime.shutdown_background();
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("word_count: {error:#}");
            ExitCode::FAILURE
        }
    }
}

// The stages.

/// Cuts files into chunks that end between two words.
struct Chunks {
    files: VecDeque<PathBuf>,
    open: Option<(PathBuf, File)>,
    /// The beginning of a word whose end was not read yet: letters only.
    carry: Vec<u8>,
    /// How many bytes were read, for the progress bar.
    read: Arc<AtomicU64>,
}

impl Producer for Chunks {
    type Out = Bytes;

    async fn handle_demand(&mut self, demand: usize, cx: &mut Cx<'_, Bytes>) -> Result {
        for _ in 0..demand {
            match self.next().await? {
                Some(chunk) => cx.emit(chunk),
                None => {
                    cx.stop(Exit::Normal);
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Chunks {
    async fn next(&mut self) -> anyhow::Result<Option<Bytes>> {
        loop {
            let Some((path, file)) = &mut self.open else {
                let Some(path) = self.files.pop_front() else { return Ok(None) };
                let file = File::open(&path).await.with_context(|| cannot_read(&path))?;
                self.open = Some((path, file));
                continue;
            };
            let start = self.carry.len();
            self.carry.reserve(BLOCK);
            let mut block = (&mut *file).take(BLOCK as u64);
            let count = block.read_buf(&mut self.carry).await.with_context(|| cannot_read(path))?;
            self.read.fetch_add(count as u64, Ordering::Relaxed);
            if count == 0 {
                // The end of a file ends a word.
                self.open = None;
                if !self.carry.is_empty() {
                    return Ok(Some(std::mem::take(&mut self.carry).into()));
                }
            } else if let Some(at) = self.carry[start..].iter().rposition(|byte| !byte.is_ascii_alphabetic()) {
                let rest = self.carry.split_off(start + at + 1);
                return Ok(Some(std::mem::replace(&mut self.carry, rest).into()));
            } else {
                let bound = MAX_WORD;
                ensure!(self.carry.len() <= bound, "{} has a word of more than {bound} letters", path.display());
            }
        }
    }
}

/// Counts the words of its chunks, and emits the counts when there are no more.
#[derive(Default)]
struct Count {
    counts: HashMap<Vec<u8>, u64>,
}

impl ProducerConsumer for Count {
    type In = Bytes;
    type Out = (String, u64);

    async fn handle_events(&mut self, chunks: Batch<Bytes>, _cx: &mut Cx<'_, (String, u64)>) -> Result {
        for chunk in chunks {
            let mut chunk = Vec::from(chunk);
            chunk.make_ascii_lowercase();
            for word in chunk.split(|byte| !byte.is_ascii_lowercase()).filter(|word| !word.is_empty()) {
                *self.counts.entry_ref(word).or_default() += 1;
            }
        }
        Ok(())
    }

    async fn handle_end(&mut self, cx: &mut Cx<'_, (String, u64)>) -> Result {
        for (word, count) in self.counts.drain() {
            cx.emit((String::from_utf8(word)?, count));
        }
        Ok(())
    }
}

/// Adds the counts up.
struct Merge {
    counts: HashMap<String, u64>,
    result: mpsc::Sender<HashMap<String, u64>>,
}

impl Consumer for Merge {
    type In = (String, u64);

    async fn handle_events(&mut self, counts: Batch<(String, u64)>, _cx: &mut Cx<'_>) -> Result {
        for (word, count) in counts {
            *self.counts.entry(word).or_default() += count;
        }
        Ok(())
    }

    async fn handle_end(&mut self, _cx: &mut Cx<'_>) -> Result {
        self.result.send(std::mem::take(&mut self.counts)).await?;
        Ok(())
    }
}

// The processes.

/// What a worker process does.
async fn work(worker: &local::Worker) -> anyhow::Result<ExitCode> {
    let coordinator: SocketAddr = worker.payload()?;
    let node = bind(worker.identity().clone()).await?;
    let graph = Graph::new("worker");
    let chunks = node.source::<Bytes>("chunks", coordinator);
    let counts = graph.stage("count", Count::default).subscribe(&chunks, CHUNKS);
    node.publish("counts", &counts)?;
    worker.report(node.local_addr())?;
    // What goes wrong from here on reaches the coordinator through the subscriptions, and is told there.
    let counted = graph.run().await;
    node.shutdown(Duration::from_secs(5)).await;
    Ok(if counted.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the process does that was started by hand.
async fn coordinate(args: &Args) -> anyhow::Result<ExitCode> {
    tokio::select! {
        biased;
        done = count(args) => done,
        // What runs here ends as it is dropped, and so do the workers.
        _ = tokio::signal::ctrl_c() => {
            eprintln!("word_count: interrupted");
            Ok(ExitCode::from(130))
        }
    }
}

async fn count(args: &Args) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let vendored = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/devils-dictionary.txt");
    let (files, bytes) = find_files(if args.input.is_empty() { std::slice::from_ref(&vendored) } else { &args.input })?;

    let graph = Graph::new("word count");
    let read = Arc::<AtomicU64>::default();
    let progress = Arc::clone(&read);
    let chunks = graph.producer("chunks", move || Chunks {
        files: files.clone(),
        open: None,
        carry: Vec::new(),
        read: Arc::clone(&read),
    });
    // A short text would be over before the last worker is there.
    let chunks = chunks.wait_for_subscribers(args.workers.into());
    let (result, mut merged) = mpsc::channel(1);
    let merge = graph.consumer("merge", move || Merge { counts: HashMap::new(), result: result.clone() });

    let mut workers = if args.workers == 0 {
        let cores = std::thread::available_parallelism()?.get();
        (0..cores).fold(merge, |merge, core| {
            let count = graph.stage(&format!("count {core}"), Count::default).subscribe(&chunks, CHUNKS);
            merge.subscribe(&count, 500..1000)
        });
        Workers::none()
    } else {
        Workers::start(args.workers, &chunks, merge).await?
    };
    let mut running = graph.start();
    tokio::select! {
        biased;
        finished = running.join() => drop(finished?),
        lost = workers.lost() => bail!(lost),
        () = show_progress(&progress, bytes) => {}
    }
    let elapsed = started.elapsed();
    workers.shutdown().await?;
    let counts = merged.recv().await.context("the counts were not merged")?;
    print(&counts, args, elapsed)?;
    Ok(ExitCode::SUCCESS)
}

/// The worker processes, and the node through which they get their chunks.
struct Workers {
    node: Option<Node>,
    processes: Vec<local::Process>,
}

impl Workers {
    fn none() -> Self {
        Self { node: None, processes: Vec::new() }
    }

    /// Starts the workers, and subscribes `merge` to what they count.
    async fn start(
        count: u16,
        chunks: &Stage<Chunks, aqueduct::Never, Bytes>,
        merge: Stage<Merge, (String, u64), aqueduct::Never, aqueduct::NoOutput>,
    ) -> anyhow::Result<Self> {
        let authority = Authority::dev("word-count")?;
        let node = bind(authority.issue("coordinator")?).await?;
        node.publish("chunks", chunks)?;
        let options = local::Options::default();
        let (mut processes, mut merge) = (Vec::new(), merge);
        for number in 1..=count {
            let identity = authority.issue(&format!("worker-{number}"))?;
            let process = local::spawn(&identity, &node.local_addr(), &options).await?;
            merge = merge.subscribe(&node.source("counts", process.address()), 5_000..10_000);
            processes.push(process);
        }
        Ok(Self { node: Some(node), processes })
    }

    /// Waits until a worker is killed, and says which. (One that fails says so itself, through its subscription.)
    async fn lost(&mut self) -> String {
        let exits = self.processes.iter_mut().map(|process| {
            Box::pin(async move {
                match process.exited().await {
                    Ok(status) if status.code().is_some() => pending().await,
                    Ok(status) => format!("{} (process {}) was lost: {status}", process.node(), process.id()),
                    Err(error) => format!("{} (process {}) was lost: {error}", process.node(), process.id()),
                }
            })
        });
        let mut exits: Vec<_> = exits.collect();
        poll_fn(|cx| {
            let polls = exits.iter_mut().map(|exit| exit.as_mut().poll(cx));
            polls.reduce(|one, other| if one.is_ready() { one } else { other }).unwrap_or(Poll::Pending)
        })
        .await
    }

    async fn shutdown(self) -> anyhow::Result<()> {
        if let Some(node) = self.node {
            node.shutdown(Duration::from_secs(5)).await;
        }
        for process in self.processes {
            process.shutdown(Duration::from_secs(5)).await?;
        }
        Ok(())
    }
}

/// A node on this machine, for events of up to one whole word.
async fn bind(identity: Identity) -> anyhow::Result<Node> {
    let longest = MAX_WORD + 2 * BLOCK;
    let limits = Limits::default().max_event_bytes(longest);
    let config = NodeConfig::default().limits(limits).max_reassembly_bytes(2 * longest);
    Ok(Node::builder(identity).config(config).bind("127.0.0.1:0").await?)
}

// Input and output.

/// All files that are meant, those of folders sorted by path, and their size in bytes.
fn find_files(inputs: &[PathBuf]) -> anyhow::Result<(VecDeque<PathBuf>, u64)> {
    let (mut files, mut bytes) = (VecDeque::new(), 0);
    for input in inputs {
        let before = files.len();
        let mut folders = vec![];
        let metadata = input.metadata().with_context(|| cannot_read(input))?;
        if metadata.is_dir() {
            folders.push(input.clone());
        } else {
            bytes += metadata.len();
            files.push_back(input.clone());
        }
        while let Some(folder) = folders.pop() {
            let entries = folder.read_dir().with_context(|| cannot_read(&folder))?;
            let mut paths = entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<_>>>()
                .with_context(|| cannot_read(&folder))?;
            paths.sort_unstable();
            for path in paths {
                let metadata = path.metadata().with_context(|| cannot_read(&path))?;
                if metadata.is_file() {
                    bytes += metadata.len();
                    files.push_back(path);
                } else if metadata.is_dir() && !path.is_symlink() {
                    folders.push(path);
                }
            }
        }
        ensure!(files.len() > before, "folder {} has no file to read", input.display());
    }
    Ok((files, bytes))
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", path.display())
}

/// Shows how much was read, on a terminal, from the second second on. Never ends.
async fn show_progress(read: &AtomicU64, bytes: u64) {
    if !io::stderr().is_terminal() {
        return pending().await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let bar = Bar(ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())));
    loop {
        bar.0.set_position(read.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A progress bar that leaves no trace on the terminal.
struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn print(counts: &HashMap<String, u64>, args: &Args, elapsed: Duration) -> anyhow::Result<()> {
    let (words, distinct) = (counts.values().sum::<u64>(), counts.len() as u64);
    let mut top: Vec<_> = counts.iter().collect();
    top.sort_unstable_by(|(word, count), (other, more)| more.cmp(count).then(word.cmp(other)));
    top.truncate(args.top);
    let text = if args.json {
        let (seconds, workers) = (elapsed.as_secs_f64(), args.workers);
        let report =
            json!({ "words": words, "distinct": distinct, "top": top, "seconds": seconds, "workers": workers });
        format!("{report}\n")
    } else {
        let lines = top.iter().map(|(word, count)| format!("{:>9} {word}\n", grouped(**count)));
        format!("{} words, {} distinct\n{}", grouped(words), grouped(distinct), lines.collect::<String>())
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads this has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// A number with a comma before every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let pieces = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    pieces.collect::<Vec<_>>().join(",")
}
