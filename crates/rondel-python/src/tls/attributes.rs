//! The attributes of asyncio's `SSLProtocol` that the data path needs. They are native fields,
//! which asyncio's own Python code reads and sets, too.

use super::names::imports as tls_imports;
use super::protocol::{
    APP_READING_PAUSED, APP_WRITING_PAUSED, BELOW_PAUSED, BUFFERED, EOF_RECEIVED, READING_PAUSED,
    Tls, set_sslobj,
};
use crate::cpython::error::{Builtin, not_deletable, raised_matches, take_exception};
use crate::cpython::method::{GetSet, attribute};
use crate::cpython::native::Native;
use crate::cpython::object::{tuple_item, tuple_len};
use crate::cpython::{Object, Owned, Raised, Res, none};
use crate::transport::names::imports;
use crate::transport::receiver;
use crate::transport::unsent::Unsent;

/// Attributes that hold any object.
macro_rules! objects {
    ($($get:ident, $set:ident, $field:ident;)+) => {
        $(
            fn $get(this: &Native<Tls>) -> Res<Owned> {
                Ok(this.$field.or_none())
            }

            fn $set(this: &Native<Tls>, value: Option<&Object>) -> Res<()> {
                let value = value.filter(|value| !value.is_none()).map(Object::own);
                drop(this.$field.replace(value));
                Ok(())
            }
        )+
    };
}

objects! {
    get_transport, set_transport, transport;
    get_loop, set_loop, event_loop;
    get_sslcontext, set_sslcontext, sslcontext;
    get_incoming, set_incoming, incoming;
    get_outgoing, set_outgoing, outgoing;
}

fn get_app_protocol(this: &Native<Tls>) -> Res<Owned> {
    Ok(this.app_protocol.or_none())
}

fn set_app_protocol(this: &Native<Tls>, value: Option<&Object>) -> Res<()> {
    let value = value.filter(|value| !value.is_none());
    this.receiver
        .set(value.map_or(&receiver::METHODS, receiver::of_chunks));
    drop(this.app_protocol.replace(value.map(Object::own)));
    Ok(())
}

/// Attributes that are flags.
macro_rules! flags {
    ($($get:ident, $set:ident, $flag:ident;)+) => {
        $(
            fn $get(this: &Native<Tls>) -> Res<Owned> {
                Ok(Owned::from_bool(this.has($flag)))
            }

            fn $set(this: &Native<Tls>, value: Option<&Object>) -> Res<()> {
                let on = value.unwrap_or(none()).is_true()?;
                this.set($flag, on);
                Ok(())
            }
        )+
    };
}

flags! {
    get_below_paused, set_below_paused, BELOW_PAUSED;
    get_app_reading_paused, set_app_reading_paused, APP_READING_PAUSED;
    get_reading_paused, set_reading_paused, READING_PAUSED;
    get_eof_received, set_eof_received, EOF_RECEIVED;
    get_app_writing_paused, set_app_writing_paused, APP_WRITING_PAUSED;
    get_buffered, set_buffered, BUFFERED;
}

/// Attributes that are limits in bytes.
macro_rules! limits {
    ($($get:ident, $set:ident, $field:ident, $rounded:ident;)+) => {
        $(
            fn $get(this: &Native<Tls>) -> Res<Owned> {
                Ok(this.$field.given.or_none())
            }

            fn $set(this: &Native<Tls>, value: Option<&Object>) -> Res<()> {
                let value = value.unwrap_or(none());
                // Any number is allowed, as in asyncio. It is compared with integers.
                let bytes = match value.to_f64() {
                    Ok(bytes) => bytes.$rounded(),
                    Err(Raised) if raised_matches(Builtin::Overflow.class()) => {
                        drop(take_exception()); // an integer beyond all floats
                        f64::MAX
                    }
                    Err(Raised) => return Err(Raised),
                };
                let limit = &this.$field;
                limit.bytes.set(bytes as usize);
                limit.given.set(value.own());
                Ok(())
            }
        )+
    };
}

limits! {
    // Compared with sizes by `>=` (high) and `<=` (low).
    get_outgoing_high, set_outgoing_high, outgoing_high, ceil;
    get_outgoing_low, set_outgoing_low, outgoing_low, floor;
    get_incoming_high, set_incoming_high, incoming_high, ceil;
    get_incoming_low, set_incoming_low, incoming_low, floor;
}

