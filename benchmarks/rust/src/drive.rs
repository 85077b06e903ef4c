//! Drives a load: waits for ready connections, lets the load continue on them, and ends after the
//! measured time.

use std::io;
use std::time::{Duration, Instant};

use crate::epoll::Epoll;
use crate::meter::{Meter, Tick};

/// How long a load runs, and which process's CPU time is measured.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The time before the measurement.
    pub warm_up: Duration,
    /// The measured time.
    pub seconds: Duration,
    /// The server's process id.
    pub server: Option<u32>,
}

/// The exchange with a server, on numbered connections.
pub trait Load {
    /// Registers the connections and begins an operation on each.
    fn begin(&mut self, epoll: &Epoll) -> Result<(), String>;

    /// Called when a connection is ready. A completed operation is recorded in the meter, and the
    /// next one begins.
    fn ready(
        &mut self,
        index: usize,
        readiness: u32,
        epoll: &Epoll,
        meter: &mut Meter,
    ) -> Result<(), String>;

    /// Describes what is missing, when nothing has arrived for too long.
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
