//! CPU time of a process, read by another process.
//!
//! The kernel derives the ids of a process's CPU clocks from its pid, so the load generator can
//! read the server's CPU time exactly when its own measurement begins and ends. The server contains
//! no measuring code, and every loop is measured by the same clock. The total is the scheduler's,
//! exact to nanoseconds; its division into user and system time is the kernel's estimate, as in
//! `getrusage`.

use std::io;
use std::time::Duration;

/// `CPUCLOCK_PROF`, `CPUCLOCK_VIRT` and `CPUCLOCK_SCHED` of the kernel's `posix-timers.h`.
const USER_AND_SYSTEM: i32 = 0;
const USER: i32 = 1;
const SCHEDULER: i32 = 2;

/// The CPU time that a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// User and system time together, as counted by the scheduler.
    pub total: Duration,
    user: Duration,
    user_and_system: Duration,
}

impl CpuTime {
    /// The CPU time that the process `pid` has used so far.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        Ok(Self {
            total: read(pid, SCHEDULER)?,
            user: read(pid, USER)?,
            user_and_system: read(pid, USER_AND_SYSTEM)?,
        })
    }

    /// The CPU time that this process has used so far.
    pub fn of_this_process() -> io::Result<Self> {
        Self::of_process(std::process::id())
    }

    /// The CPU time used since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            user: self.user.saturating_sub(earlier.user),
            user_and_system: self.user_and_system.saturating_sub(earlier.user_and_system),
        }
    }

    /// The part of the total spent in user space, by the kernel's sampled ratio.
    pub fn user(&self) -> Duration {
        if self.user_and_system.is_zero() {
            return Duration::ZERO;
        }
        let fraction = self.user.as_secs_f64() / self.user_and_system.as_secs_f64();
        self.total.mul_f64(fraction.min(1.0))
    }

    /// The part of the total spent in the kernel.
    pub fn system(&self) -> Duration {
        self.total.saturating_sub(self.user())
    }
}

fn read(pid: u32, which: i32) -> io::Result<Duration> {
    let clock = (!(pid as i32) << 3) | which;
    let mut value = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `value` is a valid timespec, and the kernel checks the clock id.
    if unsafe { libc::clock_gettime(clock, &raw mut value) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(value.tv_sec as u64, value.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_work_of_this_process_and_divides_it() {
        let before = CpuTime::of_this_process().unwrap();
        let mut sum = 0_u64;
        let mut used = Duration::ZERO;
        while used < Duration::from_millis(30) {
            for value in 0..100_000_u64 {
                sum = std::hint::black_box(sum.wrapping_add(value));
            }
            used = CpuTime::of_this_process().unwrap().since(&before).total;
        }
        let spent = CpuTime::of_this_process().unwrap().since(&before);
        assert!(spent.total >= Duration::from_millis(30));
        let parts = spent.user() + spent.system();
        assert!(parts.abs_diff(spent.total) < Duration::from_micros(1));
    }

    #[test]
    fn agrees_with_getrusage() {
        let before = (CpuTime::of_this_process().unwrap(), rusage());
        while rusage() - before.1 < Duration::from_millis(30) {}
        let spent = CpuTime::of_this_process().unwrap().since(&before.0).total;
        let by_rusage = rusage() - before.1;
        assert!(spent.abs_diff(by_rusage) < Duration::from_millis(5));
    }

    fn rusage() -> Duration {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: an all-zero `rusage` is valid, and the call writes only to it.
        let usage = unsafe {
            assert_eq!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()), 0);
            usage.assume_init()
        };
        let time =
            |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
        time(usage.ru_utime) + time(usage.ru_stime)
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        assert!(CpuTime::of_process(0x3fff_fff0 >> 4).is_err());
    }
}
