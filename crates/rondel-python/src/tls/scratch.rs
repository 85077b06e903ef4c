//! Memory that all TLS connections of a thread share, so that an idle connection has none: for
//! received records, for small ones that are decrypted, and for pieces that are joined before they
//! are encrypted.

use std::cell::Cell;
use std::mem::MaybeUninit;

/// As much as one receive takes, in bytes; asyncio's buffer for each connection has the same size.
pub(super) const RECEIVE: usize = 256 * 1024;
/// Room for a few records.
const SMALL: usize = 64 * 1024;

type Memory = Box<[MaybeUninit<u8>]>;

thread_local! {
    static RECEIVED: Cell<Option<Memory>> = const { Cell::new(None) };
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static PLAIN: Cell<Option<Memory>> = const { Cell::new(None) };
}

/// Lends the memory out. A nested call, from a callback of OpenSSL, gets memory of its own.
fn lend<R>(
    place: &'static std::thread::LocalKey<Cell<Option<Memory>>>,
    size: usize,
    body: impl FnOnce(&mut [MaybeUninit<u8>]) -> R,
) -> R {
    let mut memory = place.take().unwrap_or_else(|| Box::new_uninit_slice(size));
    let result = body(&mut memory);
    place.set(Some(memory));
    result
}

/// Memory for the program's bytes.
pub(super) fn with<R>(body: impl FnOnce(&mut [MaybeUninit<u8>]) -> R) -> R {
    lend(&PLAIN, SMALL, body)
}

/// Memory for what comes from a peer.
pub(super) fn with_received<R>(body: impl FnOnce(&mut [MaybeUninit<u8>]) -> R) -> R {
    lend(&RECEIVED, RECEIVE, body)
}

/// A vector with room for what is to be sent, empty.
pub(super) fn spare() -> Vec<u8> {
    SPARE.take()
}

/// The vector is not needed any more.
pub(super) fn give_back(memory: Vec<u8>) {
    if memory.capacity() <= RECEIVE {
        SPARE.set(memory);
    }
}
