//! The loads of `bench-load echo` and `idle`: lasting connections with one message in flight on
//! each, every echoed byte compared with what was sent.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Instant;

use crate::drive::Load;
use crate::epoll::{Epoll, READABLE, WRITABLE};
use crate::message::Messages;
use crate::meter::{Meter, PATIENCE};
use crate::stream::{Stream, Tls};

/// Connections per source address; several addresses avoid a shortage of ports.
const PER_SOURCE: usize = 8_192;
const RECEIVE: usize = 64 * 1024;

struct Connection {
    stream: Stream,
    /// Number of the message in flight.
    sequence: u64,
    /// How many bytes of it were sent.
    sent: usize,
    /// How many bytes of the reply have arrived and were correct.
    received: usize,
    since: Instant,
}

/// The connections to an echo server.
pub struct Echo {
    messages: Messages,
    /// How many copies of each message a server returns.
    copies: usize,
    connections: Vec<Connection>,
    send: Vec<u8>,
    receive: Vec<u8>,
}

impl Echo {
    /// Opens `count` connections and completes one exchange on each. The server returns `copies`
    /// copies of each message.
    pub fn open(
        address: SocketAddr,
        count: usize,
        messages: Messages,
        copies: usize,
        tls: &Tls,
    ) -> Result<Self, String> {
        let size = messages.size();
        let mut load = Self {
            messages,
            copies,
            connections: Vec::with_capacity(count),
            send: vec![0; size],
            receive: vec![0; RECEIVE.max(size)],
        };
        load.connect(address, count, tls)?;
        Ok(load)
    }

    /// Opens `count` connections one by one and completes one exchange on each, so that no accept
    /// queue overflows and all are known to work before the measurement.
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

    /// Sends one message and receives its whole reply on a connection in blocking mode.
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

    /// Checks `count` received bytes; true when the reply is complete.
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

    /// Prints that the connections exist, leaves them idle until standard input ends, and completes
    /// one more exchange on each.
    pub fn idle(mut self) -> Result<(), String> {
        println!("{{\"connections\": {}}}", self.connections.len());
        io::copy(&mut io::stdin(), &mut io::sink()).map_err(|error| error.to_string())?;
        for index in 0..self.connections.len() {
            self.exchange(index)?;
        }
        println!("{{\"alive\": {}}}", self.connections.len());
        Ok(())
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
}

impl Load for Echo {
    fn begin(&mut self, epoll: &Epoll) -> Result<(), String> {
        let now = Instant::now();
        for index in 0..self.connections.len() {
            let text = |error: io::Error| format!("connection {index}: {error}");
            let stream = &self.connections[index].stream;
            stream.set_nonblocking(true).map_err(text)?;
            epoll
                .add(stream.as_raw_fd(), READABLE, index as u64)
                .map_err(text)?;
            self.next_message(index, now, epoll).map_err(text)?;
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

    fn stalled(&self) -> String {
        let waiting = self.connections.iter().enumerate();
        let (index, connection) = waiting
            .max_by_key(|(_, connection)| connection.since.elapsed())
            .map_or((0, None), |(index, connection)| (index, Some(connection)));
        format!(
            "connection {index} has {} bytes of its reply",
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
