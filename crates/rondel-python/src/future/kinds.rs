//! The classes of futures that are made outside this folder: tasks, and what `gather` returns.
//!
//! This file keeps what futures need to know of these classes. The modules that make the classes
//! fill it in at import. Testing for one of them is a single comparison, as for
//! [`Future`](super::Future) itself.

use super::is_exact;
use crate::cpython::names::Table;
use crate::cpython::native::Class;
use crate::cpython::{Object, Owned, Res};

/// A class that derives from the native future class, or has its fields at the same offset.
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

    /// Sets the class and its `cancel` function. Called once, at import.
    pub(crate) fn fill(&self, class: &Object, cancel: Cancel) {
        self.cancel.fill(cancel);
        self.class.set(class);
    }

    /// Whether an object is an instance of exactly this class.
    #[inline]
    pub(crate) fn is_exact(&self, object: &Object) -> bool {
        self.class.is_exact(object)
    }

    /// Cancels an instance of the class.
    pub(super) fn cancel(&self, object: &Object, message: Option<&Object>) -> Res<bool> {
        (self.cancel.get())(object, message)
    }
}

/// `rondel.Task`.
pub(crate) static TASK: Kind = Kind::new();
/// What `gather` returns.
pub(crate) static GATHERING: Kind = Kind::new();

/// Whether an object is exactly a native future, a native task or what `gather` returns. None of
/// its methods is overridden then.
#[inline]
pub(crate) fn is_native(object: &Object) -> bool {
    is_exact(object) || TASK.is_exact(object) || GATHERING.is_exact(object)
}

/// How a task that waits for a future appears among the future's callbacks.
pub(crate) struct Waiting {
    /// The callable that represents the task.
    pub(crate) wakeup_callable: fn(&Object) -> Res<Owned>,
    /// The context in which the task runs.
    pub(crate) context_of: fn(&Object) -> Owned,
}

/// Filled once, at import.
pub(crate) static TASK_WAITING: Table<Waiting> = Table::new();
