//! What time it is, in nanoseconds: the kernel's monotonic clock, or a virtual one.
//!
//! The virtual clock stands still while the loop has something to do, and jumps to the next timer's
//! deadline when the loop would wait for it; tests of hours then take microseconds, and give the
//! same trace each time. When it may jump is its policy ([`Jump`]).

use std::cell::Cell;

/// Nanoseconds in a second.
pub const NANOS_PER_SEC: u64 = 1_000_000_000;

/// More than a tick of the coarse clock can be (10 ms at `CONFIG_HZ=100`), in nanoseconds.
pub(super) const COARSE_SLACK: u64 = 16_000_000;

/// When a virtual clock jumps to the next timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Jump {
    /// When nothing is under way outside of the loop: no descriptor is watched, no thread works for
    /// it. As long as something is, the loop waits in real time, and the clock goes along.
    #[default]
    Idle,
    /// Whenever the loop would wait for a timer: descriptors are looked at, but not waited for, and
    /// threads overtaken.
    Always,
    /// Never: the program moves it, by [`Clock::advance`].
    Manual,
}

/// The source of a loop's time.
#[derive(Debug)]
pub enum Clock {
    /// `CLOCK_MONOTONIC`: what `time.monotonic()` reads.
    Monotonic,
    /// Moves only when the loop would wait, or when it is told to.
    Virtual(Cell<u64>, Jump),
}

impl Clock {
    /// A virtual clock that stands at `start` nanoseconds.
    pub fn at(start: u64, jump: Jump) -> Self {
        Self::Virtual(Cell::new(start), jump)
    }

    /// When it jumps; `None` if it is a real one.
    #[inline]
    pub fn jump(&self) -> Option<Jump> {
        match self {
            Self::Monotonic => None,
            Self::Virtual(_, jump) => Some(*jump),
        }
    }

    /// Now, in nanoseconds.
    #[inline]
    pub fn now(&self) -> u64 {
        match self {
            Self::Monotonic => read(libc::CLOCK_MONOTONIC),
            Self::Virtual(now, _) => now.get(),
        }
    }

    /// Whether a deadline, in nanoseconds, is certain to lie ahead: a cheap look that spares the
    /// precise one, which is to be taken if the answer is no.
    #[inline]
    pub fn is_far(&self, deadline: u64) -> bool {
        match self {
            Self::Monotonic => deadline > coarse_now().saturating_add(COARSE_SLACK),
            Self::Virtual(now, _) => deadline > now.get(),
        }
    }

    /// Moves a virtual clock forward by `nanos`. A real clock takes no orders.
    pub fn advance(&self, nanos: u64) {
        if let Self::Virtual(now, _) = self {
            now.set(now.get().saturating_add(nanos));
        }
    }

    /// Whether time passes by itself.
    #[inline]
    pub fn is_real(&self) -> bool {
        matches!(self, Self::Monotonic)
    }
}

/// The monotonic clock as of the kernel's last tick (1–10 ms ago at most), in nanoseconds: a
/// quarter of the precise reading's cost.
#[inline]
pub fn coarse_now() -> u64 {
    read(libc::CLOCK_MONOTONIC_COARSE)
}

#[inline]
fn read(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec to write to; both clocks exist on every Linux since
    // 2.6.32.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as u64 * NANOS_PER_SEC + time.tv_nsec as u64
}
