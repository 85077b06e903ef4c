//! The attributes of asyncio's socket transport that libraries read.

use super::chunk::Chunk;
use super::methods;
use super::names::imports;
use super::socket::{Socket, StreamSocket};
use super::writing::flush_if_dirty;
use super::{extra, flow};
use crate::cpython::method::{GetSet, attribute};
use crate::cpython::native::Native;
use crate::cpython::{Object, Owned, Res};

fn get_server(this: &Native<Socket>) -> Res<Owned> {
    Ok(this.end.server.or_none())
}

fn set_server(this: &Native<Socket>, value: Option<&Object>) -> Res<()> {
    let value = value.filter(|value| !value.is_none()).map(Object::own);
    drop(this.end.server.replace(value));
    Ok(())
}

fn get_eof(this: &Native<Socket>) -> Res<Owned> {
    Ok(Owned::from_bool(this.end.stream.borrow().eof_written()))
}

fn get_empty_waiter(this: &Native<Socket>) -> Res<Owned> {
    Ok(this.end.empty_waiter.or_none())
}

/// What waits to be sent: a copy, in the container that the running version has.
fn get_buffer(this: &Native<Socket>) -> Res<Owned> {
    flush_if_dirty(this)?;
    let stream = this.end.stream.borrow();
    let waiting: Vec<Vec<u8>> = stream.queue().iter().map(<[u8]>::to_vec).collect();
    drop(stream);
    if cfg!(not(Py_3_12)) {
        let joined = Owned::from_bytes(&waiting.concat())?;
        return joined.to_bytearray();
    }
    let list = Owned::list()?;
    for chunk in waiting {
        list.append(Chunk::copy(&chunk)?.object())?;
    }
    imports().deque.call(&[&list])
}

pub(super) fn attributes() -> Vec<GetSet> {
    let mut attributes = methods::attributes!(StreamSocket);
    attributes.extend(flow::writing_attributes!(StreamSocket));
    attributes.extend(extra::attributes());
    attributes.extend([
        attribute!(c"_server" get_server, set_server),
        attribute!(c"_sock_fd" methods::get_fd::<StreamSocket>),
        attribute!(c"_eof" get_eof),
        attribute!(c"_paused" methods::get_paused::<StreamSocket>),
        attribute!(c"_protocol_connected" methods::get_true::<StreamSocket>),
        attribute!(c"_empty_waiter" get_empty_waiter),
        attribute!(c"_buffer" get_buffer),
    ]);
    attributes
}
