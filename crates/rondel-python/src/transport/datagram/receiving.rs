//! What happens when a datagram transport's descriptor can be read.
//!
//! What waits comes in batches, by one system call, and all of a batch is taken out of the shared memory before the protocol
//! hears of any of it: a callback may run the loop, pause reading, or close. What can't be delivered then is kept.

use std::cell::RefCell;

use rondel_engine::transport::recv_batch::{self, RecvBatch};

use super::closing::fatal_error;
use super::destination::to_python;
use super::{DELIVERING, Datagram, WATCHED_FOR_READING, fields, start_reading, unwatch};
use crate::cpython::error::{os_error, restore, take_exception};
use crate::cpython::method::{Method, method};
use crate::cpython::{Object, Owned, Raised, Res, context};
use crate::loop_core::item::Kind;
use crate::loop_core::{LoopCore, is_debug};
use crate::transport::loop_calls::{debug_in_log, report_callback, take_unless_exit};
use crate::transport::names::names;

thread_local! {
    static BATCH: RefCell<RecvBatch> = RefCell::default();
}

/// The descriptor can be read.
#[inline]
pub(in crate::transport) fn read_ready(transport: &Object) -> Res<()> {
    let this = fields(transport);
    if !this.has(WATCHED_FOR_READING) || this.is_lost() {
        return Ok(());
    }
    in_context(transport, read)
}

/// Runs `body` in the transport's context.
fn in_context(transport: &Object, body: impl FnOnce(&Object) -> Res<()>) -> Res<()> {
    match fields(transport).context.cloned() {
        None => body(transport),
        Some(own) => {
            context::enter(&own)?;
            let result = body(transport);
            context::exit(&own).and(result)
        }
    }
}

type Datagrams = [Option<(Owned, Owned)>; recv_batch::BATCH];

/// Takes what waits out of the kernel.
fn receive(this: &Datagram, into: &mut Datagrams) -> Res<recv_batch::Received> {
    let several = this.family.get() != libc::AF_UNIX;
    BATCH.with_borrow_mut(|batch| {
        let received = batch.receive(this.fd.get(), several);
        if let recv_batch::Received::Datagrams(count) = received {
            for (index, place) in into.iter_mut().enumerate().take(count) {
                let (bytes, from) = batch.datagram(index);
                *place = Some((Owned::from_bytes(bytes)?, to_python(this, from)?));
            }
        }
        Ok(received)
    })
}

fn read(transport: &Object) -> Res<()> {
    let this = fields(transport);
    let mut batch = Datagrams::default();
    match receive(this, &mut batch) {
        Ok(recv_batch::Received::Datagrams(count)) => {
            let mut batch = batch.into_iter().take(count).flatten();
            while let Some((data, from)) = batch.next() {
                if let Err(Raised) = deliver(transport, this, &data, &from) {
                    keep(transport, this, batch)?;
                    return Err(Raised);
                }
                if !this.has(WATCHED_FOR_READING) {
                    return keep(transport, this, batch);
                }
            }
            Ok(())
        }
        Ok(recv_batch::Received::Blocked) => Ok(()),
        Ok(recv_batch::Received::Failed(error)) => error_received(this, &*os_error(&error)?),
        Err(Raised) => {
            let exception = take_unless_exit()?;
            let message = "Fatal read error on datagram transport";
            fatal_error(transport, &exception, message)
        }
    }
}

/// Tells the protocol. What it raises is reported here, as others may wait behind; only an exception that ends the loop
/// comes out.
#[inline]
fn deliver(transport: &Object, this: &Datagram, data: &Object, from: &Object) -> Res<()> {
    let owner = this.protocol.or_none();
    match owner.call_method(&names().datagram_received, &[data, from]) {
        Ok(_) => Ok(()),
        Err(Raised) => report_callback(transport, this.event_loop(), "_read_ready"),
    }
}

/// `protocol.error_received(exception)`.
pub(super) fn error_received(this: &Datagram, exception: &Object) -> Res<()> {
    let owner = this.protocol.or_none();
    owner
        .call_method(&names().error_received, &[exception])
        .map(drop)
}

/// Keeps what was received until it is wanted. A transport that was closed wants no more.
#[cold]
fn keep(
    transport: &Object,
    this: &Datagram,
    rest: impl Iterator<Item = (Owned, Owned)>,
) -> Res<()> {
    if this.datagrams.borrow().is_closing() {
        return Ok(());
    }
    let rest: Vec<_> = rest.collect();
    this.undelivered.borrow_mut().extend(rest);
    deliver_later(transport, this);
    Ok(())
}

/// Sees to it that what was kept is delivered, if it is wanted now.
fn deliver_later(transport: &Object, this: &Datagram) {
    let wanted = this.datagrams.borrow().is_reading() && !this.undelivered.borrow().is_empty();
    if wanted
        && !this.has(DELIVERING)
        && let Some(event_loop) = this.event_loop()
        && let Some(core) = LoopCore::of(&event_loop)
        && !core.is_closed()
    {
        this.set(DELIVERING, true);
        core.push_surely(Kind::Deferred, transport.own());
    }
}

/// The deferred delivery of what was kept.
pub(super) fn deliver_kept(transport: &Object) -> Res<()> {
    fields(transport).set(DELIVERING, false);
    in_context(transport, |transport| {
        let this = fields(transport);
        while this.datagrams.borrow().is_reading() {
            let next = this.undelivered.borrow_mut().pop_front();
            let Some((data, from)) = next else {
                // The kernel is asked again only now, so that nothing is overtaken.
                return start_reading(transport);
            };
            if let Err(Raised) = deliver(transport, this, &data, &from) {
                let exception = take_exception();
                deliver_later(transport, this);
                return Err(restore(exception));
            }
        }
        Ok(())
    })
}

// ---- methods ----

fn is_reading(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).datagrams.borrow().is_reading(),
    ))
}

fn log_in_debug(this: &Datagram, format: &str, transport: &Object) -> Res<()> {
    if let Some(event_loop) = this.event_loop()
        && is_debug(&event_loop)?
    {
        debug_in_log(format, &[transport])?;
    }
    Ok(())
}

fn pause_reading(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    let paused = this.datagrams.borrow_mut().pause_reading();
    if paused {
        unwatch(this, WATCHED_FOR_READING);
        log_in_debug(this, "%r pauses reading", transport)?;
    }
    Ok(Owned::none())
}

fn resume_reading(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    let resumed = this.datagrams.borrow_mut().resume_reading();
    if resumed {
        this.context.set(context::copy_current()?);
        let kept = !this.undelivered.borrow().is_empty();
        match kept {
            true => deliver_later(transport, this),
            false => start_reading(transport)?,
        }
        log_in_debug(this, "%r resumes reading", transport)?;
    }
    Ok(Owned::none())
}

fn read_ready_method(transport: &Object) -> Res<Owned> {
    if !fields(transport).is_lost() {
        read(transport)?;
    }
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"is_reading" is_reading, c"Whether datagrams that come are passed to the protocol."),
        method!(noargs c"pause_reading" pause_reading, c"Passes nothing to the protocol until resume_reading()."),
        method!(noargs c"resume_reading" resume_reading, c"Passes datagrams to the protocol again."),
        method!(noargs c"_read_ready" read_ready_method, c"The socket can be read."),
    ]
}
