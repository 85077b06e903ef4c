//! The measurement of a load generator: a warm-up, then the measured time, with both processes' CPU
//! clocks read at its beginning and end.

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::cpu_clock::CpuTime;
use crate::drive::Span;

/// If nothing arrives on any connection for this long, the server has stalled.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The largest latency that is distinguished, in nanoseconds; 2^40 are 18 minutes.
const MOST: u64 = 1 << 40;
/// Significant decimal digits of the latencies.
const DIGITS: u8 = 2;

/// What a load generator does after [`Meter::tick`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Continue.
    GoOn,
    /// The figures are printed: end.
    Over,
    /// Nothing has arrived for too long: end with an error.
    Stalled,
}

/// The clocks and latencies of one measurement.
#[derive(Debug)]
pub struct Meter {
    span: Span,
    begin: Instant,
    deadline: Instant,
    last_event: Instant,
    /// The server's and this process's CPU time at the end of the warm-up; `None` during it.
    measuring: Option<(CpuTime, CpuTime)>,
    latencies: Histogram<u64>,
}

impl Meter {
    /// Begins the warm-up.
    pub fn start(span: Span) -> Result<Self, String> {
        let begin = Instant::now();
        let latencies = Histogram::new_with_bounds(1, MOST, DIGITS);
        Ok(Self {
            span,
            begin,
            deadline: begin + span.warm_up,
            last_event: begin,
            measuring: None,
            latencies: latencies.map_err(|error| error.to_string())?,
        })
    }

    /// Records that an operation that began at `since` has completed correctly.
    pub fn record(&mut self, now: Instant, since: Instant) {
        let nanoseconds = (now - since).as_nanos() as u64;
        self.latencies.saturating_record(nanoseconds);
    }

    /// Checks the clock. `events`: how many descriptors were ready at `now`.
    pub fn tick(&mut self, now: Instant, events: usize) -> Result<Tick, String> {
        let text = |error: io::Error| error.to_string();
        if now >= self.deadline {
            let (server, own) = (
                self.server_time()?,
                CpuTime::of_this_process().map_err(text)?,
            );
            if let Some((server_before, own_before)) = &self.measuring {
                self.print(server.since(server_before), own.since(own_before));
                return Ok(Tick::Over);
            }
            self.measuring = Some((server, own));
            self.latencies.clear();
            self.begin = Instant::now();
            self.deadline = self.begin + self.span.seconds;
        }
        if events > 0 {
            self.last_event = now;
        } else if now.duration_since(self.last_event) > PATIENCE {
            return Ok(Tick::Stalled);
        }
        Ok(Tick::GoOn)
    }

    fn server_time(&self) -> Result<CpuTime, String> {
        match self.span.server {
            Some(pid) => CpuTime::of_process(pid).map_err(|error| format!("server: {error}")),
            None => Ok(CpuTime::default()),
        }
    }

    fn print(&self, server: CpuTime, own: CpuTime) {
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        println!(
            "{{\"operations\": {}, \"seconds\": {:.6}, \"user\": {:.9}, \"system\": {:.9}, \"cpu\": {:.9}, \
             \"load_cpu\": {:.9}, \"p50_us\": {:.2}, \"p99_us\": {:.2}, \"max_us\": {:.2}}}",
            self.latencies.len(),
            self.begin.elapsed().as_secs_f64(),
            server.user().as_secs_f64(),
            server.system().as_secs_f64(),
            server.total.as_secs_f64(),
            own.total.as_secs_f64(),
            microseconds(self.latencies.value_at_quantile(0.5)),
            microseconds(self.latencies.value_at_quantile(0.99)),
            microseconds(self.latencies.max()),
        );
    }
}
