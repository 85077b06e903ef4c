//! asyncio's functions that make tasks: `create_task`, `ensure_future`, `eager_task_factory`.
//!
//! This file handles Rondel loops that make their tasks themselves. Everything else (another loop,
//! a replaced `create_task`, a custom task factory, wrong arguments) is left to asyncio's own
//! function of the same name, as versions differ in how it passes names and keywords on.

use std::ffi::CStr;

use crate::cpython::method::{Args, function, method};
use crate::cpython::names::{Table, import_from};
use crate::cpython::stock_code::{self, get};
use crate::cpython::{Object, Owned, OwnedNative, Res, imports, names, none};
use crate::future;
use crate::loop_core::LoopCore;
use crate::loop_core::running_loop::running_loop;
use crate::task::{self, Task, new_task};

/// Which code sets the name given to `create_task` on a task that a factory made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// The factory, which is passed all keywords (3.13.3, and from 3.14 on).
    Factory,
    /// `create_task`, if a name was given (up to 3.12).
    IfGiven,
    /// `create_task`; without a name, the task is called `'None'` (other releases of 3.13).
    Always,
}

/// Objects and properties of the running version's asyncio.
struct Stock {
    create_task: Owned,
    ensure_future: Owned,
    eager_task_factory: Owned,
    naming: Naming,
    /// The signature of `BaseEventLoop.create_task`, and whether it passes all keywords on to the
    /// task.
    loop_create_task: (&'static CStr, bool),
}

impl Naming {
    /// That of the newest release of this version.
    const fn newest() -> Self {
        match (cfg!(Py_3_14), cfg!(Py_3_13)) {
            (true, _) => Self::Factory,
            (_, true) => Self::Always,
            _ => Self::IfGiven,
        }
    }
}

static STOCK: Table<Stock> = Table::new();

fn naming(code: &Object) -> Res<Naming> {
    let names = get(code, "co_names")?;
    let calls = |name: &str| {
        let name = Owned::from_str(name)?;
        names
            .call_method(&*Owned::from_str("count")?, &[&name])?
            .is_true()
    };
    Ok(if calls("_set_task_name")? {
        Naming::IfGiven
    } else if calls("set_name")? {
        Naming::Always
    } else {
        Naming::Factory
    })
}

const VARIABLE_KEYWORDS: isize = 8; // inspect.CO_VARKEYWORDS

/// The signature of the loop's `create_task`, which differs between patch releases of 3.13.
fn loop_create_task(code: &Object) -> Res<(&'static CStr, bool)> {
    let takes_all = get(code, "co_flags")?.to_isize()? & VARIABLE_KEYWORDS != 0;
    let has_named = get(code, "co_kwonlyargcount")?.is_true()?;
    let signature = match (has_named, takes_all) {
        (true, true) => c"create_task(coro, *, name=None, context=None, **kwargs)",
        (true, false) => c"create_task(coro, *, name=None, context=None)",
        (false, _) => c"create_task(coro, **kwargs)",
    };
    Ok((signature, takes_all))
}

/// That of the newest release of this version.
const fn newest_loop_create_task() -> (&'static CStr, bool) {
    match (cfg!(Py_3_14), cfg!(Py_3_13)) {
        (true, _) => (c"create_task(coro, **kwargs)", true),
        (_, true) => (
            c"create_task(coro, *, name=None, context=None, **kwargs)",
            true,
        ),
        _ => (c"create_task(coro, *, name=None, context=None)", false),
    }
}

/// The signature that the loop's `create_task` shows.
pub(crate) fn signature_in_loop() -> &'static CStr {
    STOCK.get().loop_create_task.0
}

/// Whether the loop's `create_task` accepts all keywords of `Task`.
#[inline]
pub(crate) fn loop_takes_all_keywords() -> bool {
    cfg!(Py_3_14) || (cfg!(Py_3_13) && STOCK.get().loop_create_task.1)
}

/// The keywords of `create_task`. [`Options::parse`] returns `None` if any of them is unknown.
#[derive(Default)]
pub(crate) struct Options<'a> {
    name: Option<&'a Object>,
    context: Option<&'a Object>,
    pub(crate) eager_start: Option<&'a Object>,
}

impl<'a> Options<'a> {
    #[inline]
    pub(crate) fn parse(args: Args<'a>) -> Option<Self> {
        let mut options = Self::default();
        if !args.has_named() {
            return Some(options);
        }
        let names = names();
        for (keyword, value) in args.named() {
            // Keyword names in a call's source text are interned.
            if keyword.is(&names.name) {
                options.name = Some(value);
            } else if keyword.is(&names.context) {
                options.context = Some(value);
            } else if cfg!(Py_3_14) && keyword.is(&names.eager_start) {
                options.eager_start = Some(value);
            } else {
                return None;
            }
        }
        Some(options)
    }
}

