//! What the running step has written and not sent yet.
//!
//! The first connection that a step writes to has its bytes *staged*: put one after the other in a
//! buffer that the whole loop shares, and sent from there by one call, without a chunk or a queue
//! of its own. That is nearly always all there is. Connections that are written to while another
//! one's bytes are staged, or that have something waiting already, or write much, queue chunks
//! (`transport/write_queue.rs`) and are *listed* here. Both leave at the latest when the step is
//! over, in the order in which they were first written to.

use std::cell::RefCell;
use std::mem;
use std::rc::Rc;

use super::connection::Connection;

/// The bytes and connections that wait for the end of the step.
#[derive(Default)]
pub(crate) struct Outbox(RefCell<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Whose bytes are staged; set exactly when `bytes` isn't empty.
    staged_by: Option<Rc<Connection>>,
    bytes: Vec<u8>,
    /// Connections with chunks to flush.
    listed: Vec<Rc<Connection>>,
    /// No step will come any more.
    closed: bool,
}

impl Outbox {
    /// Adds bytes, of which there is at least one, to what `connection` has staged. `false` if that
    /// would be more than `limit` bytes, or if it isn't this connection's turn: then nothing was
    /// added.
    #[inline]
    pub(super) fn stage(&self, connection: &Rc<Connection>, bytes: &[u8], limit: usize) -> bool {
        let mut waiting = self.0.borrow_mut();
        let waiting = &mut *waiting;
        if bytes.len() > limit.saturating_sub(waiting.bytes.len()) {
            return false;
        }
        match &waiting.staged_by {
            Some(other) if !Rc::ptr_eq(other, connection) => return false,
            Some(_) => {}
            // Behind a listed connection it has to wait in the list.
            None if !waiting.listed.is_empty() || waiting.closed => return false,
            None => waiting.staged_by = Some(Rc::clone(connection)),
        }
        waiting.bytes.extend_from_slice(bytes);
        true
    }

    /// Applies `f` to the staged bytes, which are gone then. Only for the connection that has
    /// staged them.
    #[inline]
    pub(super) fn unstage<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        let mut waiting = self.0.borrow_mut();
        let result = f(&waiting.bytes);
        waiting.bytes.clear();
        let by = waiting.staged_by.take();
        drop(waiting);
        drop(by);
        result
    }

    /// How many bytes are staged.
    pub(super) fn staged_len(&self) -> usize {
        self.0.borrow().bytes.len()
    }

    /// Has a connection flushed when the step is over.
    pub(super) fn list(&self, connection: Rc<Connection>) {
        self.0.borrow_mut().listed.push(connection);
    }

    /// The loop is over: nothing is staged any more.
    pub(crate) fn close(&self) {
        self.0.borrow_mut().closed = true;
    }

    /// The step is over: sends all that waits.
    #[inline]
    pub(crate) fn flush(&self) {
        let waiting = self.0.borrow();
        let (staged, listed) = (waiting.staged_by.is_some(), !waiting.listed.is_empty());
        drop(waiting);
        if staged || listed {
            self.flush_waiting();
        }
    }

    #[inline(never)]
    fn flush_waiting(&self) {
        let staged = self.0.borrow().staged_by.clone();
        if let Some(connection) = staged {
            connection.flush();
        }
        let mut listed = mem::take(&mut self.0.borrow_mut().listed);
        for connection in listed.drain(..) {
            connection.flush_listed();
        }
        // Flushing lists nothing; the vector goes back for its capacity.
        self.0.borrow_mut().listed = listed;
    }
}
