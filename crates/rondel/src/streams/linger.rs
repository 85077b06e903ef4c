//! What is still to be sent when nobody is left to wait for it.
//!
//! There are two such moments. A connection of which both halves are dropped goes on by itself, and
//! a peer that takes nothing would keep it, its bytes and its descriptor for ever: [`attend`] sees
//! to it that something is taken within each linger time. And when a run is over no loop will send
//! anything any more: [`end_of_run`] does it, for one linger time at most. What is given up is
//! reported.
//!
//! On a virtual clock, which would jump to the end of the linger time at once, nothing is given up
//! before the end of the run; that one waits in real time, as sending takes.

use std::future::poll_fn;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::connection::Connection;
use crate::exceptions::call_exception_handler;
use crate::runtime::{Runtime, Source};
use crate::signal::Interrupts;
use crate::task::create_task;
use crate::time_limit::timeout;

/// How long is waited for a peer that takes nothing, unless the program sets it.
pub(crate) const DEFAULT: Duration = Duration::from_secs(10);

/// Sees to it that a connection which nobody has any more comes to its end.
pub(super) fn attend(runtime: &Runtime, connection: &Rc<Connection>) {
    // At the end of a run all connections are looked after together.
    if !runtime.is_closing() && runtime.event_loop.clock().is_real() {
        create_task(wait(Rc::clone(connection), runtime.linger())).detach();
    }
}

async fn wait(connection: Rc<Connection>, linger: Duration) {
    loop {
        let before = connection.untaken();
        let over = poll_fn(|context| match connection.is_closed(context) {
            Ok(false) => Poll::Pending,
            Ok(true) | Err(_) => Poll::Ready(()),
        });
        if timeout(linger, over).await.is_ok() {
            return;
        }
        if connection.untaken() >= before {
            give_up(&connection);
            connection.abort();
            return;
        }
    }
}

fn give_up(connection: &Connection) {
    let unsent = connection.write_buffer_size();
    let peer = match connection.peer().and_then(|peer| peer.as_socket()) {
        Some(address) => format!(" to {address}"),
        None => String::new(),
    };
    call_exception_handler(
        "Connection closed before everything was sent",
        &format_args!("{unsent} bytes{peer} were not taken within the linger time"),
    );
}

/// The tasks are gone: closes the servers, and sends what is written.
pub(crate) fn end_of_run(runtime: &Runtime) {
    let mut listeners = Vec::new();
    let mut waiting: Vec<Rc<Connection>> = Vec::new();
    let mut watched = Vec::new();
    let mut interrupts = false;
    runtime.event_loop.for_each_source(|source| match source {
        Source::Listener(listener) => listeners.push(Rc::clone(listener)),
        // Registered for either side, and to be looked at once.
        Source::Stream(connection) => {
            if connection.is_blocked() && connection.mark_lingering() {
                waiting.push(Rc::clone(connection));
            }
        }
        Source::Interrupt => interrupts = true,
        Source::Descriptor(descriptor) => watched.push(Rc::clone(descriptor)),
        Source::Connecting(_) | Source::TimerFd(_) => {}
    });
    // Pipes that nobody has but the loop, which goes on with what they have to write.
    for descriptor in watched {
        descriptor.forget();
    }
    for listener in listeners {
        listener.close_server();
    }
    let interrupt = interrupts.then(Interrupts::fd);
    // No deadline at all, if it is further away than time goes.
    let deadline = Instant::now().checked_add(runtime.linger());
    while !waiting.is_empty() {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) || !send(&waiting, left, interrupt) {
            break;
        }
        waiting.retain(|connection| connection.is_blocked());
    }
    for connection in waiting {
        give_up(&connection);
    }
}

/// Waits once for what can be sent, and sends it. `false`: it is no use to go on.
fn send(waiting: &[Rc<Connection>], left: Option<Duration>, interrupt: Option<RawFd>) -> bool {
    let asked = |fd, events| libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    let mut ready: Vec<_> = waiting
        .iter()
        .map(|connection| asked(connection.fd(), libc::POLLOUT))
        .collect();
    ready.extend(interrupt.map(|fd| asked(fd, libc::POLLIN)));
    let milliseconds = left.map_or(-1, |left| {
        i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX)
    });
    // SAFETY: so many descriptors are described.
    let count = unsafe { libc::poll(ready.as_mut_ptr(), ready.len() as _, milliseconds) };
    if count < 0 {
        // A signal may have nothing to do with us.
        return io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
    }
    let mut ready = ready.into_iter().map(|asked| asked.revents != 0);
    for connection in waiting {
        if ready.next() == Some(true) {
            connection.send_queued();
        }
    }
    // Ctrl-C: who is waiting wants it to end. What it does then, is the signal's business.
    ready.next() != Some(true)
}
