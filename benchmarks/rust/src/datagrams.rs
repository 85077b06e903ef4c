//! The load of `bench-load datagrams`: UDP sockets with one message in flight on each, every echoed byte compared.
//!
//! A lost datagram is a stall, which ends the measurement without figures: on the loopback none is lost as long as the server's
//! receive buffer holds all that are in flight.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::epoll::{Epoll, READABLE};
use crate::message::Messages;
use crate::meter::{Meter, PATIENCE, Tick};

struct Peer {
    socket: UdpSocket,
    /// Number of the message in flight.
    sequence: u64,
    since: Instant,
}

/// The sockets and what they exchange with the server.
pub struct Datagrams {
    messages: Messages,
    peers: Vec<Peer>,
    send: Vec<u8>,
    receive: Vec<u8>,
}

impl Datagrams {
    /// Opens `count` sockets, with one whole exchange on each, so that each is known to be answered before anything is
    /// measured.
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

    /// Keeps all sockets busy for a time and prints the figures.
    pub fn run(
        mut self,
        warm_up: Duration,
        seconds: Duration,
        server: Option<u32>,
    ) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        let mut epoll = Epoll::new(1024).map_err(text)?;
        for (index, peer) in self.peers.iter().enumerate() {
            epoll
                .add(peer.socket.as_raw_fd(), READABLE, index as u64)
                .map_err(text)?;
        }
        let now = Instant::now();
        for index in 0..self.peers.len() {
            self.next_message(index, now).map_err(text)?;
        }
        let mut meter = Meter::start(warm_up, seconds, server);
        loop {
            let events = epoll.wait(Some(Duration::from_millis(100))).map_err(text)?;
            let now = Instant::now();
            match meter.tick(now, events)? {
                Tick::GoOn => {}
                Tick::Over => return Ok(()),
                Tick::Stalled => return Err("stalled: a datagram or its reply was lost".to_owned()),
            }
            for event in 0..events {
                let index = epoll.event(event).0 as usize;
                self.verify(index)?;
                let now = Instant::now();
                meter.record(now, self.peers[index].since);
                self.next_message(index, now)
                    .map_err(|error| format!("socket {index}: {error}"))?;
            }
        }
    }

    /// Receives one datagram, which has to be the whole reply.
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
