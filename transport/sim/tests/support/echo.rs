//! The smallest QUIC service: it sends back what it gets.

use aqueduct_sim::{Host, Outcome};

const PORT: u16 = 4433;

/// Serves every stream of every connection, each on a task of its own.
pub(crate) fn serve(host: &Host, config: quinn::ServerConfig) {
    let endpoint = host.endpoint(PORT, Some(config));
    let machine = host.clone();
    host.spawn("accept", async move {
        while let Some(incoming) = endpoint.accept().await {
            let host = machine.clone();
            machine.spawn("connection", async move {
                let Ok(connection) = incoming.await else { return };
                while let Ok((send, receive)) = connection.accept_bi().await {
                    host.spawn("stream", async move { drop(echo(send, receive).await) });
                }
            });
        }
    });
}

async fn echo(mut send: quinn::SendStream, mut receive: quinn::RecvStream) -> Outcome {
    while let Some(chunk) = receive.read_chunk(16 * 1024, true).await? {
        send.write_all(&chunk.bytes).await?;
    }
    send.finish()?;
    Ok(())
}

pub(crate) async fn connect(
    endpoint: &quinn::Endpoint,
    config: &quinn::ClientConfig,
    to: &Host,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let connecting = endpoint.connect_with(config.clone(), to.address(PORT), to.name());
    connecting.expect("the configuration is valid").await
}

/// Sends `bytes` and checks that the same come back.
pub(crate) async fn exchange(connection: &quinn::Connection, bytes: &[u8]) -> Outcome {
    let (mut send, mut receive) = connection.open_bi().await?;
    let write = async {
        send.write_all(bytes).await?;
        send.finish()?;
        Ok::<_, aqueduct_stage::BoxError>(())
    };
    let read = async { Ok(receive.read_to_end(bytes.len()).await?) };
    let ((), answer) = tokio::try_join!(biased; write, read)?;
    assert!(answer == bytes, "what came back differs");
    Ok(())
}
