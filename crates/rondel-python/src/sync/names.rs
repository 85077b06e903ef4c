//! Interned names and library objects that the primitives use, besides those of `cpython/names.rs`. Filled once, at
//! import.

use crate::cpython::names::{Table, import, interned};
use crate::cpython::{Object, Owned, Res, names};

interned! {
    pub(super) struct Names {
        acquire "acquire",
        append "append",
        clear "clear",
        empty "empty",
        format "_format",
        full "full",
        get "_get",
        get_nowait "get_nowait",
        init "_init",
        locked "locked",
        notify "notify",
        notify_all "notify_all",
        pop "pop",
        popleft "popleft",
        put "_put",
        put_nowait "put_nowait",
        qsize "qsize",
        release "release",
        remove "remove",
        set "set",
        wait "wait",
    }
}

/// Objects of the standard library.
pub(super) struct Imports {
    pub(super) deque: Owned,
    pub(super) heappush: Owned,
    pub(super) heappop: Owned,
    pub(super) broken_barrier_error: Owned,
    /// The members of `asyncio.locks._BarrierState`, in their order.
    pub(super) barrier_states: [Owned; 4],
    pub(super) queue_empty: Owned,
    pub(super) queue_full: Owned,
    /// From 3.13 on.
    pub(super) queue_shut_down: Option<Owned>,
    pub(super) stock: Stock,
    /// Whether this version's `Condition` and `Semaphore` pass a wake-up on that a cancellation met (3.13, and what it
    /// was carried over to).
    pub(super) passes_wakeups_on: bool,
}

/// The classes that ours derive from.
pub(super) struct Stock {
    pub(super) lock: Owned,
    pub(super) event: Owned,
    pub(super) condition: Owned,
    pub(super) semaphore: Owned,
    pub(super) bounded_semaphore: Owned,
    pub(super) barrier: Owned,
    pub(super) queue: Owned,
    pub(super) priority_queue: Owned,
    pub(super) lifo_queue: Owned,
}

fn get(module: &Object, name: &str) -> Res<Owned> {
    module.getattr(&*Owned::from_str(name)?)
}

impl Imports {
    fn new() -> Res<Self> {
        let locks = import("asyncio.locks")?;
        let queues = import("asyncio.queues")?;
        let heapq = import("heapq")?;
        let states = get(&locks, "_BarrierState")?;
        let stock = Stock {
            lock: get(&locks, "Lock")?,
            event: get(&locks, "Event")?,
            condition: get(&locks, "Condition")?,
            semaphore: get(&locks, "Semaphore")?,
            bounded_semaphore: get(&locks, "BoundedSemaphore")?,
            barrier: get(&locks, "Barrier")?,
            queue: get(&queues, "Queue")?,
            priority_queue: get(&queues, "PriorityQueue")?,
            lifo_queue: get(&queues, "LifoQueue")?,
        };
        let notify = Owned::from_str("_notify")?;
        Ok(Self {
            deque: get(&*import("collections")?, "deque")?,
            heappush: get(&heapq, "heappush")?,
            heappop: get(&heapq, "heappop")?,
            broken_barrier_error: get(&*import("asyncio.exceptions")?, "BrokenBarrierError")?,
            barrier_states: [
                get(&states, "FILLING")?,
                get(&states, "DRAINING")?,
                get(&states, "RESETTING")?,
                get(&states, "BROKEN")?,
            ],
            queue_empty: get(&queues, "QueueEmpty")?,
            queue_full: get(&queues, "QueueFull")?,
            queue_shut_down: queues.getattr_optional(&*Owned::from_str("QueueShutDown")?)?,
            passes_wakeups_on: stock.condition.getattr_optional(&notify)?.is_some(),
            stock,
        })
    }
}

static NAMES: Table<Names> = Table::new();
static IMPORTS: Table<Imports> = Table::new();

/// Fills both tables. Once, at import, after those of `cpython/names.rs`.
pub(super) fn init() -> Res<()> {
    let _common = names();
    let (names, imports) = (Names::new()?, Imports::new()?);
    NAMES.fill(names);
    IMPORTS.fill(imports);
    Ok(())
}

#[inline]
pub(super) fn sync_names() -> &'static Names {
    NAMES.get()
}

#[inline]
pub(super) fn sync_imports() -> &'static Imports {
    IMPORTS.get()
}
