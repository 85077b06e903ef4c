//! Names and library objects that TLS uses, besides those of `cpython/names.rs` and
//! `transport/names.rs`. Filled once, at import.

use crate::cpython::names::{Table, import, interned};
use crate::cpython::{Object, Owned, Res};

interned! {
    pub(super) struct Names {
        app_transport "_app_transport",
        buffer_view "_ssl_buffer_view",
        call_eof_received "_call_eof_received",
        closed "_closed",
        closing "_is_transport_closing",
        do_flush "_do_flush",
        do_handshake "_do_handshake",
        do_read "_do_read",
        do_shutdown "_do_shutdown",
        fail "_fail",
        fed "_resumed",
        keylog_filename "keylog_filename",
        msg_callback "_msg_callback",
        pause_reading "_pause_reading",
        pending "pending",
        read "read",
        resume_reading "_resume_reading",
        ssl_protocol "_ssl_protocol",
        sslobj "_sslobj",
        start_shutdown "_start_shutdown",
        wrap_bio "wrap_bio",
        write "write",
        write_appdata "_write_appdata",
    }
}

/// Objects of the standard library.
pub(super) struct Imports {
    /// `_FlowControlMixin`, which asyncio's TLS transport derives from.
    pub(super) flow_control: Owned,
    /// The members of `SSLProtocolState`, in the order of [`super::protocol::State`].
    pub(super) states: [Owned; 5],
    pub(super) ssl_object: Owned,
    pub(super) memory_bio: Owned,
    /// What is in an `SSLObject`.
    pub(super) ssl_socket: Owned,
    /// The exceptions that mean "try again later": `SSLWantReadError` and `SSLSyscallError`.
    pub(super) again: Owned,
    /// Whether a transport is closing when the one below it is, as from some patch release on.
    pub(super) asks_below: bool,
}

impl Imports {
    fn new(names: &Names) -> Res<Option<Self>> {
        let get = |object: &Object, name: &str| object.getattr(&*Owned::from_str(name)?);
        let asyncio = import("asyncio.sslproto")?;
        let ssl = get(&asyncio, "ssl")?;
        if ssl.is_none() {
            // An interpreter without TLS.
            return Ok(None);
        }
        let states = get(&asyncio, "SSLProtocolState")?;
        Ok(Some(Self {
            flow_control: get(&*import("asyncio.transports")?, "_FlowControlMixin")?,
            states: [
                get(&states, "UNWRAPPED")?,
                get(&states, "DO_HANDSHAKE")?,
                get(&states, "WRAPPED")?,
                get(&states, "FLUSHING")?,
                get(&states, "SHUTDOWN")?,
            ],
            ssl_object: get(&ssl, "SSLObject")?,
            memory_bio: get(&ssl, "MemoryBIO")?,
            ssl_socket: get(&*import("_ssl")?, "_SSLSocket")?,
            again: get(&asyncio, "SSLAgainErrors")?,
            asks_below: get(&asyncio, "SSLProtocol")?
                .getattr_optional(&names.closing)?
                .is_some(),
        }))
    }
}

static NAMES: Table<Names> = Table::new();
static IMPORTS: Table<Imports> = Table::new();

/// Fills both tables. Once, at import. False: this interpreter has no TLS.
pub(super) fn init() -> Res<bool> {
    let names = Names::new()?;
    let imports = Imports::new(&names)?;
    NAMES.fill(names);
    Ok(match imports {
        Some(imports) => {
            IMPORTS.fill(imports);
            true
        }
        None => false,
    })
}

#[inline]
pub(super) fn names() -> &'static Names {
    NAMES.get()
}

#[inline]
pub(super) fn imports() -> &'static Imports {
    IMPORTS.get()
}
