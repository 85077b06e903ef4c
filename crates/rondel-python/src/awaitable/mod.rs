//! Native awaitables: what `reader.read()`, `lock.acquire()` and `sleep()` return.
//!
//! Such an object is a coroutine in all but type: `await` it, or make a task of it. Its steps are a
//! [`Steps`] implementation: a state that goes on until it has the result or something else to
//! await first. A step that has its result at once costs no future and no suspension.
//!
//! | file | what it has |
//! |---|---|
//! | here | the object, what its steps are, and making one |
//! | `progress.rs` | going on: `send`, `throw`, `close` |
//! | `awaited.rs` | what is awaited: sending and throwing into it |
//! | `class.rs` | the types: slots, methods, the end of an instance |
//! | `shown.rs` | the code and the frame that a program is shown |

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
use crate::cpython::{Fields, Native, Object, Owned, Res, Slot};
use crate::untracked;

/// What a step ends with.
pub(crate) enum Next {
    /// The awaitable is done, with this result.
    Return(Owned),
    /// This has to be awaited first; an iterator as `__await__` gives it.
    Await(Owned),
    /// This future of ours, which was made just now, has to be awaited first: it is pending, and
    /// nobody else waits for it.
    Wait(Owned),
    /// Let the loop make a turn first, as `sleep(0)` does.
    Yield,
}

/// The steps of one kind of awaitable. All zero bytes are its state before it is filled.
pub(crate) trait Steps: Sized + 'static {
    /// Whether it may be awaited again once it is done.
    const REUSABLE: bool = false;
    /// The qualified name, which a task's repr shows.
    fn name(&self) -> &'static str;
    /// Whether it awaits a coroutine of asyncio's own function of that name, which shows its code
    /// and frame itself.
    fn hands_over(&self) -> bool {
        false
    }
    /// Goes on. The first time with `None`, then with what was awaited last gave or raised.
    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Next>;
    /// Lets go of everything: it is done, or will never be.
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

/// A type of awaitables, once it is made, and its dead instances.
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

/// `awaitable_class!(NAME, 256)`: a static [`Class`] for one kind of awaitables, with a freelist
/// that has room for as many.
macro_rules! awaitable_class {
    ($name:ident, $room:literal) => {
        static $name: $crate::awaitable::Class = {
            $crate::cpython::freelist::free_list!(FREE, $room);
            $crate::awaitable::Class::new(
                // SAFETY: called by the type's `tp_dealloc` only, with a dead and empty instance.
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
    /// As zeroed memory is.
    Fresh = 0,
    Suspended,
    Running,
    Done,
}

/// An awaitable behind its object header.
#[repr(C)]
struct Awaitable<T> {
    stage: Cell<Stage>,
    /// The finalizer has run: the collector won't run it again, so the object must not come back
    /// from the freelist.
    finalized: Cell<bool>,
    /// The collector knows of it.
    tracked: Cell<bool>,
    /// What is awaited now; empty while a bare yield is.
    inner: Slot,
    steps: T,
}

// SAFETY: the fields stand behind the header; zeroed ones are valid.
unsafe impl<T: Steps> Fields for Awaitable<T> {}

/// An awaitable of one kind, as the functions of its type get it.
type This<T> = Native<Awaitable<T>>;

/// The base class of all types of awaitables, which says no more than that they are of ours.
static BASE: crate::cpython::Class = crate::cpython::Class::new();

struct Base;

// SAFETY: no fields.
unsafe impl Fields for Base {}

// SAFETY: it shows all that it holds.
unsafe impl Collected for Base {
    fn for_each_slot(&self, _: &mut dyn FnMut(&Slot)) {}
}

/// Makes the base class when it is first asked for.
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

/// Whether an object is an awaitable of ours, of whatever kind.
#[inline]
pub(crate) fn is_awaitable(object: &Object) -> bool {
    // SAFETY: a live object; its type, which can't be subclassed, is read while it is alive.
    let base = unsafe { (*object.type_ptr()).tp_base };
    ptr::eq(base, BASE.as_ptr())
}

/// A new awaitable, with `fill` setting its state. What `fill` finds is empty.
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
