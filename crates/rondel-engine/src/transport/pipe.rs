//! The ends of a pipe, or of something used like one: a FIFO, a terminal, a socket, a character
//! device.
//!
//! [`ReadEnd`] and [`WriteEnd`] are asyncio's `_UnixReadPipeTransport` and
//! `_UnixWritePipeTransport` without their callbacks. As with [`Stream`](super::stream::Stream),
//! each method returns what the host must do. Writes go to the kernel at once and are not batched
//! per step: the other end may be a terminal or another program's log.

use std::collections::TryReserveError;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};

use super::flow_control::FlowControl;
use super::intake::Intake;
use super::recv_size::{self, Received, RecvSize, Room};
use super::stream::LOST_WRITES_THRESHOLD;
use super::write_queue::{self, Flushed, WriteQueue};

/// The kind of a pipe transport's descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pipe or a FIFO.
    Fifo,
    /// A socket.
    Socket,
    /// A terminal or another device.
    Character,
}

impl Kind {
    /// The kind of `fd`; `None` for a regular file or anything else that can't be polled.
    ///
    /// # Errors
    /// Errors of `fstat`.
    pub fn of(fd: RawFd) -> io::Result<Option<Self>> {
        let mut status = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: an all-zero `stat` is valid, and the call writes only to it.
        let mode = unsafe {
            if libc::fstat(fd, status.as_mut_ptr()) < 0 {
                return Err(io::Error::last_os_error());
            }
            status.assume_init().st_mode
        };
        Ok(match mode & libc::S_IFMT {
            libc::S_IFIFO => Some(Self::Fifo),
            libc::S_IFSOCK => Some(Self::Socket),
            libc::S_IFCHR => Some(Self::Character),
            _ => None,
        })
    }

    /// Whether the kernel tells the write end when the read end is closed.
    pub fn tells_of_its_reader(self) -> bool {
        self != Self::Character
    }
}

/// The read end.
#[derive(Debug)]
pub struct ReadEnd<P> {
    pipe: Option<P>,
    recv_size: RecvSize,
    /// Whether the transport reads; the host watches the descriptor accordingly.
    pub intake: Intake,
}

impl<P: AsRawFd> ReadEnd<P> {
    /// Takes ownership of a non-blocking descriptor.
    pub fn new(pipe: P) -> Self {
        Self {
            pipe: Some(pipe),
            recv_size: RecvSize::default(),
            intake: Intake::default(),
        }
    }

    /// The pipe, until it is taken.
    pub fn pipe(&self) -> Option<&P> {
        self.pipe.as_ref()
    }

    /// Removes the pipe for good; the host closes it.
    pub fn take_pipe(&mut self) -> Option<P> {
        self.pipe.take()
    }

    /// Whether the transport is closing.
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.intake.is_closing()
    }

    /// Where to receive the next bytes.
    pub fn room(&self) -> Room {
        self.recv_size.room()
    }

    /// Reads once into `room`.
    pub fn read(&mut self, room: &mut [MaybeUninit<u8>]) -> Received {
        let fd = self.pipe.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let received = recv_size::read(fd, room);
        if let Received::Data(count) = received {
            self.recv_size.note(count, room.len());
        }
        received
    }

    /// Closes the read end. True: stop watching and schedule `connection_lost`. False: that was
    /// done before.
    pub fn close(&mut self) -> bool {
        self.intake.close()
    }
}

/// The result of a write; see [`WriteEnd::write`].
#[derive(Debug)]
pub enum Written {
    /// The kernel took all of it.
    All,
    /// The kernel took only a part, or nothing: watch for writing, then check whether the writer
    /// must pause.
    Watch,
    /// It is queued behind other bytes: check whether the writer must pause.
    Waiting,
    /// Dropped, because the pipe is closed or its reader is gone.
    Lost {
        /// Whether to log asyncio's warning, because the program keeps writing.
        warn: bool,
    },
    /// The pipe has failed.
    Failed(io::Error),
}

