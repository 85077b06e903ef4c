//! Ctrl-C while a program runs, as `asyncio.run` has it since Python 3.11.
//!
//! The handler does the two things that a signal handler may: it sets a flag and writes to an
//! eventfd. The eventfd is in the reactor of the one loop that runs on the main thread, whose turn
//! then cancels the main task. A second SIGINT that finds the flag still set means that the loop is
//! stuck: then the default action is restored and taken, as Python's second KeyboardInterrupt
//! breaks through.
//!
//! The eventfd is made once and stays open as long as the process: the handler may be running in
//! any thread at the moment when a loop ends.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rondel_engine::event_loop::EventLoop;
use rustix::event::EventfdFlags;

use crate::runtime::{RustHost, Source};

static EVENT: OnceLock<OwnedFd> = OnceLock::new();
/// The eventfd's number for the handler, which may not use a `OnceLock`.
static EVENT_FD: AtomicI32 = AtomicI32::new(-1);
/// A SIGINT came and no loop has taken notice.
static PENDING: AtomicBool = AtomicBool::new(false);

/// A loop on the main thread is there for the handler.
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// SIGINT is handled as long as this lives, or until the program sets a handler of its own.
pub(crate) struct Interrupts(());

impl Interrupts {
    /// Handles SIGINT for a loop; `None` on any thread but the main one, and if SIGINT has a
    /// handler already or is ignored.
    pub(crate) fn install(event_loop: &EventLoop<RustHost>) -> io::Result<Option<Self>> {
        // SAFETY: two system calls without arguments.
        if unsafe { libc::gettid() != libc::getpid() } || !has_default_action()? {
            return Ok(None);
        }
        let fd = event()?;
        event_loop.add_reader(fd, Source::Interrupt)?;
        PENDING.store(false, Ordering::SeqCst);
        ACTIVE.store(true, Ordering::SeqCst);
        set_action(on_interrupt as *const () as libc::sighandler_t)?;
        Ok(Some(Self(())))
    }

    /// The eventfd, which can be read when a SIGINT came that no loop has taken notice of.
    pub(crate) fn fd() -> RawFd {
        EVENT_FD.load(Ordering::SeqCst)
    }

    /// Resets the eventfd and the flag.
    pub(crate) fn acknowledge() {
        PENDING.store(false, Ordering::SeqCst);
        let mut count = 0_u64;
        let fd = EVENT_FD.load(Ordering::SeqCst);
        // SAFETY: eight bytes of room.
        unsafe { libc::read(fd, (&raw mut count).cast(), size_of::<u64>()) };
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        ACTIVE.store(false, Ordering::SeqCst);
        // A handler that the program has set meanwhile stays.
        let ours = is_ours();
        if ours {
            // It can't fail: SIGINT is a signal whose action may be set, as it was before.
            let _ = set_action(libc::SIG_DFL);
        }
        if ours && PENDING.load(Ordering::SeqCst) {
            // Came after the loop's last turn: it is the program's to end.
            Self::acknowledge();
            // SAFETY: the default action, which ends the process.
            unsafe { libc::raise(libc::SIGINT) };
        }
    }
}

fn event() -> io::Result<RawFd> {
    if let Some(event) = EVENT.get() {
        return Ok(event.as_raw_fd());
    }
    let made = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let event = EVENT.get_or_init(|| made);
    EVENT_FD.store(event.as_raw_fd(), Ordering::SeqCst);
    Ok(event.as_raw_fd())
}

fn has_default_action() -> io::Result<bool> {
    Ok(action()? == libc::SIG_DFL)
}

/// Whether SIGINT's handler is this file's. Async-signal-safe.
fn is_ours() -> bool {
    action().is_ok_and(|action| action == on_interrupt as *const () as libc::sighandler_t)
}

fn action() -> io::Result<libc::sighandler_t> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks only, into room that is large enough.
    if unsafe { libc::sigaction(libc::SIGINT, ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled in by the successful call.
    Ok(unsafe { action.assume_init() }.sa_sigaction)
}

fn set_action(handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: all zeros is a valid sigaction: the default action, an empty mask, no flags.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler does only what is safe in one; see below.
    if unsafe { libc::sigaction(libc::SIGINT, &action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn on_interrupt(_: libc::c_int) {
    // SAFETY: errno's address is valid in every thread; what the handler interrupted may be about
    // to read it.
    let errno = unsafe { *libc::__errno_location() };
    if !ACTIVE.load(Ordering::SeqCst) {
        // Called by a handler that has taken this one's place and goes on to the one before it: no
        // loop is there.
    } else if PENDING.swap(true, Ordering::SeqCst) {
        // Likewise: then the program has heard of it already.
        if is_ours() {
            let _ = set_action(libc::SIG_DFL);
            // SAFETY: async-signal-safe. It takes effect when this handler returns.
            unsafe { libc::raise(libc::SIGINT) };
        }
    } else {
        let one = 1_u64;
        let fd = EVENT_FD.load(Ordering::SeqCst);
        // SAFETY: async-signal-safe; eight readable bytes.
        unsafe { libc::write(fd, (&raw const one).cast(), size_of::<u64>()) };
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}
