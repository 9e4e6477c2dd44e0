//! The parent's side: starting a worker, waiting for its report, ending it.

use std::env;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use aqueduct_stage::{Spawner, TokioSpawner};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::{CLAIMED, Credentials, MARK_VARIABLE, MAX_CREDENTIALS_BYTES, STOP, find_report, is_marked};
use crate::Identity;

/// How a worker is started.
#[derive(Clone, Debug)]
pub struct Options {
    args: Vec<OsString>,
    report_timeout: Duration,
    is_quiet: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { args: Vec::new(), report_timeout: DEFAULT_REPORT_TIMEOUT, is_quiet: false }
    }
}

impl Options {
    /// The worker's command line, after the program's name. Default: empty. Everybody on the machine can read it. A test
    /// that starts its own binary names here the `#[test]` that calls [`worker`](super::worker()), with `--exact`.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// How long the worker may take from its start to its report. Default: 10 s. Raise it on a busy machine; it costs
    /// nothing but a later error.
    #[must_use]
    pub fn report_timeout(mut self, limit: Duration) -> Self {
        self.report_timeout = limit;
        self
    }

    /// Drops what the worker prints on standard output instead of copying it. Default: `false`.
    #[must_use]
    pub fn quiet(mut self, is_quiet: bool) -> Self {
        self.is_quiet = is_quiet;
        self
    }
}

/// Starts the running program once more, as the worker that `identity` names, and waits until it has reported its address.
/// `payload` reaches the worker as it is, up to 16 MiB encoded; `&()` if there is nothing to say.
///
/// Must be called on a tokio runtime with I/O and time enabled. Its clock must not be paused: a real process takes real time.
///
/// # Errors
///
/// See [`SpawnError`]. No process is left behind.
///
/// # Cancel safety
///
/// On cancel the worker, if already started, is killed.
pub async fn spawn<T>(identity: &Identity, payload: &T, options: &Options) -> Result<Process, SpawnError>
where
    T: Serialize + ?Sized,
{
    if is_marked() && !CLAIMED.load(Ordering::Acquire) {
        return Err(SpawnError::Unclaimed);
    }
    let credentials = encode(identity, payload)?;
    let program = env::current_exe().map_err(SpawnError::Program)?;
    let mut child = command(&program, options).spawn().map_err(|source| SpawnError::Start { program, source })?;
    let node = identity.node().to_owned();
    let (Some(pid), Some(mut input), Some(output)) = (child.id(), child.stdin.take(), child.stdout.take()) else {
        unreachable!("a child that was not waited for has an id, and both its pipes were asked for");
    };
    let mut output = BufReader::new(output);

    let deadline = Instant::now() + options.report_timeout;
    // Both at once: a worker may print before it reads. Writing fails when the worker is gone, and then its output ends
    // too: that and the status tell more than this error.
    let exchange = async {
        let (report, _) = tokio::join!(read_report(&mut output, options.is_quiet), input.write_all(&credentials));
        report
    };
    if let Ok(Some(address)) = timeout_at(deadline, exchange).await {
        let (done, copied) = oneshot::channel();
        let is_quiet = options.is_quiet;
        TokioSpawner.spawn("local-output", Box::pin(copy_output(output, is_quiet, done)));
        return Ok(Process { node, pid, address, child, input, copied });
    }
    match timeout_at(deadline, child.wait()).await {
        Ok(status) => Err(SpawnError::Ended { node, status: status.map_err(SpawnError::Wait)? }),
        Err(_) => {
            child.kill().await.map_err(SpawnError::Wait)?;
            Err(SpawnError::NoReport { node, limit: options.report_timeout })
        }
    }
}

/// A worker process. Dropping it kills the process; [`shutdown`](Self::shutdown) ends it in order.
#[derive(Debug)]
pub struct Process {
    node: String,
    pid: u32,
    address: SocketAddr,
    child: Child,
    /// Open as long as the worker is to live.
    input: ChildStdin,
    /// Ends when the worker's output has been copied to its end.
    copied: oneshot::Receiver<()>,
}

