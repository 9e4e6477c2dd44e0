//! Further processes of the running program, on this machine: for examples and for users' tests of what crosses processes.
//!
//! ```text
//!   parent                                           worker (the same program, started again)
//!   local::spawn ─── identity, payload ──► stdin ──► local::worker
//!   Process ◄──────────────── address ─── stdout ◄── Worker::report
//!   Process::shutdown ──────── "stop" ───► stdin ──► Stop::requested, or the end of the process
//! ```
//!
//! The worker calls [`worker()`] at the start of its `main`, before anything else; in the parent the same call answers
//! `None`. What the worker prints on standard output goes to the parent's standard output, line by line; standard error
//! and the working directory are inherited.
//!
//! No worker outlives its parent. Its standard input stays open as long as the parent lives, and a thread of its own does
//! nothing but watch it: when it closes, the process ends with [`EXIT_ORPHANED`] at once, whatever else it is doing. That
//! holds also when the parent is killed with `kill -9`. A terminal's Ctrl-C reaches the parent only (a worker is in a
//! process group of its own), and the parent then ends its workers as it sees fit; dropping a [`Process`] kills it.
//!
//! Security: the private key and the payload go through an anonymous pipe, never through the command line, the
//! environment or a file. Whoever may read the memory of the parent's processes (the same user, or root) can read them
//! there, and nobody else can.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use aqueduct_transport::{Authority, local};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     if let Some(worker) = local::worker()? {
//!         let greeting: String = worker.payload()?;
//!         let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
//!         let mut stop = worker.report_with_stop(socket.local_addr()?)?;
//!         println!("{greeting} from {}", worker.identity().node());
//!         stop.requested().await;
//!         return Ok(());
//!     }
//!     let authority = Authority::dev("demo")?;
//!     let options = local::Options::default();
//!     let process = local::spawn(&authority.issue("worker-1")?, &"hello", &options).await?;
//!     println!("{} listens at {}", process.node(), process.address());
//!     process.shutdown(Duration::from_secs(5)).await?;
//!     Ok(())
//! }
//! ```

mod process;
mod worker;

use std::env;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::IdentityPem;

pub use process::{Options, Process, SpawnError, spawn};
pub use worker::{Stop, Worker, WorkerError, worker};

/// What a worker exits with when its parent is gone, or went before the worker had its credentials.
pub const EXIT_ORPHANED: i32 = 113;

/// What goes down a worker's standard input first, as a length (u32, big-endian) and this in MessagePack.
#[derive(Serialize, Deserialize)]
struct Credentials {
    identity: IdentityPem,
    /// The user's payload, in MessagePack of its own.
    payload: Bytes,
}

/// Reads one length and as many bytes. The sender is this same program, and still the length is bounded.
fn read_frame(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_CREDENTIALS_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("credentials of {length} bytes")));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(body)
}

/// Whether this process was started by [`spawn`].
fn is_marked() -> bool {
    env::var_os(MARK_VARIABLE).is_some()
}

/// The line with which a worker tells its address.
fn report_line(address: SocketAddr) -> String {
    format!("{REPORT}{address}\n")
}

/// Finds a report in a line of output: what stands before it, and the address. Something may stand there when the worker,
/// or a test harness around it, printed half a line.
fn find_report(line: &[u8]) -> Option<(&[u8], SocketAddr)> {
    let at = line.windows(REPORT.len()).position(|part| part == REPORT.as_bytes())?;
    let address = str::from_utf8(&line[at + REPORT.len()..]).ok()?.trim_end().parse().ok()?;
    Some((&line[..at], address))
}

/// Whether this process has taken its credentials, that is, knows that it is a worker.
static CLAIMED: AtomicBool = AtomicBool::new(false);

/// Set in a worker's environment. Its value says nothing; a worker's own children inherit it.
const MARK_VARIABLE: &str = "AQUEDUCT_LOCAL_WORKER";
const REPORT: &str = "aqueduct-worker-address ";
/// The byte after the credentials that asks a worker to stop.
const STOP: u8 = b's';
/// For options and addresses, not for data: data goes over a subscription.
const MAX_CREDENTIALS_BYTES: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_found_after_half_a_line() {
        let address: SocketAddr = "[::1]:4433".parse().unwrap();
        let line = report_line(address);
        assert_eq!(find_report(line.as_bytes()), Some((&b""[..], address)));
        assert_eq!(find_report(format!("test x ... {line}").as_bytes()), Some((&b"test x ... "[..], address)));
    }

    #[test]
    fn what_is_not_quite_a_report_is_output() {
        for line in ["", "\n", "127.0.0.1:1\n", "aqueduct-worker-address \n", "aqueduct-worker-address here\n"] {
            assert_eq!(find_report(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(find_report(b"aqueduct-worker-address \xff\n"), None);
    }

    #[test]
    fn a_frame_is_read_whole_or_not_at_all() {
        let frame = [&3u32.to_be_bytes()[..], b"abc"].concat();
        assert_eq!(read_frame(&mut &frame[..]).unwrap(), b"abc");
        for cut in 0..frame.len() {
            assert_eq!(read_frame(&mut &frame[..cut]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(read_frame(&mut &[255; 8][..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
