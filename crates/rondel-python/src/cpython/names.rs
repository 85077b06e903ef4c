//! Interned names, and the objects of the standard library that are used often. Filled once, at
//! import.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::ffi;

use super::error::{Builtin, Raised, raise, raised_matches, take_exception};
use super::{Owned, Res, call, stock_code};

/// Declares the table of interned names:
/// `interned! { pub(crate) struct Names { wait "wait", … } }`.
macro_rules! interned {
    ($vis:vis struct $table:ident { $($name:ident $text:literal),+ $(,)? }) => {
        /// Names of attributes, methods and keywords, interned.
        $vis struct $table {
            $($vis $name: $crate::cpython::Owned,)+
        }

        impl $table {
            fn new() -> $crate::cpython::Res<Self> {
                // By way of an array: with a `?` for each field, the code that drops the fields
                // before it would be half a megabyte.
                let [$($name),+] = intern_all([$($text),+])?;
                Ok(Self { $($name),+ })
            }
        }
    };
}

/// Declares a table of objects of the standard library, and the function that gives it:
///
/// ```ignore
/// imported! {
///     pub(super) fn parts() -> Parts {
///         deque: "collections" "deque",
///     } and {
///         /// What takes more than an import.
///         is_new: bool = cfg!(Py_3_14),
///     }
/// }
/// ```
///
/// `Parts::fill()` fills it, once, at import.
macro_rules! imported {
    (
        $vis:vis fn $get:ident() -> $table:ident {
            $($(#[$doc:meta])* $name:ident: $module:literal $object:literal),* $(,)?
        } and {
            $($(#[$more:meta])* $other:ident: $type:ty = $value:expr),* $(,)?
        }
    ) => {
        /// Objects of the standard library, and what was found out about it.
        $vis struct $table {
            $($(#[$doc])* $vis $name: $crate::cpython::Owned,)*
            $($(#[$more])* $vis $other: $type,)*
        }

        impl $table {
            fn table() -> &'static $crate::cpython::names::Table<Self> {
                static TABLE: $crate::cpython::names::Table<$table> =
                    $crate::cpython::names::Table::new();
                &TABLE
            }

            $vis fn fill() -> $crate::cpython::Res<()> {
                Self::table().fill(Self {
                    $($name: $crate::cpython::names::import_from($module, $object)?,)*
                    $($other: $value,)*
                });
                Ok(())
            }
        }

        #[inline]
        $vis fn $get() -> &'static $table {
            $table::table().get()
        }
    };
}
pub(crate) use imported;

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
        abort "abort",
        abort_attr "_abort",
        accept_tls "_accept_tls",
        acquire "acquire",
        add_done_callback "add_done_callback",
        app_transport "_app_transport",
        append "append",
        asyncio_future_blocking "_asyncio_future_blocking",
        attach "_attach",
        buffer_updated "buffer_updated",
        buffer_view "_ssl_buffer_view",
        call_at "call_at",
        call_connection_lost "_call_connection_lost",
        call_eof_received "_call_eof_received",
        call_exception_handler "call_exception_handler",
        call_later "call_later",
        call_soon "call_soon",
        can_write_eof "can_write_eof",
        cancel "cancel",
        cancel_message "_cancel_message",
        cancelled "cancelled",
        cancelled_attr "_cancelled",
        cancelling "cancelling",
        class "__class__",
        clear "clear",
        clock_resolution "_clock_resolution",
        close "close",
        closed "_closed",
        closing "_is_transport_closing",
        connection_lost "connection_lost",
        connection_made "connection_made",
        context "context",
        cr_await "cr_await",
        create_future "create_future",
        create_task "create_task",
        data "data",
        data_received "data_received",
        datagram_received "datagram_received",
        debug "debug",
        default_executor "_default_executor",
        detach "_detach",
        detach_socket "detach",
        do_flush "_do_flush",
        do_handshake "_do_handshake",
        do_read "_do_read",
        do_shutdown "_do_shutdown",
        done "done",
        drain_helper "_drain_helper",
        eager_start "eager_start",
        empty "empty",
        eof_received "eof_received",
        errno "errno",
        error_received "error_received",
        exc_info "exc_info",
        exception "exception",
        exceptions "exceptions",
        executor_shutdown_called "_executor_shutdown_called",
        extend "extend",
        fail "_fail",
        family "family",
        fd "fd",
        fed "_resumed",
        feed_data "feed_data",
        feed_eof "feed_eof",
        fileno "fileno",
        full "full",
        get "get",
        get_buffer "get_buffer",
        get_close_waiter "_get_close_waiter",
        get_debug "get_debug",
        get_extra_info "get_extra_info",
        get_loop "get_loop",
        get_nowait "get_nowait",
        getpeername "getpeername",
        getsockname "getsockname",
        info "info",
        insert_timeout_error "_insert_timeout_error",
        is_base_error "_is_base_error",
        is_closed "is_closed",
        is_closing "is_closing",
        is_running "is_running",
        join "join",
        keylog_filename "keylog_filename",
        locked "locked",
        look "look",
        loop_attr "_loop",
        loop_kw "loop",
        msg "msg",
        msg_callback "_msg_callback",
        name "name",
        notify "notify",
        notify_all "notify_all",
        on_task_done "_on_task_done",
        on_timeout "_on_timeout",
        pause_reading "pause_reading",
        pause_tls_reading "_pause_reading",
        pause_writing "pause_writing",
        peername "peername",
        pending "pending",
        pipe "pipe",
        pop "pop",
        popleft "popleft",
        process_events "_process_events",
        put_nowait "put_nowait",
        qsize "qsize",
        queue_format "_format",
        queue_get "_get",
        queue_init "_init",
        queue_put "_put",
        read "read",
        release "release",
        remove "remove",
        remove_done_callback "remove_done_callback",
        replace_transport "_replace_transport",
        reschedule "reschedule",
        result "result",
        resume_reading "resume_reading",
        resume_tls_reading "_resume_reading",
        resume_writing "resume_writing",
        return_exceptions "return_exceptions",
        run "run",
        run_handle "_run",
        run_in_executor "run_in_executor",
        run_once "_run_once",
        select "select",
        selector "_selector",
        sendto "sendto",
        set "set",
        set_exception "set_exception",
        set_result "set_result",
        set_transport "set_transport",
        setblocking "setblocking",
        shutdown_attr "_shutdown",
        slow_callback_duration "slow_callback_duration",
        socket "socket",
        sockname "sockname",
        source "source",
        source_traceback "_source_traceback",
        ssl_protocol "_ssl_protocol",
        sslcontext "sslcontext",
        sslobj "_sslobj",
        start_serving "_start_serving",
        start_shutdown "_start_shutdown",
        submit "submit",
        submit_item "_submit_item",
        thread_pool_executor "ThreadPoolExecutor",
        throw "throw",
        time "time",
        timer_handle_cancelled "_timer_handle_cancelled",
        transport "transport",
        transports "_transports",
        uncancel "uncancel",
        wait "wait",
        warning "warning",
        watch_handshake "_watch_handshake",
        work_queue "_work_queue",
        wrap_bio "wrap_bio",
        write "write",
        write_appdata "_write_appdata",
        write_eof "write_eof",
        writelines "writelines",
    }
}

imported! {
    pub(crate) fn imports() -> Imports {
        cancelled_error: "asyncio.exceptions" "CancelledError",
        invalid_state_error: "asyncio.exceptions" "InvalidStateError",
        stock_future: "_asyncio" "Future",
        stock_task: "_asyncio" "Task",
        stock_handle: "asyncio.events" "Handle",
        stock_timer_handle: "asyncio.events" "TimerHandle",
        format_callback_source: "asyncio.format_helpers" "_format_callback_source",
        future_repr: "asyncio.base_futures" "_future_repr",
        task_repr: "asyncio.base_tasks" "_task_repr",
        task_get_stack: "asyncio.base_tasks" "_task_get_stack",
        task_print_stack: "asyncio.base_tasks" "_task_print_stack",
        iscoroutine: "asyncio.coroutines" "iscoroutine",
        // asyncio.iscoroutinefunction is deprecated from 3.14 on; inspect's has always done for
        // this.
        iscoroutinefunction: "inspect" "iscoroutinefunction",
        get_event_loop: "asyncio.events" "get_event_loop",
        get_running_loop: "asyncio.events" "_get_running_loop",
        logger: "asyncio.log" "logger",
        selector_key: "selectors" "SelectorKey",
        coroutine_type: "types" "CoroutineType",
        generator_type: "types" "GeneratorType",
    } and {
        format_helpers: Owned = import("asyncio.format_helpers")?,
        /// `("context",)`, as the names of a call.
        kw_context: Owned = Owned::tuple(&[&names().context])?,
        /// `("msg",)`.
        kw_msg: Owned = Owned::tuple(&[&names().msg])?,
        /// `("loop",)`.
        kw_loop: Owned = Owned::tuple(&[&names().loop_kw])?,
        /// Whether tasks look at the class of the context that they are given.
        tasks_check_context: bool = stock_code::look(cfg!(Py_3_15), || {
            let code = stock_code::code("asyncio.tasks", "_PyTask", "__init__")?;
            stock_code::mentions(&code, "co_names", "'Context'")
        })?,
    }
}

static NAMES: Table<Names> = Table::new();

/// Fills both tables. Once, at import, before anything else of this crate runs.
pub(crate) fn init() -> Res<()> {
    NAMES.fill(Names::new()?);
    Imports::fill()
}

#[inline]
pub(crate) fn names() -> &'static Names {
    NAMES.get()
}

/// Imports a module by its full name.
pub(crate) fn import(name: &str) -> Res<Owned> {
    let name = Owned::from_str(name)?;
    call::import(&name)
}

/// `from module import name`, of what there is no other way for. If it is missing, the
/// `ImportError` says what and which versions have it.
pub(crate) fn import_from(module: &str, name: &str) -> Res<Owned> {
    let found = import(module).and_then(|module| module.getattr(&*Owned::from_str(name)?));
    if let Err(Raised) = found {
        let missing = [Builtin::Attribute, Builtin::Import];
        if missing.iter().any(|class| raised_matches(class.class())) {
            let text = format!(
                "Rondel needs {module}.{name}, which this interpreter does not have; {SUPPORTED}"
            );
            drop(take_exception());
            return raise(Builtin::Import.class(), &text);
        }
    }
    found
}

/// The versions whose asyncio this crate is known to fit.
const SUPPORTED: &str = "CPython 3.11 to 3.15 are supported";

/// As [`import_from`], of what a version may lack.
pub(crate) fn import_optional(module: &str, name: &str) -> Res<Option<Owned>> {
    import(module)?.getattr_optional(&*Owned::from_str(name)?)
}

fn intern_all<const N: usize>(texts: [&str; N]) -> Res<[Owned; N]> {
    let mut all = texts.map(|_| Owned::none());
    for (name, text) in all.iter_mut().zip(texts) {
        *name = intern(text)?;
    }
    Ok(all)
}

pub(crate) fn intern(text: &str) -> Res<Owned> {
    let mut string = Owned::from_str(text)?.into_ptr();
    // SAFETY: takes a reference to a `str` and gives one back in its place.
    unsafe {
        ffi::PyUnicode_InternInPlace(&mut string);
        Owned::steal(string)
    }
}
