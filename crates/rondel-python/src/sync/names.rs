//! Objects of the standard library that the primitives use, besides those of `cpython/names.rs`.

use crate::cpython::names::{import_from, import_optional, imported};
use crate::cpython::{Owned, Res};

imported! {
    pub(super) fn sync_imports() -> Imports {
        deque: "collections" "deque",
        heappush: "heapq" "heappush",
        heappop: "heapq" "heappop",
        broken_barrier_error: "asyncio.exceptions" "BrokenBarrierError",
        queue_empty: "asyncio.queues" "QueueEmpty",
        queue_full: "asyncio.queues" "QueueFull",
        // The classes that ours derive from.
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
        /// The members of `asyncio.locks._BarrierState`, in their order.
        barrier_states: [Owned; 4] = barrier_states()?,
        /// From 3.13 on.
        queue_shut_down: Option<Owned> = import_optional("asyncio.queues", "QueueShutDown")?,
        /// Whether this version's `Condition` and `Semaphore` pass a wake-up on that a cancellation
        /// met (3.13, and what it was carried over to).
        passes_wakeups_on: bool = import_from("asyncio.locks", "Condition")?
            .getattr_optional(&*Owned::from_str("_notify")?)?
            .is_some(),
    }
}

fn barrier_states() -> Res<[Owned; 4]> {
    let states = import_from("asyncio.locks", "_BarrierState")?;
    let get = |name: &str| states.getattr(&*Owned::from_str(name)?);
    Ok([
        get("FILLING")?,
        get("DRAINING")?,
        get("RESETTING")?,
        get("BROKEN")?,
    ])
}

/// Fills the table. Once, at import, after those of `cpython/names.rs`.
pub(super) fn init() -> Res<()> {
    Imports::fill()
}
