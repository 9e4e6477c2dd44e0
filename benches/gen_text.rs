//! Writes a text of any size, the same for the same seed, and prints its true counts as one line of JSON.
//!
//!     cargo run --release -p aqueduct-benches --bin gen_text -- --bytes 500MB --distinct 50000 --seed 1 --out text.txt
//!
//! prints `{"words":…,"distinct":50000,"top":[["…",…],…]}`: what a correct word count of that file must find.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use aqueduct_benches::text::Text;
use clap::Parser;

/// Writes English-like text with exactly so many distinct words, and prints its counts as JSON.
#[derive(Parser)]
struct Args {
    /// Size of the text: a number of bytes, or with kB, MB, GB (powers of 1000), KiB, MiB, GiB (powers of 1024)
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    bytes: u64,
    /// Number of distinct words
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    distinct: usize,
    /// The same seed gives the same bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Number of words under "top"
    #[arg(long, value_name = "K", default_value_t = 10)]
    top: usize,
    /// File to write; an existing one is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(counts) => {
            println!("{counts}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<serde_json::Value> {
    // The text before the file: a mistake in the numbers must not empty a file.
    let mut text = Text::new(args.seed, args.distinct, args.bytes)?;
    File::create(&args.out)
        .and_then(|file| text.write_to(file))
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    let counts = text.counts();
    Ok(serde_json::json!({
        "words": counts.iter().map(|(_, count)| count).sum::<u64>(),
        "distinct": counts.len(),
        "top": &counts[..args.top.min(counts.len())],
    }))
}

fn parse_size(size: &str) -> Result<u64, String> {
    let digits = size.len() - size.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = size.split_at(digits);
    let unit_bytes = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("`{unit}` is none of B, kB, MB, GB, KiB, MiB, GiB")),
    };
    let number: u64 = number.parse().map_err(|_| format!("`{size}` does not start with a whole number"))?;
    number.checked_mul(unit_bytes).ok_or_else(|| format!("`{size}` is too large"))
}
