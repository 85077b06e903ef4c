//! Interned names and library objects that transports and streams use, besides those of
//! `cpython/names.rs`. Filled once, at import.

use crate::cpython::error::take_exception;
use crate::cpython::names::{Table, import, interned, mentions};
use crate::cpython::{Object, Owned, Raised, Res};

interned! {
    pub(crate) struct Names {
        abort "abort",
        accept_tls "_accept_tls",
        add_done_callback "add_done_callback",
        append "append",
        attach "_attach",
        buffer_updated "buffer_updated",
        call_exception_handler "call_exception_handler",
        call_connection_lost "_call_connection_lost",
        call_later "call_later",
        call_soon "call_soon",
        can_write_eof "can_write_eof",
        cancelled "cancelled",
        close "close",
        connection_lost "connection_lost",
        connection_made "connection_made",
        create_task "create_task",
        data_received "data_received",
        datagram_received "datagram_received",
        debug "debug",
        detach "_detach",
        detach_socket "detach",
        done "done",
        drain_helper "_drain_helper",
        eof_received "eof_received",
        errno "errno",
        error_received "error_received",
        exc_info "exc_info",
        exception "exception",
        extend "extend",
        family "family",
        feed_data "feed_data",
        feed_eof "feed_eof",
        fileno "fileno",
        get "get",
        get_buffer "get_buffer",
        get_close_waiter "_get_close_waiter",
        get_extra_info "get_extra_info",
        get_loop "get_loop",
        getpeername "getpeername",
        getsockname "getsockname",
        info "info",
        is_closed "is_closed",
        is_closing "is_closing",
        join "join",
        loop_attr "_loop",
        pause_reading "pause_reading",
        pause_writing "pause_writing",
        peername "peername",
        pipe "pipe",
        remove "remove",
        replace_transport "_replace_transport",
        resume_reading "resume_reading",
        resume_writing "resume_writing",
        sendto "sendto",
        set_exception "set_exception",
        set_result "set_result",
        set_transport "set_transport",
        setblocking "setblocking",
        socket "socket",
        sockname "sockname",
        source "source",
        source_traceback "_source_traceback",
        sslcontext "sslcontext",
        start_serving "_start_serving",
        transport "transport",
        warning "warning",
        watch_handshake "_watch_handshake",
        write "write",
        write_eof "write_eof",
        writelines "writelines",
    }
}

/// Objects of the standard library.
pub(crate) struct Imports {
    pub(crate) protocol: Owned,
    pub(crate) buffered_protocol: Owned,
    /// The base of asyncio's own transports; its `sendfile` checks for it.
    pub(crate) transport: Owned,
    /// Its `get_extra_info`, as it was.
    pub(crate) get_extra_info: Owned,
    /// `asyncio.ReadTransport`.
    pub(crate) read_transport: Owned,
    /// `asyncio.DatagramTransport`, where asyncio's own datagram transport derives from it: from
    /// 3.12 on.
    pub(crate) datagram_transport: Option<Owned>,
    pub(crate) sendfile_try_native: Owned,
    pub(crate) limit_overrun_error: Owned,
    pub(crate) incomplete_read_error: Owned,
    pub(crate) transport_socket: Owned,
    pub(crate) socket: Owned,
    pub(crate) deque: Owned,
    pub(crate) stock_reader: Owned,
    pub(crate) stock_writer: Owned,
    pub(crate) stock_protocol: Owned,
    pub(crate) warn: Owned,
    pub(crate) logger: Owned,
    pub(crate) iscoroutine: Owned,
    pub(crate) get_event_loop: Owned,
    pub(crate) empty_bytes: Owned,
    /// `("exc_info",)`, the names of a call.
    pub(crate) kw_exc_info: Owned,
    /// `("source",)`.
    pub(crate) kw_source: Owned,
    /// Up to some patch release of 3.12, a stream's protocol keeps its writer.
    pub(crate) protocol_keeps_writer: bool,
    /// The types that the message of `write`'s `TypeError` lists.
    pub(crate) expected_data: &'static str,
    /// Whether `writelines` skips false values of any type.
    pub(crate) writelines_skips_empty: bool,
    /// Whether an exception of a plain-function connection handler is reported like a coroutine's,
    /// and closes the connection.
    pub(crate) reports_handlers: bool,
    /// Bytes that a waiting datagram counts for besides its own: the size of a header, from 3.13
    /// on.
    pub(crate) datagram_header: usize,
    /// Whether `sendto` sends datagrams without bytes, as from 3.13 on.
    pub(crate) sends_empty_datagrams: bool,
    /// From 3.13 on `readuntil` takes a tuple of separators.
    pub(crate) many_separators: bool,
    /// From 3.13 on a server is told which transport is attached and detached.
    pub(crate) server_knows_transports: bool,
}

