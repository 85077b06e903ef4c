//! The items of a queue.
//!
//! Programs read `queue._queue` and change it. So the items are kept natively until that attribute
//! is read; from then on, the returned deque or list holds them. A subclass may set the attribute
//! to any object.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use pyo3::ffi;

use super::names::sync_imports;
use super::waiters::{for_each_of, length};
use crate::cpython::error::{no_memory, raise};
use crate::cpython::names;
use crate::cpython::{Object, Owned, Res, Slot, none};

/// The order in which items come out.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Order {
    #[default]
    Fifo,
    Lifo,
    /// The smallest first. `heapq` needs a list, so these items are never kept natively.
    Priority,
}

/// The items of a queue.
#[derive(Default)]
pub(super) struct Items {
    native: RefCell<VecDeque<Owned>>,
    /// The value of `_queue`, once it has been read or set.
    shown: Slot,
    /// Decides what reading `_queue` creates: a deque for FIFO, otherwise a list.
    order: Cell<Order>,
}

impl Items {
    /// `_init`.
    pub(super) fn init(&self, order: Order) -> Res<()> {
        self.order.set(order);
        let shown = match order {
            Order::Priority => Some(Owned::list()?),
            _ => None,
        };
        let before = (self.shown.replace(shown), self.native.take());
        drop(before);
        Ok(())
    }

    /// The number of items, if they are kept natively.
    #[inline]
    pub(super) fn native_len(&self) -> Option<usize> {
        self.shown.is_empty().then(|| self.native.borrow().len())
    }

    /// Adds an item to the natively kept ones.
    #[inline]
    pub(super) fn push_native(&self, item: Owned) -> Res<()> {
        let mut native = self.native.borrow_mut();
        if native.len() == native.capacity() && native.try_reserve(1).is_err() {
            drop(native);
            drop(item);
            return no_memory();
        }
        native.push_back(item);
        Ok(())
    }

    /// Removes an item from the natively kept ones.
    #[inline]
    pub(super) fn pop_native(&self, order: Order) -> Option<Owned> {
        let mut native = self.native.borrow_mut();
        match order {
            Order::Fifo => native.pop_front(),
            Order::Lifo => native.pop_back(),
            Order::Priority => None,
        }
    }

    /// `len(self._queue)`.
    #[inline]
    pub(super) fn len(&self) -> Res<usize> {
        match self.shown.cloned() {
            None => Ok(self.native.borrow().len()),
            Some(shown) => length(&shown),
        }
    }

    /// `not self._queue`.
    #[inline]
    pub(super) fn is_empty(&self) -> Res<bool> {
        match self.shown.cloned() {
            None => Ok(self.native.borrow().is_empty()),
            Some(shown) => Ok(!shown.is_true()?),
        }
    }

    /// `_put(item)` of a queue with this order.
    #[inline]
    pub(super) fn put(&self, order: Order, item: &Object) -> Res<()> {
        match (self.shown.cloned(), order) {
            (None, Order::Fifo | Order::Lifo) => self.push_native(item.own())?,
            (Some(shown), Order::Fifo | Order::Lifo) => {
                shown.call_method(&names().append, &[item])?;
            }
            (_, Order::Priority) => {
                sync_imports().heappush.call(&[&*self.show()?, item])?;
            }
        }
        Ok(())
    }

    /// `_get()` of a queue with this order.
    #[inline]
    pub(super) fn get(&self, order: Order) -> Res<Owned> {
        match (self.shown.cloned(), order) {
            (None, Order::Fifo) => {
                let item = self.native.borrow_mut().pop_front();
                item.map_or_else(|| index_error("pop from an empty deque"), Ok)
            }
            (None, Order::Lifo) => {
                let item = self.native.borrow_mut().pop_back();
                item.map_or_else(|| index_error("pop from empty list"), Ok)
            }
            (Some(shown), Order::Fifo) => shown.call_method(&names().popleft, &[]),
            (Some(shown), Order::Lifo) => shown.call_method(&names().pop, &[]),
            (_, Order::Priority) => sync_imports().heappop.call(&[&*self.show()?]),
        }
    }

    /// Reads the attribute `_queue`: the object that holds the items from now on.
    pub(super) fn show(&self) -> Res<Owned> {
        if let Some(shown) = self.shown.cloned() {
            return Ok(shown);
        }
        let list = self.to_list()?;
        let shown = match self.order.get() {
            Order::Fifo => sync_imports().deque.call(&[&*list])?,
            Order::Lifo | Order::Priority => list,
        };
        self.shown.set(shown.clone());
        drop(self.native.take());
        Ok(shown)
    }

    /// `list(self._queue)`.
    pub(super) fn to_list(&self) -> Res<Owned> {
        if let Some(shown) = self.shown.cloned() {
            // SAFETY: a live object; a non-iterable raises.
            return unsafe { Owned::steal(ffi::PySequence_List(shown.as_ptr())) };
        }
        let items: Vec<Owned> = self.native.borrow().iter().cloned().collect();
        let list = Owned::list()?;
        for item in &items {
            list.append(item)?;
        }
        Ok(list)
    }

    /// Sets the attribute.
    pub(super) fn replace(&self, value: Option<&Object>) {
        let before = (
            self.shown.replace(Some(value.unwrap_or(none()).own())),
            self.native.take(),
        );
        drop(before);
    }

    /// The slot, for the garbage collector.
    pub(super) fn slot(&self) -> &Slot {
        &self.shown
    }

    /// Shows the natively kept items to the garbage collector.
    pub(super) fn for_each(&self, see: &mut dyn FnMut(&Object)) {
        for_each_of(&self.native, see);
    }

    pub(super) fn clear(&self) {
        self.shown.clear();
        drop(self.native.take());
    }
}

#[cold]
fn index_error<T>(text: &str) -> Res<T> {
    // SAFETY: a built-in class lives as long as the interpreter.
    raise(unsafe { Object::from_ptr(ffi::PyExc_IndexError) }, text)
}
