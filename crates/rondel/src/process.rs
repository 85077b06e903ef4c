//! Child processes, in asyncio's words: [`create_subprocess_exec`].
//!
//! A child is a pidfd in the reactor: no thread, no signal handler, and nobody else's child is ever
//! collected. Where a process may not have one, a thread of the pool waits, without collecting the
//! child either; that is done here, so that a signal is never sent to a number that is somebody
//! else's by now.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{Child, Command, ExitStatus};
use std::task::Poll;

use crate::blocking::spawn_blocking;
use crate::descriptor::{AsyncFd, Side};
use crate::runtime;
use crate::streams::{StreamReader, StreamWriter, open_read_pipe, open_write_pipe};
use crate::task::create_task;

/// Starts a program. How (its arguments, environment, directory, and what its standard streams are)
/// is said by the standard library's `Command`; a stream that is `Stdio::piped()` is a
/// [`StreamWriter`] or [`StreamReader`] of the [`Process`].
///
/// # Errors
/// What starting it fails with, `NotFound` above all.
///
/// ```
/// use std::process::{Command, Stdio};
///
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let mut sort = Command::new("sort");
///     sort.stdin(Stdio::piped()).stdout(Stdio::piped());
///     let mut process = rondel::create_subprocess_exec(&mut sort).await?;
///     let (output, _) = process.communicate("b\na\n").await?;
///     assert_eq!(output, b"a\nb\n");
///     assert_eq!(process.returncode(), Some(0));
///     Ok(())
/// })?
/// # }
/// ```
pub async fn create_subprocess_exec(command: &mut Command) -> io::Result<Process> {
    Process::new(command.spawn()?)
}

/// Starts a command of the shell, `sh`, which inherits the standard streams. For other streams give
/// [`create_subprocess_exec`] the command of [`shell`].
///
/// # Errors
/// What starting it fails with.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let mut process = rondel::create_subprocess_shell("exit 3").await?;
///     assert_eq!(process.wait().await?.code(), Some(3));
///     Ok(())
/// })?
/// # }
/// ```
pub async fn create_subprocess_shell(text: &str) -> io::Result<Process> {
    create_subprocess_exec(&mut shell(text)).await
}

/// A command of the shell, `sh`.
///
/// ```
/// use std::process::Stdio;
///
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let mut command = rondel::shell("echo one; echo two >&2");
///     command.stdout(Stdio::piped()).stderr(Stdio::piped());
///     let mut process = rondel::create_subprocess_exec(&mut command).await?;
///     let (output, errors) = process.communicate("").await?;
///     assert_eq!((output.as_slice(), errors.as_slice()), (&b"one\n"[..], &b"two\n"[..]));
///     Ok(())
/// })?
/// # }
/// ```
pub fn shell(text: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(text);
    command
}

/// A child process, as [`create_subprocess_exec`] gives it.
///
/// Dropping it leaves it running, as the standard library does (see
/// [`kill_on_drop`](Self::kill_on_drop)); when it ends it is collected, as long as the loop runs,
/// so that no zombie is left.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     use std::process::Command;
///
///     let mut command = Command::new("true");
///     let mut process: rondel::Process = rondel::create_subprocess_exec(&mut command).await?;
///     assert!(process.wait().await?.success());
///     Ok(())
/// })?
/// # }
/// ```
pub struct Process {
    child: Option<Reaped>,
    pid: u32,
    status: Option<ExitStatus>,
    kill_on_drop: bool,
    /// The child's standard input, if it is piped. Dropping it is the end of the input.
    pub stdin: Option<StreamWriter>,
    /// Its standard output, if it is piped.
    pub stdout: Option<StreamReader>,
    /// Its standard error, if it is piped.
    pub stderr: Option<StreamReader>,
}

/// A child that nobody has collected.
struct Reaped {
    child: RefCell<Child>,
    /// `None` where there are none.
    pidfd: Option<AsyncFd<OwnedFd>>,
}

