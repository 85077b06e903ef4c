//! How much a step of a task may do before it gives way.
//!
//! A step lasts until its task has to wait. Operations that never have to (lines that have arrived
//! already, a connection that takes all that is written) would make it last for ever, and every
//! other task with it. So each of them, when it is ready, takes one unit of the step's budget; when
//! there is none left, it wakes its task and says that it has to wait. What it has done stays done:
//! it goes on in the next step, which has a budget again.
//!
//! Whoever polls outside a task's step (a foreign waker that runs its future itself) has no limit:
//! nothing would give it a new budget.

use std::cell::Cell;

use crate::runtime;
use crate::time::yield_now;

/// How many operations of one step may be ready at once; as many as with tokio.
const UNITS: u32 = 128;

/// What the running step may still do.
pub(crate) struct Budget(Cell<u32>);

impl Default for Budget {
    fn default() -> Self {
        Self(Cell::new(u32::MAX))
    }
}

impl Budget {
    /// A step begins.
    #[inline]
    pub(crate) fn begin_step(&self) {
        self.0.set(UNITS);
    }

    /// The step is over.
    #[inline]
    pub(crate) fn end_step(&self) {
        self.0.set(u32::MAX);
    }

    /// To be asked by an operation that is ready. `false`: it is to be ready in the task's next
    /// step only.
    #[inline(always)]
    pub(crate) fn take(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left > 0
    }

    /// As [`take`](Self::take), for async functions. Dropping it takes nothing back.
    #[inline]
    pub(crate) async fn taken(&self) {
        if !self.take() {
            yield_now().await;
        }
    }
}

/// Takes a unit of the budget of the step that runs, for what belongs to no loop; without a loop
/// there is no limit.
#[inline]
pub(crate) async fn taken() {
    if runtime::try_current(|runtime| runtime.budget.take()) == Some(false) {
        yield_now().await;
    }
}
