//! The signal pipe: ends the wait for a signal that another thread handled or that arrived just
//! before the wait.
//!
//! A wait ends with `EINTR` only if its own thread runs the handler while it waits. The
//! interpreter's C handler therefore writes a byte to the descriptor given to
//! `signal.set_wakeup_fd`, which is the pipe's write end. The wake-up's eventfd can't be used,
//! because it accepts only writes of eight bytes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::pipe::{PipeFlags, pipe_with};

use super::{drain, socket_pair};
use crate::refused::is_refusal;

/// A non-blocking pipe, or a pair of sockets where pipes are refused.
pub(super) struct SignalPipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl SignalPipe {
    pub(super) fn new() -> io::Result<Self> {
        let made = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
        let (read, write) = match made.map_err(io::Error::from) {
            Err(error) if is_refusal(&error) => socket_pair()?.into(),
            made => made?,
        };
        Ok(Self { read, write })
    }

    /// What the reactor watches.
    pub(super) fn read_end(&self) -> RawFd {
        self.read.as_raw_fd()
    }

    /// What a signal handler writes to.
    pub(super) fn write_end(&self) -> RawFd {
        self.write.as_raw_fd()
    }

    /// Empties the pipe, so that it is not reported again before the next signal.
    pub(super) fn acknowledge(&self) {
        drain(self.read_end());
    }
}
