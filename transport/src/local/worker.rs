//! The worker's side: taking the credentials, reporting, and ending with the parent.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{CLAIMED, Credentials, EXIT_ORPHANED, STOP, is_marked, read_frame, report_line};
use crate::{Identity, IdentityError};

/// Takes this process's credentials if [`spawn`](super::spawn) started it, and answers `None` if not. Call it once, first
/// thing in `main`: until then nothing watches over the parent. Blocks until the parent has sent them, which it does at
/// once.
///
/// From here on a thread watches standard input, which belongs to this module, and **ends the process** when the parent is
/// gone ([`EXIT_ORPHANED`]) or asks it to stop (0, unless it reported with [`Worker::report_with_stop`]). If the parent is gone already,
/// this call does not return.
///
/// # Errors
///
/// See [`WorkerError`]. The process is then of no use to its parent, and should end.
///
/// # Panics
///
/// When called twice in a worker.
#[track_caller]
pub fn worker() -> Result<Option<Worker>, WorkerError> {
    if !is_marked() {
        return Ok(None);
    }
    assert!(!CLAIMED.swap(true, Ordering::AcqRel), "local::worker is for one call, at the start of main");
    let credentials = match read_frame(&mut io::stdin().lock()) {
        Ok(body) => rmp_serde::from_slice::<Credentials>(&body).map_err(WorkerError::Credentials)?,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => process::exit(EXIT_ORPHANED),
        Err(error) => return Err(WorkerError::Input(error)),
    };
    let requests = Arc::new(Requests::default());
    let watched = requests.clone();
    thread::Builder::new()
        .name("aqueduct-parent".into())
        .spawn(move || watch_parent(&watched))
        .map_err(WorkerError::Watch)?;
    let pem = credentials.identity;
    let identity = Identity::from_pem(&pem.certificate, &pem.key, &pem.authorities)?;
    Ok(Some(Worker { identity, payload: credentials.payload, reported: AtomicBool::new(false), requests }))
}

/// What a worker process knows from its parent. Dropping it changes nothing.
#[derive(Debug)]
pub struct Worker {
    identity: Identity,
    payload: Bytes,
    reported: AtomicBool,
    requests: Arc<Requests>,
}

impl Worker {
    /// Who this process is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What the parent gave to [`spawn`](super::spawn) as the payload.
    ///
    /// # Errors
    ///
    /// [`WorkerError::Payload`] when it is not a `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, WorkerError> {
        rmp_serde::from_slice(&self.payload).map_err(WorkerError::Payload)
    }

    /// Tells the parent where this process can be dialled: only then does the parent's [`spawn`](super::spawn) return. It
    /// waits 10 s unless told otherwise. Call it once, when everything is ready; a second report does nothing.
    ///
    /// When the parent asks this process to stop, it ends at once, with 0. To finish something first, use
    /// [`report_with_stop`](Self::report_with_stop) instead.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written to.
    pub fn report(&self, address: SocketAddr) -> io::Result<()> {
        if self.reported.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let mut output = io::stdout().lock();
        output.write_all(report_line(address).as_bytes())?;
        output.flush()
    }

    /// Reports as [`report`](Self::report) does, and takes it upon this process to end by itself when the parent asks: within
    /// the parent's grace period, after which it is killed. Instead of `report`, not after it.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written to.
    pub fn report_with_stop(&self, address: SocketAddr) -> io::Result<Stop> {
        // Before the report, since the parent may ask as soon as it has that.
        self.requests.are_handled.store(true, Ordering::Release);
        self.report(address)?;
        Ok(Stop { asked: self.requests.asked.subscribe() })
    }
}

/// Where a worker hears that its parent wants it to stop. Dropping it changes nothing: the process still has to end itself.
#[derive(Clone, Debug)]
pub struct Stop {
    asked: watch::Receiver<bool>,
}

impl Stop {
    /// Waits until the parent calls [`Process::shutdown`](super::Process::shutdown). Answers at once from then on.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost on cancel.
    pub async fn requested(&mut self) {
        if self.asked.wait_for(|asked| *asked).await.is_err() {
            // The thread that watches over the parent holds the sender, and ends only with the process.
            std::future::pending::<()>().await;
        }
    }
}

/// Why a worker could not take up its work.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// Standard input could not be read, or does not hold what a parent writes: the process was started by something else
    /// with the worker's mark in its environment, for instance by another worker.
    #[error("cannot read the credentials from standard input")]
    Input(#[source] io::Error),
    /// The credentials are not what a parent of this version writes.
    #[error("cannot decode the credentials")]
    Credentials(#[source] rmp_serde::decode::Error),
    /// The identity in them is not usable.
    #[error("cannot use the identity among the credentials")]
    Identity(#[from] IdentityError),
    /// The thread that watches over the parent could not be started.
    #[error("cannot start the thread that watches over the parent")]
    Watch(#[source] io::Error),
    /// The payload is of another type.
    #[error("the payload is not of the wanted type")]
    Payload(#[source] rmp_serde::decode::Error),
}

aqueduct_stage::debug_as_sentence!(WorkerError);

/// What the parent has asked for.
#[derive(Debug, Default)]
struct Requests {
    asked: watch::Sender<bool>,
    /// Whether the process ends itself when asked.
    are_handled: AtomicBool,
}

/// Reads standard input until the process ends. A thread, not a task: it must work while the runtime is busy or stuck.
fn watch_parent(requests: &Requests) {
    let mut byte = [0];
    loop {
        match io::stdin().read(&mut byte) {
            Ok(1) if byte[0] == STOP => {
                if !requests.are_handled.load(Ordering::Acquire) {
                    process::exit(0);
                }
                requests.asked.send_replace(true);
            }
            Ok(1) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => process::exit(EXIT_ORPHANED),
        }
    }
}
