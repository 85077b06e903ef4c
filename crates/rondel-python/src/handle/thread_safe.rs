//! The handle of `call_soon_threadsafe`, from 3.14 on. While its callback runs, `cancel()` and
//! `cancelled()` block in other threads. Once `cancel()` has returned, the callback is not running.
//!
//! asyncio takes a lock for each run. Here a thread that must wait creates the lock, which is
//! released when the run ends; a run without waiters costs two stores. All of this relies on the
//! GIL, see `lib.rs`.

use std::cell::Cell;
use std::ops::ControlFlow;

use super::{Handle, THREAD_SAFE, cancel, class, fill_new};
use crate::cpython::error::with_exception_kept;
use crate::cpython::method::{Method, method};
use crate::cpython::names::import;
use crate::cpython::types::{TypeBuilder, allocate};
use crate::cpython::{
    Class, Fields, Native, NativeClass, Object, Owned, OwnedNative, Raised, Res, Slot, imports,
};
use crate::loop_core::item::Exit;
use crate::loop_core::this_thread;

/// The fields of a handle, followed by those of this class. All-zero fields are a valid, empty
/// handle.
#[repr(C)]
struct ThreadSafe {
    handle: Handle,
    /// The thread that runs the callback; 0 if none does.
    runner: Cell<u64>,
    /// A lock that is held until the run ends, if a thread waits for that.
    ended: Slot,
}

pub(super) static CLASS: Class = Class::new();

// SAFETY: the class is made with the fields at this offset, the first of which are a handle's.
unsafe impl Fields for ThreadSafe {
    #[inline]
    fn offset() -> usize {
        Handle::offset()
    }
}

// SAFETY: as above.
unsafe impl NativeClass for ThreadSafe {
    #[inline]
    fn class() -> &'static Class {
        &CLASS
    }
}

impl Native<ThreadSafe> {
    /// The same object as a handle.
    fn as_handle(&self) -> &Native<Handle> {
        // SAFETY: the first of its fields are a handle's.
        unsafe { self.object().known() }
    }
}

/// The fields of a handle with the flag `THREAD_SAFE`, which only instances of this class have.
#[inline]
fn thread_safe(handle: &Native<Handle>) -> &Native<ThreadSafe> {
    debug_assert!(handle.flags.has(THREAD_SAFE));
    // SAFETY: the flag is set in instances of this class only.
    unsafe { handle.object().known() }
}

/// Like [`super::new_handle`].
pub(crate) fn new(
    event_loop: &Object,
    callback: &Object,
    args: &[&Object],
    context: Option<&Object>,
) -> Res<OwnedNative<Handle>> {
    // SAFETY: all-zero fields are valid, and an instance of the class has a handle's fields.
    let handle: OwnedNative<Handle> = unsafe { OwnedNative::new(allocate(CLASS.as_ptr())?) };
    fill_new(&handle, event_loop, callback, args, context, THREAD_SAFE)?;
    Ok(handle)
}

/// Runs the callback by `run`, unless it was cancelled while another thread ran it.
pub(super) fn run(
    handle: &Native<Handle>,
    run: impl FnOnce() -> ControlFlow<Exit>,
) -> ControlFlow<Exit> {
    let this = thread_safe(handle);
    if let Err(raised) = wait(this) {
        return ControlFlow::Break(Exit::Raised(raised));
    }
    if handle.is_cancelled() {
        return ControlFlow::Continue(());
    }
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

/// Releases the threads that wait for the run, and keeps an exception that it has set.
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
fn wait(this: &ThreadSafe) -> Res<()> {
    while ![0, this_thread()].contains(&this.runner.get()) {
        let lock = match this.ended.cloned() {
            Some(lock) => lock,
            None => {
                let new = import("threading")?.call_method(&*Owned::from_str("Lock")?, &[])?;
                call(&new, "acquire")?;
                if this.runner.get() == 0 || !this.ended.is_empty() {
                    // Other threads have run in the meantime.
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

fn run_method(this: &Native<ThreadSafe>) -> Res<Owned> {
    class::run_method(this.as_handle())
}

fn cancel_method(this: &Native<ThreadSafe>) -> Res<Owned> {
    wait(this)?;
    cancel(this.as_handle())
}

fn cancelled(this: &Native<ThreadSafe>) -> Res<Owned> {
    wait(this)?;
    Ok(Owned::from_bool(this.handle.is_cancelled()))
}

fn methods() -> [Method; 3] {
    [
        method!(noargs c"_run" run_method, c"Calls the callback in its context."),
        method!(noargs c"cancel" cancel_method, c"Cancels the callback. Waits while another thread runs it."),
        method!(noargs c"cancelled" cancelled, c"Whether cancel() was called. Waits while another thread runs the callback."),
    ]
}

/// Clears what an instance holds besides a handle's fields. It can't be part of a cycle.
pub(super) fn clear(handle: &Native<Handle>) {
    thread_safe(handle).ended.clear();
}

/// Makes the class. Only the loop can instantiate it, as in asyncio.
pub(super) fn init_type() -> Res<Owned> {
    let name = Owned::from_str("_ThreadSafeHandle")?;
    // A private name, which a release may lack.
    let base = import("asyncio.events")?.getattr_optional(&name)?;
    let base = base.unwrap_or_else(|| imports().stock_handle.clone());
    let offset = Handle::offset();
    // If a name occurs twice, the first method counts.
    let builder = TypeBuilder::new::<ThreadSafe>(c"rondel._ThreadSafeHandle", Some(&base), offset)
        .not_instantiable()
        .doc(c"A callback that was scheduled by call_soon_threadsafe().")
        .methods(methods());
    let class = class::common(builder).build()?;
    CLASS.set(&class);
    Ok(class)
}
