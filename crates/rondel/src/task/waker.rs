//! The waker of a task, as the standard library wants it: a header's address and four functions.
//!
//! A step's waker is borrowed: it costs nothing to make. A clone holds a share of the task. Waking
//! looks at which thread it is on: the loop's own goes straight to the ready ring, any other
//! through the inbox.

use std::ptr::NonNull;
use std::task::{RawWaker, RawWakerVTable, Waker};

use super::header::Header;

/// One address for all tasks, by which their wakers are known.
static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop);

/// A waker's content. It owns nothing: see the users.
pub(super) fn raw(header: NonNull<Header>) -> RawWaker {
    RawWaker::new(header.as_ptr().cast_const().cast(), &VTABLE)
}

/// The task that a waker wakes, if the waker is a task's and this thread runs that task's loop.
#[inline]
pub(super) fn local_task(waker: &Waker) -> Option<NonNull<Header>> {
    if !std::ptr::eq(waker.vtable(), &VTABLE) {
        return None;
    }
    let header = NonNull::new(waker.data().cast_mut().cast::<Header>())?;
    // SAFETY: with this table the data is a header, kept alive by the waker.
    unsafe { header.as_ref() }.is_local().then_some(header)
}

/// # Safety
/// `data` is a header that is alive.
unsafe fn header<'a>(data: *const ()) -> &'a Header {
    // SAFETY: the caller's promise.
    unsafe { &*data.cast::<Header>() }
}

unsafe fn clone(data: *const ()) -> RawWaker {
    // SAFETY: the waker that is cloned keeps the header alive.
    unsafe { header(data) }.retain();
    RawWaker::new(data, &VTABLE)
}

unsafe fn wake(data: *const ()) {
    // SAFETY: the waker's own share, given up by `drop`.
    unsafe {
        header(data).wake();
        drop(data);
    }
}

unsafe fn wake_by_ref(data: *const ()) {
    // SAFETY: the waker keeps the header alive.
    unsafe { header(data) }.wake();
}

unsafe fn drop(data: *const ()) {
    // SAFETY: the share that `clone` took; never called for a step's borrowed waker.
    unsafe { Header::release(NonNull::new_unchecked(data.cast_mut().cast())) };
}