impl Process {
    /// The address that the worker reported.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The id of the node that the worker is.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The system's process id. After the process has ended, the system may give it to another.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Waits until the process has ended, by itself or not, and answers how. Answers at once from then on.
    ///
    /// # Errors
    ///
    /// When the system cannot tell.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost on cancel: the process goes on, and this can be called again.
    pub async fn exited(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks the process to stop, waits for at most `grace`, then kills it; answers how it ended. A process that
    /// has no [`Stop`](super::Stop) to hear it ends with 0 at once. Also right for a process that has ended
    /// already: what it printed last is then waited for, up to a second.
    ///
    /// # Errors
    ///
    /// When the system cannot tell how it ended. The process is killed also then.
    ///
    /// # Cancel safety
    ///
    /// On cancel the process is killed.
    pub async fn shutdown(mut self, grace: Duration) -> io::Result<ExitStatus> {
        let ended = timeout(grace, async {
            // Fails when the process has ended, and then its status is all we want.
            let _ = self.input.write_all(&[STOP]).await;
            self.child.wait().await
        });
        let status = match ended.await {
            Ok(status) => status?,
            Err(_) => {
                self.child.kill().await?;
                self.child.wait().await?
            }
        };
        // Longer only if the worker left children of its own behind, which hold its output open.
        let _ = timeout(LAST_WORDS, &mut self.copied).await;
        Ok(status)
    }
}

/// Why no worker was started, or why it was given up.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The payload cannot be encoded.
    #[error("cannot encode the payload")]
    Payload(#[source] rmp_serde::encode::Error),
    /// The payload is too large; give the worker an address from which to fetch it.
    #[error("the payload makes credentials of {bytes} bytes, and {MAX_CREDENTIALS_BYTES} are allowed")]
    TooLarge {
        /// The size of all that would be sent.
        bytes: usize,
    },
    /// This process is itself a worker and has not called [`worker`](super::worker()). It would start itself without end.
    #[error("this process is a worker, and has to call local::worker before it starts others")]
    Unclaimed,
    /// The file of the running program cannot be found.
    #[error("cannot find the file of the running program")]
    Program(#[source] io::Error),
    /// The program cannot be started.
    #[error("cannot start {}", program.display())]
    Start {
        /// Its file.
        program: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The worker ended before it reported its address. What it says about that is on standard error.
    #[error("worker {node} ended before it reported its address: {status}")]
    Ended {
        /// The node it was to be.
        node: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The worker did not report its address in time, and was killed.
    #[error("worker {node} did not report its address within {limit:?}")]
    NoReport {
        /// The node it was to be.
        node: String,
        /// The limit, see [`Options::report_timeout`].
        limit: Duration,
    },
    /// The system cannot tell how the worker ended.
    #[error("cannot wait for the worker's end")]
    Wait(#[source] io::Error),
}

aqueduct_stage::debug_as_sentence!(SpawnError);

fn command(program: &PathBuf, options: &Options) -> Command {
    let mut command = Command::new(program);
    command.args(&options.args).env(MARK_VARIABLE, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    #[cfg(windows)]
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
    command
}

fn encode<T: Serialize + ?Sized>(identity: &Identity, payload: &T) -> Result<Vec<u8>, SpawnError> {
    let payload = rmp_serde::to_vec_named(payload).map_err(SpawnError::Payload)?.into();
    let credentials = Credentials { identity: identity.to_pem(), payload };
    let body = rmp_serde::to_vec_named(&credentials).map_err(SpawnError::Payload)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_CREDENTIALS_BYTES);
    let length = length.ok_or(SpawnError::TooLarge { bytes: body.len() })?;
    Ok([&length.to_be_bytes()[..], &body].concat())
}

/// Reads until the worker's report; `None` if the output ends before. What comes before it is output like any other.
async fn read_report(output: &mut BufReader<ChildStdout>, is_quiet: bool) -> Option<SocketAddr> {
    let mut line = Vec::new();
    while read_line(output, &mut line).await {
        if let Some((before, address)) = find_report(&line) {
            print(before, is_quiet).await;
            return Some(address);
        }
        print(&line, is_quiet).await;
    }
    None
}

/// Copies until the output ends, which `done` tells by being dropped.
async fn copy_output(mut output: BufReader<ChildStdout>, is_quiet: bool, done: oneshot::Sender<()>) {
    let mut line = Vec::new();
    while read_line(&mut output, &mut line).await {
        print(&line, is_quiet).await;
    }
    drop(done);
}

/// Reads the next line, or a piece of a very long one; `false` at the end. Whole lines, so that those of several workers do
/// not mix.
async fn read_line(output: &mut BufReader<ChildStdout>, line: &mut Vec<u8>) -> bool {
    line.clear();
    output.take(MAX_LINE_BYTES).read_until(b'\n', line).await.is_ok_and(|bytes| bytes > 0)
}

/// Goes on reading when our own output is closed: a worker must not be stopped by that.
async fn print(line: &[u8], is_quiet: bool) {
    if !is_quiet {
        let mut stdout = tokio::io::stdout();
        let _ = stdout.write_all(line).await;
        let _ = stdout.flush().await;
    }
}

const DEFAULT_REPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for the end of an ended process's output.
const LAST_WORDS: Duration = Duration::from_secs(1);
const MAX_LINE_BYTES: u64 = 64 << 10;
/// Keeps Ctrl-C from the worker on Windows.
#[cfg(windows)]
const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
