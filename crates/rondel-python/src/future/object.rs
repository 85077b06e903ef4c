//! A future as a Python object: finalizer, garbage collection, freelist.

use pyo3::ffi;

use super::{FREE, Future, Rare, State, asyncio_part, is_exact, plain};
use crate::cpython::collected::{Collected, slots};
use crate::cpython::instance_dict::has_dict;
use crate::cpython::nesting::may_end;
use crate::cpython::types::{has_weakrefs, is_fresh};
use crate::cpython::{Native, Object, Owned, Res, Slot, imports, names};
use crate::loop_core::LoopCore;

/// `__del__`: reports an exception that was never retrieved.
pub(crate) fn finalize(future: &Native<Future>) -> Res<()> {
    let this: &Future = future;
    if !this.logs_traceback() {
        return Ok(());
    }
    this.set_log_traceback(false);
    let Some(event_loop) = this.event_loop.cloned() else {
        return Ok(());
    };
    let name = future.object().class_name()?;
    let context = Owned::dict()?;
    let message = format!("{name} exception was never retrieved");
    context.set_item(c"message", &*Owned::from_str(&message)?)?;
    context.set_item(c"exception", &this.result.or_none())?;
    context.set_item(c"future", future.object())?;
    if let Some(traceback) = this.source_traceback() {
        context.set_item(c"source_traceback", &traceback)?;
    }
    event_loop.call_method(&names().call_exception_handler, &[&*context])?;
    Ok(())
}

// SAFETY: every object reference is visited.
unsafe impl Collected for Future {
    const FINALIZED: bool = true;

    slots!(callback, context, result, event_loop);

    /// asyncio's class, whose part of an instance holds the `__dict__`.
    fn base() -> Option<&'static Object> {
        Some(&imports().stock_future)
    }

    fn for_each_other(&self, see: &mut dyn FnMut(&Object)) {
        // A traverse visit runs no foreign code, so nothing needs the box while it is out.
        if let Some(rare) = self.rare.take() {
            rare.for_each(see);
            self.rare.set(Some(rare));
        }
    }

    #[inline]
    fn release_others(&self) {
        drop(self.rare.take());
    }

    #[inline]
    fn release_inherited(this: &Native<Self>) {
        asyncio_part::clear_future(this.asyncio_part());
    }

    #[inline]
    fn may_end_others(this: &Native<Self>) -> bool {
        may_end_others(this)
    }

    #[inline]
    fn needs_finalizer(this: &Native<Self>) -> bool {
        !is_exact(this.object()) || this.logs_traceback()
    }

    #[inline]
    unsafe fn keep(object: *mut ffi::PyObject) -> bool {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let this = Native::<Self>::from_ptr(object);
            this.renew();
            is_exact(this.object()) && is_fresh(object) && FREE.with(|list| list.keep(object))
        }
    }

    fn finalize(future: &Native<Self>) -> Res<()> {
        finalize(future)
    }
}

impl Rare {
    /// Calls `see` for each object held.
    fn for_each(&self, see: &mut dyn FnMut(&Object)) {
        let slots = [
            &self.exception_traceback,
            &self.cancel_message,
            &self.cancelled_error,
            &self.source_traceback,
        ];
        slots.into_iter().filter_map(Slot::get).for_each(&mut *see);
        if let Ok(kept) = self.kept.try_borrow() {
            kept.iter().for_each(|object| see(object));
        }
        if let Ok(callbacks) = self.callbacks.try_borrow() {
            for callback in callbacks.iter() {
                see(&callback.target);
                if let Some(context) = &callback.context {
                    see(context);
                }
            }
        }
    }
}

impl Future {
    /// Calls `see` for each object that the future holds, for the classes that build on it.
    pub(crate) fn for_each(&self, see: &mut dyn FnMut(&Object)) {
        self.for_each_slot(&mut |slot| {
            if let Some(object) = slot.get() {
                see(object);
            }
        });
        self.for_each_other(see);
    }

    /// Resets the state and the flags of an empty future, which is pending then.
    #[inline]
    pub(crate) fn renew(&self) {
        self.state.set(0);
        self.flags.set_all(0);
    }
}

/// Releases all that a future holds.
#[inline]
pub(crate) fn release(this: &Native<Future>) {
    Future::release_inherited(this);
    this.for_each_slot(&mut Slot::clear);
    this.release_others();
}

/// Takes back a finished future that [`super::new_waiter`] made. If no other reference exists, the
/// loop keeps it for the next waiter, which saves a deallocation and an allocation.
#[inline]
pub(crate) fn give_back(future: Owned) {
    // Without the GIL, a reference count of one does not rule out that another thread is taking a
    // reference.
    if cfg!(Py_GIL_DISABLED) || future.refcount() != 1 {
        return;
    }
    let Some(this) = plain(&future) else {
        return;
    };
    // SAFETY: a live native future.
    let plain = this.state() == State::Finished
        && !this.has_failed()
        && this.has_no_rare()
        && unsafe { is_fresh(future.as_ptr()) && !has_weakrefs(&future) && !has_dict(&future) };
    if !plain {
        return;
    }
    let Some(event_loop) = this.event_loop().map(Object::as_ptr) else {
        return;
    };
    // SAFETY: the future holds its loop; once that reference is gone, the caller that runs the loop
    // does.
    let core = LoopCore::of(unsafe { Object::from_ptr(event_loop) });
    let Some(core) = core.filter(|core| core.is_running()) else {
        return;
    };
    asyncio_part::clear_future(this.asyncio_part());
    this.result.clear();
    this.renew();
    core.keep_waiter(future);
}

/// Whether deallocating a future may deallocate objects that it holds.
#[inline]
pub(crate) fn may_end_others(this: &Future) -> bool {
    cfg!(not(Py_3_14))
        && (may_end(this.result.get()) || !this.callback.is_empty() || !this.has_no_rare())
}
