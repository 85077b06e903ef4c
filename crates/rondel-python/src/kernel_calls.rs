//! What Python has that reaches the kernel past a transport, or ends the process: before such a
//! function runs, what the running turn has written is sent.
//!
//! A program may know the descriptor behind a transport: by `get_extra_info("socket")`, because it
//! has made the socket itself, or by a copy of it. It may hold the peer's end, or send from another
//! thread what the peer is to see later. And it may exec, exit or kill itself. With asyncio, what
//! was written before is with the kernel by then. So each of these functions is preceded by a look
//! at whether anything waits, of any loop, and that is sent early (`loop_core/written.rs`). The
//! look is one load; the functions are system calls.
//!
//! What reaches the kernel otherwise (C code of others, a lock, shared memory) is left to the
//! monitor.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::cpython::definition::{Preceded, preceded};
use crate::cpython::error::{restore, take_exception};
use crate::cpython::names::import;
use crate::cpython::{Object, Owned, Res};
use crate::monitor;
use pyo3::ffi;

/// Set while the next call of such a function is one that is no reason to send.
static OURS: AtomicBool = AtomicBool::new(false);

#[inline]
fn first() {
    if monitor::any_armed() && !OURS.swap(false, Ordering::Relaxed) {
        monitor::act_now();
    }
}

/// The kernel refuses some of what these do to a process of several threads; the monitor is the
/// only one a program did not make.
fn alone() {
    monitor::pause();
}

/// Makes a call of one of these functions, and of nothing else, before which nothing need be sent.
pub(crate) fn unpreceded<R>(call: impl FnOnce() -> R) -> R {
    // Otherwise it would still be set when the call lets other threads run.
    OURS.store(monitor::any_armed(), Ordering::Relaxed);
    let result = call();
    OURS.store(false, Ordering::Relaxed);
    result
}

/// Functions of modules.
fn functions() -> [(&'static str, Vec<Preceded>); 6] {
    [
        (
            "posix",
            Vec::from(preceded!(first;
                // The end of the process, or of the program in it.
                "_exit", "abort", "execv", "execve", "kill", "killpg",
                // Other processes.
                "posix_spawn", "posix_spawnp", "system",
                // Descriptors.
                "close", "closerange", "dup", "dup2", "read", "readv", "sendfile", "splice",
                "write", "writev",
            )),
        ),
        ("posix", Vec::from(preceded!(alone; "setns", "unshare"))),
        (
            "signal",
            Vec::from(preceded!(first; "pthread_kill", "raise_signal")),
        ),
        ("_posixsubprocess", Vec::from(preceded!(first; "fork_exec"))),
        ("fcntl", Vec::from(preceded!(first; "fcntl", "ioctl"))),
        ("_socket", Vec::from(preceded!(first; "close", "dup"))),
    ]
}

/// Methods of classes.
fn methods() -> [(&'static str, &'static str, Vec<Preceded>); 2] {
    [
        (
            "_socket",
            "socket",
            Vec::from(preceded!(first;
                "close", "connect", "connect_ex", "detach", "getsockopt", "recv", "recv_into",
                "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into", "send", "sendall",
                "sendmsg", "sendmsg_afalg", "sendto", "setsockopt", "shutdown",
            )),
        ),
        (
            // These let other threads run while OpenSSL is at work, among them the monitor, which
            // would have it encrypt for the same connection.
            "_ssl",
            "_SSLSocket",
            Vec::from(preceded!(first;
                "do_handshake", "read", "shutdown", "verify_client_post_handshake", "write",
            )),
        ),
    ]
}

/// Puts what is above before these functions; those that the running interpreter doesn't have are
/// left out. A second call does nothing.
pub(crate) fn init() -> Res<()> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    for (module, functions) in functions() {
        if let Some(module) = optional(import(module))? {
            put_before(&module, &functions)?;
        }
    }
    for (module, class, methods) in methods() {
        if let Some(module) = optional(import(module))?
            && let Some(class) = module.getattr_optional(&*Owned::from_str(class)?)?
        {
            put_before(&class, &methods)?;
        }
    }
    Ok(())
}

fn put_before(holder: &Object, functions: &[Preceded]) -> Res<()> {
    for function in functions {
        if let Some(found) = holder.getattr_optional(&*Owned::from_str(function.name)?)? {
            function.put_before(&found);
        }
    }
    Ok(())
}

/// A module that this interpreter may not have.
fn optional(module: Res<Owned>) -> Res<Option<Owned>> {
    module.map(Some).or_else(|_| {
        let exception = take_exception();
        // SAFETY: a built-in class lives as long as the interpreter.
        let import_error = unsafe { Object::from_ptr(ffi::PyExc_ImportError) };
        match exception.is_instance(import_error)? {
            true => Ok(None),
            false => Err(restore(exception)),
        }
    })
}
