//! What happens when a datagram transport's descriptor can be read.
//!
//! Datagrams are received in batches, by one system call. A whole batch is copied out of the shared
//! memory before the protocol is called, since a callback may run the loop, pause reading, or
//! close. What cannot be delivered then is kept.

use std::cell::RefCell;

use rondel_engine::transport::recv_batch::{self, RecvBatch};

use super::destination::to_python;
use super::{DELIVERING, Datagram};
use crate::cpython::error::{os_error, restore, take_exception};
use crate::cpython::method::{Method, method};
use crate::cpython::native::Native;
use crate::cpython::{Object, Owned, Raised, Res, names};
use crate::loop_core::LoopCore;
use crate::loop_core::item::Kind;
use crate::transport::base::{WATCHED_FOR_READING, in_context, start_reading};
use crate::transport::ending::fatal_error;
use crate::transport::loop_calls::{report_callback, take_unless_exit};

thread_local! {
    static BATCH: RefCell<RecvBatch> = RefCell::default();
}

/// The descriptor can be read.
#[inline]
pub(super) fn read_ready(this: &Native<Datagram>) -> Res<()> {
    if !this.has(WATCHED_FOR_READING) || this.is_lost() {
        return Ok(());
    }
    in_context(this.context.cloned(), || read(this))
}

type Datagrams = [Option<(Owned, Owned)>; recv_batch::BATCH];

/// Takes what waits out of the kernel.
fn receive(this: &Datagram, into: &mut Datagrams) -> Res<recv_batch::Received> {
    let several = this.end.family.get() != libc::AF_UNIX;
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

fn read(this: &Native<Datagram>) -> Res<()> {
    let mut batch = Datagrams::default();
    match receive(this, &mut batch) {
        Ok(recv_batch::Received::Datagrams(count)) => {
            let mut batch = batch.into_iter().take(count).flatten();
            while let Some((data, from)) = batch.next() {
                if let Err(Raised) = deliver(this, &data, &from) {
                    keep(this, batch)?;
                    return Err(Raised);
                }
                if !this.has(WATCHED_FOR_READING) {
                    return keep(this, batch);
                }
            }
            Ok(())
        }
        Ok(recv_batch::Received::Blocked) => Ok(()),
        Ok(recv_batch::Received::Failed(error)) => error_received(this, &*os_error(&error)?),
        Err(Raised) => {
            let exception = take_unless_exit()?;
            let message = "Fatal read error on datagram transport";
            fatal_error(this, &exception, message)
        }
    }
}

/// Calls the protocol. An exception is reported here, as more datagrams may follow; only one that
/// ends the loop is returned.
#[inline]
fn deliver(this: &Native<Datagram>, data: &Object, from: &Object) -> Res<()> {
    let owner = this.protocol.or_none();
    match owner.call_method(&names().datagram_received, &[data, from]) {
        Ok(_) => Ok(()),
        Err(Raised) => report_callback(this.object(), this.event_loop.cloned(), "_read_ready"),
    }
}

/// `protocol.error_received(exception)`.
pub(super) fn error_received(this: &Datagram, exception: &Object) -> Res<()> {
    let owner = this.protocol.or_none();
    owner
        .call_method(&names().error_received, &[exception])
        .map(drop)
}

/// Keeps what was received until reading is resumed; drops it if the transport is closing.
#[cold]
fn keep(this: &Native<Datagram>, rest: impl Iterator<Item = (Owned, Owned)>) -> Res<()> {
    if this.end.datagrams.borrow().is_closing() {
        return Ok(());
    }
    let rest: Vec<_> = rest.collect();
    this.end.undelivered.borrow_mut().extend(rest);
    deliver_later(this);
    Ok(())
}

/// Schedules the delivery of what was kept, unless reading is paused.
fn deliver_later(this: &Native<Datagram>) {
    let wanted = this.end.datagrams.borrow().intake.is_reading()
        && !this.end.undelivered.borrow().is_empty();
    if wanted
        && !this.has(DELIVERING)
        && let Some(event_loop) = this.event_loop.cloned()
        && let Some(core) = LoopCore::of(&event_loop)
        && !core.is_closed()
    {
        this.set(DELIVERING, true);
        core.push_surely(Kind::Deferred, this.own().into_owned());
    }
}

/// The deferred delivery of what was kept.
pub(super) fn deliver_kept(this: &Native<Datagram>) -> Res<()> {
    this.set(DELIVERING, false);
    in_context(this.context.cloned(), || {
        while this.end.datagrams.borrow().intake.is_reading() {
            let next = this.end.undelivered.borrow_mut().pop_front();
            let Some((data, from)) = next else {
                // Only now may more be received, to keep the order.
                return start_reading(this);
            };
            if let Err(Raised) = deliver(this, &data, &from) {
                let exception = take_exception();
                deliver_later(this);
                return Err(restore(exception));
            }
        }
        Ok(())
    })
}

// ---- methods ----

/// Reading was resumed: delivers first what was kept.
pub(super) fn resumed(this: &Native<Datagram>) -> Res<()> {
    let kept = !this.end.undelivered.borrow().is_empty();
    match kept {
        true => deliver_later(this),
        false => start_reading(this)?,
    }
    Ok(())
}

fn read_ready_method(this: &Native<Datagram>) -> Res<Owned> {
    if !this.is_lost() {
        read(this)?;
    }
    Ok(Owned::none())
}

pub(super) fn methods() -> Vec<Method> {
    vec![method!(noargs c"_read_ready" read_ready_method, c"The socket can be read.")]
}
