//! [`NodeRuntime`]: quinn's runtime over our spawner, so that quinn's own tasks end with the machine they run on.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use aqueduct_stage::Spawner;
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};

/// Spawns through a [`Spawner`]; sockets and timers are tokio's.
pub(super) struct NodeRuntime(pub(super) Arc<dyn Spawner>);

/// A socket of the system's, for quinn.
pub(crate) fn wrap_socket(spawner: &Arc<dyn Spawner>, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    NodeRuntime(Arc::clone(spawner)).wrap_udp_socket(socket)
}

impl Runtime for NodeRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn("quic", future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

impl fmt::Debug for NodeRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeRuntime")
    }
}
