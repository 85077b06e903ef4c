//! A proxy: `half_close_proxy PORT HOST PORT` listens on the first port and connects each client to
//! the host.
//!
//! The end of either direction is passed on by itself: a client that has sent everything still gets
//! its answer. That takes no code: each direction owns a reader of one connection and a writer of
//! the other, and dropping a writer ends its direction only.

use std::io;

use rondel::{StreamReader, StreamWriter, create_task};

async fn pass_on(mut from: StreamReader, to: StreamWriter) -> io::Result<()> {
    loop {
        let data = from.read(64 * 1024).await?;
        if data.is_empty() {
            return Ok(());
        }
        to.write(data);
        // The client is read no faster than the host takes it.
        to.drain().await?;
    }
}

#[rondel::main]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, host, host_port] = &*arguments else {
        return Err(io::Error::other("arguments: PORT HOST PORT"));
    };
    let port: u16 = port.parse().map_err(io::Error::other)?;
    let host_port: u16 = host_port.parse().map_err(io::Error::other)?;
    let host = host.clone();
    let server = rondel::start_server(
        async move |from_client, to_client| {
            let (from_host, to_host) = rondel::open_connection((&*host, host_port)).await?;
            let answers = create_task(pass_on(from_host, to_client));
            pass_on(from_client, to_host).await?;
            answers.await.map_err(io::Error::other)?
        },
        ("127.0.0.1", port),
    )
    .await?;
    println!("serving on {}", server.addresses()[0]);
    rondel::ctrl_c().await
}
