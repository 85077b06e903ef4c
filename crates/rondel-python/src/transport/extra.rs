//! `get_extra_info`, and the socket object of a transport.
//!
//! An accepted connection has no socket object until somebody asks for it; from then on that object
//! owns the descriptor. Addresses are made when they are asked for, and are known after the end,
//! too.

use rondel_engine::transport::address::Address;

use super::address;
use super::names::imports;
use super::socket::{Descriptor, EXTRA_IS_WHOLE, Socket};
use crate::cpython::error::take_exception;
use crate::cpython::method::{Args, GetSet, Method, attribute, method};
use crate::cpython::native::Native;
use crate::cpython::{Object, Owned, Raised, Res, names, none};

/// The socket object, which owns the descriptor from now on. `None` once it is closed.
fn socket_object(this: &Native<Socket>) -> Res<Option<Owned>> {
    let fd = match this.end.stream.borrow().socket() {
        None => return Ok(None),
        Some(Descriptor::Python(_, socket)) => return Ok(Some(socket.clone())),
        Some(Descriptor::Ours(_)) => this.fd.get(),
    };
    // Made of the bare number. Until `replace_socket` the descriptor is ours: whatever fails after
    // the object has it detaches it first.
    let socket = {
        let nothing = Owned::from_i64(-1)?;
        let fd = Owned::from_i64(fd.into())?;
        imports()
            .socket
            .call(&[&nothing, &nothing, &nothing, &fd])?
    };
    if let Err(Raised) = socket.call_method(&names().setblocking, &[&*Owned::from_bool(false)]) {
        let exception = take_exception();
        socket.call_method(&names().detach_socket, &[])?;
        return Err(crate::cpython::error::restore(exception));
    }
    this.end.stream.borrow_mut().replace_socket(|before| {
        if let Descriptor::Ours(ours) = before {
            use std::os::fd::IntoRawFd;
            // The object owns it now.
            let _ = ours.into_raw_fd();
        }
        Descriptor::Python(fd, socket.clone())
    });
    Ok(Some(socket))
}

/// The `TransportSocket`. After the end it is one of a closed socket.
fn socket_info(this: &Native<Socket>) -> Res<Owned> {
    if let Some(info) = this.end.socket_info.cloned() {
        return Ok(info);
    }
    let socket = match socket_object(this)? {
        Some(socket) => socket,
        None => {
            let closed = imports().socket.call(&[])?;
            closed.call_method(&names().close, &[])?;
            closed
        }
    };
    let info = imports().transport_socket.call(&[&socket])?;
    this.end.socket_info.set(info.clone());
    Ok(info)
}

fn address_info(this: &Native<Socket>, address: Option<Address>, method: &Object) -> Res<Owned> {
    let Some(address) = address else {
        return Ok(Owned::none());
    };
    if let Some(address) = address::to_python(&address)? {
        return Ok(address);
    }
    // Only Python's socket module can format an address of this family.
    match socket_object(this)? {
        None => Ok(Owned::none()),
        Some(socket) => match socket.call_method(method, &[]) {
            Ok(address) => Ok(address),
            Err(Raised) => {
                drop(take_exception());
                Ok(Owned::none())
            }
        },
    }
}

fn sockname(this: &Native<Socket>) -> Res<Owned> {
    if this.end.local.borrow().is_none() && this.end.stream.borrow().socket().is_some() {
        *this.end.local.borrow_mut() = Address::of_socket(this.fd.get()).ok();
    }
    let local = this.end.local.borrow().clone();
    address_info(this, local, &names().getsockname)
}

fn peername(this: &Native<Socket>) -> Res<Owned> {
    let peer = this.end.peer.borrow().clone();
    address_info(this, peer, &names().getpeername)
}

/// One entry of what asyncio keeps in a dict.
pub(crate) fn get_extra(this: &Native<Socket>, name: &Object, default: &Object) -> Res<Owned> {
    let names = names();
    let is = |known: &Object| -> Res<bool> { Ok(name.is(known) || name.equals(known)?) };
    if !this.has(EXTRA_IS_WHOLE) {
        if let Err(Raised) = name.hash() {
            drop(take_exception());
            // What a dict says of such a key differs between versions.
            return Owned::dict()?.call_method(&names.get, &[name]);
        }
        if is(&names.peername)? {
            let given = match this.extra.cloned() {
                Some(extra) => extra.call_method(&names.get, &[name])?,
                None => Owned::none(),
            };
            return if given.is_none() {
                peername(this)
            } else {
                Ok(given)
            };
        }
        if is(&names.socket)? {
            return socket_info(this);
        }
        if is(&names.sockname)? {
            return sockname(this);
        }
    }
    match this.extra.cloned() {
        Some(extra) => extra.call_method(&names.get, &[name, default]),
        None => Ok(default.own()),
    }
}

fn get_extra_info(this: &Native<Socket>, args: Args<'_>) -> Res<Owned> {
    let parameters = ["name", "default"];
    let [name, default] = args.parse("get_extra_info", parameters, 2, 1)?;
    if let Some(answer) = ask_replaced(this.object(), name, default)? {
        return Ok(answer);
    }
    get_extra(this, name.unwrap_or(none()), default.unwrap_or(none()))
}

/// asyncio's transports inherit `get_extra_info` from its abstract classes, where tests replace it
/// by a mock. Calls that mock, if there is one.
#[inline]
pub(super) fn ask_replaced(
    transport: &Object,
    name: Option<&Object>,
    default: Option<&Object>,
) -> Res<Option<Owned>> {
    let imports = imports();
    let inherited = imports.transport.getattr(&names().get_extra_info)?;
    if inherited.is(&imports.get_extra_info) {
        return Ok(None);
    }
    // As attribute lookup binds it: a mock is not a function, and is called without the transport.
    let bound = inherited
        .class()
        .getattr_optional(&*Owned::from_str("__get__")?)?;
    let args: Vec<&Object> = name.into_iter().chain(default).collect();
    match bound {
        None => inherited.call(&args),
        Some(get) => get
            .call(&[&inherited, transport, transport.class()])?
            .call(&args),
    }
    .map(Some)
}

/// `_extra`: the complete dict, which is used from now on.
fn get_dict(this: &Native<Socket>) -> Res<Owned> {
    if this.has(EXTRA_IS_WHOLE) {
        return Ok(this.extra.or_none());
    }
    let peer = get_extra(this, &names().peername, none())?;
    let extra = match this.extra.cloned() {
        Some(extra) => extra,
        None => Owned::dict()?,
    };
    extra.set_item(c"socket", &*socket_info(this)?)?;
    extra.set_item(c"sockname", &*sockname(this)?)?;
    extra.set_item(c"peername", &peer)?;
    this.extra.set(extra.clone());
    this.set(EXTRA_IS_WHOLE, true);
    Ok(extra)
}

fn set_dict(this: &Native<Socket>, value: Option<&Object>) -> Res<()> {
    this.extra.set(value.unwrap_or(none()).own());
    this.set(EXTRA_IS_WHOLE, true);
    Ok(())
}

fn get_sock(this: &Native<Socket>) -> Res<Owned> {
    Ok(socket_object(this)?.unwrap_or_else(Owned::none))
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(fast c"get_extra_info(name, default=None)" get_extra_info, c"Returns optional information about the connection."),
    ]
}

pub(super) fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"_extra" get_dict, set_dict),
        attribute!(c"_sock" get_sock),
    ]
}
