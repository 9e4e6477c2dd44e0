//! [`TcpAcceptor`]: connections as events.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;

use crate::BoxFuture;

/// A stream of the connections that clients make to a listening socket.
///
/// A connection is accepted only when one is asked for, and only while fewer than the [limit](Self::limit) are open. Until
/// then clients wait in the kernel's backlog, and when that is full, they find out: that is how back-pressure looks from
/// outside.
///
/// Its end is an error, as its last item. What concerns one connection only, such as a client that has gone before it
/// was accepted, is skipped. When the process or the system has run out of file descriptors or memory, it logs a warning
/// and tries again after a while, 10 ms at first and 1 s at most, since somebody may close something. Anything else ends
/// the stream.
///
/// ```
/// use aqueduct_stage::stages::TcpAcceptor;
/// use tokio::net::TcpStream;
/// use tokio_stream::StreamExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> aqueduct_stage::Result {
/// let mut acceptor = TcpAcceptor::bind("127.0.0.1:0").await?.limit(50);
/// let client = TcpStream::connect(acceptor.local_addr()?).await?;
/// let connection = acceptor.try_next().await?.ok_or("it has ended")?;
/// assert_eq!(connection.peer_addr(), client.local_addr()?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TcpAcceptor {
    listener: TcpListener,
    places: Places,
    retry: Retry,
    is_over: bool,
}

/// A connection that was accepted. It reads and writes as the [`TcpStream`] within, and frees its place under the
/// acceptor's limit when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
}

/// A place under the limit of a [`TcpAcceptor`]; it is free again when this is dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

/// A limit of open connections.
struct Places {
    free: Arc<Semaphore>,
    /// The place of the next connection, once there is one.
    taken: Option<OwnedSemaphorePermit>,
    /// Waits for a place.
    waiting: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
}

/// Waits, longer every time.
#[derive(Debug, Default)]
struct Retry {
    pause: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl TcpAcceptor {
    /// Binds a socket and listens. Port 0 has the system choose one: see [`local_addr`](Self::local_addr).
    ///
    /// # Errors
    ///
    /// Those of [`TcpListener::bind`].
    ///
    /// # Cancel safety
    ///
    /// If it is dropped, nothing listens.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        Ok(Self::new(TcpListener::bind(address).await?))
    }

    /// Takes a socket that listens already: with a backlog of its own, for instance, from
    /// [`TcpSocket`](tokio::net::TcpSocket).
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, places: Places::new(LIMIT), retry: Retry::default(), is_over: false }
    }

    /// Accepts no connection while `open` of those it has accepted are alive. Default: 512, half of the file descriptors that
    /// a process may have on most systems. Demand does not bound them: a stage has handled a connection that it has handed to a
    /// task, and asks for the next. With a higher limit, raise that of the process (`ulimit -n`) as well.
    ///
    /// # Panics
    ///
    /// If `open` is 0, or more than [`Semaphore::MAX_PERMITS`].
    #[track_caller]
    #[must_use = "the returned acceptor has the limit"]
    pub fn limit(mut self, open: usize) -> Self {
        assert!(open > 0, "expected a limit of at least 1 connection, got 0");
        self.places = Places::new(open);
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Stream for TcpAcceptor {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        loop {
            ready!(this.retry.poll_pause(cx));
            ready!(this.places.poll_taken(cx));
            let error = match ready!(this.listener.poll_accept(cx)) {
                Ok((stream, peer)) => {
                    this.retry = Retry::default();
                    let place = Place(this.places.taken.take());
                    return Poll::Ready(Some(Ok(Connection { stream, peer, place })));
                }
                Err(error) => error,
            };
            match Severity::of(&error) {
                Severity::Connection => tracing::debug!(%error, "a connection was gone before it was accepted"),
                Severity::Resources => {
                    let pause = this.retry.lengthen();
                    tracing::warn!(%error, ?pause, "cannot accept connections for the moment");
                }
                Severity::Listener => {
                    this.is_over = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl Places {
    fn new(open: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(open)), taken: None, waiting: None }
    }

    /// Ready when there is a place for the next connection.
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.taken.is_some() {
            return Poll::Ready(());
        }
        let free = &self.free;
        let waiting = self.waiting.get_or_insert_with(|| {
            let free = Arc::clone(free);
            Box::pin(async move { free.acquire_owned().await.ok() })
        });
        self.taken = ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        debug_assert!(self.taken.is_some(), "nobody closes it");
        Poll::Ready(())
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("free", &self.free.available_permits()).finish_non_exhaustive()
    }
}

impl Retry {
    fn lengthen(&mut self) -> Duration {
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.sleep = Some(Box::pin(sleep(self.pause)));
        self.pause
    }

    /// Ready when it is time to try.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(sleep) = &mut self.sleep {
            ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        Poll::Ready(())
    }
}

/// Connections that are open, unless it is told otherwise.
const LIMIT: usize = 512;
/// Somebody may have closed a file.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// So long a client waits more than it has to when there are files again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What an error says about further connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    /// Nothing.
    Connection,
    /// They can be accepted when there is something to accept them with.
    Resources,
    /// There will be none.
    Listener,
}

