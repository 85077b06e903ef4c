//! The attributes of asyncio's datagram transport that libraries read.

use super::sending::flush_if_dirty;
use super::{Datagram, DatagramSocket};
use crate::cpython::method::{GetSet, Method, attribute, method};
use crate::cpython::native::Native;
use crate::cpython::{Owned, Res};
use crate::transport::names::imports;
use crate::transport::{ending, flow, methods};

fn get_sock(this: &Native<Datagram>) -> Res<Owned> {
    Ok(match this.end.datagrams.borrow().socket() {
        Some(socket) => socket.object().own(),
        None => Owned::none(),
    })
}

fn get_address(this: &Native<Datagram>) -> Res<Owned> {
    Ok(this.end.address.or_none())
}

/// What waits to be sent: a copy, of pairs of bytes and address.
fn get_buffer(this: &Native<Datagram>) -> Res<Owned> {
    flush_if_dirty(this)?;
    let datagrams = this.end.datagrams.borrow();
    let pairs = datagrams.iter();
    let waiting: Vec<_> = pairs
        .map(|(data, to)| (data.object().own(), to.object().own()))
        .collect();
    drop(datagrams);
    let list = Owned::list()?;
    for (data, to) in waiting {
        list.append(&*Owned::tuple(&[&data, &to])?)?;
    }
    imports().deque.call(&[&list])
}

pub(super) fn methods() -> Vec<Method> {
    vec![
        method!(fast c"get_extra_info(name, default=None)" methods::get_extra_info::<DatagramSocket>, c"Returns optional information about the socket."),
        method!(onearg c"_force_close(exc, /)" ending::force_close_method::<DatagramSocket>, c"Closes at once; the protocol gets the exception."),
    ]
}

pub(super) fn attributes() -> Vec<GetSet> {
    let mut attributes = methods::attributes!(DatagramSocket);
    attributes.extend(flow::writing_attributes!(DatagramSocket));
    attributes.extend([
        attribute!(c"_extra" methods::get_extra::<DatagramSocket>, methods::set_extra::<DatagramSocket>),
        attribute!(c"_sock" get_sock),
        attribute!(c"_sock_fd" methods::get_fd::<DatagramSocket>),
        attribute!(c"_address" get_address),
        attribute!(c"_server" methods::get_none::<DatagramSocket>),
        attribute!(c"_paused" methods::get_paused::<DatagramSocket>),
        attribute!(c"_protocol_connected" methods::get_true::<DatagramSocket>),
        attribute!(c"_buffer_size" flow::get_write_buffer_size::<DatagramSocket>),
        attribute!(c"_buffer" get_buffer),
    ]);
    attributes
}
