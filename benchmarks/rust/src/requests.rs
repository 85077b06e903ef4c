//! The loads of `bench-load http` and `bench-load websocket`: requests to complete programs, one in
//! flight on each connection.
//!
//! Each HTTP request has a unique path, which the reply's body contains; a websocket message is one
//! of [`Messages`]. Each reply is checked completely, including head and framing, as far as the
//! protocol defines them.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Instant;

use crate::drive::Load;
use crate::epoll::{Epoll, READABLE};
use crate::message::Messages;
use crate::meter::{Meter, PATIENCE};
use crate::stream::{Stream, Tls};

/// The longest head of a reply, in bytes.
const HEAD: usize = 8 * 1024;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The protocol of the load.
pub enum Protocol {
    /// HTTP/1.1 over a persistent connection. The body has this many bytes, or with 0 as few as
    /// possible.
    Http(usize),
    /// Binary messages over a websocket, echoed unchanged.
    WebSocket(Messages),
}

struct Connection {
    stream: Stream,
    sequence: u64,
    /// The part of the reply that has arrived.
    reply: Vec<u8>,
    since: Instant,
}

/// The result of a read.
#[derive(PartialEq, Eq)]
enum Received {
    /// No bytes have arrived.
    Nothing,
    /// The reply is not complete yet.
    Part,
    /// The reply is complete.
    Whole,
}

/// All connections to one server.
pub struct Requests {
    protocol: Protocol,
    connections: Vec<Connection>,
    request: Vec<u8>,
    receive: Vec<u8>,
    /// Whether the connections are registered with epoll and non-blocking.
    watched: bool,
}

impl Requests {
    /// Connects, performs the protocol's handshake, and completes one request on each connection,
    /// so that all are known to work before the measurement.
    pub fn open(
        address: SocketAddr,
        count: usize,
        protocol: Protocol,
        tls: &Tls,
    ) -> Result<Self, String> {
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            let connection = connect(address, &protocol, tls);
            connections.push(connection.map_err(|error| format!("connection {index}: {error}"))?);
        }
        let mut requests = Self {
            protocol,
            connections,
            request: Vec::new(),
            receive: vec![0; 64 * 1024],
            watched: false,
        };
        for index in 0..count {
            requests
                .ask(index, Instant::now())
                .map_err(|error| format!("connection {index}: {error}"))?;
            while requests
                .receive(index)
                .map_err(|error| format!("connection {index}: {error}"))?
                != Received::Whole
            {}
        }
        Ok(requests)
    }

    fn ask(&mut self, index: usize, now: Instant) -> io::Result<()> {
        let connection = &mut self.connections[index];
        connection.sequence += 1;
        connection.since = now;
        connection.reply.clear();
        self.request.clear();
        match &self.protocol {
            Protocol::Http(_) => write!(
                self.request,
                "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n",
                path(index, connection.sequence)
            )?,
            Protocol::WebSocket(messages) => {
                frame(messages.size(), true, &mut self.request);
                self.request.extend_from_slice(&MASK);
                let from = self.request.len();
                self.request.resize(from + messages.size(), 0);
                let payload = &mut self.request[from..];
                messages.write(index, connection.sequence, 0, payload);
                for (byte, mask) in payload.iter_mut().zip(MASK.iter().cycle()) {
                    *byte ^= mask;
                }
            }
        }
        // Nothing else is in flight on the connection, so the request fits into the send buffer.
        connection.stream.write_all(&self.request)?;
        connection.stream.flush()
    }

    /// Reads once; a wrong reply is an error.
    fn receive(&mut self, index: usize) -> Result<Received, String> {
        let connection = &mut self.connections[index];
        match connection.stream.read(&mut self.receive) {
            Ok(0) => return Err("closed by the server".to_owned()),
            Ok(count) => connection.reply.extend_from_slice(&self.receive[..count]),
            // Before the descriptor is watched, this means that nothing has arrived for too long.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.watched => {
                return Ok(Received::Nothing);
            }
            Err(error) => return Err(error.to_string()),
        }
        let whole = match &self.protocol {
            Protocol::Http(size) => {
                let path = path(index, connection.sequence);
                http_reply(&connection.reply, &path, *size)?
            }
            Protocol::WebSocket(messages) => {
                let mut head = Vec::new();
                frame(messages.size(), false, &mut head);
                let reply = &connection.reply;
                let shown = reply.len().min(head.len());
                if reply[..shown] != head[..shown] {
                    return Err(format!("a frame that begins {:02x?}", &reply[..shown]));
                }
                let payload = &reply[shown..];
                if payload.len() > messages.size()
                    || !messages.matches(index, connection.sequence, 0, payload)
                {
                    return Err("the reply is not what was sent".to_owned());
                }
                payload.len() == messages.size()
            }
        };
        Ok(if whole {
            Received::Whole
        } else {
            Received::Part
        })
    }
}

