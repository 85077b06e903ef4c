//! The event loop as Python sees it: `rondel._rondel.LoopCore`, the native base of
//! `rondel.EventLoop`.
//!
//! | file | what it has |
//! |---|---|
//! | `class.rs` | the class: how a loop is made and how it dies |
//! | `host.rs` | how each kind of item runs |
//! | `item_call.rs` | a handle for a queued item that has none |
//! | `calls.rs` | `call_soon`, `call_later` and their kin; `create_future`, `create_task`, `run_in_executor` |
//! | `descriptors.rs` | `add_reader` and its kin |
//! | `attributes.rs` | where asyncio's own code keeps its attributes |
//! | `run.rs` | running, stopping, closing; the attributes that asyncio's own code reads |
//! | `overrides.rs` | which methods of a loop the program has replaced |
//! | `patches.rs` | what it has replaced in asyncio's own classes |
//! | `steps.rs` | the loop taken apart, for programs that have a turn or a selector of their own |
//!
//! A loop's state is `loop_core/`. `python/rondel/_event_loop.py` derives `EventLoop` from this and
//! from asyncio's selector loop: whatever is not here works through asyncio's own code.

pub(crate) mod attributes;
pub(crate) mod calls;
pub(crate) mod class;
mod descriptors;
pub(crate) mod host;
mod item_call;
pub(crate) mod overrides;
pub(crate) mod patches;
pub(crate) mod run;
mod steps;
