//! The value of a semaphore. It nearly always is a small integer, but asyncio accepts anything that
//! can be compared with 0 and added to: `Semaphore(math.inf)` is in use.

use std::cell::Cell;

use pyo3::ffi;

use crate::cpython::object::truth;
use crate::cpython::{Object, Owned, Res, Slot};

/// A count of permits. All zero is 0.
#[derive(Default)]
pub(super) struct Count {
    int: Cell<i64>,
    /// The value if it is not an `int` of 64 bits.
    other: Slot,
}

impl Count {
    pub(super) fn get(&self) -> Res<Owned> {
        match self.other.cloned() {
            Some(other) => Ok(other),
            None => Owned::from_i64(self.int.get()),
        }
    }

    pub(super) fn set(&self, value: &Object) {
        let mut overflow = 0;
        // SAFETY: a live object, of exactly the type that the conversion is for, so it can't raise.
        let int = unsafe {
            if ffi::PyLong_CheckExact(value.as_ptr()) == 0 {
                overflow = 1;
                0
            } else {
                ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &mut overflow)
            }
        };
        // A margin at both ends, so that adding one can't overflow.
        if overflow == 0 && int.checked_add(1 << 32).is_some() && int.checked_sub(1 << 32).is_some()
        {
            self.int.set(int);
            self.other.clear();
        } else {
            self.other.set(value.own());
        }
    }

    #[inline]
    pub(super) fn is_zero(&self) -> Res<bool> {
        match self.other.cloned() {
            None => Ok(self.int.get() == 0),
            Some(other) => other.equals(&*Owned::from_i64(0)?),
        }
    }

    #[inline]
    pub(super) fn is_positive(&self) -> Res<bool> {
        match self.other.cloned() {
            None => Ok(self.int.get() > 0),
            Some(other) => compare(&other, &*Owned::from_i64(0)?, ffi::Py_GT),
        }
    }

    pub(super) fn is_negative(&self) -> Res<bool> {
        match self.other.cloned() {
            None => Ok(self.int.get() < 0),
            Some(other) => compare(&other, &*Owned::from_i64(0)?, ffi::Py_LT),
        }
    }

    /// `self >= other`.
    pub(super) fn is_at_least(&self, other: &Self) -> Res<bool> {
        if self.other.is_empty() && other.other.is_empty() {
            return Ok(self.int.get() >= other.int.get());
        }
        compare(&*self.get()?, &*other.get()?, ffi::Py_GE)
    }

    #[inline]
    pub(super) fn add(&self, n: i64) -> Res<()> {
        let Some(other) = self.other.cloned() else {
            self.int.set(self.int.get() + n);
            return Ok(());
        };
        let n = Owned::from_i64(n)?;
        // SAFETY: live objects.
        self.set(&*unsafe { Owned::steal(ffi::PyNumber_Add(other.as_ptr(), n.as_ptr()))? });
        Ok(())
    }

    /// The slot, for the garbage collector.
    pub(super) fn slot(&self) -> &Slot {
        &self.other
    }
}

/// `left <op> right`.
pub(super) fn compare(left: &Object, right: &Object, op: std::ffi::c_int) -> Res<bool> {
    // SAFETY: live objects.
    truth(unsafe { ffi::PyObject_RichCompareBool(left.as_ptr(), right.as_ptr(), op) })
}
