//! Where a datagram goes and comes from: Python's addresses, and the engine's.
//!
//! A program that answers a datagram usually passes back the tuple that it was given, or its host
//! string. [`Host`] caches the number and the string of the last peer, so that neither is converted
//! for each datagram.

use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use pyo3::ffi;
use rondel_engine::transport::address::Address;
use rondel_engine::transport::datagram::{self, Route};

use super::super::address;
use super::{CONNECTED, Datagram};
use crate::cpython::error::take_exception;
use crate::cpython::object::{tuple_item, tuple_len};
use crate::cpython::{Object, Owned, Raised, Res, Slot};

/// The last peer that sent something, if it has an IPv4 address.
#[derive(Default)]
pub(super) struct Host {
    number: Cell<u32>,
    text: Slot,
}

impl Host {
    pub(super) fn slot(&self) -> &Slot {
        &self.text
    }

    /// The text of an address.
    #[inline]
    fn text(&self, ip: Ipv4Addr) -> Res<Owned> {
        let number = ip.to_bits();
        if self.number.get() == number
            && let Some(text) = self.text.cloned()
        {
            return Ok(text);
        }
        let text = Owned::from_str(&ip.to_string())?;
        self.number.set(number);
        self.text.set(text.clone());
        Ok(text)
    }

    /// The address that a string means, if it is a literal one.
    #[inline]
    fn number(&self, text: &Object) -> Option<Ipv4Addr> {
        if self.text.holds(text) {
            return Some(self.number.get().into());
        }
        literal(text)?.parse().ok()
    }
}

/// The text of an exact `str`, which may be an address.
fn literal(text: &Object) -> Option<&str> {
    let mut len = 0;
    // SAFETY: a live object; only that of an exact `str` is asked for its text, which lives as long
    // as it.
    let bytes = unsafe {
        if ffi::PyUnicode_CheckExact(text.as_ptr()) == 0 {
            return None;
        }
        let data = ffi::PyUnicode_AsUTF8AndSize(text.as_ptr(), &raw mut len);
        if data.is_null() {
            drop(take_exception());
            return None;
        }
        std::slice::from_raw_parts(data.cast(), len as usize)
    };
    std::str::from_utf8(bytes).ok()
}

/// An exact `int` from 0 to `limit`.
#[inline]
fn number(object: &Object, limit: u32) -> Option<u32> {
    if !object.is_exact_int() {
        return None;
    }
    match object.to_isize() {
        Ok(number) => u32::try_from(number).ok().filter(|number| *number <= limit),
        Err(Raised) => {
            drop(take_exception());
            None
        }
    }
}

/// The destination of a datagram: Python's address, and the engine's if it is sent natively.
pub(super) struct Destination {
    object: Owned,
    address: Option<Address>,
    connected: bool,
}

impl Destination {
    /// The destination for an argument of `sendto`.
    #[inline]
    pub(super) fn new(this: &Datagram, object: Owned) -> Self {
        let connected = this.has(CONNECTED);
        let address = match connected {
            true => None,
            false => parse(this, &object),
        };
        Self {
            object,
            address,
            connected,
        }
    }

    /// As it was given.
    pub(super) fn object(&self) -> &Object {
        &self.object
    }
}

impl datagram::Destination for Destination {
    #[inline]
    fn route(&self) -> Route<'_> {
        match &self.address {
            _ if self.connected => Route::Connected,
            Some(address) => Route::To(address),
            None => Route::Foreign,
        }
    }
}

/// A literal address of the socket's family. Host names, Unix paths and wrong types are left to
/// `socket.sendto`.
#[inline]
fn parse(this: &Datagram, object: &Object) -> Option<Address> {
    if !object.is_exact_tuple() {
        return None;
    }
    let len = tuple_len(object);
    match this.end.family.get() {
        libc::AF_INET if len == 2 => {
            let ip = this.end.host.number(tuple_item(object, 0))?;
            let port = number(tuple_item(object, 1), u16::MAX.into())?;
            Some(Address::V4(SocketAddrV4::new(ip, port as u16)))
        }
        libc::AF_INET6 if (2..=4).contains(&len) => {
            let ip: Ipv6Addr = literal(tuple_item(object, 0))?.parse().ok()?;
            let port = number(tuple_item(object, 1), u16::MAX.into())?;
            let item = |index, limit| match len > index {
                true => number(tuple_item(object, index), limit),
                false => Some(0),
            };
            // A flow label has twenty bits.
            let (flow, scope) = (item(2, 0xf_ffff)?, item(3, u32::MAX)?);
            let address = SocketAddrV6::new(ip, port as u16, flow.to_be(), scope);
            Some(Address::V6(Box::new(address)))
        }
        _ => None,
    }
}

/// Where a datagram came from, as `socket.recvfrom` gives it.
#[inline]
pub(super) fn to_python(this: &Datagram, from: Option<Address>) -> Res<Owned> {
    match from {
        None => Ok(Owned::none()),
        Some(Address::V4(from)) => {
            let host = this.end.host.text(*from.ip())?;
            Owned::tuple(&[&host, &*Owned::from_u64(from.port().into())?])
        }
        Some(from) => Ok(address::to_python(&from)?.unwrap_or_else(Owned::none)),
    }
}
