//! The handle of `call_soon_threadsafe`, from 3.14 on: while its callback runs, `cancel()` and `cancelled()` of other
//! threads wait. Who has cancelled it may then rely on the callback not being at work.
//!
//! asyncio takes a lock for each run. Here whoever has to wait makes one, which is released when the run is over: a
//! run that nobody waits for costs two stores. All of it relies on the interpreter's lock, see `lib.rs`.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::{Handle, OFFSET, THREAD_SAFE, cancel, class, fields, fill_new};
use crate::cpython::error::with_exception_kept;
use crate::cpython::method::{Method, method};
use crate::cpython::names::import;
use crate::cpython::types::{TypeBuilder, allocate};
use crate::cpython::{Object, Owned, Raised, Res, Slot, imports};
use crate::loop_core::item::Exit;
use crate::loop_core::this_thread;

/// A handle's fields, and those of such a one behind them. All zero is a valid, empty one.
#[repr(C)]
struct ThreadSafe {
    handle: Handle,
    /// The thread that runs the callback; 0 if none does.
    runner: Cell<u64>,
    /// A lock that is held until the run is over, if anybody waits for that.
    ended: Slot,
}

pub(super) static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// The fields of a handle with the flag `THREAD_SAFE`, which only instances of the class have.
#[inline]
fn thread_safe(handle: &Object) -> &ThreadSafe {
    debug_assert!(fields(handle).flags.get() & THREAD_SAFE != 0);
    // SAFETY: instances of the class have these fields at this offset.
    unsafe {
        &*handle
            .as_ptr()
            .byte_add(OFFSET.load(Ordering::Relaxed))
            .cast::<ThreadSafe>()
    }
}

/// As [`super::new_handle`].
pub(crate) fn new(
    event_loop: &Object,
    callback: &Object,
    args: &[&Object],
    context: Option<&Object>,
) -> Res<Owned> {
    // SAFETY: all-zero fields are valid.
    let handle = unsafe { allocate(CLASS.load(Ordering::Relaxed))? };
    fill_new(&handle, event_loop, callback, args, context, THREAD_SAFE)?;
    Ok(handle)
}

/// Has `run` run the callback, unless it was cancelled while another thread ran it.
pub(super) fn run(handle: &Object, run: impl FnOnce() -> ControlFlow<Exit>) -> ControlFlow<Exit> {
    if let Err(raised) = wait(handle) {
        return ControlFlow::Break(Exit::Raised(raised));
    }
    if fields(handle).is_cancelled() {
        return ControlFlow::Continue(());
    }
    let this = thread_safe(handle);
    let outer = this.runner.replace(this_thread());
    let outcome = run();
    this.runner.set(outer);
    match this.ended.take() {
        Some(lock) if outer == 0 => release(&lock, outcome),
        Some(lock) => {
            this.ended.set(lock);
            outcome
        }
        None => outcome,
    }
}

/// Lets those go on who wait for the run, which may have left an exception.
#[cold]
fn release(lock: &Object, outcome: ControlFlow<Exit>) -> ControlFlow<Exit> {
    let release = || call(lock, "release");
    let released = match outcome {
        ControlFlow::Break(Exit::Raised(Raised)) => Err(with_exception_kept(release)),
        _ => release(),
    };
    match released {
        Ok(()) => outcome,
        Err(raised) => ControlFlow::Break(Exit::Raised(raised)),
    }
}

fn call(lock: &Object, method: &str) -> Res<()> {
    lock.call_method(&*Owned::from_str(method)?, &[]).map(drop)
}

/// Waits until no other thread runs the callback.
fn wait(handle: &Object) -> Res<()> {
    let this = thread_safe(handle);
    while ![0, this_thread()].contains(&this.runner.get()) {
        let lock = match this.ended.cloned() {
            Some(lock) => lock,
            None => {
                let new = import("threading")?.call_method(&*Owned::from_str("Lock")?, &[])?;
                call(&new, "acquire")?;
                if this.runner.get() == 0 || !this.ended.is_empty() {
                    // Other threads have run meanwhile.
                    continue;
                }
                this.ended.set(new.clone());
                new
            }
        };
        call(&lock, "acquire")?;
        call(&lock, "release")?;
    }
    Ok(())
}

fn cancel_method(handle: &Object) -> Res<Owned> {
    wait(handle)?;
    cancel(handle)
}

fn cancelled(handle: &Object) -> Res<Owned> {
    wait(handle)?;
    Ok(Owned::from_bool(fields(handle).is_cancelled()))
}

fn methods() -> [Method; 3] {
    [
        method!(noargs c"_run" class::run_method, c"Calls the callback in its context."),
        method!(noargs c"cancel" cancel_method, c"Prevents the callback from being called. Waits while another thread runs it."),
        method!(noargs c"cancelled" cancelled, c"Whether cancel() was called. Waits while another thread runs the callback."),
    ]
}

/// What an instance holds besides what every handle does: nothing that can be part of a cycle.
pub(super) fn clear(handle: &Object) {
    thread_safe(handle).ended.clear();
}

/// Makes the class; it is for the loop alone, as asyncio's.
pub(super) fn init_type() -> Res<Owned> {
    let name = Owned::from_str("_ThreadSafeHandle")?;
    // A private name, which a release may lack.
    let base = import("asyncio.events")?.getattr_optional(&name)?;
    let base = base.unwrap_or_else(|| imports().stock_handle.clone());
    let offset = OFFSET.load(Ordering::Relaxed);
    // Of two methods of a name the first one counts.
    let builder = TypeBuilder::new::<ThreadSafe>(c"rondel._ThreadSafeHandle", Some(&base), offset)
        .not_instantiable()
        .doc(c"A callback that was scheduled by call_soon_threadsafe().")
        .methods(methods());
    let class = class::common(builder).build()?;
    CLASS.store(class.clone().into_ptr().cast(), Ordering::Relaxed);
    Ok(class)
}