/// Makes a task as `event_loop.create_task(coroutine, …)` does, without calling that method.
/// Returns `None` if the call is needed.
#[inline]
pub(crate) fn create_directly(
    event_loop: &Object,
    coroutine: &Object,
    options: &Options<'_>,
) -> Res<Option<OwnedNative<Task>>> {
    let Some(core) = LoopCore::of(event_loop) else {
        return Ok(None);
    };
    if !core.makes_tasks_directly() {
        return Ok(None);
    }
    let eager_start = options.eager_start.map_or(Ok(false), Object::is_true)?;
    let (name, context) = (options.name, options.context);
    new_task(event_loop, coroutine, name, context, eager_start).map(Some)
}

/// `create_task(coro, *, name=None, context=None)`.
fn create_task(_: &Object, args: Args<'_>) -> Res<Owned> {
    if let ([coroutine], Some(options)) = (args.positional(), Options::parse(args)) {
        let event_loop = running_loop()?;
        if let Some(task) = create_directly(&event_loop, coroutine, &options)? {
            return Ok(task.into_owned());
        }
        if let Some(factory) = LoopCore::of(&event_loop).and_then(LoopCore::direct_factory)
            && let Some(task) = create_eagerly(&event_loop, &factory, args)?
        {
            return Ok(task.into_owned());
        }
    }
    STOCK.get().create_task.call_all(args)
}

/// `ensure_future(coro_or_future, *, loop=None)`.
fn ensure_future(_: &Object, args: Args<'_>) -> Res<Owned> {
    if let ([awaitable], false) = (args.positional(), args.has_named()) {
        if future::is_native(awaitable) {
            return Ok((*awaitable).own());
        }
        if std::ptr::eq(awaitable.type_ptr(), imports().coroutine_type.as_type_ptr()) {
            let event_loop = running_loop()?;
            if let Some(task) = create_directly(&event_loop, awaitable, &Options::default())? {
                return Ok(task.into_owned());
            }
        }
    }
    STOCK.get().ensure_future.call_all(args)
}

/// What `loop.create_task` does if `rondel.eager_task_factory` is the loop's factory; `None` if it
/// has another one.
pub(crate) fn create_eagerly(
    event_loop: &Object,
    factory: &Object,
    args: Args<'_>,
) -> Res<Option<OwnedNative<Task>>> {
    if !factory.is(&STOCK.get().eager_task_factory) {
        return Ok(None);
    }
    let ([coroutine], Some(options)) = (args.positional(), Options::parse(args)) else {
        return Ok(None);
    };
    let naming = STOCK.get().naming;
    let by_factory = match naming {
        Naming::Factory => options.name,
        _ => None,
    };
    let eager_start = options.eager_start.map_or(Ok(true), Object::is_true)?;
    let context = options.context;
    let task = new_task(event_loop, coroutine, by_factory, context, eager_start)?;
    let name = options.name.unwrap_or(none());
    if naming == Naming::Always || (naming == Naming::IfGiven && !name.is_none()) {
        task::set_name(&task, name)?;
    }
    Ok(Some(task))
}

/// The signature that the running version shows.
pub(crate) const CREATE_TASK: &CStr = if cfg!(Py_3_14) {
    c"create_task(coro, **kwargs)"
} else {
    c"create_task(coro, *, name=None, context=None)"
};

/// The functions, by name.
pub(crate) fn init(class: &Object) -> Res<Vec<(&'static str, Owned)>> {
    // asyncio's own closure, made for our class: anyio recognizes an eager factory by its code
    // object, and reads the class from the closure.
    let eager = if cfg!(Py_3_12) {
        import_from("asyncio.tasks", "create_eager_task_factory")?.call(&[class])?
    } else {
        none().own()
    };
    let newest = (Naming::newest(), newest_loop_create_task());
    let (naming, loop_create_task) = stock_code::look(newest, || {
        let code = stock_code::code("asyncio.base_events", "BaseEventLoop", "create_task")?;
        Ok((naming(&code)?, loop_create_task(&code)?))
    })?;
    STOCK.fill(Stock {
        create_task: import_from("asyncio.tasks", "create_task")?,
        ensure_future: import_from("asyncio.tasks", "ensure_future")?,
        eager_task_factory: eager.clone(),
        naming,
        loop_create_task,
    });
    let mut functions = vec![
        (
            "create_task",
            function(method!(fast CREATE_TASK create_task,
                c"Creates a task of the running loop from a coroutine."))?,
        ),
        (
            "ensure_future",
            function(
                method!(fast c"ensure_future(coro_or_future, *, loop=None)" ensure_future,
                c"Returns a future as it is, or a task that awaits anything else."),
            )?,
        ),
    ];
    if cfg!(Py_3_12) {
        functions.push(("eager_task_factory", eager));
    }
    Ok(functions)
}
