//! A WebSocket server that tells everybody what somebody says, in capitals. A port can be given as
//! argument.
//!
//! async-tungstenite speaks the protocol, over [`rondel::Duplex`], which has the traits of
//! `futures-io`. What comes from the others goes through a broadcast channel.

use std::io;

use async_tungstenite::accept_async;
use async_tungstenite::tungstenite::Message;
use futures_util::StreamExt;
use rondel::{Duplex, StreamReader, StreamWriter, broadcast};

async fn talk(
    room: broadcast::Sender<String>,
    reader: StreamReader,
    writer: StreamWriter,
) -> io::Result<()> {
    let mut heard = room.subscribe();
    let stream = accept_async(Duplex::new(reader, writer)).await;
    let (mut outgoing, mut incoming) = stream.map_err(io::Error::other)?.split();
    let listening = rondel::create_task(async move {
        while let Ok(text) = heard.recv().await {
            if outgoing.send(Message::text(text)).await.is_err() {
                break;
            }
        }
    });
    while let Some(message) = incoming.next().await {
        match message.map_err(io::Error::other)? {
            Message::Text(text) => drop(room.send(text.to_uppercase())),
            Message::Close(_) => break,
            _ => {}
        }
    }
    // The next poll of the stream has answered the close; dropping the task drops its half.
    drop(incoming.next().await);
    listening.cancel();
    Ok(())
}

#[rondel::main]
async fn main() -> io::Result<()> {
    let port = std::env::args()
        .nth(1)
        .map_or(Ok(8891), |port| port.parse());
    let port: u16 = port.map_err(io::Error::other)?;
    let (room, _) = broadcast::channel(100);
    let handler = async move |reader, writer| talk(room.clone(), reader, writer).await;
    let server = rondel::start_server(handler, ("127.0.0.1", port)).await?;
    println!("serving on {}", server.addresses()[0]);
    rondel::ctrl_c().await
}
