//! Sockets that a service manager has opened for this process: `LISTEN_FDS`, as systemd passes
//! them.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that is passed: `SD_LISTEN_FDS_START`.
const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The sockets that the service manager has passed to this process (socket activation), in its
/// order: for [`start_server_on`](crate::start_server_on) or
/// [`StreamListener::from_std`](crate::StreamListener::from_std). Empty if there are none.
///
/// To be called once, as they are yours then: every further call gives none. They are closed when
/// the process executes another program. The variables `LISTEN_PID` and `LISTEN_FDS` stay as they
/// are: changing them is safe only while there is one thread.
///
/// # Errors
/// `InvalidData` if `LISTEN_FDS` is no number, `EBADF` if a descriptor is not open.
///
/// ```no_run
/// # use rondel::{StreamReader, StreamWriter, ServerOptions};
/// # async fn handler(_: StreamReader, _: StreamWriter) {}
/// rondel::run(async {
///     let mut servers = Vec::new();
///     for socket in rondel::listen_fds()? {
///         servers.push(rondel::start_server_on(handler, socket, ServerOptions::default())?);
///     }
///     std::future::pending::<std::io::Result<()>>().await
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn listen_fds() -> io::Result<Vec<OwnedFd>> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u32>());
    // Meant for another process, e.g. the one that has started this one.
    if number("LISTEN_PID") != Some(Ok(std::process::id())) {
        return Ok(Vec::new());
    }
    let count = match number("LISTEN_FDS") {
        None => return Ok(Vec::new()),
        Some(count) => count
            .ok()
            .and_then(|count| RawFd::try_from(count).ok())
            .and_then(|count| FIRST.checked_add(count))
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "LISTEN_FDS is not a number")
            })?,
    };
    if TAKEN.load(Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    for fd in FIRST..count {
        // SAFETY: sets a flag; a number that is no descriptor gives an error.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // SAFETY: open, as the calls above have found; passed to this process for it to own, and given
    // out here once.
    let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((FIRST..count).map(own).collect())
}
