//! The load generator: one thread, epoll, one message in flight on each connection, every echoed
//! byte compared with what was sent.
//!
//! * `bench-load echo` keeps all connections busy for a time and prints the number of messages, the
//!   latencies, and the server's CPU time during the measured time.
//! * `bench-load datagrams` does the same with UDP sockets, `bench-load one-shot` with a new
//!   connection for each message, `bench-load http` and `bench-load websocket` with requests to
//!   complete programs.
//! * `bench-load idle` opens connections, exchanges one message on each, prints a line, leaves them
//!   idle until its standard input ends, and then exchanges one more message on each, which detects
//!   dropped connections.
//!
//! Any wrong reply ends the program with an error and no figures.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use rondel_bench::datagrams::Datagrams;
use rondel_bench::drive::{Span, drive};
use rondel_bench::echo::Echo;
use rondel_bench::message::Messages;
use rondel_bench::one_shot::OneShot;
use rondel_bench::options::Options;
use rondel_bench::requests::{Protocol, Requests};
use rondel_bench::stream::tls;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let options = Options::from_command_line(&[
        "port",
        "connections",
        "size",
        "copies",
        "warmup",
        "seconds",
        "server-pid",
        "tls",
    ])?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, options.get("port")?));
    let size = options.get("size")?;
    let count = options.get("connections")?;
    let seconds = |name| Ok::<_, String>(Duration::from_secs_f64(options.get(name)?));
    let span = || {
        Ok::<_, String>(Span {
            warm_up: seconds("warmup")?,
            seconds: seconds("seconds")?,
            server: options.find("server-pid")?,
        })
    };
    let messages = || Messages::new(size).ok_or("--size is less than a message's header");
    let tls = match options.find("tls")?.unwrap_or(0) {
        0 => None,
        _ => tls()?,
    };
    let requests = |protocol| Requests::open(address, count, protocol, &tls);
    let echo = || {
        let copies = options.find("copies")?.unwrap_or(1);
        Echo::open(address, count, messages()?, copies, &tls)
    };
    match options.mode.as_str() {
        "http" => drive(requests(Protocol::Http(size))?, span()?),
        "websocket" => drive(requests(Protocol::WebSocket(messages()?))?, span()?),
        "datagrams" => drive(Datagrams::open(address, count, messages()?)?, span()?),
        "one-shot" => drive(OneShot::new(address, count, messages()?), span()?),
        "echo" => drive(echo()?, span()?),
        "idle" => echo()?.idle(),
        mode => Err(format!("unknown mode {mode}")),
    }
}
