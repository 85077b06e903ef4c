//! Native implementations of asyncio's primitives: `Lock`, `Event`, `Condition`, `Semaphore`,
//! `Barrier` and the queues.
//!
//! A task that has to wait waits on a future in a primitive's queue. Completing that future puts
//! the task onto the ready ring. An operation that need not wait returns at once, without a future
//! or a turn of the loop.
//!
//! | file | contents |
//! |---|---|
//! | `acquire.rs` | waiting for a lock or a permit |
//! | `primitive.rs` | what all have in common: the loop, the class, the repr |
//! | `waiters.rs` | the queue of waiting tasks |
//! | `lock.rs`, `event.rs`, `condition.rs`, `semaphore.rs`, `barrier.rs` | one primitive each |
//! | `count.rs` | the value of a semaphore |
//! | `async_with.rs` | `async with` |
//! | `queue/`, `queue_calls.rs`, `items.rs` | the queues: state; `get`, `put`, `join`; their items |
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
