//! Timer handles in the engine's timer heap.

use rondel_engine::event_loop::timers::Timer;

use super::fields;
use crate::cpython::{Owned, Res};
use crate::loop_core::item::TimerRef;
use crate::loop_core::{LoopCore, nanos, not_queued};

impl Timer for TimerRef {
    #[inline]
    fn is_cancelled(&self) -> bool {
        fields(&self.0).is_cancelled()
    }
}

impl LoopCore {
    /// Queues a timer handle.
    #[inline]
    pub(crate) fn push_timer(&self, when: f64, handle: Owned) -> Res<()> {
        match self.engine().try_call_at(nanos(when), TimerRef(handle)) {
            Ok(()) => Ok(()),
            Err(timer) => {
                fields(&timer.0).set_scheduled(false);
                not_queued(timer)
            }
        }
    }
}
