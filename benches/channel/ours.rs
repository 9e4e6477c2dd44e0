//! Our channels.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use aqueduct::transport::{Authority, ChannelOptions, JoinOptions, Node, Receiver, Sender};
use aqueduct_benches::peers::Settings;

use super::{Answer, Job, PATIENCE, Tally, answer, job};

/// A channel whose workers have the default window.
pub(crate) const DEFAULT: &str = "default";
/// One whose workers have one that stays as it is.
pub(crate) const WIDE: &str = "wide";
/// One that carries single values.
pub(crate) const SINGLE: &str = "single";
/// The channels that a worker joins, with its window.
pub(crate) const CHANNELS: [(&str, Option<Range<usize>>); 3] =
    [(DEFAULT, None), (WIDE, Some(500..1000)), (SINGLE, None)];

/// The server's node.
pub(crate) struct Office {
    node: Node,
}

impl Office {
    pub(crate) async fn open(settings: Settings, authority: &Authority) -> Result<Self> {
        Ok(Self { node: settings.node(&authority.issue("server")?).await? })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.node.local_addr()
    }

    /// The two ends of a channel that so many have joined.
    pub(crate) async fn channel(&self, name: &str, workers: usize) -> Result<(Sender<Job>, Receiver<Answer>)> {
        let (sender, results) = self.node.serve_channel(name, ChannelOptions::default())?;
        sender.wait_until_ready(workers, PATIENCE).await?;
        Ok((sender, results))
    }

    pub(crate) async fn serve(&self, name: &str, workers: usize) -> Result<Server> {
        let (sender, mut results) = self.channel(name, workers).await?;
        let (sent, received) = (Arc::<Tally>::default(), Arc::<Tally>::default());
        let tally = Arc::clone(&received);
        tokio::spawn(async move {
            while let Some(result) = results.recv().await {
                tally.take(result?)?;
            }
            anyhow::Ok(())
        });
        Ok(Server { sender, sent, received })
    }
}

pub(crate) struct Server {
    sender: Sender<Job>,
    pub(crate) sent: Arc<Tally>,
    pub(crate) received: Arc<Tally>,
}

impl Server {
    /// Sends until it is enough.
    pub(crate) async fn send(&self) -> Result<()> {
        while !self.sent.is_stopped() {
            self.sender.send(job(self.sent.count())).await?;
            self.sent.add(1);
        }
        Ok(())
    }
}

/// Answers until the process ends. A channel that is not served yet is tried again.
pub(crate) async fn work(
    node: Node,
    at: SocketAddr,
    channel: &'static str,
    window: Option<Range<usize>>,
) -> Result<()> {
    loop {
        let options = JoinOptions::default();
        let options = match window.clone() {
            Some(window) => options.values(window),
            None => options,
        };
        let mut tasks = node.join_channel::<Job, Answer>(channel, at, options);
        while let Some(Ok(task)) = tasks.recv().await {
            let result = answer(*task.value());
            task.answer(&result)?;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
