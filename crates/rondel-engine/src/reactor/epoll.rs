//! The epoll backend: only the system calls.
//!
//! `epoll_pwait2` (Linux 5.11) takes its timeout in nanoseconds, so a sleep of 0.2 ms is rounded
//! neither to 0 nor to 1 ms. Older kernels, and seccomp filters that don't know it, get
//! `epoll_wait` with the timeout rounded up to a millisecond, or `epoll_pwait`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::epoll::{self, CreateFlags};

use super::interest::Interest;
use super::replace;
use crate::event_loop::clock::NANOS_PER_SEC;
use crate::refused::is_refusal;

/// One epoll instance, until it is closed.
pub(super) struct Epoll {
    poller: Option<Arc<Poller>>,
}

/// The waiting half of an epoll instance.
pub struct Poller {
    fd: OwnedFd,
    has_pwait2: AtomicBool,
    has_wait: AtomicBool,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            poller: Some(Arc::new(Poller {
                fd: create()?,
                has_pwait2: AtomicBool::new(true),
                has_wait: AtomicBool::new(true),
            })),
        })
    }

    pub(super) fn poller(&self) -> io::Result<Arc<Poller>> {
        self.poller.clone().ok_or_else(closed)
    }

    pub(super) fn close(&mut self) {
        self.poller = None;
    }

    /// After a fork: replaces the instance shared with the parent by an empty one under the same
    /// descriptor number.
    pub(super) fn renew(&self) -> io::Result<()> {
        match &self.poller {
            Some(poller) => replace(poller.fd.as_raw_fd(), create()?),
            None => Ok(()),
        }
    }

    pub(super) fn add(&self, fd: RawFd, interest: Interest, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    pub(super) fn modify(&self, fd: RawFd, interest: Interest, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
    }

    pub(super) fn delete(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, Interest::NONE, 0)
    }

    fn control(
        &self,
        op: libc::c_int,
        fd: RawFd,
        interest: Interest,
        token: u64,
    ) -> io::Result<()> {
        let mut events = 0;
        if interest.contains(Interest::READABLE) {
            events |= libc::EPOLLIN;
        }
        if interest.contains(Interest::WRITABLE) {
            events |= libc::EPOLLOUT;
        }
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: token,
        };
        let epfd = self.poller.as_ref().ok_or_else(closed)?.fd.as_raw_fd();
        // SAFETY: `event` is a valid `epoll_event` that outlives the call; a bad descriptor is an
        // error.
        check(unsafe { libc::epoll_ctl(epfd, op, fd, &mut event) }).map(drop)
    }
}

impl Poller {
    /// Waits until something is ready, for at most `timeout` nanoseconds; `None` waits without
    /// limit.
    ///
    /// # Errors
    /// `EINTR` when a signal was handled.
    pub fn wait(&self, events: &mut Events, timeout: Option<u64>) -> io::Result<()> {
        events.ready = 0;
        let capacity = events.buffer.len() as libc::c_int;
        let epfd = self.fd.as_raw_fd();
        let timed = timeout.filter(|&nanos| nanos > 0);
        if let Some(nanos) = timed
            && self.has_pwait2.load(Ordering::Relaxed)
        {
            let time = libc::timespec {
                // The type is inferred: `libc::time_t` is deprecated for musl.
                tv_sec: (nanos / NANOS_PER_SEC)
                    .try_into()
                    .unwrap_or(i32::MAX.into()),
                tv_nsec: (nanos % NANOS_PER_SEC) as libc::c_long,
            };
            // SAFETY: the buffer has room for `capacity` events, `time` outlives the call, and no
            // signal mask is passed. A raw system call, because the C library may be older than the
            // kernel.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    epfd,
                    events.buffer.as_mut_ptr(),
                    capacity,
                    ptr::from_ref(&time),
                    ptr::null::<libc::sigset_t>(),
                    0_usize,
                )
            };
            match check(count as libc::c_int) {
                Ok(count) => {
                    events.ready = count as usize;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                // ENOSYS before Linux 5.11; a filter may return any errno. A real failure recurs in
                // the older call.
                Err(_refused) => self.has_pwait2.store(false, Ordering::Relaxed),
            }
        }
        let millis = timeout.map_or(-1, |nanos| {
            libc::c_int::try_from(nanos.div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
        });
        if self.has_wait.load(Ordering::Relaxed) {
            // SAFETY: the buffer has room for `capacity` events.
            let count = check(unsafe {
                libc::epoll_wait(epfd, events.buffer.as_mut_ptr(), capacity, millis)
            });
            match count {
                Ok(count) => {
                    events.ready = count as usize;
                    return Ok(());
                }
                Err(error) if !is_refusal(&error) => return Err(error),
                Err(_refused) => self.has_wait.store(false, Ordering::Relaxed),
            }
        }
        // SAFETY: the buffer has room for `capacity` events, and no signal mask is passed.
        let count = check(unsafe {
            libc::epoll_pwait(
                epfd,
                events.buffer.as_mut_ptr(),
                capacity,
                millis,
                ptr::null(),
            )
        })?;
        events.ready = count as usize;
        Ok(())
    }
}

impl AsRawFd for Poller {
    /// Readable when there are events.
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Room for the events of one wait.
pub struct Events {
    buffer: Vec<libc::epoll_event>,
    ready: usize,
}

impl Events {
    /// Room for `capacity` events; the next wait reports the others.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            buffer: vec![libc::epoll_event { events: 0, u64: 0 }; capacity.max(1)],
            ready: 0,
        }
    }

    /// Whether the last wait reported nothing.
    pub fn is_empty(&self) -> bool {
        self.ready == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        self.buffer[..self.ready].iter().map(|event| Event(*event))
    }
}

/// One descriptor's report.
#[derive(Clone, Copy)]
pub(crate) struct Event(libc::epoll_event);

impl Event {
    pub(super) fn token(self) -> u64 {
        self.0.u64
    }

    pub(super) fn readiness(self) -> Interest {
        let events = self.0.events as libc::c_int;
        let mut ready = Interest::NONE;
        if events & !libc::EPOLLOUT != 0 {
            ready |= Interest::READABLE;
        }
        if events & !libc::EPOLLIN != 0 {
            ready |= Interest::WRITABLE;
        }
        ready
    }
}

fn create() -> io::Result<OwnedFd> {
    match epoll::create(CreateFlags::CLOEXEC).map_err(io::Error::from) {
        // SAFETY: system calls without pointers; the new descriptor has no other owner.
        Err(error) if is_refusal(&error) => unsafe {
            let fd = check(libc::epoll_create(1))?;
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
            Ok(OwnedFd::from_raw_fd(fd))
        },
        made => made,
    }
}

fn closed() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
