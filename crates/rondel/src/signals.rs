//! Signals that a program wants to hear of: [`signal`], [`add_signal_handler`]. Ctrl-C as such is
//! `signal.rs`'s.
//!
//! The handler of all of them writes to the eventfds of those who listen to the signal. Who listens
//! is said by a table that the handler can read at any moment: its entries are numbers, and an
//! eventfd that was made stays open as long as the process, for the next one who listens.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::descriptor::{AsyncFd, Side};
use crate::task::{CancelHandle, create_task};

/// So many may listen at a time.
const ENTRIES: usize = 128;

/// Whom the handler tells.
struct Entry {
    /// The signal; 0: nobody listens.
    signal: AtomicI32,
    /// An eventfd, once it was made.
    event: AtomicI32,
}

static TABLE: [Entry; ENTRIES] = [const {
    Entry {
        signal: AtomicI32::new(0),
        event: AtomicI32::new(-1),
    }
}; ENTRIES];

/// Of each signal that is listened to: how many do, and what was its action before.
static BEFORE: Mutex<Vec<(i32, usize, libc::sigaction)>> = Mutex::new(Vec::new());

extern "C" fn on_signal(signal: libc::c_int) {
    // SAFETY: errno's address is valid in every thread; what the handler interrupted may be about
    // to read it.
    let errno = unsafe { *libc::__errno_location() };
    for entry in &TABLE {
        if entry.signal.load(Ordering::SeqCst) == signal {
            let one = 1_u64;
            let event = entry.event.load(Ordering::SeqCst);
            // SAFETY: async-signal-safe; eight readable bytes.
            unsafe { libc::write(event, (&raw const one).cast(), size_of::<u64>()) };
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Listens to a signal, from now on until what this gives is dropped. It no longer does then what
/// it did before: `SIGTERM` does not end the process, Ctrl-C (`SIGINT`) does not cancel the main
/// future.
///
/// # Errors
/// `InvalidInput` for a signal that cannot be handled (`SIGKILL`, `SIGSTOP`), or that a program
/// can't go on after (`SIGSEGV`, …).
///
/// # Panics
/// If no loop runs on this thread.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let mut hangups = rondel::signal(libc::SIGHUP)?;
///     # unsafe { libc::raise(libc::SIGHUP) };
///     hangups.recv().await?;
///     println!("reading the configuration anew");
///     Ok(())
/// })?
/// # }
/// ```
#[track_caller]
pub fn signal(signal: i32) -> io::Result<Signals> {
    const DEADLY: [i32; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];
    if DEADLY.contains(&signal) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("sig {signal} cannot be caught"),
        ));
    }
    let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
    let free = |entry: &&Entry| entry.signal.load(Ordering::SeqCst) == 0;
    let Some(entry) = TABLE.iter().find(free) else {
        return Err(io::Error::other("too many listen to signals"));
    };
    let event = entry.event()?;
    // What came for the one who had it before.
    let _ = take(event);
    entry.signal.store(signal, Ordering::SeqCst);
    let listening = before.iter_mut().find(|(number, ..)| *number == signal);
    match listening {
        Some((_, count, _)) => *count += 1,
        None => match set_action(signal) {
            Ok(action) => before.push((signal, 1, action)),
            Err(error) => {
                entry.signal.store(0, Ordering::SeqCst);
                return Err(error);
            }
        },
    }
    drop(before);
    // SAFETY: it is never closed.
    let event = AsyncFd::internal(unsafe { BorrowedFd::borrow_raw(event) });
    Ok(Signals {
        event,
        entry,
        signal,
    })
}

/// Waits for Ctrl-C, which does not cancel the main future as long as somebody waits: for programs
/// that have something to do before they end which they have to wait for.
///
/// Dropped before it is ready, it has taken nothing, and Ctrl-C does again what it did before.
///
/// # Errors
/// As [`signal`].
///
/// ```no_run
/// # async fn serve() {}
/// # async fn say_goodbye() {}
/// rondel::run(async {
///     let server = rondel::create_task(serve());
///     rondel::ctrl_c().await?;
///     server.cancel();
///     say_goodbye().await;
///     Ok::<(), std::io::Error>(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn ctrl_c() -> io::Result<()> {
    signal(libc::SIGINT)?.recv().await
}

