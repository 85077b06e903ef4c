//! Timer handles in the engine's timer heap.

use rondel_engine::event_loop::timers::Timer;

use super::Handle;
use crate::cpython::{Native, OwnedNative, Res};
use crate::loop_core::item::TimerRef;
use crate::loop_core::{LoopCore, nanos, not_queued};

impl Timer for TimerRef {
    #[inline]
    fn is_cancelled(&self) -> bool {
        self.handle().is_cancelled()
    }
}

impl TimerRef {
    /// The handle.
    #[inline]
    pub(crate) fn handle(&self) -> &Native<Handle> {
        // SAFETY: only `push_timer` makes these, from handles.
        unsafe { self.object().known() }
    }
}

impl LoopCore {
    /// Queues a timer handle.
    #[inline]
    pub(crate) fn push_timer(&self, when: f64, handle: OwnedNative<Handle>) -> Res<()> {
        // SAFETY: the object is a handle.
        let timer = unsafe { TimerRef::new(handle.into_owned()) };
        match self.engine().try_call_at(nanos(when), timer) {
            Ok(()) => Ok(()),
            Err(timer) => {
                timer.handle().set_scheduled(false);
                not_queued(timer)
            }
        }
    }
}
