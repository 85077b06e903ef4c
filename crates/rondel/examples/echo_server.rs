//! A server that sends back what it receives. Try it with `nc 127.0.0.1 8888`; stop it with Ctrl-C.
//! The twin of `examples/echo_server.py`. Another port can be given as argument.

use std::io;

use rondel::{RunError, StreamReader, StreamWriter};

async fn handle_echo(mut reader: StreamReader, writer: StreamWriter) -> io::Result<()> {
    let Some(address) = writer.peername() else {
        return Ok(());
    };
    loop {
        let data = reader.read(100).await?;
        if data.is_empty() {
            break;
        }
        println!("received '{}' from {address}", data.escape_ascii());
        writer.write(data);
        writer.drain().await?;
    }
    println!("{address} is done");
    writer.close();
    writer.wait_closed().await
}

async fn serve(port: u16) -> io::Result<()> {
    let server = rondel::start_server(handle_echo, ("127.0.0.1", port)).await?;
    println!("serving on {}", server.addresses()[0]);

    server.serve_forever().await;
    Ok(())
}

fn main() -> io::Result<()> {
    let port = match std::env::args().nth(1) {
        None => 8888,
        Some(port) => port.parse().map_err(io::Error::other)?,
    };
    match rondel::run(serve(port)) {
        Err(RunError::KeyboardInterrupt) => {
            println!("stopped by Ctrl-C");
            Ok(())
        }
        served => served?,
    }
}
