//! The load of `bench-load one-shot`: connections that carry one message and its echo, after which
//! the server closes them.
//!
//! A fixed number of them is open at any time; when one ends, the next begins. Each reply is
//! checked, and the server must then close the connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::drive::Load;
use crate::epoll::{Epoll, READABLE, WRITABLE};
use crate::message::Messages;
use crate::meter::Meter;

struct Exchange {
    stream: TcpStream,
    sequence: u64,
    sent: bool,
    received: usize,
    since: Instant,
}

/// The open connections.
pub struct OneShot {
    address: SocketAddr,
    messages: Messages,
    exchanges: Vec<Option<Exchange>>,
    next: u64,
    send: Vec<u8>,
    receive: Vec<u8>,
}

impl OneShot {
    /// `count` connections at a time; none is opened yet.
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

    fn open(&mut self, index: usize, epoll: &Epoll) -> io::Result<()> {
        let since = Instant::now();
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        // The server closes first; without this thousands of its sockets would stay in TIME_WAIT.
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

    /// Called when the connection is established or has failed: sends the message.
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

    /// Receives data. At the end of a complete reply, returns when the exchange began.
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

impl Load for OneShot {
    fn begin(&mut self, epoll: &Epoll) -> Result<(), String> {
        for index in 0..self.exchanges.len() {
            self.open(index, epoll)
                .map_err(|error| format!("connection {index}: {error}"))?;
        }
        Ok(())
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
            self.send(index, epoll).map_err(text)?;
        }
        if readiness & READABLE != 0
            && let Some(since) = self.receive(index)?
        {
            meter.record(Instant::now(), since);
            self.open(index, epoll).map_err(text)?;
        }
        Ok(())
    }

    fn stalled(&self) -> String {
        "a connection has no reply".to_owned()
    }
}