/// The result of [`WriteEnd::write_ready`].
#[derive(Debug)]
pub enum Sent {
    /// Some is left.
    Some,
    /// Everything was written: stop watching for writing, tell the writer to resume, and check
    /// [`WriteEnd::is_over`].
    All,
    /// The pipe has failed and the queue was dropped: stop watching for writing.
    Failed(io::Error),
}

/// The write end.
#[derive(Debug)]
pub struct WriteEnd<P, C> {
    pipe: Option<P>,
    queue: WriteQueue<C>,
    /// When the writer is paused; the host calls the protocol.
    pub flow: FlowControl,
    conn_lost: u32,
    closing: bool,
    /// `connection_lost` is scheduled.
    lost: bool,
}

impl<P: AsRawFd, C: AsRef<[u8]>> WriteEnd<P, C> {
    /// Takes ownership of a non-blocking descriptor.
    pub fn new(pipe: P) -> Self {
        Self {
            pipe: Some(pipe),
            queue: WriteQueue::new(),
            flow: FlowControl::default(),
            conn_lost: 0,
            closing: false,
            lost: false,
        }
    }

    /// The pipe, until it is taken.
    pub fn pipe(&self) -> Option<&P> {
        self.pipe.as_ref()
    }

    /// Removes the pipe for good; the host closes it.
    pub fn take_pipe(&mut self) -> Option<P> {
        self.pipe.take()
    }

    fn fd(&self) -> RawFd {
        self.pipe.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Whether the transport is closing.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether `connection_lost` is scheduled.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// The number of dropped and failed writes.
    pub fn conn_lost(&self) -> u32 {
        self.conn_lost
    }

    /// The data that waits to be written.
    pub fn queue(&self) -> &WriteQueue<C> {
        &self.queue
    }

    /// Reserves memory for what one more [`write`](Self::write) may queue.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.queue.reserve()
    }

