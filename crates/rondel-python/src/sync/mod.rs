//! `Lock`, `Event`, `Condition`, `Semaphore`, `Barrier` and the queues: asyncio's primitives,
//! native.
//!
//! A task that has to wait waits on a future in a primitive's queue; whoever completes that future
//! has put the task onto the ready ring. What need not wait returns at once, and costs neither a
//! future nor a turn of the loop.
//!
//! | file | what it has |
//! |---|---|
//! | `acquire.rs` | waiting for a lock or a permit |
//! | `primitive.rs` | what all have in common: the loop, the class, the repr |
//! | `waiters.rs` | the queue of those who wait |
//! | `lock.rs`, `event.rs`, `condition.rs`, `semaphore.rs`, `barrier.rs` | one primitive each |
//! | `count.rs` | the number in a semaphore |
//! | `async_with.rs` | `async with` |
//! | `queue/`, `queue_calls.rs`, `items.rs` | the queues: state; `get`, `put`, `join`; what is in them |
//! | `names.rs` | interned names and library objects |

mod acquire;
mod async_with;
mod barrier;
mod condition;
mod count;
mod event;
mod items;
mod lock;
mod names;
mod primitive;
mod queue;
mod queue_calls;
mod semaphore;
mod waiters;

pub(crate) use queue::{Queue, get_item, is_empty, new as new_queue, put_item};
pub(crate) use queue_calls::get as wait_for_item;

use crate::cpython::{Owned, Res};

/// The classes that the module exports, by name.
pub(crate) fn init_types() -> Res<Vec<(&'static str, Owned)>> {
    names::init()?;
    async_with::init_type()?;
    let event = event::init_type()?;
    let (queue, priority, lifo) = queue::init_types()?;
    let (semaphore, bounded) = semaphore::init_types()?;
    Ok(vec![
        ("Lock", lock::init_type()?),
        ("Event", event),
        ("Condition", condition::init_type()?),
        ("Semaphore", semaphore),
        ("BoundedSemaphore", bounded),
        ("Barrier", barrier::init_type()?),
        ("Queue", queue),
        ("PriorityQueue", priority),
        ("LifoQueue", lifo),
    ])
}
