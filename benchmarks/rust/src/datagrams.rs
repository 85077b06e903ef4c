//! The load of `bench-load datagrams`: UDP sockets with one message in flight on each, every echoed
//! byte checked.
//!
//! A lost datagram is a stall, which ends the measurement without figures. On loopback none is lost
//! as long as the server's receive buffer holds all datagrams in flight.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use crate::drive::Load;
use crate::epoll::{Epoll, READABLE};
use crate::message::Messages;
use crate::meter::{Meter, PATIENCE};

struct Peer {
    socket: UdpSocket,
    /// Number of the message in flight.
    sequence: u64,
    since: Instant,
}

/// The sockets and their messages.
pub struct Datagrams {
    messages: Messages,
    peers: Vec<Peer>,
    send: Vec<u8>,
    receive: Vec<u8>,
}

impl Datagrams {
    /// Opens `count` sockets and completes one exchange on each, so that all are known to work
    /// before the measurement.
    pub fn open(address: SocketAddr, count: usize, messages: Messages) -> Result<Self, String> {
        let size = messages.size();
        let mut load = Self {
            messages,
            peers: Vec::new(),
            send: vec![0; size],
            receive: vec![0; size + 1],
        };
        for index in 0..count {
            let text = |error: io::Error| format!("socket {index}: {error}");
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(text)?;
            socket.connect(address).map_err(text)?;
            socket.set_read_timeout(Some(PATIENCE)).map_err(text)?;
            load.peers.push(Peer {
                socket,
                sequence: 0,
                since: Instant::now(),
            });
            load.next_message(index, Instant::now()).map_err(text)?;
            load.verify(index)?;
            load.peers[index]
                .socket
                .set_nonblocking(true)
                .map_err(text)?;
        }
        Ok(load)
    }

    /// Receives one datagram, which must be the whole reply.
    fn verify(&mut self, index: usize) -> Result<(), String> {
        let peer = &self.peers[index];
        let count = peer
            .socket
            .recv(&mut self.receive)
            .map_err(|error| format!("socket {index}: {error}"))?;
        let reply = &self.receive[..count];
        if count != self.messages.size() || !self.messages.matches(index, peer.sequence, 0, reply) {
            return Err(format!(
                "socket {index}: the reply to message {}, of {count} bytes, is not what was sent",
                peer.sequence
            ));
        }
        Ok(())
    }

    fn next_message(&mut self, index: usize, now: Instant) -> io::Result<()> {
        let peer = &mut self.peers[index];
        peer.sequence += 1;
        peer.since = now;
        self.messages.write(index, peer.sequence, 0, &mut self.send);
        peer.socket.send(&self.send).map(drop)
    }
}

impl Load for Datagrams {
    fn begin(&mut self, epoll: &Epoll) -> Result<(), String> {
        let now = Instant::now();
        for index in 0..self.peers.len() {
            let text = |error: io::Error| format!("socket {index}: {error}");
            let socket = self.peers[index].socket.as_raw_fd();
            epoll.add(socket, READABLE, index as u64).map_err(text)?;
            self.next_message(index, now).map_err(text)?;
        }
        Ok(())
    }

    fn ready(&mut self, index: usize, _: u32, _: &Epoll, meter: &mut Meter) -> Result<(), String> {
        self.verify(index)?;
        let now = Instant::now();
        meter.record(now, self.peers[index].since);
        self.next_message(index, now)
            .map_err(|error| format!("socket {index}: {error}"))
    }

    fn stalled(&self) -> String {
        "a datagram or its reply was lost".to_owned()
    }
}