impl Reaped {
    async fn wait(&self) -> io::Result<ExitStatus> {
        let Some(pidfd) = &self.pidfd else {
            return self.wait_in_thread().await;
        };
        pidfd
            .with(Side::Reading, |_| {
                match self.child.borrow_mut().try_wait() {
                    Ok(Some(status)) => Ok(status),
                    Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
                    Err(error) => Err(error),
                }
            })
            .await
    }

    async fn wait_in_thread(&self) -> io::Result<ExitStatus> {
        let pid = self.child.borrow().id();
        loop {
            if let Some(status) = self.child.borrow_mut().try_wait()? {
                return Ok(status);
            }
            spawn_blocking(move || {
                // SAFETY: all zeros is a valid `siginfo_t`, of which there is room for one.
                unsafe {
                    let mut info: libc::siginfo_t = std::mem::zeroed();
                    let flags = libc::WEXITED | libc::WNOWAIT;
                    libc::waitid(libc::P_PID, pid, &raw mut info, flags)
                }
            })
            .await?;
        }
    }
}

impl Process {
    fn new(mut child: Child) -> io::Result<Self> {
        let stdin = child.stdin.take().map(open_write_pipe).transpose();
        let stdout = child.stdout.take().map(open_read_pipe).transpose();
        let stderr = child.stderr.take().map(open_read_pipe).transpose();
        let pid = child.id();
        let process = Self {
            child: Some(Reaped {
                pidfd: open_pidfd(pid).ok().map(AsyncFd::new),
                child: RefCell::new(child),
            }),
            pid,
            status: None,
            kill_on_drop: false,
            stdin: stdin?,
            stdout: stdout?,
            stderr: stderr?,
        };
        Ok(process)
    }

    /// Its number.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let mut process = rondel::create_subprocess_shell("exit 0").await?;
    ///     assert_ne!(process.pid(), std::process::id());
    ///     process.wait().await?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it has ended, if that is known by [`wait`](Self::wait) or
    /// [`communicate`](Self::communicate): the code it has exited with, or the number of the signal
    /// that has ended it, negated.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let mut process = rondel::create_subprocess_shell("exit 3").await?;
    ///     process.wait().await?;
    ///     assert_eq!(process.returncode(), Some(3));
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn returncode(&self) -> Option<i32> {
        let status = self.status?;
        status
            .code()
            .or_else(|| status.signal().map(|signal| -signal))
    }

