//! The file objects that were passed to `add_reader` and `add_writer`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::RawFd;

use crate::cpython::{Object, Owned};

/// The file objects of watched descriptors, by descriptor number. A program may remove a file
/// object that it has closed meanwhile; asyncio's selector finds it by identity.
#[derive(Default)]
pub(crate) struct Files(RefCell<BTreeMap<RawFd, Owned>>);

impl Files {
    pub(crate) fn note(&self, fd: RawFd, file: &Object) {
        let before = self.0.borrow_mut().insert(fd, file.own());
        // Dropped after the borrow, because its destructor may run any code.
        drop(before);
    }

    pub(crate) fn number_of(&self, file: &Object) -> Option<RawFd> {
        let files = self.0.borrow();
        files
            .iter()
            .find_map(|(fd, other)| other.is(file).then_some(*fd))
    }

    pub(crate) fn forget(&self, fd: RawFd) {
        let file = self.0.borrow_mut().remove(&fd);
        drop(file);
    }

    pub(crate) fn forget_all(&self) {
        drop(self.0.take());
    }

    /// For garbage collector traversal.
    pub(crate) fn for_each(&self, see: impl FnMut(&Object)) {
        if let Ok(files) = self.0.try_borrow() {
            files.values().map(|file| &**file).for_each(see);
        }
    }
}