impl Imports {
    fn new(names: &Names) -> Res<Self> {
        let get = |module: &str, name: &str| import(module)?.getattr(&*Owned::from_str(name)?);
        let version = |minor: u8| cfg_minor() >= minor;
        let stock_protocol = get("asyncio.streams", "StreamReaderProtocol")?;
        let transport = get("asyncio.selector_events", "_SelectorSocketTransport")?;
        let modes = get("asyncio.constants", "_SendfileMode")?;
        Ok(Self {
            protocol: get("asyncio.protocols", "Protocol")?,
            buffered_protocol: get("asyncio.protocols", "BufferedProtocol")?,
            transport: get("asyncio.transports", "_FlowControlMixin")?,
            get_extra_info: get("asyncio.transports", "_FlowControlMixin")?
                .getattr(&*Owned::from_str("get_extra_info")?)?,
            read_transport: get("asyncio.transports", "ReadTransport")?,
            datagram_transport: match version(12) {
                true => Some(get("asyncio.transports", "DatagramTransport")?),
                false => None,
            },
            sendfile_try_native: modes.getattr(&*Owned::from_str("TRY_NATIVE")?)?,
            limit_overrun_error: get("asyncio.exceptions", "LimitOverrunError")?,
            incomplete_read_error: get("asyncio.exceptions", "IncompleteReadError")?,
            transport_socket: get("asyncio.trsock", "TransportSocket")?,
            socket: get("socket", "socket")?,
            deque: get("collections", "deque")?,
            stock_reader: get("asyncio.streams", "StreamReader")?,
            stock_writer: get("asyncio.streams", "StreamWriter")?,
            stock_protocol: get("asyncio.streams", "StreamReaderProtocol")?,
            warn: get("warnings", "warn")?,
            logger: get("asyncio.log", "logger")?,
            iscoroutine: get("asyncio.coroutines", "iscoroutine")?,
            // 3.11's streams call the variant that points its deprecation warning at the caller.
            get_event_loop: match version(12) {
                true => get("asyncio.events", "get_event_loop")?,
                false => get("asyncio.events", "_get_event_loop")?,
            },
            empty_bytes: Owned::from_bytes(b"")?,
            kw_exc_info: Owned::tuple(&[&names.exc_info])?,
            kw_source: Owned::tuple(&[&names.source])?,
            protocol_keeps_writer: stock_protocol
                .getattr_optional(&names.replace_transport)?
                .is_none(),
            expected_data: match mentions(&transport, "write", "co_consts", "memoryview")? {
                true => "bytes, bytearray, or memoryview object",
                false => "bytes-like object",
            },
            writelines_skips_empty: skips_empty(&transport)?,
            reports_handlers: mentions(
                &stock_protocol,
                "connection_made",
                "co_consts",
                "'Unhandled exception in client_connected_cb'",
            )?,
            datagram_header: if version(13) { 8 } else { 0 },
            sends_empty_datagrams: version(13),
            many_separators: version(13),
            server_knows_transports: version(13),
        })
    }
}

/// Whether asyncio's own `writelines` skips false values that are not buffers. It is called on a
/// stand-in that has the attributes it reads.
fn skips_empty(transport: &Object) -> Res<bool> {
    let none = Owned::none();
    let stand_in = import("types")?
        .getattr(&*Owned::from_str("SimpleNamespace")?)?
        .call(&[])?;
    let buffer = import("collections")?
        .getattr(&*Owned::from_str("deque")?)?
        .call(&[])?;
    let nothing = Owned::from_bool(false);
    let attributes: [(&str, &Object); 4] = [
        ("_eof", &nothing),
        ("_empty_waiter", &none),
        ("_conn_lost", &nothing),
        ("_buffer", &buffer),
    ];
    for (name, value) in attributes {
        stand_in.setattr(&*Owned::from_str(name)?, value)?;
    }
    let lines = Owned::list()?;
    lines.append(&none)?;
    match transport
        .getattr(&*Owned::from_str("writelines")?)?
        .call(&[&stand_in, &lines])
    {
        Ok(_) => Ok(true),
        // It required a buffer, or an attribute that the stand-in lacks.
        Err(Raised) => {
            drop(take_exception());
            Ok(false)
        }
    }
}

/// The minor version of the interpreter this was built for.
pub(crate) const fn cfg_minor() -> u8 {
    if cfg!(Py_3_15) {
        15
    } else if cfg!(Py_3_14) {
        14
    } else if cfg!(Py_3_13) {
        13
    } else if cfg!(Py_3_12) {
        12
    } else {
        11
    }
}

static NAMES: Table<Names> = Table::new();
static IMPORTS: Table<Imports> = Table::new();

/// Fills both tables. Once, at import, before any type of these modules is made.
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
