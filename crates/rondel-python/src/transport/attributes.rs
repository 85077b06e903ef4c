//! The attributes of asyncio's socket transport that libraries read, and `get_protocol`, `set_protocol`.

use super::chunk::Chunk;
use super::flow;
use super::names::imports;
use super::socket::{PROTOCOL_CONNECTED, fields, set_protocol as replace_protocol};
use super::writing::flush_if_dirty;
use crate::cpython::method::{GetSet, Method, attribute, method};
use crate::cpython::{Object, Owned, Res, none};

fn get_protocol(transport: &Object) -> Res<Owned> {
    Ok(fields(transport).protocol.or_none())
}

fn set_protocol_attribute(transport: &Object, value: Option<&Object>) -> Res<()> {
    replace_protocol(transport, value.unwrap_or(none())).map(drop)
}

fn get_loop(transport: &Object) -> Res<Owned> {
    Ok(fields(transport).event_loop.or_none())
}

fn get_server(transport: &Object) -> Res<Owned> {
    Ok(fields(transport).server.or_none())
}

fn set_server(transport: &Object, value: Option<&Object>) -> Res<()> {
    let value = value.filter(|value| !value.is_none()).map(Object::own);
    drop(fields(transport).server.replace(value));
    Ok(())
}

fn get_fd(transport: &Object) -> Res<Owned> {
    Owned::from_i64(fields(transport).fd.get().into())
}

fn get_conn_lost(transport: &Object) -> Res<Owned> {
    flush_if_dirty(transport)?;
    Owned::from_u64(fields(transport).stream.borrow().conn_lost().into())
}

fn get_closing(transport: &Object) -> Res<Owned> {
    flush_if_dirty(transport)?;
    Ok(Owned::from_bool(fields(transport).is_closing()))
}

fn get_eof(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).stream.borrow().eof_written(),
    ))
}

fn get_paused(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).stream.borrow().is_paused(),
    ))
}

fn get_protocol_paused(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).stream.borrow().flow.is_paused(),
    ))
}

fn get_protocol_connected(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(fields(transport).has(PROTOCOL_CONNECTED)))
}

fn get_high_water(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    flow::limit(&this.stream.borrow().flow, &this.limits, 1)
}

fn get_low_water(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    flow::limit(&this.stream.borrow().flow, &this.limits, 0)
}

fn get_empty_waiter(transport: &Object) -> Res<Owned> {
    Ok(fields(transport).empty_waiter.or_none())
}

/// What waits to be sent: a copy, in the container that the running version has.
fn get_buffer(transport: &Object) -> Res<Owned> {
    flush_if_dirty(transport)?;
    let waiting: Vec<Vec<u8>> = fields(transport)
        .stream
        .borrow()
        .queue()
        .iter()
        .map(<[u8]>::to_vec)
        .collect();
    if cfg!(not(Py_3_12)) {
        let joined = Owned::from_bytes(&waiting.concat())?;
        // SAFETY: a live object.
        return unsafe { Owned::steal(pyo3::ffi::PyByteArray_FromObject(joined.as_ptr())) };
    }
    let list = Owned::list()?;
    for chunk in waiting {
        list.append(Chunk::copy(&chunk)?.object())?;
    }
    imports().deque.call(&[&list])
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(noargs c"get_protocol" get_protocol, c"The protocol."),
        method!(named c"set_protocol" ("protocol") replace_protocol, c"Replaces the protocol."),
    ]
}

pub(super) fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"_protocol" get_protocol, set_protocol_attribute),
        attribute!(c"_loop" get_loop),
        attribute!(c"_server" get_server, set_server),
        attribute!(c"_sock_fd" get_fd),
        attribute!(c"_conn_lost" get_conn_lost),
        attribute!(c"_closing" get_closing),
        attribute!(c"_eof" get_eof),
        attribute!(c"_paused" get_paused),
        attribute!(c"_protocol_paused" get_protocol_paused),
        attribute!(c"_protocol_connected" get_protocol_connected),
        attribute!(c"_high_water" get_high_water),
        attribute!(c"_low_water" get_low_water),
        attribute!(c"_empty_waiter" get_empty_waiter),
        attribute!(c"_buffer" get_buffer),
    ]
}
