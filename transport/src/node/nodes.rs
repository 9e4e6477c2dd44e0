//! [`Nodes`]: who is there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::watch;
use tokio_stream::Stream;

use crate::NodeName;

/// A watch of the nodes that are there. A [`NodeList`] is one that its owner sets by hand; a cluster's membership is
/// another, and users may have their own.
///
/// ```
/// use aqueduct_transport::{Member, NodeChange, NodeList, NodeName, Nodes};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let member = |node: &str, port| Ok::<_, aqueduct_transport::NameError>(
///     Member::new(NodeName::new("demo", node)?, ([127, 0, 0, 1], port).into()),
/// );
/// let list = NodeList::new([member("a", 4001)?, member("b", 4002)?]);
/// let mut watch = list.watch();
/// assert_eq!(watch.current().len(), 2);
///
/// list.set([member("b", 4002)?, member("c", 4003)?]);
/// assert_eq!(watch.changed().await, Some(NodeChange::Left(member("a", 4001)?)));
/// assert_eq!(watch.changed().await, Some(NodeChange::Joined(member("c", 4003)?)));
/// # Ok(())
/// # }
/// ```
pub trait Nodes: Send + Sync + 'static {
    /// A watch that starts with the nodes that are there now. Called for each that wants to know; each has its own.
    fn watch(&self) -> NodesWatch;
}

/// A node that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its name, as in its certificate.
    pub name: NodeName,
    /// Where it can be dialled.
    pub address: SocketAddr,
    /// Which life of the node this is: higher after each start. 0 where nobody knows, as in a list.
    pub incarnation: u64,
    /// It is about to leave: it finishes what it has, and should be given nothing new.
    pub is_draining: bool,
}

impl Member {
    /// A node that is there, and not about to leave.
    #[must_use]
    pub fn new(name: NodeName, address: SocketAddr) -> Self {
        Self { name, address, incarnation: 0, is_draining: false }
    }

    /// Sets which life of the node this is.
    #[must_use]
    pub fn incarnation(mut self, incarnation: u64) -> Self {
        self.incarnation = incarnation;
        self
    }

    /// Sets whether it is about to leave.
    #[must_use]
    pub fn draining(mut self, is_draining: bool) -> Self {
        self.is_draining = is_draining;
        self
    }
}

/// What is different from before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeChange {
    /// A node has come.
    Joined(Member),
    /// A node has gone; this is how it was last. One that comes back in another life leaves and joins.
    Left(Member),
    /// A node of the same life has another address, or is about to leave.
    Changed(Member),
}

/// The members at one time, by their names.
pub type Members = BTreeMap<NodeName, Member>;

/// What one watcher has seen. Dropping it ends the watch.
#[derive(Debug)]
pub struct NodesWatch {
    receiver: watch::Receiver<Arc<Members>>,
    /// What the changes told so far amount to.
    seen: Members,
    /// What is to be told next leads from `seen` to this.
    target: Arc<Members>,
}

impl NodesWatch {
    /// A watch of what the other end sends, for those who implement [`Nodes`].
    #[must_use]
    pub fn new(receiver: watch::Receiver<Arc<Members>>) -> Self {
        let target = receiver.borrow().clone();
        Self { receiver, seen: (*target).clone(), target }
    }

    /// Who is there now, by name. It may be ahead of the changes that were told.
    #[must_use]
    pub fn current(&self) -> Arc<Members> {
        self.receiver.borrow().clone()
    }

    /// The next change, or `None` when nobody can change anything any more.
    ///
    /// The changes from what was there at the beginning lead to what is there now. They are made by comparing, so one who
    /// asks seldom is told the outcome and not everything in between: a node that came and went is not mentioned. Those
    /// that are gone come first, then the others, each by name.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost on cancel.
    pub async fn changed(&mut self) -> Option<NodeChange> {
        loop {
            if let Some(change) = self.step() {
                return Some(change);
            }
            let is_over = self.receiver.changed().await.is_err();
            self.target = self.receiver.borrow_and_update().clone();
            if is_over && *self.target == self.seen {
                return None;
            }
        }
    }

    /// The changes as a stream, which ends as [`changed`](Self::changed) does.
    pub fn changes(self) -> impl Stream<Item = NodeChange> + Send {
        let next = Box::pin(next(self));
        Changes { next: Some(next) }
    }