    /// Waits until it has ended. It may be asked again. Its output should be read meanwhile: a
    /// child whose pipe is full waits. Dropped before it is ready, it has changed nothing.
    ///
    /// # Errors
    /// What the kernel's wait fails with, `ECHILD` if somebody else has collected the child.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let mut process = rondel::create_subprocess_shell("exit 3").await?;
    ///     assert_eq!(process.wait().await?.code(), Some(3));
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let Some(child) = &self.child else {
            return Err(io::Error::from_raw_os_error(libc::ECHILD));
        };
        let status = child.wait().await?;
        self.status = Some(status);
        self.child = None;
        Ok(status)
    }

    /// Writes `input` to its standard input and ends that, reads its output and errors to their
    /// ends, and waits for it. What is not piped is empty. That it does not read all of the input
    /// is no failure.
    ///
    /// Dropped before it is ready, it has lost nothing: the input is on its way, and called again,
    /// with no input, it gives all of the output.
    ///
    /// # Errors
    /// What reading or waiting fails with.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     use std::process::Stdio;
    ///
    ///     let mut command = rondel::shell("tr a-z A-Z");
    ///     command.stdin(Stdio::piped()).stdout(Stdio::piped());
    ///     let mut process = rondel::create_subprocess_exec(&mut command).await?;
    ///     let (output, errors) = process.communicate("hello").await?;
    ///     assert_eq!((&*output, &*errors), (&b"HELLO"[..], &b""[..]));
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn communicate(&mut self, input: impl AsRef<[u8]>) -> io::Result<(Vec<u8>, Vec<u8>)> {
        if let Some(stdin) = self.stdin.take() {
            stdin.write(input);
        }
        let (output, errors) = {
            let mut output = pin!(read_all(&mut self.stdout));
            let mut errors = pin!(read_all(&mut self.stderr));
            let (mut read_output, mut read_errors) = (None, None);
            poll_fn(|context| {
                if read_output.is_none()
                    && let Poll::Ready(result) = output.as_mut().poll(context)
                {
                    read_output = Some(result);
                }
                if read_errors.is_none()
                    && let Poll::Ready(result) = errors.as_mut().poll(context)
                {
                    read_errors = Some(result);
                }
                match (read_output.take(), read_errors.take()) {
                    (Some(output), Some(errors)) => Poll::Ready((output, errors)),
                    (output, errors) => {
                        (read_output, read_errors) = (output, errors);
                        Poll::Pending
                    }
                }
            })
            .await
        };
        output?;
        errors?;
        self.wait().await?;
        let taken = |reader: &mut Option<StreamReader>| {
            reader
                .take()
                .map_or_else(Vec::new, |mut reader| reader.take_buffered())
        };
        Ok((taken(&mut self.stdout), taken(&mut self.stderr)))
    }

    /// Sends it a signal. Nothing happens if it has been collected.
    ///
    /// # Errors
    /// What `kill` fails with.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let mut process = rondel::create_subprocess_shell("exec sleep 60").await?;
    ///     process.send_signal(libc::SIGTERM)?;
    ///     process.wait().await?;
    ///     assert_eq!(process.returncode(), Some(-libc::SIGTERM));
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn send_signal(&self, signal: i32) -> io::Result<()> {
        let Some(child) = &self.child else {
            return Ok(());
        };
        if child.child.borrow_mut().try_wait()?.is_some() {
            return Ok(());
        }
        let pid = libc::pid_t::try_from(self.pid).unwrap_or(libc::pid_t::MAX);
        // SAFETY: a system call without pointers. The child was not collected, so the number is
        // still its own.
        if unsafe { libc::kill(pid, signal) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Asks it to end: `SIGTERM`.
    ///
    /// # Errors
    /// As [`send_signal`](Self::send_signal).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let mut process = rondel::create_subprocess_shell("exec sleep 60").await?;
    ///     process.terminate()?;
    ///     assert!(!process.wait().await?.success());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn terminate(&self) -> io::Result<()> {
        self.send_signal(libc::SIGTERM)
    }

    /// Ends it: `SIGKILL`.
    ///
    /// # Errors
    /// As [`send_signal`](Self::send_signal).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let mut process = rondel::create_subprocess_shell("exec sleep 60").await?;
    ///     process.kill()?;
    ///     assert!(!process.wait().await?.success());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn kill(&self) -> io::Result<()> {
        self.send_signal(libc::SIGKILL)
    }

    /// Whether it is killed when this is dropped, so that a future that is cancelled leaves no
    /// child: no, if nothing is said.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let mut process = rondel::create_subprocess_shell("exec sleep 60").await?;
    ///     process.kill_on_drop(true);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn kill_on_drop(&mut self, kill: bool) {
        self.kill_on_drop = kill;
    }
}

async fn read_all(reader: &mut Option<StreamReader>) -> io::Result<()> {
    match reader {
        None => Ok(()),
        // Left in the reader's buffer, where it is safe from whatever happens to this future.
        Some(reader) => reader.buffer_to_end().await,
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.kill_on_drop {
            let _ = self.kill();
        }
        let Some(child) = self.child.take() else {
            return;
        };
        if !matches!(child.child.borrow_mut().try_wait(), Ok(None)) {
            return;
        }
        let runs = runtime::try_current(|runtime| !runtime.is_closing());
        if runs == Some(true) {
            create_task(async move {
                let _ = child.wait().await;
            })
            .detach();
        } else if self.kill_on_drop {
            // It takes no time to speak of.
            let _ = child.child.borrow_mut().wait();
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("pid", &self.pid)
            .field("returncode", &self.returncode())
            .finish_non_exhaustive()
    }
}

fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers; the result is checked.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match libc::c_int::try_from(fd) {
        // SAFETY: just made, no other owner. The kernel makes it close-on-exec.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
