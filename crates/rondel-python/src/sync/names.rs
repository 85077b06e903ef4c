//! Standard library objects that the primitives use, in addition to those of `cpython/names.rs`.

use crate::cpython::names::{import_from, import_optional, imported};
use crate::cpython::{Owned, Res, stock_code};

imported! {
    pub(super) fn sync_imports() -> Imports {
        deque: "collections" "deque",
        heappush: "heapq" "heappush",
        heappop: "heapq" "heappop",
        broken_barrier_error: "asyncio.exceptions" "BrokenBarrierError",
        queue_empty: "asyncio.queues" "QueueEmpty",
        queue_full: "asyncio.queues" "QueueFull",
        // The base classes of the classes made here.
        stock_lock: "asyncio.locks" "Lock",
        stock_event: "asyncio.locks" "Event",
        stock_condition: "asyncio.locks" "Condition",
        stock_semaphore: "asyncio.locks" "Semaphore",
        stock_bounded_semaphore: "asyncio.locks" "BoundedSemaphore",
        stock_barrier: "asyncio.locks" "Barrier",
        stock_queue: "asyncio.queues" "Queue",
        stock_priority_queue: "asyncio.queues" "PriorityQueue",
        stock_lifo_queue: "asyncio.queues" "LifoQueue",
    } and {
        /// The members of `asyncio.locks._BarrierState`, in order of definition.
        barrier_states: [Owned; 4] = barrier_states()?,
        /// `QueueShutDown`, from 3.13 on.
        queue_shut_down: Option<Owned> = import_optional("asyncio.queues", "QueueShutDown")?,
        /// Whether this version's `Condition` and `Semaphore` pass on the wake-up of a task that
        /// was cancelled after it (3.13, and releases with the backport).
        passes_wakeups_on: bool = import_from("asyncio.locks", "Condition")?
            .getattr_optional(&*Owned::from_str("_notify")?)?
            .is_some(),
    }
}

fn barrier_states() -> Res<[Owned; 4]> {
    stock_code::members(
        "asyncio.locks",
        "_BarrierState",
        [
            ("FILLING", "filling"),
            ("DRAINING", "draining"),
            ("RESETTING", "resetting"),
            ("BROKEN", "broken"),
        ],
    )
}

/// Fills the table. Called once, at import, after `cpython/names.rs` is initialized.
pub(super) fn init() -> Res<()> {
    Imports::fill()
}
