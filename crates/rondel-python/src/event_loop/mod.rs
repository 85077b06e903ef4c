//! The event loop as Python sees it: `rondel._rondel.LoopCore`, the native base of `rondel.EventLoop`.
//!
//! | file | what it has |
//! |---|---|
//! | `core.rs` | the object: the engine and the loop's state; its life |
//! | `host.rs` | what the engine queues here, and how each kind of item runs |
//! | `calls.rs` | `call_soon`, `call_later`, `call_at`, `call_soon_threadsafe`, `create_future`, `create_task` |
//! | `descriptors.rs` | `add_reader` and its kin |
//! | `attributes.rs` | where asyncio's own code keeps its attributes |
//! | `running.rs` | running, stopping, closing; the attributes that asyncio's own code reads |
//! | `overrides.rs` | which methods of a loop the program has replaced |
//! | `patches.rs` | what it has replaced in asyncio's own classes |
//! | `steps.rs` | the loop taken apart, for programs that have a turn or a selector of their own |
//! | `written.rs` | what a turn has written, until it is sent |
//! | `running_loop.rs` | which loop runs in this thread |
//!
//! `python/rondel/event_loop.py` derives `EventLoop` from this and from asyncio's selector loop: whatever is not
//! here works through asyncio's own code.

pub(crate) mod attributes;
pub(crate) mod calls;
pub(crate) mod core;
mod descriptors;
pub(crate) mod host;
pub(crate) mod overrides;
pub(crate) mod patches;
pub(crate) mod running;
pub(crate) mod running_loop;
mod steps;
mod written;
