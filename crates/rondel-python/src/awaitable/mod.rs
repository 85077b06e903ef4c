//! Native awaitables: what `reader.read()`, `lock.acquire()` and `sleep()` return.
//!
//! Such an object behaves as a coroutine: it can be awaited, or made a task. Its steps are a
//! [`Steps`] implementation, a state machine that advances until it has the result or something
//! else to await first. A step that has its result at once costs no future and no suspension.
//!
//! | file | what it has |
//! |---|---|
//! | here | the object, the trait of its steps, and making one |
//! | `progress.rs` | resuming: `send`, `throw`, `close` |
//! | `awaited.rs` | the awaited object: sending and throwing into it |
//! | `class.rs` | the types: slots, methods, deallocation |
//! | `shown.rs` | the code and the frame that Python code sees |

mod awaited;
mod class;
mod progress;
mod shown;

pub(crate) use awaited::{await_any, iterator_of};
pub(crate) use class::init_type;

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use crate::cpython::collected::Collected;
use crate::cpython::types::{TypeBuilder, allocate};
use crate::cpython::{Fields, Native, Object, Owned, OwnedNative, Res, Slot};
use crate::future::Future;
use crate::untracked;

/// The result of a step.
pub(crate) enum Next {
    /// The awaitable is done, with this result.
    Return(Owned),
    /// This iterator, as `__await__` returns it, must be awaited first.
    Await(Owned),
    /// This native future must be awaited first. It was just made: it is pending, and no other code
    /// awaits it.
    Wait(OwnedNative<Future>),
    /// A bare yield: let the loop make a turn first, as `sleep(0)` does.
    Yield,
}

/// The steps of one kind of awaitable. All-zero fields are its state before it is filled.
pub(crate) trait Steps: Sized + 'static {
    /// Whether it may be awaited again once it is done.
    const REUSABLE: bool = false;
    /// The qualified name, which a task's repr shows.
    fn name(&self) -> &'static str;
    /// Whether it awaits a coroutine of asyncio's function of that name, which shows its own code
    /// and frame.
    fn hands_over(&self) -> bool {
        false
    }
    /// Advances: first with `None`, then with what the awaited object returned or raised.
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next>;
    /// Releases all objects: the awaitable is done, or will never run.
    fn release(&self);
    /// Calls `see` for each field that holds an object.
    fn for_each_slot(&self, see: &mut dyn FnMut(&Slot));
    /// Whether it is certain that no field will hold an object.
    fn holds_nothing(&self) -> bool {
        false
    }
    /// The type and the freelist of these awaitables.
    fn class() -> &'static Class;
}

/// A type of awaitables, null until it is made, and the freelist of its instances.
pub(crate) struct Class {
    class: AtomicPtr<ffi::PyTypeObject>,
    keep: fn(*mut ffi::PyObject) -> bool,
    revive: fn(*mut ffi::PyTypeObject) -> Option<Owned>,
}

impl Class {
    pub(crate) const fn new(
        keep: fn(*mut ffi::PyObject) -> bool,
        revive: fn(*mut ffi::PyTypeObject) -> Option<Owned>,
    ) -> Self {
        Self {
            class: AtomicPtr::new(ptr::null_mut()),
            keep,
            revive,
        }
    }
}

/// `awaitable_class!(NAME, 256)`: a static [`Class`] for one kind of awaitables, with a freelist of
/// that capacity.
macro_rules! awaitable_class {
    ($name:ident, $room:literal) => {
        static $name: $crate::awaitable::Class = {
            $crate::cpython::freelist::free_list!(FREE, $room);
            $crate::awaitable::Class::new(
                // SAFETY: called only by the type's `tp_dealloc`, with an untracked, empty
                // instance.
                |object| FREE.with(|list| unsafe { list.keep(object) }),
                |class| FREE.with(|list| list.revive(class, false)),
            )
        };
    };
}
pub(crate) use awaitable_class;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// The state of zeroed memory.
    Fresh = 0,
    Suspended,
    Running,
    Done,
}

/// The fields of an awaitable, behind the object header.
#[repr(C)]
struct Awaitable<T> {
    stage: Cell<Stage>,
    /// The finalizer has run. The collector won't run it again, so the object must not be reused
    /// from the freelist.
    finalized: Cell<bool>,
    /// The collector tracks the object.
    tracked: Cell<bool>,
    /// The object that is awaited now; empty during a bare yield.
    inner: Slot,
    steps: T,
}

// SAFETY: the fields are behind the object header; zeroed ones are valid.
unsafe impl<T: Steps> Fields for Awaitable<T> {}

/// An awaitable of one kind, as the functions of its type receive it.
type This<T> = Native<Awaitable<T>>;

/// The common base class of all types of awaitables. It only identifies them.
static BASE: crate::cpython::Class = crate::cpython::Class::new();

struct Base;

// SAFETY: no fields.
unsafe impl Fields for Base {}

// SAFETY: there is no object reference to visit.
unsafe impl Collected for Base {
    fn for_each_slot(&self, _: &mut dyn FnMut(&Slot)) {}
}

/// The base class, made at the first call.
fn base() -> Res<&'static Object> {
    if BASE.as_ptr().is_null() {
        let class = TypeBuilder::new::<Base>(c"rondel._rondel.Awaitable", None, Base::offset())
            .subclassable()
            .not_instantiable()
            .collected::<Base>()
            .build()?;
        BASE.set(&class);
    }
    Ok(BASE.object())
}

/// Whether an object is a native awaitable of any kind.
#[inline]
pub(crate) fn is_awaitable(object: &Object) -> bool {
    // SAFETY: a live object; its type, which can't be subclassed, is read while it is alive.
    let base = unsafe { (*object.type_ptr()).tp_base };
    ptr::eq(base, BASE.as_ptr())
}

/// Makes an awaitable. `fill` sets its state, which is empty before.
#[inline]
pub(crate) fn make<T: Steps>(fill: impl FnOnce(&T)) -> Res<Owned> {
    let class = T::class();
    let type_ptr = class.class.load(Ordering::Relaxed);
    let (object, tracked) = match (class.revive)(type_ptr) {
        Some(object) => (object, false),
        // SAFETY: zeroed memory is a valid state, guaranteed by the trait.
        None => (unsafe { allocate(type_ptr)? }, true),
    };
    // SAFETY: an instance of the type that was made for `T`.
    let this = unsafe { object.known::<Awaitable<T>>() };
    this.stage.set(Stage::Fresh);
    this.tracked.set(tracked);
    fill(&this.steps);
    if !tracked {
        untracked::note(&object, &this.tracked);
    }
    Ok(object)
}
