//! Interned names, and the objects of the standard library that are used often. Filled once, at import.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::{Object, Owned, Res, call};

/// Declares a table of interned names: `interned! { pub(super) struct Names { wait "wait", … } }`.
macro_rules! interned {
    ($vis:vis struct $table:ident { $($name:ident $text:literal),+ $(,)? }) => {
        /// Names of attributes, methods and keywords, interned.
        $vis struct $table {
            $($vis $name: $crate::cpython::Owned,)+
        }

        impl $table {
            fn new() -> $crate::cpython::Res<Self> {
                Ok(Self { $($name: $crate::cpython::names::intern($text)?,)+ })
            }
        }
    };
}
pub(crate) use interned;

/// A table that is filled once, at import, and lives as long as the process.
pub(crate) struct Table<T>(AtomicPtr<T>);

impl<T> Table<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    pub(crate) fn fill(&self, table: T) {
        self.0
            .store(Box::into_raw(Box::new(table)), Ordering::Release);
    }

    /// The table, which is filled now if nobody has done so.
    pub(crate) fn get_or_fill(&self, make: impl FnOnce() -> Res<T>) -> Res<&T> {
        if self.0.load(Ordering::Acquire).is_null() {
            // Of two threads that come here one fills it in vain.
            self.fill(make()?);
        }
        Ok(self.get())
    }

    /// The table, which must have been filled: each is before any type that uses it exists.
    #[inline]
    pub(crate) fn get(&self) -> &T {
        let table = self.0.load(Ordering::Relaxed);
        debug_assert!(!table.is_null());
        // SAFETY: filled at import, and never freed.
        unsafe { &*table }
    }
}

interned! {
    pub(crate) struct Names {
        add_done_callback "add_done_callback",
        asyncio_future_blocking "_asyncio_future_blocking",
        call_at "call_at",
        call_exception_handler "call_exception_handler",
        call_later "call_later",
        call_soon "call_soon",
        cancel "cancel",
        cancel_message "_cancel_message",
        cancelled "cancelled",
        cancelled_attr "_cancelled",
        class "__class__",
        clock_resolution "_clock_resolution",
        close "close",
        context "context",
        cr_await "cr_await",
        create_future "create_future",
        create_task "create_task",
        data "data",
        done "done",
        return_exceptions "return_exceptions",
        eager_start "eager_start",
        exception "exception",
        fd "fd",
        fileno "fileno",
        get_debug "get_debug",
        get_loop "get_loop",
        is_running "is_running",
        look "look",
        loop_attr "_loop",
        loop_kw "loop",
        msg "msg",
        name "name",
        process_events "_process_events",
        remove_done_callback "remove_done_callback",
        result "result",
        run_handle "_run",
        run_in_executor "run_in_executor",
        run_once "_run_once",
        select "select",
        selector "_selector",
        set_exception "set_exception",
        set_result "set_result",
        slow_callback_duration "slow_callback_duration",
        throw "throw",
        time "time",
        timer_handle_cancelled "_timer_handle_cancelled",
        transports "_transports",
        warning "warning",
    }
}

/// Objects of the standard library.
pub(crate) struct Imports {
    pub(crate) cancelled_error: Owned,
    pub(crate) invalid_state_error: Owned,
    pub(crate) stock_future: Owned,
    pub(crate) stock_task: Owned,
    pub(crate) stock_handle: Owned,
    pub(crate) stock_timer_handle: Owned,
    pub(crate) format_helpers: Owned,
    pub(crate) format_callback_source: Owned,
    pub(crate) future_repr: Owned,
    pub(crate) task_repr: Owned,
    pub(crate) task_get_stack: Owned,
    pub(crate) task_print_stack: Owned,
    pub(crate) iscoroutine: Owned,
    pub(crate) iscoroutinefunction: Owned,
    pub(crate) get_event_loop: Owned,
    pub(crate) get_running_loop: Owned,
    pub(crate) logger: Owned,
    pub(crate) selector_key: Owned,
    pub(crate) coroutine_type: Owned,
    pub(crate) generator_type: Owned,
    /// `{"context"}` as the names of a call.
    pub(crate) kw_context: Owned,
    /// `{"msg"}`.
    pub(crate) kw_msg: Owned,
    /// `{"loop"}`.
    pub(crate) kw_loop: Owned,
    /// Whether tasks look at the class of the context that they are given.
    pub(crate) tasks_check_context: bool,
}

