//! Values of one thread in objects of Python's, which may be dropped in any.

use std::any::Any;
use std::mem;
use std::sync::Arc;
use std::thread::{self, ThreadId};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::wakeup::Mailbox;

/// A value that knows the way to its thread.
pub(crate) trait OfThread: Default + 'static {
    /// The mailbox of its loop, once it has one.
    fn mailbox(&mut self) -> Option<Arc<Mailbox>>;
}

/// A value that only the thread that made it may look at. Python drops objects in any thread: in
/// another one the value is sent to its loop to be dropped there.
pub(crate) struct ThreadBound<T: OfThread> {
    thread: ThreadId,
    value: T,
}

// SAFETY: `get` and `drop` touch the value in its own thread only.
unsafe impl<T: OfThread> Send for ThreadBound<T> {}
// SAFETY: as above.
unsafe impl<T: OfThread> Sync for ThreadBound<T> {}

impl<T: OfThread> ThreadBound<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            thread: thread::current().id(),
            value,
        }
    }

    /// # Errors
    /// `RuntimeError` in another thread.
    pub(crate) fn get(&self) -> PyResult<&T> {
        if thread::current().id() != self.thread {
            return Err(PyRuntimeError::new_err(
                "an object of Rust's is used in another thread than the one that made it",
            ));
        }
        Ok(&self.value)
    }
}

impl<T: OfThread> Drop for ThreadBound<T> {
    fn drop(&mut self) {
        if thread::current().id() == self.thread {
            return;
        }
        let mailbox = self.value.mailbox();
        let value: Box<dyn Any> = Box::new(mem::take(&mut self.value));
        match mailbox {
            // SAFETY: the value was made in the loop's thread, or was bound to it when it was
            // awaited.
            Some(mailbox) => unsafe { mailbox.send_garbage(value) },
            // Nobody knows a way to its thread.
            None => mem::forget(value),
        }
    }
}
