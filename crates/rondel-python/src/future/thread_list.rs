//! The interpreter's own list of a thread's tasks, from CPython 3.14 on.
//!
//! `_asyncio._register_task` puts a task at the end of a ring of nodes whose head is in the
//! thread's state; `_asyncio._unregister_task` takes it out. Each costs ten times what it does, as
//! a function of Python's. So where the head is, is found out at import, with two tasks of
//! asyncio's own, and the links are set here. If the two do not lie as expected, and in builds
//! without the GIL, where the ring has one of its own, the functions are called.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi;

use super::asyncio_part;
use crate::cpython::{Object, Owned};

/// The interpreter's `struct llist_node`. Null in a task that is in no list.
#[repr(C)]
pub(crate) struct Node {
    next: Cell<*const Node>,
    previous: Cell<*const Node>,
}

/// Where a `PyThreadState` has the head, in bytes; 0 if that is not known.
static HEAD: AtomicUsize = AtomicUsize::new(0);
/// A thread's state with all that is behind its public part is not larger, in bytes.
const MOST: usize = 64 * 1024;

/// Whether it is known.
pub(crate) fn is_found() -> bool {
    HEAD.load(Ordering::Relaxed) != 0
}

/// This thread's head, if it is known where that is.
#[inline]
fn head() -> Option<&'static Node> {
    let offset = HEAD.load(Ordering::Relaxed);
    if cfg!(Py_GIL_DISABLED) || offset == 0 {
        return None;
    }
    // SAFETY: the GIL is held. `find` has seen the head at that offset; it is used while the
    // thread, which is this one, lives.
    Some(unsafe { &*ffi::PyThreadState_Get().byte_add(offset).cast::<Node>() })
}

/// Puts a task of ours at the end of this thread's list, unless it is in one. Answers whether that
/// could be done.
#[inline]
pub(crate) fn link(task: &Object) -> bool {
    let (Some(head), Some(node)) = (head(), asyncio_part::node(task)) else {
        return false;
    };
    if node.next.get().is_null() {
        let last = head.previous.get();
        node.previous.set(last);
        node.next.set(head);
        // SAFETY: the head's neighbours are the nodes of live tasks, or the head itself.
        unsafe { (*last).next.set(node) };
        head.previous.set(node);
    }
    true
}

/// Takes a task that is in a list, whichever, out of it. Answers whether that could be done.
#[inline]
pub(crate) fn unlink(task: &Object) -> bool {
    let (Some(_), Some(node)) = (head(), asyncio_part::node(task)) else {
        return false;
    };
    let (next, previous) = (node.next.get(), node.previous.get());
    // SAFETY: as in `link`; the list's owner outlives its nodes' links.
    unsafe {
        (*previous).next.set(next);
        (*next).previous.set(previous);
    }
    node.next.set(ptr::null());
    node.previous.set(ptr::null());
    true
}

/// Finds the head by the last two tasks in this thread's list, which are asyncio's own. Once, at
/// import.
pub(crate) fn find(tasks: &[Owned; 2]) {
    let [Some(before), Some(last)] = tasks.each_ref().map(|task| asyncio_part::node(task)) else {
        return;
    };
    let head = last.next.get();
    // SAFETY: the GIL is held; only the address is used.
    let thread = unsafe { ffi::PyThreadState_Get() }.addr();
    let offset = head.addr().wrapping_sub(thread);
    if offset == 0 || offset >= MOST {
        return;
    }
    // SAFETY: what a linked node points to is a node.
    let ends_with_last = unsafe { ptr::eq((*head).previous.get(), last) };
    let follow_each_other =
        ptr::eq(last.previous.get(), before) && ptr::eq(before.next.get(), last);
    if ends_with_last && follow_each_other {
        HEAD.store(offset, Ordering::Relaxed);
    }
}