impl Load for Requests {
    fn begin(&mut self, epoll: &Epoll) -> Result<(), String> {
        self.watched = true;
        for index in 0..self.connections.len() {
            let text = |error: io::Error| format!("connection {index}: {error}");
            let stream = &self.connections[index].stream;
            stream.set_nonblocking(true).map_err(text)?;
            epoll
                .add(stream.as_raw_fd(), READABLE, index as u64)
                .map_err(text)?;
            self.ask(index, Instant::now()).map_err(text)?;
        }
        Ok(())
    }

    fn ready(&mut self, index: usize, _: u32, _: &Epoll, meter: &mut Meter) -> Result<(), String> {
        loop {
            let received = self.receive(index);
            match received.map_err(|error| format!("connection {index}: {error}"))? {
                Received::Nothing => return Ok(()),
                Received::Part => {}
                Received::Whole => {
                    let now = Instant::now();
                    meter.record(now, self.connections[index].since);
                    self.ask(index, now)
                        .map_err(|error| format!("connection {index}: {error}"))?;
                }
            }
            if !self.connections[index].stream.reads_ahead() {
                return Ok(());
            }
        }
    }

    fn stalled(&self) -> String {
        "a request has no reply".to_owned()
    }
}

fn path(index: usize, sequence: u64) -> String {
    format!("/{index:05}-{sequence:010}")
}

/// The expected body for `path`; the programs in `programs/` make the same one.
fn body(path: &str, size: usize) -> Vec<u8> {
    if size == 0 {
        return format!("Hello from {path}").into_bytes();
    }
    let (before, after) = (format!("{{\"path\": \"{path}\", \"data\": \""), "\"}");
    let filler = size.saturating_sub(before.len() + after.len());
    [before.as_bytes(), &vec![b'x'; filler], after.as_bytes()].concat()
}

fn http_reply(reply: &[u8], path: &str, size: usize) -> Result<bool, String> {
    let Some(end) = reply.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if reply.len() < HEAD {
            Ok(false)
        } else {
            Err("a head without an end".to_owned())
        };
    };
    let head = String::from_utf8_lossy(&reply[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200 ") {
        return Err(format!("the reply is not a 200: {head}"));
    }
    let expected = body(path, size);
    let told = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    if told.map(str::trim) != Some(expected.len().to_string().as_str()) {
        return Err(format!("not the length that it has to be: {head}"));
    }
    let received = &reply[end + 4..];
    if received.len() > expected.len() || received != &expected[..received.len()] {
        return Err(format!("the reply is not what {path} has to give"));
    }
    Ok(received.len() == expected.len())
}

/// The head of a binary frame of `size` bytes.
fn frame(size: usize, masked: bool, out: &mut Vec<u8>) {
    let bit = if masked { 0x80 } else { 0 };
    out.push(0x82);
    match size {
        0..126 => out.push(bit | size as u8),
        126..65_536 => {
            out.push(bit | 126);
            out.extend_from_slice(&(size as u16).to_be_bytes());
        }
        _ => {
            out.push(bit | 127);
            out.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
}

fn connect(address: SocketAddr, protocol: &Protocol, tls: &Tls) -> io::Result<Connection> {
    let tcp = TcpStream::connect(address)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let mut stream = Stream::new(tcp, tls).map_err(io::Error::other)?;
    if let Protocol::WebSocket(_) = protocol {
        stream.write_all(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )?;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(io::Error::other(String::from_utf8_lossy(&head)));
        }
    }
    Ok(Connection {
        stream,
        sequence: 0,
        reply: Vec::new(),
        since: Instant::now(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(path: &str, size: usize) -> Vec<u8> {
        let body = body(path, size);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        [head.into_bytes(), body].concat()
    }

    #[test]
    fn a_reply_is_whole_when_its_last_byte_has_come() {
        for size in [0, 10_240] {
            let reply = reply("/1", size);
            for cut in [1, reply.len() - 1] {
                assert_eq!(http_reply(&reply[..cut], "/1", size), Ok(false));
            }
            assert_eq!(http_reply(&reply, "/1", size), Ok(true));
        }
        assert_eq!(body("/1", 10_240).len(), 10_240);
    }

    #[test]
    fn a_wrong_reply_is_an_error() {
        assert!(http_reply(&reply("/1", 0), "/2", 0).is_err());
        assert!(http_reply(&[reply("/1", 0), vec![b'x']].concat(), "/1", 0).is_err());
        assert!(http_reply(b"HTTP/1.1 500 No\r\n\r\n", "/1", 0).is_err());
        assert!(http_reply(b"HTTP/1.1 200 OK\r\n\r\n", "/1", 0).is_err());
        let mut changed = reply("/1", 10_240);
        changed[5_000] ^= 1;
        assert!(http_reply(&changed, "/1", 10_240).is_err());
    }

    #[test]
    fn frames_of_each_length() {
        let heads = [
            (5, vec![0x82, 5]),
            (1024, vec![0x82, 126, 4, 0]),
            (65_536, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ];
        for (size, head) in heads {
            let mut out = Vec::new();
            frame(size, false, &mut out);
            assert_eq!(out, head);
        }
    }
}
