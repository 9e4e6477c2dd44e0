//! [`ClosedSocket`]: in the place of a node's socket once it has been shut down.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, UdpPoller};
use tokio::time::{sleep, timeout};

/// Sends and receives nothing. What is at the address that it tells may be another socket by now.
#[derive(Clone, Copy, Debug)]
struct ClosedSocket(SocketAddr);

/// Closes the socket of an endpoint, whoever still holds that: its address is free then. Connections that are still closing let
/// go of it when their tasks run.
pub(crate) async fn close_socket(endpoint: &Endpoint, socket: &Weak<dyn AsyncUdpSocket>, address: SocketAddr) {
    // quinn keeps the socket before the present one until something comes in.
    for _ in 0..2 {
        // It fails only where a socket does not know its address.
        let _ = endpoint.rebind_abstract(Arc::new(ClosedSocket(address)));
    }
    let is_closed = async {
        while socket.strong_count() > 0 {
            sleep(LOOK_AGAIN).await;
        }
    };
    // Whoever has opened it may hold it as well.
    let _ = timeout(LONGEST, is_closed).await;
}

impl AsyncUdpSocket for ClosedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(*self)
    }

    fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn poll_recv(&self, _: &mut Context<'_>, _: &mut [IoSliceMut<'_>], _: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }
}

impl UdpPoller for ClosedSocket {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Longer than it takes until tasks run that are woken.
const LONGEST: Duration = Duration::from_millis(100);
