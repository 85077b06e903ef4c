//! Library objects that TLS uses, besides those of `cpython/names.rs` and `transport/names.rs`.
//! Filled once, at import.

use crate::cpython::names::{import_from, imported};
use crate::cpython::{Owned, Res, names, stock_code};

imported! {
    pub(super) fn imports() -> Imports {
        /// `_FlowControlMixin`, which asyncio's TLS transport derives from.
        flow_control: "asyncio.transports" "_FlowControlMixin",
        ssl_object: "ssl" "SSLObject",
        memory_bio: "ssl" "MemoryBIO",
        /// What is in an `SSLObject`.
        ssl_socket: "_ssl" "_SSLSocket",
        /// The exceptions that mean "try again later": `SSLWantReadError` and `SSLSyscallError`.
        again: "asyncio.sslproto" "SSLAgainErrors",
    } and {
        /// The members of `SSLProtocolState`, in the order of [`super::protocol::State`].
        states: [Owned; 5] = states()?,
        /// Whether a transport is closing when the one below it is, as from some patch release on.
        asks_below: bool = import_from("asyncio.sslproto", "SSLProtocol")?
            .getattr_optional(&names().closing)?
            .is_some(),
    }
}

fn states() -> Res<[Owned; 5]> {
    let same = |name| (name, name);
    stock_code::members(
        "asyncio.sslproto",
        "SSLProtocolState",
        [
            "UNWRAPPED",
            "DO_HANDSHAKE",
            "WRAPPED",
            "FLUSHING",
            "SHUTDOWN",
        ]
        .map(same),
    )
}

/// Fills the table. Once, at import. False: this interpreter has no TLS.
pub(super) fn init() -> Res<bool> {
    if import_from("asyncio.sslproto", "ssl")?.is_none() {
        return Ok(false);
    }
    Imports::fill().map(|()| true)
}
