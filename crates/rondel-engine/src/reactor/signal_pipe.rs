//! The signal pipe: how a signal that another thread took, or that came just before the wait, ends
//! the wait.
//!
//! A wait ends with `EINTR` only if its own thread runs the handler, and only if it has begun. An
//! interpreter's handler in C therefore writes a byte to a descriptor that it was given
//! (`signal.set_wakeup_fd`); that is the pipe's write end. It can't be the wake-up's eventfd, which
//! takes eight bytes at a time.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::pipe::{PipeFlags, pipe_with};

use super::{drain, socket_pair};
use crate::refused::is_refusal;

/// A pipe that does not block, made when it is first asked for; a pair of sockets where pipes are
/// refused.
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
