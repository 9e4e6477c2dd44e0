//! Frames of MessagePack over TCP, as one would write them for this one purpose.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use bytes::{Buf, BufMut, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};

use super::{Answer, Job, Tally, answer, job};

/// Waits for so many workers.
pub(crate) async fn hire(listener: &TcpListener, workers: usize) -> Result<Server> {
    let (sent, received) = (Arc::default(), Arc::<Tally>::default());
    let mut jobs = Vec::new();
    for _ in 0..workers {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (mut results, writing) = stream.into_split();
        jobs.push((writing, BytesMut::new()));
        let tally = Arc::clone(&received);
        tokio::spawn(async move {
            let mut buffer = BytesMut::with_capacity(BUFFER_BYTES);
            while results.read_buf(&mut buffer).await? > 0 {
                while let Some(result) = take::<Answer>(&mut buffer)? {
                    tally.take(result)?;
                }
            }
            anyhow::Ok(())
        });
    }
    Ok(Server { jobs, sent, received })
}

pub(crate) struct Server {
    jobs: Vec<(OwnedWriteHalf, BytesMut)>,
    pub(crate) sent: Arc<Tally>,
    pub(crate) received: Arc<Tally>,
}

impl Server {
    /// Sends until it is enough, to each worker in turn.
    pub(crate) async fn send(&mut self) -> Result<()> {
        while !self.sent.is_stopped() {
            let id = self.sent.count();
            let place = id as usize % self.jobs.len();
            let (writing, buffer) = &mut self.jobs[place];
            put(buffer, &job(id))?;
            self.sent.add(1);
            if buffer.len() >= BUFFER_BYTES {
                writing.write_all_buf(buffer).await?;
            }
        }
        for (writing, buffer) in &mut self.jobs {
            writing.write_all_buf(buffer).await?;
        }
        Ok(())
    }
}

/// Answers until the process ends: all that has arrived together with one write.
pub(crate) async fn work(at: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let (mut arrived, mut answers) = (BytesMut::with_capacity(BUFFER_BYTES), BytesMut::with_capacity(BUFFER_BYTES));
    while stream.read_buf(&mut arrived).await? > 0 {
        while let Some(job) = take::<Job>(&mut arrived)? {
            put(&mut answers, &answer(job))?;
        }
        stream.write_all_buf(&mut answers).await?;
    }
    Ok(())
}

/// Appends a frame.
fn put(buffer: &mut BytesMut, value: &impl Serialize) -> Result<()> {
    let start = buffer.len();
    buffer.put_u32_le(0);
    let mut writer = buffer.writer();
    rmp_serde::encode::write(&mut writer, value)?;
    let length = u32::try_from(buffer.len() - start - 4)?;
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Takes the first frame, if it has arrived whole.
fn take<T: DeserializeOwned>(buffer: &mut BytesMut) -> Result<Option<T>> {
    let Some(length) = buffer.first_chunk().map(|length| u32::from_le_bytes(*length) as usize) else { return Ok(None) };
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length);
        return Ok(None);
    }
    let value = rmp_serde::from_slice(&buffer[4..4 + length])?;
    buffer.advance(4 + length);
    Ok(Some(value))
}

const BUFFER_BYTES: usize = 8 << 10;
