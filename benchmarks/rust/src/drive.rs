//! Drives a load: waits for what is ready, has the load go on there, and ends when the time that
//! counts is over.

use std::io;
use std::time::{Duration, Instant};

use crate::epoll::Epoll;
use crate::meter::{Meter, Tick};

/// How long a load runs, and whose CPU time counts.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Before anything is measured.
    pub warm_up: Duration,
    /// While it is measured.
    pub seconds: Duration,
    /// The process of the server.
    pub server: Option<u32>,
}

/// What is exchanged with a server, on connections that are known by their numbers.
pub trait Load {
    /// Registers the connections, and begins something on each.
    fn begin(&mut self, epoll: &Epoll) -> Result<(), String>;

    /// A connection is ready for something. What is done by then goes to the meter, and is begun
    /// anew.
    fn ready(
        &mut self,
        index: usize,
        readiness: u32,
        epoll: &Epoll,
        meter: &mut Meter,
    ) -> Result<(), String>;

    /// Nothing has come for too long: what is missing.
    fn stalled(&self) -> String;
}

/// Keeps all connections of a load busy for a time and prints the figures.
pub fn drive(mut load: impl Load, span: Span) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let mut epoll = Epoll::new(1024).map_err(text)?;
    load.begin(&epoll)?;
    let mut meter = Meter::start(span)?;
    loop {
        let events = epoll.wait(Some(Duration::from_millis(100))).map_err(text)?;
        match meter.tick(Instant::now(), events)? {
            Tick::GoOn => {}
            Tick::Over => return Ok(()),
            Tick::Stalled => return Err(format!("stalled: {}", load.stalled())),
        }
        for event in 0..events {
            let (key, readiness) = epoll.event(event);
            load.ready(key as usize, readiness, &epoll, &mut meter)?;
        }
    }
}
