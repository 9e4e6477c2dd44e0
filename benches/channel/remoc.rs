//! remoc's channels over TCP: one to each worker and one back.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use aqueduct_benches::peers::remoc::connect;
use remoc::rch::{base, mpsc};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};

use super::{Answer, Job, Tally, answer, job};

/// What a worker is sent.
#[derive(Debug, Serialize, Deserialize)]
struct Work {
    jobs: mpsc::Receiver<Job>,
    answers: mpsc::Sender<Answer>,
}

/// Waits for so many workers.
pub(crate) async fn hire(listener: &TcpListener, workers: usize) -> Result<Server> {
    let (sent, received) = (Arc::default(), Arc::<Tally>::default());
    let (mut jobs, mut offices) = (Vec::new(), Vec::new());
    for _ in 0..workers {
        let (stream, _) = listener.accept().await?;
        let (mut office, _nothing) = connect::<Work, ()>(stream).await?;
        let ((sender, for_worker), (answers, mut results)) = (mpsc::channel(), mpsc::channel());
        office.send(Work { jobs: for_worker, answers }).await?;
        let tally = Arc::clone(&received);
        tokio::spawn(async move {
            while let Some(result) = results.recv().await? {
                tally.take(result)?;
            }
            anyhow::Ok(())
        });
        jobs.push(sender);
        offices.push(office);
    }
    Ok(Server { jobs, _offices: offices, sent, received })
}

pub(crate) struct Server {
    jobs: Vec<mpsc::Sender<Job>>,
    /// A connection ends with its base channel.
    _offices: Vec<base::Sender<Work>>,
    pub(crate) sent: Arc<Tally>,
    pub(crate) received: Arc<Tally>,
}

impl Server {
    /// Sends until it is enough, to each worker in turn.
    pub(crate) async fn send(&self) -> Result<()> {
        while !self.sent.is_stopped() {
            let id = self.sent.count();
            self.jobs[id as usize % self.jobs.len()].send(job(id)).await?;
            self.sent.add(1);
        }
        Ok(())
    }
}

/// Answers until the process ends.
pub(crate) async fn work(at: SocketAddr) -> Result<()> {
    let (_nothing, mut offers) = connect::<(), Work>(TcpStream::connect(at).await?).await?;
    while let Some(Work { mut jobs, answers }) = offers.recv().await? {
        while let Some(job) = jobs.recv().await? {
            answers.send(answer(job)).await?;
        }
    }
    Ok(())
}
