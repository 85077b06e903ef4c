//! The load generator: one thread, epoll, one message in flight on each connection, every echoed byte compared with
//! what was sent.
//!
//! * `bench-load echo` keeps all connections busy for a time and prints messages, latencies, and the CPU time the
//!   server used between the end of the warm-up and the end, read by the same process at the same moments.
//! * `bench-load datagrams` does the same with UDP sockets, `bench-load one-shot` with a new connection for each message.
//! * `bench-load idle` opens connections, exchanges one message on each, prints a line, leaves them idle until its
//!   standard input ends, and then exchanges one more message on each: a server that dropped some is found out.
//!
//! Anything but the exact echo ends the program with an error and no figures.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rondel_bench::datagrams::Datagrams;
use rondel_bench::epoll::{Epoll, READABLE, WRITABLE};
use rondel_bench::message::Messages;
use rondel_bench::meter::{Meter, PATIENCE, Tick};
use rondel_bench::one_shot::OneShot;
use rondel_bench::options::Options;
use rondel_bench::requests::{Protocol, Requests};
use rondel_bench::stream::{Stream, Tls, tls};

/// Connections opened from one source address; a few addresses together are not short of ports.
const PER_SOURCE: usize = 8_192;
const RECEIVE: usize = 64 * 1024;

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
    let server = options.find("server-pid")?;
    let tls = match options.find("tls")?.unwrap_or(0) {
        0 => None,
        _ => tls()?,
    };
    if options.mode == "http" {
        let load = Requests::open(address, count, Protocol::Http(size), &tls)?;
        return load.run(seconds("warmup")?, seconds("seconds")?, server);
    }
    let messages = Messages::new(size).ok_or("--size is less than a message's header")?;
    match options.mode.as_str() {
        "websocket" => {
            let load = Requests::open(address, count, Protocol::WebSocket(messages), &tls)?;
            return load.run(seconds("warmup")?, seconds("seconds")?, server);
        }
        "datagrams" => {
            let load = Datagrams::open(address, count, messages)?;
            return load.run(seconds("warmup")?, seconds("seconds")?, server);
        }
        "one-shot" => {
            let load = OneShot::new(address, count, messages);
            return load.run(seconds("warmup")?, seconds("seconds")?, server);
        }
        _ => {}
    }
    let mut load = Load {
        messages,
        copies: options.find("copies")?.unwrap_or(1),
        connections: Vec::new(),
        send: vec![0; size],
        receive: vec![0; RECEIVE.max(size)],
    };
    load.connect(address, count, &tls)?;
    match options.mode.as_str() {
        "idle" => load.idle(),
        "echo" => load.echo(seconds("warmup")?, seconds("seconds")?, server),
        mode => Err(format!("unknown mode {mode}")),
    }
}

struct Connection {
    stream: Stream,
    /// Number of the message in flight.
    sequence: u64,
    /// How much of it was sent.
    sent: usize,
    /// How much of the reply has come and was as it should be.
    received: usize,
    since: Instant,
}

struct Load {
    messages: Messages,
    /// How often a server answers with each message.
    copies: usize,
    connections: Vec<Connection>,
    send: Vec<u8>,
    receive: Vec<u8>,
}

impl Load {
    /// Opens `count` connections one by one, with one whole exchange on each, so that no accept queue overflows and
    /// each is known to be served before anything is measured.
    fn connect(&mut self, address: SocketAddr, count: usize, tls: &Tls) -> Result<(), String> {
        for index in 0..count {
            let stream = connect_from(index / PER_SOURCE, address)
                .map_err(|error| format!("connection {index}: {error}"))?;
            self.connections.push(Connection {
                stream: Stream::new(stream, tls)?,
                sequence: 0,
                sent: 0,
                received: 0,
                since: Instant::now(),
            });
            self.exchange(index)?;
        }
        Ok(())
    }

    /// One message and its whole reply on a connection that is in blocking mode.
    fn exchange(&mut self, index: usize) -> Result<(), String> {
        let text = |error: io::Error| format!("connection {index}: {error}");
        let connection = &mut self.connections[index];
        connection.sequence += 1;
        connection.received = 0;
        self.messages
            .write(index, connection.sequence, 0, &mut self.send);
        connection.stream.write_all(&self.send).map_err(text)?;
        loop {
            let count = self.connections[index]
                .stream
                .read(&mut self.receive)
                .map_err(text)?;
            if self.verify(index, count)? {
                return Ok(());
            }
        }
    }