    /// Takes one step from what was told to what is to be told.
    fn step(&mut self) -> Option<NodeChange> {
        let is_gone = |member: &&Member| {
            self.target.get(&member.name).is_none_or(|target| target.incarnation != member.incarnation)
        };
        if let Some(gone) = self.seen.values().find(is_gone).cloned() {
            self.seen.remove(&gone.name);
            return Some(NodeChange::Left(gone));
        }
        let member = self.target.values().find(|member| self.seen.get(&member.name) != Some(member))?.clone();
        let before = self.seen.insert(member.name.clone(), member.clone());
        Some(if before.is_some() { NodeChange::Changed(member) } else { NodeChange::Joined(member) })
    }
}

/// The next change, and the watch again.
async fn next(mut watch: NodesWatch) -> Option<(NodeChange, NodesWatch)> {
    let change = watch.changed().await?;
    Some((change, watch))
}

/// The stream of [`NodesWatch::changes`].
struct Changes {
    next: Option<BoxFuture<Option<(NodeChange, NodesWatch)>>>,
}

impl Stream for Changes {
    type Item = NodeChange;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<NodeChange>> {
        let Some(future) = &mut self.next else { return Poll::Ready(None) };
        let ready = ready!(future.as_mut().poll(cx));
        let (change, watch) = ready.unzip();
        self.next = watch.map(|watch| -> BoxFuture<_> { Box::pin(next(watch)) });
        Poll::Ready(change)
    }
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A list of nodes that its owner sets: fixed, if it is never set again. Cloning it gives another handle to the same list;
/// the watches end when the last is dropped.
#[derive(Clone, Debug)]
pub struct NodeList {
    sender: watch::Sender<Arc<Members>>,
}

impl NodeList {
    /// A list of these. Of two of the same name, the last counts.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = Member>) -> Self {
        Self { sender: watch::Sender::new(Arc::new(by_name(members))) }
    }

    /// Sets who is there from now on.
    pub fn set(&self, members: impl IntoIterator<Item = Member>) {
        self.sender.send_replace(Arc::new(by_name(members)));
    }
}

impl Nodes for NodeList {
    fn watch(&self) -> NodesWatch {
        NodesWatch::new(self.sender.subscribe())
    }
}

fn by_name(members: impl IntoIterator<Item = Member>) -> Members {
    members.into_iter().map(|member| (member.name.clone(), member)).collect()
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    fn member(node: &str, port: u16) -> Member {
        Member::new(NodeName::new("test", node).unwrap(), ([127, 0, 0, 1], port).into())
    }

    /// All changes until the list is gone.
    async fn changes(watch: NodesWatch) -> Vec<NodeChange> {
        let told = watch.changes().collect();
        tokio::time::timeout(std::time::Duration::from_secs(5), told).await.expect("the list is gone")
    }

    #[tokio::test]
    async fn the_changes_lead_from_the_beginning_to_the_present() {
        let list = NodeList::new([member("a", 1), member("b", 2), member("c", 3), member("d", 4)]);
        let watch = list.watch();
        list.set([member("x", 9)]);
        let now = [member("b", 2), member("c", 30).draining(true), member("d", 4).incarnation(2), member("e", 5)];
        list.set(now.clone());
        assert_eq!(watch.current().values().cloned().collect::<Vec<_>>(), now);
        drop(list);
        let [_, c, d, e] = now;
        let expected = [
            NodeChange::Left(member("a", 1)),
            NodeChange::Left(member("d", 4)),
            NodeChange::Changed(c),
            NodeChange::Joined(d),
            NodeChange::Joined(e),
        ];
        assert_eq!(changes(watch).await, expected, "and x is not mentioned, which came and went");
    }

    #[tokio::test]
    async fn a_fixed_list_does_not_change() {
        let list = NodeList::new([member("a", 1), member("a", 2)]);
        let mut watch = list.watch();
        assert_eq!(watch.current().len(), 1);
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(1), watch.changed()).await;
        assert!(waiting.is_err(), "nothing to tell, and somebody could still change it");
        drop(list);
        assert_eq!(changes(watch).await, []);
    }

    #[tokio::test]
    async fn every_watch_has_its_own_beginning() {
        let list = NodeList::new([]);
        let early = list.watch();
        list.set([member("a", 1)]);
        let late = list.clone().watch();
        drop(list);
        assert_eq!(changes(early).await, [NodeChange::Joined(member("a", 1))]);
        assert_eq!(changes(late).await, []);
    }
}
