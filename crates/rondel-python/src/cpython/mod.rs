//! Everything that relies on the C API or on CPython's internals.
//!
//! PyO3's wrappers cost more than what is wrapped where a callback takes 0.1 µs, so the hot classes
//! are made with the C API directly. This folder is the safe surface for that; the rest of the
//! crate has little `unsafe`.
//!
//! # The invariant
//! Code of this crate runs with the GIL held (in free-threaded builds: with an attached thread
//! state). It is entered through the slots and methods of our types, which the interpreter calls
//! with the GIL held. The only place that releases the GIL is `detach.rs`, whose callers' closures
//! touch no object. The safe functions here rely on that: only code that holds the GIL can hold an
//! [`Object`] reference or an [`Owned`].
//!
//! | file | what it has |
//! |---|---|
//! | `object.rs` | references: [`Object`] (borrowed), [`Owned`] (counted), [`Slot`] (a field) |
//! | `error.rs` | [`Raised`]: an exception is set; making and taking exceptions; the panic guard |
//! | `types.rs` | heap types whose fields stand behind those of a base class |
//! | `method.rs` | method tables and argument parsing |
//! | `dispatch.rs`, `accept.rs` | methods called on a class with objects of another class |
//! | `audit.rs` | audit events |
//! | `definition.rs` | having something done before a built-in function |
//! | `call.rs` | calls of a program's code |
//! | `collected.rs` | the slots by which the collector and the interpreter end an instance's life |
//! | `finalize.rs` | `__del__` of native objects |
//! | `frame.rs` | the source tracebacks of debug mode |
//! | `ending.rs` | daemon threads at the end of the interpreter |
//! | `function.rs` | native code behind Python functions |
//! | `function_311.rs` | what replaces some of these functions on 3.11 |
//! | `kwdefaults.rs` | the defaults of such functions' keywords, when they change |
//! | `freelist.rs` | memory of dead objects, kept for the next ones |
//! | `instance_dict.rs` | whether an object has an instance dict |
//! | `python_class.rs` | classes that Python makes of a native one and asyncio's |
//! | `special.rs` | `__aenter__` and `__aexit__`, as `async with` looks them up |
//! | `stop_iteration.rs` | returning a value from an iterator without building a full exception |
//! | `detach.rs` | letting other threads have the interpreter during a wait |
//! | `context.rs` | `contextvars` contexts |
//! | `stock_code.rs` | what asyncio's own Python code tells about its behaviour |
//! | `stack.rs` | how deep native code may recurse |
//! | `nesting.rs` | objects that end each other, one inside the other |
//! | `native.rs` | native classes, and references whose type says of which class an object is |
//! | `names.rs` | interned names, and the objects of the standard library that are used often |

pub(crate) mod accept;
pub(crate) mod audit;
mod builtins;
pub(crate) mod call;
pub(crate) mod collected;
pub(crate) mod context;
pub(crate) mod definition;
pub(crate) mod detach;
pub(crate) mod direct_call;
pub(crate) mod dispatch;
pub(crate) mod ending;
pub(crate) mod error;
pub(crate) mod finalize;
pub(crate) mod flags;
pub(crate) mod frame;
pub(crate) mod freelist;
pub(crate) mod function;
#[cfg(not(Py_3_12))]
mod function_311;
pub(crate) mod instance_dict;
pub(crate) mod kwdefaults;
pub(crate) mod layout;
pub(crate) mod method;
pub(crate) mod names;
#[allow(dead_code, reason = "classes are turned to it one by one")]
pub(crate) mod native;
pub(crate) mod nesting;
pub(crate) mod object;
pub(crate) mod private;
pub(crate) mod python_class;
pub(crate) mod slots;
pub(crate) mod special;
pub(crate) mod stack;
pub(crate) mod stock_code;
pub(crate) mod stop_iteration;
pub(crate) mod types;

pub(crate) use error::{Raised, Res};
pub(crate) use names::{imports, names};
#[allow(unused_imports, reason = "as above")]
pub(crate) use native::{Class, Fields, Native, NativeClass, NativeSlot, OwnedNative};
pub(crate) use object::{Object, Owned, Slot, none};