fn get_state(this: &Native<Tls>) -> Res<Owned> {
    if this.state_object.is_empty() {
        return Ok(tls_imports().states[0].clone());
    }
    Ok(this.state_object.or_none())
}

fn set_state(this: &Native<Tls>, value: Option<&Object>) -> Res<()> {
    match value {
        Some(state) => {
            this.note_state(state);
            Ok(())
        }
        None => not_deletable(this.object(), "_state"),
    }
}

fn get_sslobj(this: &Native<Tls>) -> Res<Owned> {
    Ok(this.sslobj.or_none())
}

fn set_sslobj_attribute(this: &Native<Tls>, value: Option<&Object>) -> Res<()> {
    set_sslobj(this, value.unwrap_or(none()))
}

fn get_conn_lost(this: &Native<Tls>) -> Res<Owned> {
    Owned::from_u64(this.conn_lost.get().into())
}

fn set_conn_lost(this: &Native<Tls>, value: Option<&Object>) -> Res<()> {
    let count = value.unwrap_or(none()).to_isize()?;
    this.conn_lost.set(count.max(0) as u32);
    Ok(())
}

fn get_queued(this: &Native<Tls>) -> Res<Owned> {
    Owned::from_u64(this.queued.get() as u64)
}

fn set_queued(this: &Native<Tls>, value: Option<&Object>) -> Res<()> {
    let count = value.unwrap_or(none()).to_isize()?;
    this.queued.set(count.max(0) as usize);
    Ok(())
}

/// What was written and is not encrypted yet: a copy.
fn get_backlog(this: &Native<Tls>) -> Res<Owned> {
    let waiting: Vec<Unsent> = this.queue.borrow().iter().cloned().collect();
    let list = Owned::list()?;
    for chunk in waiting {
        list.append(chunk.object())?;
    }
    imports().deque.call(&[&list])
}

fn set_backlog(this: &Native<Tls>, value: Option<&Object>) -> Res<()> {
    let chunks = value.unwrap_or(none()).to_tuple()?;
    let chunks = (0..tuple_len(&chunks))
        .map(|index| Unsent::of_buffer(tuple_item(&chunks, index)))
        .collect::<Result<_, Raised>>()?;
    this.sent_of_first.set(0);
    drop(this.queue.replace(chunks));
    Ok(())
}

/// For tests: whether OpenSSL is driven directly.
fn get_direct(this: &Native<Tls>) -> Res<Owned> {
    Ok(Owned::from_bool(this.direct().is_some()))
}

pub(super) fn attributes() -> Vec<GetSet> {
    vec![
        attribute!(c"_state" get_state, set_state),
        attribute!(c"_app_protocol" get_app_protocol, set_app_protocol),
        attribute!(c"_transport" get_transport, set_transport),
        attribute!(c"_loop" get_loop, set_loop),
        attribute!(c"_sslcontext" get_sslcontext, set_sslcontext),
        attribute!(c"_sslobj" get_sslobj, set_sslobj_attribute),
        attribute!(c"_incoming" get_incoming, set_incoming),
        attribute!(c"_outgoing" get_outgoing, set_outgoing),
        attribute!(c"_write_backlog" get_backlog, set_backlog),
        attribute!(c"_write_buffer_size" get_queued, set_queued),
        attribute!(c"_conn_lost" get_conn_lost, set_conn_lost),
        attribute!(c"_ssl_writing_paused" get_below_paused, set_below_paused),
        attribute!(c"_app_reading_paused" get_app_reading_paused, set_app_reading_paused),
        attribute!(c"_ssl_reading_paused" get_reading_paused, set_reading_paused),
        attribute!(c"_eof_received" get_eof_received, set_eof_received),
        attribute!(c"_app_writing_paused" get_app_writing_paused, set_app_writing_paused),
        attribute!(c"_app_protocol_is_buffer" get_buffered, set_buffered),
        attribute!(c"_outgoing_high_water" get_outgoing_high, set_outgoing_high),
        attribute!(c"_outgoing_low_water" get_outgoing_low, set_outgoing_low),
        attribute!(c"_incoming_high_water" get_incoming_high, set_incoming_high),
        attribute!(c"_incoming_low_water" get_incoming_low, set_incoming_low),
        attribute!(c"_direct" get_direct),
    ]
}
