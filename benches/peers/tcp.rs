//! Plain TCP, and bytes.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::peers::LOOPBACK;
use crate::peers::quic::PIECE_BYTES;
use crate::rate::{Meter, Rate};

/// Serves bytes without an end, until the process ends.
///
/// # Errors
///
/// If there is no socket.
pub async fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind(LOOPBACK).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let piece = vec![7; PIECE_BYTES];
                // Until the other end has enough.
                while stream.write_all(&piece).await.is_ok() {}
            });
        }
    });
    Ok(address)
}

/// Takes bytes on a connection of its own, for as long as the `meter` runs.
///
/// # Errors
///
/// If the connection fails.
pub async fn take(at: SocketAddr, mut meter: Meter) -> Result<Rate> {
    let mut stream = TcpStream::connect(at).await?;
    let mut buffer = vec![0; 4 * PIECE_BYTES];
    loop {
        let count = stream.read(&mut buffer).await?;
        ensure!(count > 0, "bytes have no end");
        if let Some(rate) = meter.take(count as u64) {
            return Ok(rate);
        }
    }
}
