//! The worker's side: taking the credentials, reporting, and ending with the parent.

use std::future::Future;
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
/// gone ([`EXIT_ORPHANED`]) or asks it to stop (0, unless [`Worker::stopping`] was called). If the parent is gone already,
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
    let stop = Arc::new(Stop::default());
    let watched = stop.clone();
    thread::Builder::new()
        .name("aqueduct-parent".into())
        .spawn(move || watch_parent(&watched))
        .map_err(WorkerError::Watch)?;
    let pem = credentials.identity;
    let identity = Identity::from_pem(&pem.certificate, &pem.key, &pem.authorities)?;
    Ok(Some(Worker { identity, payload: credentials.payload, reported: AtomicBool::new(false), stop }))
}

/// What a worker process knows from its parent. Dropping it changes nothing.
#[derive(Debug)]
pub struct Worker {
    identity: Identity,
    payload: Bytes,
    reported: AtomicBool,
    stop: Arc<Stop>,
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
    /// waits 10 s unless told otherwise. A second report does nothing.
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

    /// Waits until the parent asks this process to stop, with [`Process::shutdown`](super::Process::shutdown).
    ///
    /// By calling this, the process takes it upon itself to end within the parent's grace period, after which it is killed.
    /// A process that never calls it is ended, with 0, as soon as the parent asks.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost on cancel: the request stays, and every later call answers at once.
    #[must_use = "futures do nothing unless polled"]
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.is_awaited.store(true, Ordering::Release);
        let mut asked = self.stop.asked.subscribe();
        async move {
            if asked.wait_for(|asked| *asked).await.is_err() {
                // The thread that holds the sender never ends before the process does.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Why a worker could not take up its work.
#[derive(Debug, thiserror::Error)]
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

#[derive(Debug, Default)]
struct Stop {
    asked: watch::Sender<bool>,
    /// Whether somebody waits for it, so that the process ends itself.
    is_awaited: AtomicBool,
}

/// Reads standard input until the process ends. A thread, not a task: it must work while the runtime is busy or stuck.
fn watch_parent(stop: &Stop) {
    let mut byte = [0];
    loop {
        match io::stdin().read(&mut byte) {
            Ok(1) if byte[0] == STOP && stop.is_awaited.load(Ordering::Acquire) => drop(stop.asked.send_replace(true)),
            Ok(1) if byte[0] == STOP => process::exit(0),
            Ok(1) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => process::exit(EXIT_ORPHANED),
        }
    }
}
