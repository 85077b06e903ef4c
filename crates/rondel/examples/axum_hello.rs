//! axum on one thread: `curl http://127.0.0.1:8892/hello/ann`. A port can be given as argument.
//!
//! `serve` does what `axum::serve` does with tokio: hyper has the connections, and the router,
//! which is a service, answers. axum wants its state to be `Send` and `Sync`; nothing of Rondel's
//! is in it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use rondel::{Duplex, RondelTimer, Server};
use tower_service::Service;

async fn serve(router: Router, address: SocketAddr) -> io::Result<Server> {
    let handler = async move |reader, writer| {
        let service = service_fn(|request| router.clone().call(request));
        let mut http = http1::Builder::new();
        http.timer(RondelTimer)
            .serve_connection(Duplex::new(reader, writer), service)
            .await
    };
    rondel::start_server(handler, address).await
}

type Visitors = Arc<AtomicUsize>;

async fn hello(State(visitors): State<Visitors>, Path(name): Path<String>) -> String {
    let number = visitors.fetch_add(1, Ordering::Relaxed) + 1;
    format!("Hello, {name}, visitor {number}\n")
}

#[rondel::main]
async fn main() -> io::Result<()> {
    let port = std::env::args()
        .nth(1)
        .map_or(Ok(8892), |port| port.parse());
    let port: u16 = port.map_err(io::Error::other)?;
    let router = Router::new()
        .route("/hello/{name}", get(hello))
        .with_state(Visitors::default());
    let server = serve(router, SocketAddr::from(([127, 0, 0, 1], port))).await?;
    println!("serving on {}", server.addresses()[0]);
    rondel::ctrl_c().await
}
