//! Asks whether anybody is at a UDP address. QUIC does not tell: to it, a process that was killed is only silent.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Asks at a bounded number of addresses at once: each takes a file descriptor, and many connections fall silent together when
/// a network fails, or when a peer wants it.
#[derive(Debug)]
pub(crate) struct Knocker {
    sockets: Semaphore,
}

impl Default for Knocker {
    fn default() -> Self {
        Self { sockets: Semaphore::new(AT_ONCE) }
    }
}

impl Knocker {
    /// Whether the machine at that address says that no socket is there (ICMP's port unreachable), several times in a row. A
    /// machine that is switched off or cut off says nothing, and a process that lives never does.
    pub(crate) async fn is_refused(&self, at: SocketAddr) -> bool {
        // Nobody closes it.
        let Ok(_socket) = self.sockets.acquire().await else { return false };
        for _ in 0..KNOCKS {
            if !knock(at).await.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
                return false;
            }
        }
        true
    }
}

/// What comes back within a moment. A socket of its own is connected to the address, so the system hands it only what is about
/// its own packet.
async fn knock(at: SocketAddr) -> io::Result<()> {
    let any = if at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(at).await?;
    // No packet of QUIC is so short: who is there drops it.
    socket.send(&[0]).await?;
    timeout(ANSWER, socket.recv(&mut [0; 1])).await.map_or(Ok(()), |received| received.map(drop))
}

/// One answer may have been forged by who guesses a port.
const KNOCKS: u32 = 2;
const ANSWER: Duration = Duration::from_millis(200);
/// Of a thousand connections that fall silent and that nobody refuses, a third is asked for within the idle timeout; those behind
/// them that are refused are found out at once when it is their turn.
const AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn an_address_without_a_socket_refuses_and_a_silent_one_does_not() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = socket.local_addr().unwrap();
        let knocker = Knocker::default();
        assert!(!knocker.is_refused(at).await, "somebody is there, and says nothing");
        drop(socket);
        assert!(knocker.is_refused(at).await, "nobody is there");
    }

    #[tokio::test]
    async fn so_many_silent_addresses_are_asked_at_once_and_the_others_after_them() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (at, knocker) = (socket.local_addr().unwrap(), Knocker::default());
        let mut asked: Vec<_> = (0..AT_ONCE + 4).map(|_| Box::pin(knocker.is_refused(at))).collect();
        let mut answers = 0;
        let all = poll_fn(|cx| {
            asked.retain_mut(|asked| asked.as_mut().poll(cx).map(|_| answers += 1).is_pending());
            if asked.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        // Each of the first waits longer than this for an answer.
        assert!(timeout(ANSWER / 2, all).await.is_err());
        assert_eq!((arrived(&socket), answers), (AT_ONCE, 0));
        for asked in asked {
            assert!(!asked.await);
        }
        assert_eq!(arrived(&socket), 4);
    }

    /// How many packets have.
    fn arrived(socket: &UdpSocket) -> usize {
        std::iter::from_fn(|| socket.try_recv(&mut [0; 1]).ok()).count()
    }
}
