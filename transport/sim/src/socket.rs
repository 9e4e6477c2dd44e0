//! [`SimSocket`]: a UDP socket of the simulated network. Everything that depends on quinn's runtime traits is in this
//! file, as later versions of quinn have others.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, EndpointConfig, Runtime, ServerConfig, UdpPoller};
use tokio::time::{Sleep, sleep_until};

use crate::host::Host;
use crate::net::SimNet;
use crate::wire::{Binding, Datagram};

/// A bound UDP port of a [`Host`]. Dropping it closes the port. After a crash of its host it is dead for good: what it
/// sends goes nowhere, and it never receives anything.
pub struct SimSocket {
    net: SimNet,
    binding: Binding,
}

impl SimSocket {
    pub(crate) fn new(net: SimNet, binding: Binding) -> Self {
        Self { net, binding }
    }

    /// Sends one datagram. Like UDP it never waits and never says whether it arrives.
    pub fn send_to(&self, to: SocketAddr, contents: &[u8]) {
        self.send(Datagram { from: self.binding.address, to, ecn: 0, contents: contents.to_vec() });
    }

    /// Waits for a datagram: who sent it, and its contents.
    ///
    /// # Cancel safety
    /// Nothing is lost. One reader at a time: of several waiting, only the last is woken.
    pub async fn recv_from(&self) -> (SocketAddr, Vec<u8>) {
        let datagram = std::future::poll_fn(|cx| self.poll_datagram(cx)).await;
        (datagram.from, datagram.contents)
    }

    fn send(&self, datagram: Datagram) {
        let now = self.net.now();
        self.net.wire().send(now, self.binding, datagram);
        self.net.wake();
    }

    fn poll_datagram(&self, cx: &Context<'_>) -> Poll<Datagram> {
        self.net.wire().receive(self.binding, cx.waker()).map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.net.wire().unbind(self.binding);
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimSocket").field(&self.binding.address).finish()
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self, pause: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let now = self.net.now();
        if self.net.wire().is_blocked(now, self.binding) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        debug_assert!(transmit.segment_size.is_none(), "one datagram per transmit was promised");
        self.send(Datagram {
            from: self.binding.address,
            to: transmit.destination,
            ecn: transmit.ecn.map_or(0, |ecn| ecn as u8),
            contents: transmit.contents.to_vec(),
        });
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut filled = 0;
        let most = if self.net.wire().is_short() { 1 } else { buffers.len() };
        for (buffer, meta) in buffers.iter_mut().zip(meta).take(most) {
            let Poll::Ready(datagram) = self.poll_datagram(cx) else { break };
            let len = datagram.contents.len().min(buffer.len());
            buffer[..len].copy_from_slice(&datagram.contents[..len]);
            *meta = RecvMeta::default();
            meta.addr = datagram.from;
            (meta.len, meta.stride) = (len, len);
            meta.ecn = EcnCodepoint::from_bits(datagram.ecn);
            meta.dst_ip = Some(self.binding.address.ip());
            filled += 1;
        }
        if filled > 0 { Poll::Ready(Ok(filled)) } else { Poll::Pending }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.binding.address)
    }

    /// So that quinn looks for the path's MTU.
    fn may_fragment(&self) -> bool {
        false
    }
}

/// Waits until a socket can be written to again, for one task.
#[derive(Debug)]
struct Writable {
    socket: Arc<SimSocket>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (net, binding) = (&self.socket.net, self.socket.binding);
        let until = net.wire().blocked_until(binding);
        if until > net.now() {
            let mut pause = Box::pin(sleep_until(net.at(until)));
            if Future::poll(pause.as_mut(), cx).is_pending() {
                self.pause = Some(pause);
                return Poll::Pending;
            }
        }
        self.pause = None;
        Poll::Ready(Ok(()))
    }
}

impl Host {
    /// A quinn endpoint on this machine, with quinn's defaults; a server if it gets a configuration for one.
    ///
    /// # Panics
    /// As [`bind`](Self::bind).
    #[track_caller]
    pub fn endpoint(&self, port: u16, server: Option<ServerConfig>) -> quinn::Endpoint {
        let (config, runtime) = (EndpointConfig::default(), Arc::new(self.clone()));
        quinn::Endpoint::new_with_abstract_socket(config, server, self.bind(port), runtime)
            .expect("a simulated socket always has a local address")
    }
}

impl Runtime for Host {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(HostTimer { sleep: Box::pin(sleep_until(self.true_time(at.into()))), host: self.clone() })
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        Self::spawn(self, "quinn", future);
    }

    fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a simulated host has no real sockets"))
    }

    fn now(&self) -> Instant {
        self.clock_shows().into_std()
    }
}

/// A timer by the clock of its host.
#[derive(Debug)]
struct HostTimer {
    sleep: Pin<Box<Sleep>>,
    host: Host,
}

impl AsyncTimer for HostTimer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        let at = self.host.true_time(at.into());
        self.sleep.as_mut().reset(at);
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Future::poll(self.sleep.as_mut(), cx)
    }
}