impl Imports {
    fn new(names: &Names) -> Res<Self> {
        let exceptions = import("asyncio.exceptions")?;
        let events = import("asyncio.events")?;
        let format_helpers = import("asyncio.format_helpers")?;
        let base_futures = import("asyncio.base_futures")?;
        let base_tasks = import("asyncio.base_tasks")?;
        let coroutines = import("asyncio.coroutines")?;
        let types = import("types")?;
        let get = |module: &Object, name: &str| module.getattr(&*Owned::from_str(name)?);
        Ok(Self {
            cancelled_error: get(&exceptions, "CancelledError")?,
            invalid_state_error: get(&exceptions, "InvalidStateError")?,
            stock_future: get(&*import("_asyncio")?, "Future")?,
            stock_task: get(&*import("_asyncio")?, "Task")?,
            stock_handle: get(&events, "Handle")?,
            stock_timer_handle: get(&events, "TimerHandle")?,
            format_callback_source: get(&format_helpers, "_format_callback_source")?,
            format_helpers,
            future_repr: get(&base_futures, "_future_repr")?,
            task_repr: get(&base_tasks, "_task_repr")?,
            task_get_stack: get(&base_tasks, "_task_get_stack")?,
            task_print_stack: get(&base_tasks, "_task_print_stack")?,
            iscoroutine: get(&coroutines, "iscoroutine")?,
            // asyncio.iscoroutinefunction is deprecated from 3.14 on; inspect's has always done for this.
            iscoroutinefunction: get(&*import("inspect")?, "iscoroutinefunction")?,
            get_event_loop: get(&events, "get_event_loop")?,
            get_running_loop: get(&events, "_get_running_loop")?,
            logger: get(&*import("asyncio.log")?, "logger")?,
            selector_key: get(&*import("selectors")?, "SelectorKey")?,
            coroutine_type: get(&types, "CoroutineType")?,
            generator_type: get(&types, "GeneratorType")?,
            kw_context: Owned::tuple(&[&names.context])?,
            kw_msg: Owned::tuple(&[&names.msg])?,
            kw_loop: Owned::tuple(&[&names.loop_kw])?,
            tasks_check_context: mentions(
                &*get(&*import("asyncio.tasks")?, "_PyTask")?,
                "__init__",
                "co_names",
                "'Context'",
            )?,
        })
    }
}

static NAMES: Table<Names> = Table::new();
static IMPORTS: Table<Imports> = Table::new();

/// Fills both tables. Once, at import, before anything else of this crate runs.
pub(crate) fn init() -> Res<()> {
    let names = Names::new()?;
    let imports = Imports::new(&names)?;
    NAMES.fill(names);
    IMPORTS.fill(imports);
    Ok(())
}

#[inline]
pub(crate) fn names() -> &'static Names {
    NAMES.get()
}

#[inline]
pub(crate) fn imports() -> &'static Imports {
    IMPORTS.get()
}

/// Imports a module by its full name.
pub(crate) fn import(name: &str) -> Res<Owned> {
    let name = Owned::from_str(name)?;
    call::import(&name)
}

/// Whether asyncio's own method has this among its constants or names. Some of its behaviour differs between patch
/// releases, so that the version does not tell.
pub(crate) fn mentions(class: &Object, method: &str, table: &str, text: &str) -> Res<bool> {
    let get = |object: &Object, name: &str| object.getattr(&*Owned::from_str(name)?);
    let code = get(&*get(class, method)?, "__code__")?;
    Ok(get(&code, table)?.repr()?.to_text()?.contains(text))
}

pub(crate) fn intern(text: &str) -> Res<Owned> {
    let mut string = Owned::from_str(text)?.into_ptr();
    // SAFETY: takes a reference to a `str` and gives one back in its place.
    unsafe {
        ffi::PyUnicode_InternInPlace(&mut string);
        Owned::steal(string)
    }
}
