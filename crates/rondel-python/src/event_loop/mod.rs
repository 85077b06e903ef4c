//! The event loop as Python sees it: `rondel._rondel.LoopCore`, the native base of
//! `rondel.EventLoop`.
//!
//! | file | what it has |
//! |---|---|
//! | `class.rs` | the class: construction, garbage collection, deallocation |
//! | `host.rs` | how each kind of item runs |
//! | `item_call.rs` | a handle for a queued item that has none |
//! | `calls.rs` | `call_soon`, `call_later` and variants; `create_future`, `create_task`, `run_in_executor` |
//! | `descriptors.rs` | `add_reader`, `add_writer` and their removal |
//! | `attributes.rs` | the attributes that asyncio's own code sets |
//! | `run.rs` | running, stopping, closing; the attributes that asyncio's own code reads |
//! | `overrides.rs` | methods of a loop that the program has replaced |
//! | `patches.rs` | methods of asyncio's own classes that the program has replaced |
//! | `steps.rs` | the parts of a turn, for programs with their own `_run_once` or selector |
//!
//! A loop's state is in `loop_core/`. `python/rondel/_event_loop.py` derives `EventLoop` from this
//! class and from asyncio's selector loop: anything not defined here is asyncio's own code.

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
