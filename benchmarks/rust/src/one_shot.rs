//! The load of `bench-load one-shot`: connections that carry one message and its echo, after which the server closes them.
//!
//! A fixed number of them is under way at any time; the end of one is the beginning of the next. Each reply is compared, and the
//! server's end of the connection has to follow it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::epoll::{Epoll, READABLE, WRITABLE};
use crate::message::Messages;
use crate::meter::{Meter, Tick};

struct Exchange {
    stream: TcpStream,
    sequence: u64,
    sent: bool,
    received: usize,
    since: Instant,
}

/// The connections that are under way.
pub struct OneShot {
    address: SocketAddr,
    messages: Messages,
    exchanges: Vec<Option<Exchange>>,
    next: u64,
    send: Vec<u8>,
    receive: Vec<u8>,
}

impl OneShot {
    /// So many connections at a time, none of them opened yet.
    pub fn new(address: SocketAddr, count: usize, messages: Messages) -> Self {
        let size = messages.size();
        Self {
            address,
            messages,
            exchanges: std::iter::repeat_with(|| None).take(count).collect(),
            next: 0,
            send: vec![0; size],
            receive: vec![0; size + 1],
        }
    }

    /// Opens one connection after the other for a time and prints the figures.
    pub fn run(
        mut self,
        warm_up: Duration,
        seconds: Duration,
        server: Option<u32>,
    ) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        let mut epoll = Epoll::new(1024).map_err(text)?;
        for index in 0..self.exchanges.len() {
            self.begin(index, &epoll).map_err(text)?;
        }
        let mut meter = Meter::start(warm_up, seconds, server);
        loop {
            let events = epoll.wait(Some(Duration::from_millis(100))).map_err(text)?;
            match meter.tick(Instant::now(), events)? {
                Tick::GoOn => {}
                Tick::Over => return Ok(()),
                Tick::Stalled => return Err("stalled: a connection has no reply".to_owned()),
            }
            for event in 0..events {
                let (key, readiness) = epoll.event(event);
                let index = key as usize;
                let text = |error: io::Error| format!("connection {index}: {error}");
                if readiness & WRITABLE != 0 {
                    self.send(index, &epoll).map_err(text)?;
                }
                if readiness & READABLE != 0
                    && let Some(since) = self.receive(index)?
                {
                    meter.record(Instant::now(), since);
                    self.begin(index, &epoll).map_err(text)?;
                }
            }
        }
    }

    fn begin(&mut self, index: usize, epoll: &Epoll) -> io::Result<()> {
        let since = Instant::now();
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        // It is the server that closes first; without this its ends would wait for late packets by the thousand.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&self.address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        epoll.add(socket.as_raw_fd(), READABLE | WRITABLE, index as u64)?;
        self.next += 1;
        self.exchanges[index] = Some(Exchange {
            stream: socket.into(),
            sequence: self.next,
            sent: false,
            received: 0,
            since,
        });
        Ok(())
    }

    /// The connection is established, or has failed.
    fn send(&mut self, index: usize, epoll: &Epoll) -> io::Result<()> {
        let Some(exchange) = self.exchanges[index].as_mut().filter(|it| !it.sent) else {
            return Ok(());
        };
        if let Some(error) = exchange.stream.take_error()? {
            return Err(error);
        }
        self.messages
            .write(index, exchange.sequence, 0, &mut self.send);
        exchange.stream.write_all(&self.send)?;
        exchange.sent = true;
        epoll.modify(exchange.stream.as_raw_fd(), READABLE, index as u64)
    }

    /// Something has come. When it is the end of a whole reply, gives the moment at which the exchange began.
    fn receive(&mut self, index: usize) -> Result<Option<Instant>, String> {
        let size = self.messages.size();
        let Some(exchange) = self.exchanges[index].as_mut() else {
            return Ok(None);
        };
        let count = match exchange.stream.read(&mut self.receive) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(format!("connection {index}: {error}")),
        };
        if count == 0 {
            if exchange.received < size {
                return Err(format!(
                    "connection {index}: closed by the server at byte {} of the reply",
                    exchange.received
                ));
            }
            let since = exchange.since;
            self.exchanges[index] = None;
            return Ok(Some(since));
        }
        let part = &self.receive[..count];
        let (sequence, from) = (exchange.sequence, exchange.received);
        if from + count > size || !self.messages.matches(index, sequence, from, part) {
            return Err(format!(
                "connection {index}: the reply is not what was sent, within bytes {from}..{}",
                from + count
            ));
        }
        exchange.received += count;
        Ok(None)
    }
}
