//! The classes of futures that are made above this folder: tasks, and what `gather` returns.
//!
//! What futures need to know of these classes is kept here, and filled at import by the modules
//! that make the classes. Testing for one of them is one comparison, as for
//! [`Future`](super::Future) itself.

use super::is_exact;
use crate::cpython::names::Table;
use crate::cpython::native::Class;
use crate::cpython::{Object, Owned, Res};

/// A class of futures that derives from ours, or has its fields in the same place.
pub(crate) struct Kind {
    pub(crate) class: Class,
    cancel: Table<Cancel>,
}

/// `cancel(msg=…)`.
type Cancel = fn(&Object, Option<&Object>) -> Res<bool>;

impl Kind {
    const fn new() -> Self {
        Self {
            class: Class::new(),
            cancel: Table::new(),
        }
    }

    /// Notes the class and its way of being cancelled. Once, at import.
    pub(crate) fn fill(&self, class: &Object, cancel: Cancel) {
        self.cancel.fill(cancel);
        self.class.set(class);
    }

    /// Whether an object is of the class itself.
    #[inline]
    pub(crate) fn is_exact(&self, object: &Object) -> bool {
        self.class.is_exact(object)
    }

    /// Cancels an object of the class.
    pub(super) fn cancel(&self, object: &Object, message: Option<&Object>) -> Res<bool> {
        (self.cancel.get())(object, message)
    }
}

/// `rondel.Task`.
pub(crate) static TASK: Kind = Kind::new();
/// What `gather` returns.
pub(crate) static GATHERING: Kind = Kind::new();

/// Whether this is exactly a future or a task of ours, or what `gather` returns: then nothing of it
/// is overridden.
#[inline]
pub(crate) fn is_native(object: &Object) -> bool {
    is_exact(object) || TASK.is_exact(object) || GATHERING.is_exact(object)
}

/// How a task that waits for a future is seen by those who look at the future's callbacks.
pub(crate) struct Waiting {
    /// The callable that stands for it.
    pub(crate) wakeup_callable: fn(&Object) -> Res<Owned>,
    /// The context that it runs in.
    pub(crate) context_of: fn(&Object) -> Owned,
}

/// Filled once, at import.
pub(crate) static TASK_WAITING: Table<Waiting> = Table::new();
