//! Hooks that the folders above this one fill at import, so that this folder and streams can use
//! them without importing them.

use std::sync::OnceLock;

use crate::cpython::{Object, Owned, Res};

/// A native class of protocol factories: making a protocol takes no Python call.
pub(crate) struct Factories {
    /// Whether an object is such a factory, so that making a protocol runs none of the program's
    /// code.
    pub(crate) is_native: fn(&Object) -> bool,
    pub(crate) make_protocol: fn(&Object) -> Res<Owned>,
}

/// The factories of streams.
static FACTORIES: OnceLock<&'static Factories> = OnceLock::new();

/// Sets the hook, once.
pub(crate) fn register_factories(factories: &'static Factories) {
    let first = FACTORIES.set(factories).is_ok();
    debug_assert!(first, "registered twice");
}

/// The functions for a factory, if it is of that class.
fn native(factory: &Object) -> Option<&'static Factories> {
    let factories = *FACTORIES.get()?;
    (factories.is_native)(factory).then_some(factories)
}

/// Whether making a protocol runs none of the program's code.
pub(super) fn is_native(factory: &Object) -> bool {
    native(factory).is_some()
}

/// Makes a protocol.
pub(super) fn make_protocol(factory: &Object) -> Res<Owned> {
    match native(factory) {
        Some(factories) => (factories.make_protocol)(factory),
        None => factory.call(&[]),
    }
}

/// A native class of transports that are layered on others.
pub(crate) struct Upper {
    /// Whether an object is such a transport, and the program has overridden none of its methods on
    /// the instance.
    pub(crate) is_plain: fn(&Object) -> bool,
    /// `transport.write(data)`.
    pub(crate) write: fn(&Object, &Object) -> Res<Owned>,
    /// `transport.is_closing()`.
    pub(crate) is_closing: fn(&Object) -> Res<bool>,
}

/// The transports of TLS.
static UPPER: OnceLock<&'static Upper> = OnceLock::new();

/// Sets the hook, once.
pub(crate) fn register_upper(upper: &'static Upper) {
    let first = UPPER.set(upper).is_ok();
    debug_assert!(first, "registered twice");
}

/// The functions for a transport, if it is of that class.
#[inline]
pub(crate) fn upper(transport: &Object) -> Option<&'static Upper> {
    let upper = *UPPER.get()?;
    (upper.is_plain)(transport).then_some(upper)
}
