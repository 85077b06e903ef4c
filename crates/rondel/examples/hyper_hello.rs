//! hyper's "hello", on one thread: `curl http://127.0.0.1:8890`. A port can be given as argument.
//!
//! The service counts its visitors in a `Cell`: nothing of it has to be `Send`.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use rondel::{Duplex, RondelTimer};

#[rondel::main]
async fn main() -> io::Result<()> {
    let port = std::env::args()
        .nth(1)
        .map_or(Ok(8890), |port| port.parse());
    let port: u16 = port.map_err(io::Error::other)?;
    let visitors = Cell::new(0);
    let server = rondel::start_server(
        async move |reader, writer| {
            let hello = service_fn(async |_: Request<Incoming>| {
                visitors.set(visitors.get() + 1);
                let text = format!("Hello, visitor {}\n", visitors.get());
                Ok::<_, Infallible>(Response::new(text))
            });
            http1::Builder::new()
                .timer(RondelTimer)
                .serve_connection(Duplex::new(reader, writer), hello)
                .await
        },
        ("127.0.0.1", port),
    )
    .await?;
    println!("serving on {}", server.addresses()[0]);
    rondel::ctrl_c().await
}
