//! [`UdpDatagrams`]: datagrams as events.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::net::{ToSocketAddrs, UdpSocket};
use tokio_stream::Stream;

use crate::notice;
use crate::notices::Notices;

/// A stream of the datagrams that arrive at a socket.
///
/// One is received only when it is asked for. Until then datagrams wait in the system's receive buffer, and those that
/// find it full are lost, as always with UDP.
///
/// A datagram holds at most [`Self::DEFAULT_MAX_BYTES`] unless [`max_bytes`](Self::max_bytes) says otherwise. A longer
/// one is not handed out, whole or cut: it is logged as a warning, and counted in [`oversized`](Self::oversized). An error
/// of the socket is the last item, except those that tell of an earlier datagram which nobody received.
///
/// ```
/// use aqueduct_stage::stages::UdpDatagrams;
/// use tokio::net::UdpSocket;
/// use tokio_stream::StreamExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> aqueduct_stage::Result {
/// let mut datagrams = UdpDatagrams::bind("127.0.0.1:0").await?;
/// let sender = UdpSocket::bind("127.0.0.1:0").await?;
/// sender.send_to(b"hello", datagrams.local_addr()?).await?;
/// let datagram = datagrams.try_next().await?.ok_or("it has ended")?;
/// assert_eq!((&*datagram.bytes, datagram.from), (&b"hello"[..], sender.local_addr()?));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct UdpDatagrams {
    socket: Arc<UdpSocket>,
    /// One byte longer than a datagram may be, to tell one that was cut from one that fits.
    buffer: Box<[u8]>,
    oversized: Oversized,
    notices: Notices,
    is_over: bool,
}

/// What arrived in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Its contents, which may be empty.
    pub bytes: Vec<u8>,
    /// Who sent it.
    pub from: SocketAddr,
}

/// Counts the datagrams that were longer than they may be. Cheap to clone; it outlives the stream.
#[derive(Clone, Debug, Default)]
pub struct Oversized(Arc<AtomicU64>);

impl Oversized {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl UdpDatagrams {
    /// How many bytes a datagram may have: 65,535, no UDP datagram has more.
    pub const DEFAULT_MAX_BYTES: usize = 65_535;

    /// Binds a socket. Port 0 has the system choose one: see [`local_addr`](Self::local_addr).
    ///
    /// # Errors
    ///
    /// Those of [`UdpSocket::bind`].
    ///
    /// # Cancel safety
    ///
    /// If it is dropped, nothing is bound.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        Ok(Self::new(UdpSocket::bind(address).await?))
    }

    /// Takes a socket that is bound already. To answer from the same one, share it: `Arc<UdpSocket>` will do as well.
    pub fn new(socket: impl Into<Arc<UdpSocket>>) -> Self {
        let buffer = vec![0; Self::DEFAULT_MAX_BYTES + 1].into();
        Self {
            socket: socket.into(),
            buffer,
            oversized: Oversized::default(),
            notices: Notices::default(),
            is_over: false,
        }
    }

    /// Sets how many bytes a datagram may have. So much memory is held, and one byte.
    #[must_use = "the returned stream is the one to read"]
    pub fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.buffer = vec![0; max_bytes.min(Self::DEFAULT_MAX_BYTES) + 1].into();
        self
    }

    /// Where it is bound.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The count of datagrams that were too long, to be kept when the stream is given away.
    pub fn oversized(&self) -> Oversized {
        self.oversized.clone()
    }
}

impl Stream for UdpDatagrams {
    type Item = io::Result<Datagram>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { socket, buffer, oversized, notices, is_over } = &mut *self;
        if *is_over {
            return Poll::Ready(None);
        }
        loop {
            let mut room = ReadBuf::new(buffer);
            match ready!(socket.poll_recv_from(cx, &mut room)) {
                Ok(from) if room.remaining() > 0 => {
                    return Poll::Ready(Some(Ok(Datagram { bytes: room.filled().to_vec(), from })));
                }
                Ok(from) => {
                    oversized.0.fetch_add(1, Ordering::Relaxed);
                    let max_bytes = room.capacity() - 1;
                    notice!(notices, warn, "a datagram was too long and is dropped", %from, max_bytes);
                }
                Err(error) if cfg!(windows) && error.raw_os_error() == Some(WSAEMSGSIZE) => {
                    oversized.0.fetch_add(1, Ordering::Relaxed);
                    notice!(notices, warn, "a datagram was too long and is dropped", %error);
                }
                Err(error) if concerns_another(&error) => tracing::debug!(%error, "a datagram was not received"),
                Err(error) => {
                    *is_over = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

/// Where other systems cut a datagram that is longer than the buffer, Windows reports it.
const WSAEMSGSIZE: i32 = 10_040;

/// Whether the error tells that a datagram which was sent from this socket did not arrive.
fn concerns_another(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | Interrupted)
}
