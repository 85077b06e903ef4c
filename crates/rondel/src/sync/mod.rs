//! asyncio's primitives: what tasks wait for each other with.
//!
//! | file | what it owns |
//! |---|---|
//! | `wait_list.rs` | who waits, first come, first served: what all others are made of |
//! | `lock.rs`, `event.rs`, `condition.rs`, `semaphore.rs`, `barrier.rs` | the primitives of these names |
//! | `queue.rs` | `Queue`, `PriorityQueue`, `LifoQueue`: one implementation; `order.rs` is what they differ in |
//!
//! They live on one thread: no atomics, not `Send`. Who is served first, and in which turn of the
//! loop, is as in asyncio, whose code they follow line by line. Where asyncio has `except
//! CancelledError`, there is a destructor here: a future that is dropped passes on what it was
//! given and can't use (a wake-up, a permit), so that nothing is lost at any await.

mod barrier;
mod condition;
mod event;
mod lock;
mod order;
mod queue;
mod semaphore;
mod wait_list;

pub use barrier::{Barrier, BrokenBarrierError};
pub use condition::{Condition, ConditionGuard};
pub use event::Event;
pub use lock::{Lock, LockGuard};
pub(crate) use order::Fifo;
pub(crate) use queue::{Core, Reserved};
pub use queue::{
    GetNowaitError, LifoQueue, PriorityQueue, PutError, PutNowaitError, Queue, QueueShutDown,
    TaskDoneError,
};
pub use semaphore::{BoundedSemaphore, ReleaseError, Semaphore, SemaphorePermit};
pub(crate) use wait_list::WaitList;
