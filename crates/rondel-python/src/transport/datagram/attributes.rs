//! `get_extra_info`, the protocol, and the attributes of asyncio's datagram transport that libraries read.

use super::fields;
use super::sending::flush_if_dirty;
use crate::cpython::method::{Args, GetSet, Method, attribute, method};
use crate::cpython::{Object, Owned, Res, none};
use crate::transport::extra::ask_replaced;
use crate::transport::flow;
use crate::transport::names::{imports, names};

fn get_extra_info(transport: &Object, args: Args<'_>) -> Res<Owned> {
    let parameters = ["name", "default"];
    let [name, default] = args.parse("get_extra_info", parameters, 2, 1)?;
    if let Some(answer) = ask_replaced(transport, name, default)? {
        return Ok(answer);
    }
    fields(transport).extra.or_none().call_method(
        &names().get,
        &[name.unwrap_or(none()), default.unwrap_or(none())],
    )
}

fn get_protocol(transport: &Object) -> Res<Owned> {
    Ok(fields(transport).protocol.or_none())
}

fn set_protocol(transport: &Object, protocol: &Object) -> Res<Owned> {
    fields(transport).protocol.set(protocol.own());
    Ok(Owned::none())
}

fn set_protocol_attribute(transport: &Object, value: Option<&Object>) -> Res<()> {
    set_protocol(transport, value.unwrap_or(none())).map(drop)
}

fn get_loop(transport: &Object) -> Res<Owned> {
    Ok(fields(transport).event_loop.or_none())
}

fn get_extra(transport: &Object) -> Res<Owned> {
    Ok(fields(transport).extra.or_none())
}

fn set_extra(transport: &Object, value: Option<&Object>) -> Res<()> {
    fields(transport).extra.set(value.unwrap_or(none()).own());
    Ok(())
}

fn get_sock(transport: &Object) -> Res<Owned> {
    Ok(match fields(transport).datagrams.borrow().socket() {
        Some(socket) => socket.object().own(),
        None => Owned::none(),
    })
}

fn get_fd(transport: &Object) -> Res<Owned> {
    Owned::from_i64(fields(transport).fd.get().into())
}

fn get_address(transport: &Object) -> Res<Owned> {
    Ok(fields(transport).address.or_none())
}

fn get_server(_: &Object) -> Res<Owned> {
    Ok(Owned::none())
}

fn get_conn_lost(transport: &Object) -> Res<Owned> {
    Owned::from_u64(fields(transport).datagrams.borrow().conn_lost().into())
}

fn get_closing(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).datagrams.borrow().is_closing(),
    ))
}

fn get_paused(transport: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(
        fields(transport).datagrams.borrow().is_paused(),
    ))
}

fn get_protocol_paused(transport: &Object) -> Res<Owned> {
    flush_if_dirty(transport)?;
    Ok(Owned::from_bool(
        fields(transport).datagrams.borrow().flow.is_paused(),
    ))
}

fn get_protocol_connected(_: &Object) -> Res<Owned> {
    Ok(Owned::from_bool(true))
}

fn get_high_water(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    flow::limit(&this.datagrams.borrow().flow, &this.limits, 1)
}

fn get_low_water(transport: &Object) -> Res<Owned> {
    let this = fields(transport);
    flow::limit(&this.datagrams.borrow().flow, &this.limits, 0)
}

fn get_buffer_size(transport: &Object) -> Res<Owned> {
    flush_if_dirty(transport)?;
    Owned::from_u64(fields(transport).datagrams.borrow().size() as u64)
}

/// What waits to be sent: a copy, of pairs of bytes and address.
fn get_buffer(transport: &Object) -> Res<Owned> {
    flush_if_dirty(transport)?;
    let waiting: Vec<_> = fields(transport)
        .datagrams
        .borrow()
        .iter()
        .map(|(data, to)| (data.object().own(), to.object().own()))
        .collect();
    let list = Owned::list()?;
    for (data, to) in waiting {
        list.append(&*Owned::tuple(&[&data, &to])?)?;
    }
    imports().deque.call(&[&list])
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(fast c"get_extra_info(name, default=None)" get_extra_info, c"Optional information on the socket."),
        method!(noargs c"get_protocol" get_protocol, c"The protocol."),
        method!(named c"set_protocol" ("protocol") set_protocol, c"Replaces the protocol."),
    ]
}

pub(super) fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"_protocol" get_protocol, set_protocol_attribute),
        attribute!(c"_loop" get_loop),
        attribute!(c"_extra" get_extra, set_extra),
        attribute!(c"_sock" get_sock),
        attribute!(c"_sock_fd" get_fd),
        attribute!(c"_address" get_address),
        attribute!(c"_server" get_server),
        attribute!(c"_conn_lost" get_conn_lost),
        attribute!(c"_closing" get_closing),
        attribute!(c"_paused" get_paused),
        attribute!(c"_protocol_paused" get_protocol_paused),
        attribute!(c"_protocol_connected" get_protocol_connected),
        attribute!(c"_high_water" get_high_water),
        attribute!(c"_low_water" get_low_water),
        attribute!(c"_buffer_size" get_buffer_size),
        attribute!(c"_buffer" get_buffer),
    ]
}
