//! What the folders above this one have registered, at import: it is used here and in streams without their being imported.

use std::sync::OnceLock;

use crate::cpython::{Object, Owned, Res};

/// A class of protocol factories whose protocols are made without a Python call.
pub(crate) struct Factories {
    /// Whether an object is such a factory. Making a protocol then runs no code of the program's.
    pub(crate) is_native: fn(&Object) -> bool,
    pub(crate) make_protocol: fn(&Object) -> Res<Owned>,
}

/// The one class of such factories.
static FACTORIES: OnceLock<&'static Factories> = OnceLock::new();

/// Notes the class of such factories.
pub(crate) fn register_factories(factories: &'static Factories) {
    let first = FACTORIES.set(factories).is_ok();
    debug_assert!(first, "registered twice");
}

/// The functions for a factory, if it is of that class.
fn native(factory: &Object) -> Option<&'static Factories> {
    let factories = *FACTORIES.get()?;
    (factories.is_native)(factory).then_some(factories)
}

/// Whether making a protocol runs no code of the program's.
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

/// A class of transports that stand on others.
pub(crate) struct Upper {
    /// Whether an object is such a transport, with no attribute put over a method.
    pub(crate) is_plain: fn(&Object) -> bool,
    /// `transport.write(data)`.
    pub(crate) write: fn(&Object, &Object) -> Res<Owned>,
    /// `transport.is_closing()`.
    pub(crate) is_closing: fn(&Object) -> Res<bool>,
}

/// The one class of such transports.
static UPPER: OnceLock<&'static Upper> = OnceLock::new();

/// Notes the class of such transports.
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
