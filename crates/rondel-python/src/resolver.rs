//! `getaddrinfo` of a literal address, as `socket.getaddrinfo` answers it, without a thread.
//!
//! `python/rondel/_resolver.py` asks here first; None sends it to a thread. What is done here is
//! what the C library and Python's `socket` module do together: the same list, of the same
//! enumerations, after the same audit event.

use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};

use pyo3::ffi;
use rondel_engine::literal::{Literal, kinds, port};
use rondel_engine::transport::address::Address;

use crate::cpython::audit::audit;
use crate::cpython::error::take_exception;
use crate::cpython::method::{Args, function, method};
use crate::cpython::names::{import_from, imported};
use crate::cpython::{Object, Owned, Raised, Res, none};
use crate::transport::address;

imported! {
    fn parts() -> Parts {} and {
        inet: Owned = member("AddressFamily", libc::AF_INET)?,
        inet6: Owned = member("AddressFamily", libc::AF_INET6)?,
        stream: Owned = member("SocketKind", libc::SOCK_STREAM)?,
        dgram: Owned = member("SocketKind", libc::SOCK_DGRAM)?,
        raw: Owned = member("SocketKind", libc::SOCK_RAW)?,
        /// The canonical name, which nobody has asked for.
        no_name: Owned = Owned::from_str("")?,
    }
}

/// A member of one of the `socket` module's enumerations.
fn member(class: &str, number: i32) -> Res<Owned> {
    import_from("socket", class)?.call(&[&*Owned::from_i64(number.into())?])
}

/// Flags that change nothing about a literal host with a numeric port.
const IDLE_FLAGS: i32 = libc::AI_PASSIVE | libc::AI_NUMERICHOST | libc::AI_NUMERICSERV;

/// An `int`, or a member of an enumeration of them, that fits.
fn number(object: &Object) -> Option<i32> {
    // SAFETY: a live object.
    if unsafe { ffi::PyLong_Check(object.as_ptr()) } == 0 {
        return None;
    }
    match object.to_isize() {
        Ok(number) => i32::try_from(number).ok(),
        Err(Raised) => {
            drop(take_exception());
            None
        }
    }
}

/// The characters of an exact `str`.
fn text(object: &Object) -> Option<&str> {
    let mut len = 0;
    // SAFETY: a live object; only that of an exact `str` is asked for its text, which lives as long
    // as it.
    let bytes = unsafe {
        if ffi::PyUnicode_CheckExact(object.as_ptr()) == 0 {
            return None;
        }
        let data = ffi::PyUnicode_AsUTF8AndSize(object.as_ptr(), &raw mut len);
        if data.is_null() {
            drop(take_exception());
            return None;
        }
        std::slice::from_raw_parts(data.cast(), len as usize)
    };
    std::str::from_utf8(bytes).ok()
}

fn port_number(object: &Object) -> Option<u16> {
    if object.is_none() {
        return Some(0);
    }
    match text(object) {
        Some(text) if !text.is_empty() => port(text),
        Some(_) => None,
        // Not of a subclass: `True` is no port.
        // SAFETY: a live object.
        None if unsafe { ffi::PyLong_CheckExact(object.as_ptr()) } == 0 => None,
        None => u16::try_from(number(object)?).ok(),
    }
}

/// `literal_addresses(host, port, family, type, proto, flags)`: the list, or None.
fn literal_addresses(_: &Object, args: Args<'_>) -> Res<Owned> {
    let parameters = ["host", "port", "family", "type", "proto", "flags"];
    let given = args.parse("literal_addresses", parameters, 6, 6)?;
    let [host, port, family, socket_type, protocol, flags] =
        given.map(|argument| argument.unwrap_or(none()));
    let answer = (|| {
        let literal = Literal::parse(text(host)?)?;
        let port = port_number(port)?;
        let kinds = kinds(number(socket_type)?, number(protocol)?)?;
        let asked = number(family)?;
        let parts = parts();
        let (own, member) = match literal.ip {
            IpAddr::V4(_) => (libc::AF_INET, &parts.inet),
            IpAddr::V6(_) => (libc::AF_INET6, &parts.inet6),
        };
        let usual = (asked == libc::AF_UNSPEC || asked == own) && number(flags)? & !IDLE_FLAGS == 0;
        usual.then_some((literal, port, kinds, member))
    })();
    let Some((literal, number, kinds, family_member)) = answer else {
        return Ok(Owned::none());
    };
    audit(
        c"socket.getaddrinfo",
        &[host, port, family, socket_type, protocol],
    )?;
    let socket_address = address::to_python(&match literal.ip {
        IpAddr::V4(ip) => Address::V4(SocketAddrV4::new(ip, number)),
        IpAddr::V6(ip) => Address::V6(Box::new(SocketAddrV6::new(ip, number, 0, literal.scope))),
    })?
    .unwrap_or_else(Owned::none);
    Owned::list_of(kinds.len(), |index| {
        let (socket_type, protocol) = kinds[index];
        let parts = parts();
        let member = match socket_type {
            libc::SOCK_STREAM => &parts.stream,
            libc::SOCK_DGRAM => &parts.dgram,
            _ => &parts.raw,
        };
        let protocol = Owned::from_i64(protocol.into())?;
        Owned::tuple(&[
            family_member,
            member,
            &protocol,
            &parts.no_name,
            &socket_address,
        ])
    })
}

/// What the module exports.
pub(crate) fn init() -> Res<Vec<(&'static str, Owned)>> {
    Parts::fill()?;
    Ok(vec![(
        "literal_addresses",
        function(method!(fast c"literal_addresses" literal_addresses,
            c"What getaddrinfo() answers for a literal address; None for anything else."))?,
    )])
}
