//! The flags of a native object: bits of one integer.

use std::cell::Cell;
use std::ops::{BitAnd, BitOr, Not};

/// A set of flags, each of which is a bit of a `T`. All zero bytes are a set without any.
#[derive(Default)]
#[repr(transparent)]
pub(crate) struct Flags<T>(Cell<T>);

impl<T> Flags<T>
where
    T: Copy + Default + PartialEq + BitAnd<Output = T> + BitOr<Output = T> + Not<Output = T>,
{
    pub(crate) fn new(flags: T) -> Self {
        Self(Cell::new(flags))
    }

    /// Whether any of these flags is set.
    #[inline]
    pub(crate) fn has(&self, flags: T) -> bool {
        self.0.get() & flags != T::default()
    }

    /// Sets these flags, or clears them.
    #[inline]
    pub(crate) fn set(&self, flags: T, on: bool) {
        let rest = self.0.get() & !flags;
        self.0.set(if on { rest | flags } else { rest });
    }

    /// Sets these flags and clears all others.
    #[inline]
    pub(crate) fn set_all(&self, flags: T) {
        self.0.set(flags);
    }

    /// All flags, as bits.
    #[inline]
    pub(crate) fn bits(&self) -> T {
        self.0.get()
    }
}
