//! Library objects that transports and streams use, besides those of `cpython/names.rs`, and how
//! the running version behaves. Filled once, at import.

use crate::cpython::error::take_exception;
use crate::cpython::names::{import_from, imported};
use crate::cpython::{Object, Owned, Raised, Res, names, stock_code};

imported! {
    pub(crate) fn imports() -> Imports {
        protocol: "asyncio.protocols" "Protocol",
        buffered_protocol: "asyncio.protocols" "BufferedProtocol",
        /// The base of asyncio's own transports; its `sendfile` checks for it.
        transport: "asyncio.transports" "_FlowControlMixin",
        /// `asyncio.ReadTransport`.
        read_transport: "asyncio.transports" "ReadTransport",
        limit_overrun_error: "asyncio.exceptions" "LimitOverrunError",
        incomplete_read_error: "asyncio.exceptions" "IncompleteReadError",
        transport_socket: "asyncio.trsock" "TransportSocket",
        socket: "socket" "socket",
        deque: "collections" "deque",
        stock_reader: "asyncio.streams" "StreamReader",
        stock_writer: "asyncio.streams" "StreamWriter",
        stock_protocol: "asyncio.streams" "StreamReaderProtocol",
        warn: "warnings" "warn",
        logger: "asyncio.log" "logger",
        iscoroutine: "asyncio.coroutines" "iscoroutine",
    } and {
        /// The `get_extra_info` of asyncio's own transports, as it was.
        get_extra_info: Owned = import_from("asyncio.transports", "_FlowControlMixin")?
            .getattr(&names().get_extra_info)?,
        /// `asyncio.DatagramTransport`, where asyncio's own datagram transport derives from it:
        /// from 3.12 on.
        datagram_transport: Option<Owned> = match cfg!(Py_3_12) {
            true => Some(import_from("asyncio.transports", "DatagramTransport")?),
            false => None,
        },
        sendfile_try_native: Owned = import_from("asyncio.constants", "_SendfileMode")?
            .getattr(&*Owned::from_str("TRY_NATIVE")?)?,
        /// 3.11's streams call the variant that points its deprecation warning at the caller.
        get_event_loop: Owned = match cfg!(Py_3_12) {
            true => import_from("asyncio.events", "get_event_loop")?,
            false => import_from("asyncio.events", "_get_event_loop")?,
        },
        empty_bytes: Owned = Owned::from_bytes(b"")?,
        /// `("exc_info",)`, the names of a call.
        kw_exc_info: Owned = Owned::tuple(&[&names().exc_info])?,
        /// `("source",)`.
        kw_source: Owned = Owned::tuple(&[&names().source])?,
        /// Up to some patch release of 3.12, a stream's protocol keeps its writer.
        protocol_keeps_writer: bool = stock_protocol()?
            .getattr_optional(&names().replace_transport)?
            .is_none(),
        /// The types that the message of `write`'s `TypeError` lists.
        expected_data: &'static str =
            match mentions(SOCKET_TRANSPORT, "write", "memoryview")? {
                true => "bytes, bytearray, or memoryview object",
                false => "bytes-like object",
            },
        /// Whether `writelines` skips false values of any type.
        writelines_skips_empty: bool = stock_code::look(cfg!(Py_3_14), skips_empty)?,
        /// Whether an exception of a plain-function connection handler is reported like a
        /// coroutine's, and closes the connection.
        reports_handlers: bool = mentions(
            ("asyncio.streams", "StreamReaderProtocol"),
            "connection_made",
            "'Unhandled exception in client_connected_cb'",
        )?,
        /// Bytes that a waiting datagram counts for besides its own: the size of a header, from
        /// 3.13 on.
        datagram_header: usize = if cfg!(Py_3_13) { 8 } else { 0 },
        /// Whether `sendto` sends datagrams without bytes, as from 3.13 on.
        sends_empty_datagrams: bool = cfg!(Py_3_13),
        /// From 3.13 on `readuntil` takes a tuple of separators.
        many_separators: bool = cfg!(Py_3_13),
        /// From 3.13 on a server is told which transport is attached and detached.
        server_knows_transports: bool = cfg!(Py_3_13),
    }
}

fn stock_protocol() -> Res<Owned> {
    import_from("asyncio.streams", "StreamReaderProtocol")
}

const SOCKET_TRANSPORT: (&str, &str) = ("asyncio.selector_events", "_SelectorSocketTransport");

/// Whether a method of asyncio's has a text among its constants.
fn mentions((module, class): (&str, &str), method: &str, text: &str) -> Res<bool> {
    stock_code::look(cfg!(Py_3_14), || {
        stock_code::mentions(
            &*stock_code::code(module, class, method)?,
            "co_consts",
            text,
        )
    })
}

/// Whether asyncio's own `writelines` skips false values that are not buffers. It is called on a
/// stand-in that has the attributes it reads.
fn skips_empty() -> Res<bool> {
    let transport = import_from(SOCKET_TRANSPORT.0, SOCKET_TRANSPORT.1)?;
    let writelines = transport.getattr(&*Owned::from_str("writelines")?)?;
    let none = Owned::none();
    let stand_in = import_from("types", "SimpleNamespace")?.call(&[])?;
    let buffer = import_from("collections", "deque")?.call(&[])?;
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
    match writelines.call(&[&stand_in, &lines]) {
        Ok(_) => Ok(true),
        // It required a buffer, or an attribute that the stand-in lacks.
        Err(Raised) => {
            drop(take_exception());
            Ok(false)
        }
    }
}

/// Fills the table. Once, at import, before any type of these modules is made.
pub(crate) fn init() -> Res<()> {
    Imports::fill()
}
