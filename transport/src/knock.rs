//! Asks whether anybody is at a UDP address. QUIC does not tell: to it, a process that was killed is only silent.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Whether the machine at that address says that no socket is there (ICMP's port unreachable), several times in a row. A
/// machine that is switched off or cut off says nothing, and a process that lives never does.
pub(crate) async fn is_refused(at: SocketAddr) -> bool {
    for _ in 0..KNOCKS {
        if !knock(at).await.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) {
            return false;
        }
    }
    true
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_without_a_socket_refuses_and_a_silent_one_does_not() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = socket.local_addr().unwrap();
        assert!(!is_refused(at).await, "somebody is there, and says nothing");
        drop(socket);
        assert!(is_refused(at).await, "nobody is there");
    }
}