    /// Writes bytes, which should not be empty. What the kernel does not take is queued as the
    /// chunk that `make` returns.
    ///
    /// # Errors
    /// Errors of `make`; the bytes passed to it are lost then.
    pub fn write<E>(
        &mut self,
        bytes: &[u8],
        make: impl FnOnce(&[u8]) -> Result<C, E>,
    ) -> Result<Written, E> {
        if self.conn_lost > 0 || self.closing {
            let warn = self.conn_lost >= LOST_WRITES_THRESHOLD;
            self.conn_lost = self.conn_lost.saturating_add(1);
            return Ok(Written::Lost { warn });
        }
        if !self.queue.is_empty() {
            self.queue.push(make(bytes)?);
            return Ok(Written::Waiting);
        }
        let written = match write_queue::write(self.fd(), bytes) {
            Ok(written) if written == bytes.len() => return Ok(Written::All),
            Ok(written) => written,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => 0,
                _ => {
                    self.conn_lost += 1;
                    return Ok(Written::Failed(error));
                }
            },
        };
        self.queue.push(make(&bytes[written..])?);
        Ok(Written::Watch)
    }

    /// Must be called when the descriptor is writable.
    pub fn write_ready(&mut self) -> Sent {
        match self.queue.flush_file(self.fd()) {
            Flushed::Drained => Sent::All,
            Flushed::Blocked => Sent::Some,
            Flushed::Failed(error) => {
                drop(self.queue.take());
                self.conn_lost += 1;
                Sent::Failed(error)
            }
        }
    }

    /// Whether the program has closed it and everything is written, so that `connection_lost` is
    /// due now. True only once.
    pub fn is_over(&mut self) -> bool {
        let over = self.closing && !self.lost && self.queue.is_empty();
        self.lost |= over;
        over
    }

    /// Closes the pipe once everything is written. True: stop watching and schedule
    /// `connection_lost` now. False: that follows later, or was done before.
    pub fn write_eof(&mut self) -> bool {
        if self.closing {
            return false;
        }
        self.closing = true;
        self.is_over()
    }

    /// Closes the pipe at once, without writing the queue, which is returned to be dropped. `Some`:
    /// stop watching and schedule `connection_lost`. `None`: that was done before.
    #[must_use]
    pub fn close(&mut self) -> Option<WriteQueue<C>> {
        self.closing = true;
        if std::mem::replace(&mut self.lost, true) {
            return None;
        }
        Some(self.queue.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::fs::File;
    use std::io::{PipeReader, PipeWriter, Read, Write};

    type Tested = WriteEnd<PipeWriter, Vec<u8>>;

    fn set_nonblocking(fd: &impl AsRawFd) {
        // SAFETY: sets a flag of an open descriptor.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    }

    fn written() -> (Tested, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        set_nonblocking(&writer);
        (Tested::new(writer), reader)
    }

    fn write(tested: &mut Tested, bytes: &[u8]) -> Written {
        tested
            .write(bytes, |rest| Ok::<_, Infallible>(rest.to_vec()))
            .unwrap()
    }

    #[test]
    fn kinds() {
        let (reader, _writer) = io::pipe().unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let kind = |fd: &dyn AsRawFd| Kind::of(fd.as_raw_fd()).unwrap();
        assert_eq!(kind(&reader), Some(Kind::Fifo));
        assert_eq!(kind(&socket), Some(Kind::Socket));
        assert_eq!(
            kind(&File::open("/dev/null").unwrap()),
            Some(Kind::Character)
        );
        assert_eq!(kind(&File::open("/proc/self/exe").unwrap()), None);
        assert!(Kind::of(-1).is_err());
        assert!(Kind::Fifo.tells_of_its_reader() && !Kind::Character.tells_of_its_reader());
    }

    #[test]
    fn a_full_pipe_keeps_the_rest_and_ends_when_it_is_written() {
        let (mut tested, mut reader) = written();
        let data: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        assert!(matches!(write(&mut tested, &data), Written::Watch));
        assert!(matches!(write(&mut tested, b"more"), Written::Waiting));
        assert!(!tested.write_eof() && !tested.write_eof());
        assert!(tested.is_closing() && !tested.is_lost());
        let mut got = vec![0; data.len() + 4];
        let mut done = 0;
        loop {
            match tested.write_ready() {
                Sent::All => break,
                Sent::Some => done += reader.read(&mut got[done..]).unwrap(),
                Sent::Failed(error) => panic!("{error}"),
            }
        }
        assert!(tested.is_over() && !tested.is_over());
        drop(tested.take_pipe());
        reader.read_exact(&mut got[done..]).unwrap();
        assert_eq!(got, [&data[..], b"more"].concat());
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error_once() {
        let (mut tested, reader) = written();
        drop(reader);
        let Written::Failed(error) = write(&mut tested, b"x") else {
            panic!("nobody reads")
        };
        assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
        for _ in 1..LOST_WRITES_THRESHOLD {
            assert!(matches!(
                write(&mut tested, b"x"),
                Written::Lost { warn: false }
            ));
        }
        assert!(matches!(
            write(&mut tested, b"x"),
            Written::Lost { warn: true }
        ));
        assert!(tested.close().is_some());
        assert!(tested.close().is_none());
    }

    #[test]
    fn what_waits_is_lost_with_its_reader() {
        let (mut tested, reader) = written();
        assert!(matches!(write(&mut tested, &[0; 200_000]), Written::Watch));
        drop(reader);
        assert!(matches!(tested.write_ready(), Sent::Failed(_)));
        assert!(tested.queue().is_empty());
        assert!(tested.close().unwrap().is_empty());
    }

    #[test]
    fn reading_pausing_and_the_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        set_nonblocking(&reader);
        let mut tested = ReadEnd::new(reader);
        let mut room = [MaybeUninit::uninit(); 100];
        assert!(matches!(tested.read(&mut room), Received::Blocked));
        writer.write_all(b"abc").unwrap();
        assert!(matches!(tested.read(&mut room), Received::Data(3)));
        assert!(tested.intake.pause() && !tested.intake.pause());
        assert!(tested.intake.resume() && !tested.intake.resume());
        drop(writer);
        assert!(matches!(tested.read(&mut room), Received::Eof));
        assert!(tested.close() && !tested.close());
        assert!(!tested.intake.pause() && !tested.intake.is_reading());
    }
}
