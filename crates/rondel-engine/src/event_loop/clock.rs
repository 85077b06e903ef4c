//! The loop's time in nanoseconds: the kernel's monotonic clock, or a virtual one.
//!
//! The virtual clock stands still while the loop has something to do, and jumps to the next timer's
//! deadline when the loop would wait for it. Tests of hours then take microseconds and are
//! reproducible. [`Jump`] says when it may jump.

use std::cell::Cell;

/// Nanoseconds in a second.
pub const NANOS_PER_SEC: u64 = 1_000_000_000;

/// An upper bound of the coarse clock's tick (10 ms at `CONFIG_HZ=100`), in nanoseconds.
pub(super) const COARSE_SLACK: u64 = 16_000_000;

/// When a virtual clock jumps to the next timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Jump {
    /// When nothing is pending outside of the loop: no descriptor is watched and no thread works
    /// for it. Otherwise the loop waits in real time, and the clock advances with it.
    #[default]
    Idle,
    /// Whenever the loop would wait for a timer. Descriptors are polled without waiting, and
    /// threads are not waited for.
    Always,
    /// Never: the program moves it with [`Clock::advance`].
    Manual,
}

/// The source of a loop's time.
#[derive(Debug)]
pub enum Clock {
    /// `CLOCK_MONOTONIC`: what `time.monotonic()` reads.
    Monotonic,
    /// Moves only when the loop would wait, or on request.
    Virtual(Cell<u64>, Jump),
}

impl Clock {
    /// A virtual clock that starts at `start` nanoseconds.
    pub fn at(start: u64, jump: Jump) -> Self {
        Self::Virtual(Cell::new(start), jump)
    }

    /// When a virtual clock jumps; `None` for a real one.
    #[inline]
    pub fn jump(&self) -> Option<Jump> {
        match self {
            Self::Monotonic => None,
            Self::Virtual(_, jump) => Some(*jump),
        }
    }

    /// The current time, in nanoseconds.
    #[inline]
    pub fn now(&self) -> u64 {
        match self {
            Self::Monotonic => read(libc::CLOCK_MONOTONIC),
            Self::Virtual(now, _) => now.get(),
        }
    }

    /// Whether a deadline, in nanoseconds, is certainly in the future. A cheap check; if it says
    /// no, read the precise clock.
    #[inline]
    pub fn is_far(&self, deadline: u64) -> bool {
        match self {
            Self::Monotonic => deadline > coarse_now().saturating_add(COARSE_SLACK),
            Self::Virtual(now, _) => deadline > now.get(),
        }
    }

    /// Moves a virtual clock forward by `nanos`. A real clock ignores it.
    pub fn advance(&self, nanos: u64) {
        if let Self::Virtual(now, _) = self {
            now.set(now.get().saturating_add(nanos));
        }
    }

    /// Whether this is the real clock.
    #[inline]
    pub fn is_real(&self) -> bool {
        matches!(self, Self::Monotonic)
    }
}

/// The monotonic clock at the kernel's last tick (at most 1–10 ms ago), in nanoseconds; a quarter
/// of the cost of a precise reading.
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
    // SAFETY: `time` is a valid timespec; both clocks exist since Linux 2.6.32.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as u64 * NANOS_PER_SEC + time.tv_nsec as u64
}
