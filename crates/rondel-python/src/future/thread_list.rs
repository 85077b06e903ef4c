//! The interpreter's own list of a thread's tasks, from CPython 3.14 on.
//!
//! `_asyncio._register_task` appends a task to a circular list whose head is in the thread state,
//! and `_asyncio._unregister_task` removes it. As Python functions, both cost ten times as much as
//! changing the links. So the offset of the head is found at import, with two stock asyncio tasks,
//! and the links are set here. The functions are called if the two tasks are not linked as
//! expected, and in builds without the GIL, where the list has a lock of its own.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi;

use super::asyncio_part::{self, AsyncioPart};
use crate::cpython::{Native, OwnedNative};

/// The interpreter's `struct llist_node`. Null in a task that is in no list.
#[repr(C)]
pub(crate) struct Node {
    next: Cell<*const Node>,
    previous: Cell<*const Node>,
}

/// The offset of the head in a `PyThreadState`, in bytes; 0 if it is unknown.
static HEAD: AtomicUsize = AtomicUsize::new(0);
/// An upper bound of the size of a thread state with its private part, in bytes.
const MOST: usize = 64 * 1024;

/// Whether the offset of the head is known.
pub(crate) fn is_found() -> bool {
    HEAD.load(Ordering::Relaxed) != 0
}

/// This thread's head, if its offset is known.
#[inline]
fn head() -> Option<&'static Node> {
    let offset = HEAD.load(Ordering::Relaxed);
    if cfg!(Py_GIL_DISABLED) || offset == 0 {
        return None;
    }
    // SAFETY: the GIL is held. `find` has seen the head at that offset, and it is used only while
    // this thread lives.
    Some(unsafe { &*ffi::PyThreadState_Get().byte_add(offset).cast::<Node>() })
}

/// Appends a native task to this thread's list, unless it is already in a list. Returns false if
/// the offset is unknown.
#[inline]
pub(crate) fn link(task: &Native<AsyncioPart>) -> bool {
    let (Some(head), Some(node)) = (head(), asyncio_part::node(task)) else {
        return false;
    };
    if node.next.get().is_null() {
        let last = head.previous.get();
        node.previous.set(last);
        node.next.set(head);
        // SAFETY: the head's neighbours are the nodes of live tasks or the head itself.
        unsafe { (*last).next.set(node) };
        head.previous.set(node);
    }
    true
}

/// Removes a task from the list that it is in. Returns false if the offset is unknown.
#[inline]
pub(crate) fn unlink(task: &Native<AsyncioPart>) -> bool {
    let (Some(_), Some(node)) = (head(), asyncio_part::node(task)) else {
        return false;
    };
    let (next, previous) = (node.next.get(), node.previous.get());
    // SAFETY: as in `link`; the owner of the list outlives the links of its nodes.
    unsafe {
        (*previous).next.set(next);
        (*next).previous.set(previous);
    }
    node.next.set(ptr::null());
    node.previous.set(ptr::null());
    true
}

/// Finds the head by means of the last two tasks in this thread's list, which are stock asyncio
/// tasks. Called once, at import.
pub(crate) fn find(tasks: &[OwnedNative<AsyncioPart>; 2]) {
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
    // SAFETY: a linked node points to nodes.
    let ends_with_last = unsafe { ptr::eq((*head).previous.get(), last) };
    let follow_each_other =
        ptr::eq(last.previous.get(), before) && ptr::eq(before.next.get(), last);
    if ends_with_last && follow_each_other {
        HEAD.store(offset, Ordering::Relaxed);
    }
}
