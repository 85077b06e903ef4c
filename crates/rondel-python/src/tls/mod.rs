//! TLS between a socket's transport and a program's protocol, by the OpenSSL that the interpreter
//! has loaded.
//!
//! asyncio's `SSLProtocol` and its transport do what is done once per connection. Their subclasses
//! (`python/rondel/_tls.py`) have the native bases made here, which do what is done per message.
//!
//! The way of a byte in: `transport/reading.rs` → [`reading`] receives and decrypts → a protocol,
//! or `streams/reader.rs`. Out: [`writing`], queued, encrypted and sent when the turn is over
//! (`loop_core/written.rs`).
//!
//! | file | what it has |
//! |---|---|
//! | `protocol.rs`, `attributes.rs` | `TLSProtocolCore`: the object, and asyncio's attributes in it |
//! | `transport.rs` | `TLSTransportCore`: what programs call |
//! | `reading.rs`, `writing.rs` | the two ways |
//! | `session.rs` | encrypting and decrypting: through OpenSSL, or through Python's objects |
//! | `channel.rs` | what OpenSSL reads from and writes to |
//! | `locate.rs`, `openssl.rs` | OpenSSL's pointers in the interpreter's objects; its functions |
//! | `scratch.rs` | the memory that all connections share |

mod attributes;
mod channel;
mod locate;
mod names;
mod openssl;
mod protocol;
mod reading;
mod scratch;
mod session;
mod transport;
mod writing;

use crate::cpython::error::type_error;
use crate::cpython::method::{Args, function, method};
use crate::cpython::{Object, Owned, Res, none};
use crate::transport::{above, receiver};

/// `bind_tls(protocol_class, transport_class)`: sets the classes that have the native data path.
fn bind_tls(_: &Object, args: Args<'_>) -> Res<Owned> {
    let parameters = ["protocol_class", "transport_class"];
    let given = args.parse_function("bind_tls", parameters, 2, 2)?;
    let [protocol_class, transport_class] = given.map(|class| class.unwrap_or(none()));
    if !protocol::CORE.is_base_of(protocol_class) || !transport::CORE.is_base_of(transport_class) {
        return type_error(
            "bind_tls() takes classes that derive from TLSProtocolCore and TLSTransportCore",
        );
    }
    protocol::bind(protocol_class);
    transport::bind(transport_class)?;
    Ok(Owned::none())
}

/// Whether OpenSSL is called directly.
pub(crate) fn is_direct() -> bool {
    locate::library().is_some()
}

/// The classes and functions that the module exports, by name. None where the interpreter has no
/// TLS.
pub(crate) fn init() -> Res<Vec<(&'static str, Owned)>> {
    if !names::init()? {
        return Ok(Vec::new());
    }
    receiver::register(&reading::RECEIVER);
    above::register_upper(&transport::UPPER);
    Ok(vec![
        ("TLSProtocolCore", protocol::init_type()?),
        ("TLSTransportCore", transport::init_type()?),
        (
            "bind_tls",
            function(
                method!(fast c"bind_tls" bind_tls, c"Says which classes the data path is for."),
            )?,
        ),
    ])
}
