//! The items that the engine queues for Python, and the engine's type parameters.
//!
//! An [`Item`] is one word: an owned reference with its kind in the low bits. A task's step is the
//! task itself, without a handle. `event_loop/host.rs` runs each kind.

use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use rondel_engine::event_loop::EventLoop;

use super::core::LoopCore;
use crate::cpython::error::{Raised, raise_os_error};
use crate::cpython::{Object, Owned, Res};

/// The engine as it is compiled for Python.
pub(crate) type Engine = EventLoop<PyHost>;

/// The kinds of items. At most eight, because objects are aligned to eight bytes.
#[repr(usize)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A task takes its next step.
    Step = 0,
    /// A task takes its next step, because the future that it waits for is done.
    Wakeup = 1,
    /// A handle runs.
    Handle = 2,
    /// A transport's descriptor is readable.
    Readable = 3,
    /// A transport's descriptor is writable.
    Writable = 4,
    /// A transport does something that asyncio would schedule with `call_soon`.
    Deferred = 5,
    /// A watcher runs, because a future that it watches is done.
    Watcher = 6,
    /// A function that ran in a thread has ended.
    Job = 7,
}

const KIND_MASK: usize = 7;

/// An entry of the ready ring.
pub(crate) struct Item(NonNull<u8>);

impl Item {
    #[inline]
    pub(crate) fn new(kind: Kind, object: Owned) -> Self {
        let ptr = object.into_ptr().cast::<u8>();
        debug_assert_eq!(ptr.addr() & KIND_MASK, 0);
        // SAFETY: an object's address is not null, and stays so when low bits are set.
        Self(unsafe { NonNull::new_unchecked(ptr.map_addr(|addr| addr | kind as usize)) })
    }

    #[inline]
    pub(crate) fn kind(&self) -> Kind {
        Kind::from_bits(self.0.as_ptr().addr())
    }
}

impl Kind {
    /// The kind encoded in the low bits.
    #[inline]
    pub(crate) fn from_bits(bits: usize) -> Self {
        match bits & KIND_MASK {
            0 => Kind::Step,
            1 => Kind::Wakeup,
            2 => Kind::Handle,
            3 => Kind::Readable,
            4 => Kind::Writable,
            5 => Kind::Deferred,
            6 => Kind::Watcher,
            _ => Kind::Job,
        }
    }
}

impl Item {
    /// The item's object.
    #[inline]
    pub(crate) fn object(&self) -> &Object {
        let ptr = self.0.as_ptr().map_addr(|addr| addr & !KIND_MASK);
        // SAFETY: the item owns a reference to the object.
        unsafe { Object::from_ptr(ptr.cast()) }
    }

    #[inline]
    pub(crate) fn into_parts(self) -> (Kind, Owned) {
        let this = ManuallyDrop::new(self);
        // SAFETY: the item's reference moves to the result.
        (this.kind(), unsafe {
            Owned::steal_unchecked(this.object().as_ptr())
        })
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        // SAFETY: the item owns a reference, which is released here.
        drop(unsafe { Owned::steal_unchecked(self.object().as_ptr()) });
    }
}

/// What a descriptor is registered with.
pub(crate) enum Source {
    /// `add_reader`, `add_writer`: a handle.
    Callback(Owned),
    /// A Rondel transport.
    Transport(Owned),
}

impl Source {
    pub(crate) fn object(&self) -> &Object {
        match self {
            Self::Callback(object) | Self::Transport(object) => object,
        }
    }
}

/// An entry of the timer heap: a `TimerHandle`. (`handle/timer.rs` implements `Timer` for it.)
pub(crate) struct TimerRef(Owned);

impl TimerRef {
    /// # Safety
    /// The object must be a Rondel handle.
    #[inline]
    pub(crate) unsafe fn new(handle: Owned) -> Self {
        Self(handle)
    }

    #[inline]
    pub(crate) fn object(&self) -> &Object {
        &self.0
    }

    #[inline]
    pub(crate) fn into_owned(self) -> Owned {
        self.0
    }
}

/// An item sent from another thread.
pub(crate) struct Remote(pub(crate) Item);

// SAFETY: made and received by threads that hold the GIL, and not accessed in between.
unsafe impl Send for Remote {}

/// Why a run of the loop ends early.
pub(crate) enum Exit {
    /// An exception is set that must propagate from `run_forever`.
    Raised(Raised),
    /// The reactor failed.
    Os(io::Error),
}

impl Exit {
    pub(crate) fn raise<T>(self) -> Res<T> {
        match self {
            Self::Raised(raised) => Err(raised),
            Self::Os(error) => raise_os_error(&error),
        }
    }
}

impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Self {
        Self::Os(error)
    }
}

/// The host: a pointer to the loop that the engine is embedded in.
pub(crate) struct PyHost {
    core: NonNull<LoopCore>,
}

impl PyHost {
    /// # Safety
    /// `core` must outlive the engine and must not move.
    pub(crate) unsafe fn new(core: NonNull<LoopCore>) -> Self {
        Self { core }
    }

    #[inline]
    pub(crate) fn core(&self) -> &LoopCore {
        // SAFETY: guaranteed by the caller of `new`.
        unsafe { self.core.as_ref() }
    }
}