impl Severity {
    fn of(error: &io::Error) -> Self {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, OutOfMemory};
        match error.kind() {
            ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted => Self::Connection,
            OutOfMemory => Self::Resources,
            _ if error.raw_os_error().is_some_and(|code| OUT_OF_RESOURCES.contains(&code)) => Self::Resources,
            _ => Self::Listener,
        }
    }
}

/// `ENFILE`, `EMFILE` and `ENOBUFS`, which have no kind of their own.
#[cfg(any(target_os = "linux", target_os = "android"))]
const OUT_OF_RESOURCES: [i32; 3] = [23, 24, 105];
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
const OUT_OF_RESOURCES: [i32; 3] = [23, 24, 55];
/// `WSAEMFILE` and `WSAENOBUFS`.
#[cfg(windows)]
const OUT_OF_RESOURCES: [i32; 2] = [10_024, 10_055];
#[cfg(not(any(unix, windows)))]
const OUT_OF_RESOURCES: [i32; 0] = [];

impl Connection {
    /// Who connected.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// The stream within.
    pub fn get_ref(&self) -> &TcpStream {
        &self.stream
    }

    /// The stream within, to split it for instance.
    pub fn get_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// The stream, and its place under the limit: to be kept for as long as the stream is open.
    pub fn into_parts(self) -> (TcpStream, Place) {
        (self.stream, self.place)
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_concerns_the_listener_ends_it() {
        for (error, expected) in [
            (io::ErrorKind::ConnectionAborted.into(), Severity::Connection),
            (io::ErrorKind::ConnectionReset.into(), Severity::Connection),
            (io::ErrorKind::OutOfMemory.into(), Severity::Resources),
            (io::ErrorKind::InvalidInput.into(), Severity::Listener),
            (io::ErrorKind::PermissionDenied.into(), Severity::Listener),
        ] {
            assert_eq!(Severity::of(&error), expected, "{error}");
        }
        for code in OUT_OF_RESOURCES {
            assert_eq!(Severity::of(&io::Error::from_raw_os_error(code)), Severity::Resources);
        }
    }

    #[tokio::test]
    async fn connections_have_places_also_where_nobody_has_set_a_limit() {
        let mut acceptor = TcpAcceptor::bind("127.0.0.1:0").await.unwrap();
        let free = |acceptor: &TcpAcceptor| acceptor.places.free.available_permits();
        assert_eq!(free(&acceptor), LIMIT);
        let _client = TcpStream::connect(acceptor.local_addr().unwrap()).await.unwrap();
        let accepted = std::future::poll_fn(|cx| Pin::new(&mut acceptor).poll_next(cx)).await;
        assert_eq!(free(&acceptor), LIMIT - 1);
        drop(accepted);
        assert_eq!(free(&acceptor), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_get_longer_to_a_bound() {
        let mut retry = Retry::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pauses.push(retry.lengthen().as_millis());
            std::future::poll_fn(|cx| retry.poll_pause(cx)).await;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000]);
    }
}
