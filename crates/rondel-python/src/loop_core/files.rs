//! The book of the file objects that `add_reader` and `add_writer` were given.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::RawFd;

use crate::cpython::{Object, Owned};

/// The file objects that descriptors are watched by, by their numbers. A program may remove one
/// that it has closed meanwhile, which asyncio's selector finds by its identity.
#[derive(Default)]
pub(crate) struct Files(RefCell<BTreeMap<RawFd, Owned>>);

impl Files {
    pub(crate) fn note(&self, fd: RawFd, file: &Object) {
        let before = self.0.borrow_mut().insert(fd, file.own());
        // Its destructor is the program's: the borrow is over.
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

    /// For the collector.
    pub(crate) fn for_each(&self, see: impl FnMut(&Object)) {
        if let Ok(files) = self.0.try_borrow() {
            files.values().map(|file| &**file).for_each(see);
        }
    }
}