    /// Compares `count` received bytes with what they have to be; true when the reply is whole.
    fn verify(&mut self, index: usize, count: usize) -> Result<bool, String> {
        let connection = &mut self.connections[index];
        let size = self.messages.size();
        if count == 0 {
            return Err(format!(
                "connection {index}: closed by the server at byte {} of the reply",
                connection.received
            ));
        }
        let mut left = &self.receive[..count];
        while !left.is_empty() {
            if connection.received == size * self.copies {
                return Err(format!(
                    "connection {index}: {} bytes more than were asked for",
                    left.len()
                ));
            }
            let from = connection.received % size;
            let (part, rest) = left.split_at(left.len().min(size - from));
            if !self
                .messages
                .matches(index, connection.sequence, from, part)
            {
                return Err(format!(
                    "connection {index}: the reply to message {} is not what was sent, within bytes {from}..{}",
                    connection.sequence,
                    from + part.len()
                ));
            }
            connection.received += part.len();
            left = rest;
        }
        Ok(connection.received == size * self.copies)
    }

    fn idle(mut self) -> Result<(), String> {
        println!("{{\"connections\": {}}}", self.connections.len());
        io::copy(&mut io::stdin(), &mut io::sink()).map_err(|error| error.to_string())?;
        for index in 0..self.connections.len() {
            self.exchange(index)?;
        }
        println!("{{\"alive\": {}}}", self.connections.len());
        Ok(())
    }

    fn echo(
        mut self,
        warm_up: Duration,
        seconds: Duration,
        server: Option<u32>,
    ) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        let mut epoll = Epoll::new(1024).map_err(text)?;
        for (index, connection) in self.connections.iter().enumerate() {
            connection.stream.set_nonblocking(true).map_err(text)?;
            epoll
                .add(connection.stream.as_raw_fd(), READABLE, index as u64)
                .map_err(text)?;
        }
        let now = Instant::now();
        for index in 0..self.connections.len() {
            self.next_message(index, now, &epoll).map_err(text)?;
        }

        let mut meter = Meter::start(warm_up, seconds, server);
        loop {
            let events = epoll.wait(Some(Duration::from_millis(100))).map_err(text)?;
            match meter.tick(Instant::now(), events)? {
                Tick::GoOn => {}
                Tick::Over => return Ok(()),
                Tick::Stalled => return Err(self.stalled()),
            }
            for event in 0..events {
                let (key, readiness) = epoll.event(event);
                self.ready(key as usize, readiness, &epoll, &mut meter)?;
            }
        }
    }

    fn ready(
        &mut self,
        index: usize,
        readiness: u32,
        epoll: &Epoll,
        meter: &mut Meter,
    ) -> Result<(), String> {
        let text = |error: io::Error| format!("connection {index}: {error}");
        if readiness & WRITABLE != 0 {
            self.send_rest(index, epoll).map_err(text)?;
        }
        if readiness & !WRITABLE == 0 {
            return Ok(());
        }
        loop {
            let count = match self.connections[index].stream.read(&mut self.receive) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(text(error)),
            };
            if self.verify(index, count)? {
                let now = Instant::now();
                meter.record(now, self.connections[index].since);
                self.next_message(index, now, epoll).map_err(text)?;
            }
            if !self.connections[index].stream.reads_ahead() {
                return Ok(());
            }
        }
    }

    fn next_message(&mut self, index: usize, now: Instant, epoll: &Epoll) -> io::Result<()> {
        let connection = &mut self.connections[index];
        connection.sequence += 1;
        connection.received = 0;
        connection.since = now;
        self.messages
            .write(index, connection.sequence, 0, &mut self.send);
        connection.sent = match connection.stream.write(&self.send) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if connection.sent < self.messages.size() || connection.stream.has_more_to_send() {
            let fd = connection.stream.as_raw_fd();
            epoll.modify(fd, READABLE | WRITABLE, index as u64)?;
        }
        Ok(())
    }

    fn send_rest(&mut self, index: usize, epoll: &Epoll) -> io::Result<()> {
        let connection = &mut self.connections[index];
        match connection.stream.send_more() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            sent => sent?,
        }
        let rest = &mut self.send[connection.sent..];
        self.messages
            .write(index, connection.sequence, connection.sent, rest);
        if !rest.is_empty() {
            match connection.stream.write(rest) {
                Ok(sent) => connection.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if connection.sent == self.messages.size() && !connection.stream.has_more_to_send() {
            epoll.modify(connection.stream.as_raw_fd(), READABLE, index as u64)?;
        }
        Ok(())
    }

    fn stalled(&self) -> String {
        let waiting = self.connections.iter().enumerate();
        let (index, connection) = waiting
            .max_by_key(|(_, connection)| connection.since.elapsed())
            .map_or((0, None), |(index, connection)| (index, Some(connection)));
        format!(
            "stalled: connection {index} has {} bytes of its reply",
            connection.map_or(0, |connection| connection.received)
        )
    }
}

fn connect_from(source: usize, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    if source > 0 {
        let source = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + source as u32);
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.connect(&address.into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}
