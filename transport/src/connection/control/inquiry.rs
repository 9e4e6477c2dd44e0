//! [`Inquiry`]: asking a peer, and the task that reads the control stream.

use std::sync::Arc;

use aqueduct_stage::Sentence;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::super::control::{Control, ControlError};
use super::super::stream::{FrameStream, StreamError};
use crate::Functions;

/// Asks what the peer of a connection has. All who ask share one answer.
#[derive(Debug)]
pub(crate) struct Inquiry {
    wanted: Notify,
    answer: watch::Sender<Answer>,
}

/// What the peer has, or why that will not be known; `None` before one of both.
type Answer = Option<Result<Arc<Functions>, String>>;

impl Inquiry {
    /// To be answered by [`converse`].
    pub(crate) fn open() -> Self {
        Self { wanted: Notify::new(), answer: watch::Sender::new(None) }
    }

    /// What is known already.
    pub(crate) fn known(functions: Arc<Functions>) -> Self {
        Self { answer: watch::Sender::new(Some(Ok(functions))), ..Self::open() }
    }

    /// What cannot be known.
    pub(crate) fn hopeless(why: &str) -> Self {
        Self { answer: watch::Sender::new(Some(Err(why.to_owned()))), ..Self::open() }
    }

    /// Waits for what the peer has.
    pub(crate) async fn functions(&self) -> Result<Arc<Functions>, String> {
        let mut answer = self.answer.subscribe();
        if answer.borrow().is_none() {
            self.wanted.notify_one();
        }
        let answered = answer.wait_for(Option::is_some).await;
        let answered = answered.expect("its sender is ours");
        answered.clone().unwrap_or_else(|| unreachable!("it was waited for"))
    }

    fn answer(&self, answered: Result<Arc<Functions>, String>) {
        self.answer.send_if_modified(|answer| {
            let is_first = answer.is_none();
            if is_first {
                *answer = Some(answered);
            }
            is_first
        });
    }
}

/// Speaks with the peer until the stream ends. Then nobody waits for an answer any more.
///
/// # Errors
///
/// [`ConverseError`], of which some say that the peer broke a rule.
pub(crate) async fn converse(
    control: &mut Control,
    stream: &mut FrameStream,
    inquiry: &Inquiry,
) -> Result<(), ConverseError> {
    let ended = carry(control, stream, inquiry).await;
    let why = match &ended {
        Ok(()) => "the control stream has ended".to_owned(),
        Err(error) => Sentence(error).to_string(),
    };
    inquiry.answer(Err(why));
    ended
}

async fn carry(control: &mut Control, stream: &mut FrameStream, inquiry: &Inquiry) -> Result<(), ConverseError> {
    loop {
        // First, as some may have come behind the introduction.
        while let Some(frame) = stream.next_frame()? {
            control.handle_frame(frame, Instant::now())?;
        }
        control.handle_skipped(stream.take_skipped(), Instant::now())?;
        if let Some(functions) = control.poll_functions() {
            inquiry.answer(Ok(functions));
        }
        while stream.queued_bytes() < HIGH_WATER_BYTES
            && let Some(bytes) = control.poll_transmit()
        {
            stream.queue(bytes);
        }
        if stream.is_read_to_end() {
            return Ok(());
        }
        let mut is_wanted = false;
        let wanted = async {
            inquiry.wanted.notified().await;
            is_wanted = true;
        };
        stream.progress(wanted).await?;
        if is_wanted {
            control.ask();
        }
    }
}

/// Why a conversation ended before its connection.
#[derive(thiserror::Error)]
pub(crate) enum ConverseError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

aqueduct_stage::debug_as_sentence!(ConverseError);

impl ConverseError {
    /// Whether the peer is at fault, rather than gone.
    pub(crate) fn is_breach(&self) -> bool {
        match self {
            Self::Control(_) => true,
            Self::Stream(error) => !error.is_lost(),
        }
    }
}

/// No more is encoded while so many bytes wait for the network: some control frames of the usual size.
const HIGH_WATER_BYTES: usize = 256 << 10;
