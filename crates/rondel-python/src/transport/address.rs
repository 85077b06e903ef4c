//! Socket addresses as Python's `socket` module gives them.

use std::ffi::CStr;
use std::net::{SocketAddrV4, SocketAddrV6};

use pyo3::ffi;
use rondel_engine::transport::address::Address;

use crate::cpython::private::inet_ntop;
use crate::cpython::{Object, Owned, Res};

/// Room for the longest text of an IPv6 address and its final zero: `INET6_ADDRSTRLEN`.
const V6_TEXT: usize = 46;

/// `(host, port)`, `(host, port, flowinfo, scope_id)`, or a Unix path. `None` for families that
/// Python must be asked about.
pub(crate) fn to_python(address: &Address) -> Res<Option<Owned>> {
    match address {
        Address::V4(address) => v4(address).map(Some),
        Address::V6(address) => v6(address).map(Some),
        Address::Other(address) if address.is_unix() => unix(address).map(Some),
        Address::Other(_) => Ok(None),
    }
}

fn v4(address: &SocketAddrV4) -> Res<Owned> {
    let host = Owned::from_str(&address.ip().to_string())?;
    Owned::tuple(&[&host, &*Owned::from_u64(address.port().into())?])
}

fn v6(address: &SocketAddrV6) -> Res<Owned> {
    // C libraries format some addresses (`::1.2.3.4`) differently from Rust, and from each other.
    let octets = address.ip().octets();
    let mut text = [0; V6_TEXT];
    // SAFETY: sixteen readable bytes, and room for the longest text, which ends with a zero.
    let host = unsafe {
        inet_ntop(
            libc::AF_INET6,
            octets.as_ptr().cast(),
            text.as_mut_ptr(),
            V6_TEXT as libc::socklen_t,
        );
        CStr::from_ptr(text.as_ptr())
    };
    let items = [
        Owned::from_str(&host.to_string_lossy())?,
        Owned::from_u64(address.port().into())?,
        Owned::from_u64(u32::from_be(address.flowinfo()).into())?,
        Owned::from_u64(address.scope_id().into())?,
    ];
    let items: Vec<&Object> = items.iter().map(|item| &**item).collect();
    Owned::tuple(&items)
}

/// A path is a `str`, an abstract name `bytes`, no name an empty `str`.
fn unix(address: &socket2::SockAddr) -> Res<Owned> {
    use std::os::unix::ffi::OsStrExt;
    if let Some(name) = address.as_abstract_namespace() {
        let mut bytes = vec![0];
        bytes.extend_from_slice(name);
        return Owned::from_bytes(&bytes);
    }
    let path = address
        .as_pathname()
        .map_or(&[][..], |path| path.as_os_str().as_bytes());
    // SAFETY: a readable buffer of that length.
    unsafe {
        Owned::steal(ffi::PyUnicode_DecodeFSDefaultAndSize(
            path.as_ptr().cast(),
            path.len() as isize,
        ))
    }
}