/// Calls `callback` whenever a signal has come, in the loop, until what this gives is dropped:
/// asyncio's `loop.add_signal_handler`. A handler whose loop has ended is called no more.
///
/// # Errors
/// As [`signal`].
///
/// # Panics
/// As [`signal`].
///
/// ```
/// use std::{cell::Cell, rc::Rc};
///
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let count = Rc::new(Cell::new(0));
///     let counted = Rc::clone(&count);
///     let _handler = rondel::add_signal_handler(libc::SIGUSR1, move || counted.set(counted.get() + 1))?;
///     # unsafe { libc::raise(libc::SIGUSR1) };
///     while count.get() == 0 {
///         rondel::sleep(std::time::Duration::from_millis(1)).await;
///     }
///     Ok(())
/// })?
/// # }
/// ```
#[track_caller]
pub fn add_signal_handler(
    number: i32,
    mut callback: impl FnMut() + 'static,
) -> io::Result<SignalHandler> {
    let mut signals = signal(number)?;
    let task = create_task(async move {
        while signals.recv().await.is_ok() {
            callback();
        }
    });
    let cancel = task.cancel_handle();
    task.detach();
    Ok(SignalHandler { cancel })
}

/// A callback for a signal, of [`add_signal_handler`]. Dropping it removes the callback.
#[must_use = "dropping it removes the handler"]
#[derive(Debug)]
pub struct SignalHandler {
    cancel: CancelHandle,
}

impl Drop for SignalHandler {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Somebody who listens to a signal, of [`signal`]. Each hears of it, if several do. Dropping the
/// last one of a signal gives it the action that it had before.
pub struct Signals {
    event: AsyncFd<BorrowedFd<'static>>,
    entry: &'static Entry,
    signal: i32,
}

impl Signals {
    /// Waits until the signal has come since the last time. Several that come before this is asked
    /// are one. Dropped before it is ready, it has taken nothing.
    ///
    /// # Errors
    /// That the loop is closed.
    pub async fn recv(&mut self) -> io::Result<()> {
        let take = |event: &BorrowedFd<'_>| take(event.as_raw_fd());
        self.event.with(Side::Reading, take).await
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
        self.entry.signal.store(0, Ordering::SeqCst);
        let listening = before
            .iter()
            .position(|(signal, ..)| *signal == self.signal);
        let Some(index) = listening else { return };
        before[index].1 -= 1;
        if before[index].1 == 0 {
            let (signal, _, action) = before.swap_remove(index);
            if current(signal).is_ok_and(|now| now.sa_sigaction == on_signal as *const () as usize)
            {
                // SAFETY: what the kernel has said the action was.
                unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
            }
        }
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals")
            .field("signal", &self.signal)
            .finish_non_exhaustive()
    }
}

impl Entry {
    /// Its eventfd. Made under the lock.
    fn event(&self) -> io::Result<i32> {
        let event = self.event.load(Ordering::SeqCst);
        if event >= 0 {
            return Ok(event);
        }
        // SAFETY: a system call without pointers; the result is checked.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if event < 0 {
            return Err(io::Error::last_os_error());
        }
        self.event.store(event, Ordering::SeqCst);
        Ok(event)
    }
}

/// Resets an eventfd; `WouldBlock` if nothing has come.
fn take(event: i32) -> io::Result<()> {
    let mut count = 0_u64;
    // SAFETY: eight bytes of room.
    let read = unsafe { libc::read(event, (&raw mut count).cast(), size_of::<u64>()) };
    match read {
        8 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn current(signal: i32) -> io::Result<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks only, into room that is large enough.
    if unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled in by the successful call.
    Ok(unsafe { action.assume_init() })
}

/// Has the handler called for a signal; what was its action before.
fn set_action(signal: i32) -> io::Result<libc::sigaction> {
    let before = current(signal)?;
    // SAFETY: all zeros is a valid sigaction: an empty mask, no flags.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler does only what is safe in one.
    if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(before)
}
