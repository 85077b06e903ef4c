//! A Python object that owns a descriptor which a transport uses.

use std::os::fd::{AsRawFd, RawFd};

use crate::cpython::{Object, Owned, Res, names};

/// A socket or file object, and the number of its descriptor, which it had when the transport was
/// made.
pub(super) struct Owner(RawFd, Owned);

impl AsRawFd for Owner {
    #[inline]
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Owner {
    /// Asks the object for its number.
    pub(super) fn new(object: &Object) -> Res<Self> {
        let fd = object.call_method(&names().fileno, &[])?.to_isize()?;
        Ok(Self(fd as RawFd, object.own()))
    }

    pub(super) fn object(&self) -> &Object {
        &self.1
    }

    /// `object.close()`.
    pub(super) fn close(self) -> Res<()> {
        self.1.call_method(&names().close, &[]).map(drop)
    }
}
