//! The waiters of a primitive: the futures of its waiting tasks, in order of arrival.
//!
//! A program that reads `lock._waiters` expects a deque, which it may even change. So the waiters
//! are kept natively until the attribute is read; from then on, the returned deque is used.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use pyo3::ffi;

use super::names::sync_imports;
use crate::cpython::error::{raised_matches, value_error};
use crate::cpython::names;
use crate::cpython::{Object, Owned, Raised, Res, Slot};
use crate::future::any::{is_cancelled, is_done, set_result};

/// The futures that waiting tasks wait on.
#[derive(Default)]
pub(super) struct Waiters {
    native: RefCell<VecDeque<Owned>>,
    /// The deque, once the attribute has been read.
    shown: Slot,
    /// Whether a task has ever waited: asyncio creates some of its deques only then.
    used: Cell<bool>,
}

impl Waiters {
    #[inline]
    pub(super) fn push(&self, future: &Object) -> Res<()> {
        self.used.set(true);
        match self.shown.cloned() {
            None => self.native.borrow_mut().push_back(future.own()),
            Some(shown) => drop(shown.call_method(&names().append, &[future])?),
        }
        Ok(())
    }

    /// `deque.remove`.
    #[inline]
    pub(super) fn remove(&self, future: &Object) -> Res<()> {
        if self.shown.is_empty() {
            let mut native = self.native.borrow_mut();
            // Usually it is the first.
            if native.front().is_some_and(|first| first.is(future)) {
                let removed = native.pop_front();
                drop(native);
                // The caller holds a reference as well, so this deallocates nothing.
                drop(removed);
                return Ok(());
            }
        }
        self.remove_from_within(future)
    }

    fn remove_from_within(&self, future: &Object) -> Res<()> {
        if let Some(shown) = self.shown.cloned() {
            return shown.call_method(&names().remove, &[future]).map(drop);
        }
        let mut native = self.native.borrow_mut();
        let index = native.iter().position(|waiter| waiter.is(future));
        let removed = index.and_then(|index| native.remove(index));
        drop(native);
        match removed {
            Some(_) => Ok(()),
            None => value_error("deque.remove(x): x not in deque"),
        }
    }

    /// `deque.remove`, without an error if `future` is absent.
    pub(super) fn discard(&self, future: &Object) -> Res<()> {
        // SAFETY: a built-in class lives as long as the interpreter.
        let absent = unsafe { Object::from_ptr(ffi::PyExc_ValueError) };
        match self.remove(future) {
            Err(Raised) if raised_matches(absent) => {
                drop(crate::cpython::error::take_exception());
                Ok(())
            }
            result => result,
        }
    }

    pub(super) fn len(&self) -> Res<usize> {
        match self.shown.cloned() {
            None => Ok(self.native.borrow().len()),
            Some(shown) if shown.is_none() => Ok(0),
            Some(shown) => length(&shown),
        }
    }

    pub(super) fn pop_front(&self) -> Res<Option<Owned>> {
        let Some(shown) = self.shown.cloned() else {
            return Ok(self.native.borrow_mut().pop_front());
        };
        if self.len()? == 0 {
            return Ok(None);
        }
        shown.call_method(&names().popleft, &[]).map(Some)
    }

    #[inline]
    fn get(&self, index: usize) -> Res<Option<Owned>> {
        match self.shown.cloned() {
            None => Ok(self.native.borrow().get(index).cloned()),
            Some(shown) => self.get_shown(&shown, index),
        }
    }

    fn get_shown(&self, shown: &Object, index: usize) -> Res<Option<Owned>> {
        if index >= self.len()? {
            return Ok(None);
        }
        // SAFETY: a live object; anything but a sequence raises.
        unsafe { Owned::steal(ffi::PySequence_GetItem(shown.as_ptr(), index as isize)).map(Some) }
    }

    /// All waiters, in order. Each is looked up in turn, as completing one may run a program's
    /// code.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = Res<Owned>> + '_ {
        let mut index = 0;
        std::iter::from_fn(move || {
            let next = self.get(index).transpose();
            index += 1;
            next
        })
    }

    /// Whether all waiters are cancelled, or there are none.
    #[inline]
    pub(super) fn all_cancelled(&self) -> Res<bool> {
        if self.is_idle() {
            return Ok(true);
        }
        for waiter in self.iter() {
            if !is_cancelled(&*waiter?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether there is no waiter, as far as this is known without a Python call.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.shown.is_empty() && self.native.borrow().is_empty()
    }

    /// Removes waiters until one is found that is not done, and completes it with `None`.
    #[inline]
    pub(super) fn pop_and_wake(&self) -> Res<()> {
        if self.is_idle() {
            return Ok(());
        }
        self.pop_and_wake_first()
    }

    fn pop_and_wake_first(&self) -> Res<()> {
        while let Some(waiter) = self.pop_front()? {
            if !is_done(&waiter)? {
                return set_result(&waiter, crate::cpython::none());
            }
        }
        Ok(())
    }

    /// Reads the attribute `_waiters`: the deque that is used from now on.
    pub(super) fn show(&self) -> Res<Owned> {
        if let Some(shown) = self.shown.cloned() {
            return Ok(shown);
        }
        let items = Owned::list()?;
        for waiter in self.iter() {
            items.append(&*waiter?)?;
        }
        let shown = sync_imports().deque.call(&[&*items])?;
        self.shown.set(shown.clone());
        drop(self.native.take());
        Ok(shown)
    }

    /// Like [`show`](Self::show), but `None` if no task has ever waited.
    pub(super) fn show_if_used(&self) -> Res<Owned> {
        if !self.used.get() && self.shown.is_empty() {
            return Ok(Owned::none());
        }
        self.show()
    }

    /// Sets the attribute.
    pub(super) fn replace(&self, value: Option<&Object>) -> Res<()> {
        let value = value.filter(|value| !value.is_none()).map(Object::own);
        self.used.set(value.is_some());
        let before = (self.shown.replace(value), self.native.take());
        drop(before);
        Ok(())
    }

    /// The slot, for the garbage collector.
    pub(super) fn slot(&self) -> &Slot {
        &self.shown
    }

    /// Shows the natively kept waiters to the garbage collector.
    pub(super) fn for_each(&self, see: &mut dyn FnMut(&Object)) {
        for_each_of(&self.native, see);
    }

    pub(super) fn clear(&self) {
        self.shown.clear();
        drop(self.native.take());
    }
}

/// Shows the objects in a queue to the garbage collector.
pub(super) fn for_each_of(objects: &RefCell<VecDeque<Owned>>, see: &mut dyn FnMut(&Object)) {
    // No borrow is held while a Python object is allocated or released, which is when the collector
    // may run.
    if let Ok(objects) = objects.try_borrow() {
        objects.iter().for_each(|object| see(object));
    }
}

/// `len(object)`.
pub(super) fn length(object: &Object) -> Res<usize> {
    // SAFETY: a live object.
    let len = unsafe { ffi::PyObject_Size(object.as_ptr()) };
    usize::try_from(len).map_err(|_| Raised)
}
