//! The classes of futures that are made outside this folder: tasks, and what `gather` returns.
//!
//! This file keeps what futures need to know of these classes. The modules that make the classes
//! fill it in at import. Testing for one of them is a single comparison, as for
//! [`Future`](super::Future) itself.

use super::is_exact;
use crate::cpython::names::Table;
use crate::cpython::native::{Class, Fields, NativeClass};
use crate::cpython::{Native, Object, Owned, Res};

/// A class that derives from the native future class, or has its fields at the same offset.
pub(crate) struct Kind {
    pub(crate) class: Class,
    cancel: Table<Cancel>,
}

/// [`Cancellable::cancel`] of an object that must be an instance.
type Cancel = unsafe fn(&Object, Option<&Object>) -> Res<bool>;

/// A class of such a kind.
pub(crate) trait Cancellable: NativeClass {
    /// `cancel(msg=…)`.
    fn cancel(this: &Native<Self>, message: Option<&Object>) -> Res<bool>;
}

impl Kind {
    const fn new() -> Self {
        Self {
            class: Class::new(),
            cancel: Table::new(),
        }
    }

    /// Sets the class, which is that of `T`. Called once, at import.
    pub(crate) fn fill<T: Cancellable>(&'static self, class: &Object) {
        debug_assert!(std::ptr::eq(T::class(), &raw const self.class));
        // SAFETY: guaranteed by the caller: the object holds a `T`.
        self.cancel
            .fill(|object, message| T::cancel(unsafe { object.known() }, message));
        self.class.set(class);
    }

    /// Whether an object is an instance of exactly this class.
    #[inline]
    pub(crate) fn is_exact(&self, object: &Object) -> bool {
        self.class.is_exact(object)
    }

    /// Cancels an object that is exactly of this class; `None` for any other.
    pub(super) fn cancel(&self, object: &Object, message: Option<&Object>) -> Option<Res<bool>> {
        // SAFETY: the class was compared.
        self.is_exact(object)
            .then(|| unsafe { (self.cancel.get())(object, message) })
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

/// What may stand among a future's callbacks without a context.
///
/// # Safety
/// It is the class of tasks, or one of watchers, which was registered (`watch.rs`).
pub(crate) unsafe trait Waiter: Fields {}

/// A class of tasks, which wait for futures.
pub(crate) trait TaskClass: NativeClass {
    /// The callable that represents the task among a future's callbacks.
    fn wakeup_callable(this: &Native<Self>) -> Res<Owned>;
    /// The context in which the task runs.
    fn context(this: &Native<Self>) -> Owned;
}

/// A task, as futures know it: one of the class that [`AnyTask::set_class`] got.
pub(crate) struct AnyTask;

// SAFETY: no fields.
unsafe impl Fields for AnyTask {}

/// The functions of [`TaskClass`].
struct TaskFunctions {
    wakeup_callable: unsafe fn(&Object) -> Res<Owned>,
    context: unsafe fn(&Object) -> Owned,
}

static TASK_FUNCTIONS: Table<TaskFunctions> = Table::new();

impl AnyTask {
    /// Says what tasks are. Called once, at import.
    pub(crate) fn set_class<T: TaskClass>() {
        TASK_FUNCTIONS.fill(TaskFunctions {
            // SAFETY: guaranteed by the caller: the object holds a `T`.
            wakeup_callable: |task| T::wakeup_callable(unsafe { task.known() }),
            // SAFETY: as above.
            context: |task| T::context(unsafe { task.known() }),
        });
    }
}

impl Native<AnyTask> {
    /// The callable that represents the task.
    pub(super) fn wakeup_callable(&self) -> Res<Owned> {
        // SAFETY: a task.
        unsafe { (TASK_FUNCTIONS.get().wakeup_callable)(self.object()) }
    }

    /// The context in which the task runs.
    pub(super) fn context(&self) -> Owned {
        // SAFETY: a task.
        unsafe { (TASK_FUNCTIONS.get().context)(self.object()) }
    }
}
