//! A chat: what somebody writes, everybody else reads. Try it with `nc 127.0.0.1 8889`, twice; a
//! port can be given as argument.
//!
//! Tasks share what one thread has: the room is an `Rc`, the writers are used by whoever has
//! something to say. A client that does not keep up is sent away, so that it holds nobody up.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use rondel::{StreamReader, StreamWriter};

/// So much may wait for a client, in bytes.
const PATIENCE: usize = 1 << 20;

#[derive(Default)]
struct Room(RefCell<HashMap<String, Rc<StreamWriter>>>);

impl Room {
    fn say(&self, from: &str, text: &str) {
        for (name, writer) in self.0.borrow().iter().filter(|(name, _)| *name != from) {
            if writer.write_buffer_size() > PATIENCE {
                println!("{name} does not keep up");
                writer.abort();
            }
            writer.write(format!("{from}: {text}\n"));
        }
    }
}

async fn talk(room: &Room, mut reader: StreamReader, writer: StreamWriter) -> io::Result<()> {
    writer.write("your name?\n");
    let name = String::from_utf8_lossy(reader.readline().await?)
        .trim()
        .to_owned();
    if name.is_empty() || room.0.borrow().contains_key(&name) {
        writer.write("not that one\n");
        return Ok(());
    }
    let writer = Rc::new(writer);
    writer.write(format!("welcome, {name}\n"));
    room.0.borrow_mut().insert(name.clone(), writer);
    room.say(&name, "hello");
    let told = loop {
        match reader.readline().await {
            Ok([]) => break Ok(()),
            Ok(line) => room.say(&name, String::from_utf8_lossy(line).trim_end()),
            Err(error) => break Err(error),
        }
    };
    room.0.borrow_mut().remove(&name);
    room.say(&name, "goodbye");
    told
}

#[rondel::main]
async fn main() -> io::Result<()> {
    let port = std::env::args()
        .nth(1)
        .map_or(Ok(8889), |port| port.parse());
    let port: u16 = port.map_err(io::Error::other)?;
    let room = Room::default();
    let handler = async move |reader, writer| talk(&room, reader, writer).await;
    let server = rondel::start_server(handler, ("127.0.0.1", port)).await?;
    println!("serving on {}", server.addresses()[0]);
    rondel::ctrl_c().await
}
