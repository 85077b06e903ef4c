//! The address of either end of a socket.
//!
//! A connection keeps its peer's address, because the program may ask for it after the connection
//! is gone. IPv4 addresses are stored inline, all others (IPv6, Unix paths, vsock, …) are boxed.

use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;

use socket2::{SockAddr, SockAddrStorage};

/// An address as the kernel gave it.
#[derive(Clone, Debug)]
pub enum Address {
    /// Host and port.
    V4(SocketAddrV4),
    /// Host, port, flow label and scope.
    V6(Box<SocketAddrV6>),
    /// Any other family.
    Other(Box<SockAddr>),
}

impl From<SockAddr> for Address {
    fn from(address: SockAddr) -> Self {
        match address.as_socket() {
            Some(SocketAddr::V4(v4)) => Self::V4(v4),
            Some(SocketAddr::V6(v6)) => Self::V6(Box::new(v6)),
            None => Self::Other(Box::new(address)),
        }
    }
}

impl Address {
    /// The address this end is bound to.
    ///
    /// # Errors
    /// Errors of `getsockname`.
    pub fn of_socket(fd: RawFd) -> io::Result<Self> {
        // SAFETY: `fill` passes a buffer of `len` bytes.
        Self::fill(|address, len| unsafe { libc::getsockname(fd, address, len) }).map(|(_, it)| it)
    }

    /// The address of the other end.
    ///
    /// # Errors
    /// Errors of `getpeername`, usually `ENOTCONN`.
    pub fn of_peer(fd: RawFd) -> io::Result<Self> {
        // SAFETY: `fill` passes a buffer of `len` bytes.
        Self::fill(|address, len| unsafe { libc::getpeername(fd, address, len) }).map(|(_, it)| it)
    }

    /// Host and port, for the families that have them.
    pub fn as_socket(&self) -> Option<SocketAddr> {
        match self {
            Self::V4(v4) => Some(SocketAddr::V4(*v4)),
            Self::V6(v6) => Some(SocketAddr::V6(**v6)),
            Self::Other(_) => None,
        }
    }

    /// Converts an IPv4 address directly; `None` for any other family.
    #[inline]
    pub(super) fn of_v4(storage: &SockAddrStorage, len: libc::socklen_t) -> Option<Self> {
        if (len as usize) < size_of::<libc::sockaddr_in>() {
            return None;
        }
        // SAFETY: a storage is larger than a `sockaddr_in` and aligned for it, and any bytes are a
        // valid `sockaddr_in`.
        let raw = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
        if libc::c_int::from(raw.sin_family) != libc::AF_INET {
            return None;
        }
        let ip = u32::from_be(raw.sin_addr.s_addr).into();
        Some(Self::V4(SocketAddrV4::new(ip, u16::from_be(raw.sin_port))))
    }

    /// Calls `call` with the address in the kernel's form.
    #[inline]
    pub(super) fn with_raw<R>(
        &self,
        call: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> R,
    ) -> R {
        match self {
            Self::V4(address) => {
                let raw = raw_v4(address);
                let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
                call(std::ptr::from_ref(&raw).cast(), len)
            }
            Self::V6(address) => {
                let raw = SockAddr::from(**address);
                call(raw.as_ptr().cast(), raw.len())
            }
            Self::Other(raw) => call(raw.as_ptr().cast(), raw.len()),
        }
    }

    /// Lets a system call fill in an address; returns the call's result and the address.
    pub(super) fn fill(
        call: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int,
    ) -> io::Result<(libc::c_int, Self)> {
        let mut storage = MaybeUninit::<SockAddrStorage>::zeroed();
        let mut len = size_of::<SockAddrStorage>() as libc::socklen_t;
        let result = call(storage.as_mut_ptr().cast(), &raw mut len);
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // The address may be truncated, but only in families whose addresses exceed the storage.
        len = len.min(size_of::<SockAddrStorage>() as libc::socklen_t);
        // SAFETY: all-zero is a valid storage, and the kernel has written `len` bytes of it.
        let address = unsafe { SockAddr::new(storage.assume_init(), len) };
        Ok((result, address.into()))
    }
}

/// The address in the kernel's form.
#[inline]
pub(super) fn raw_v4(address: &SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: address.ip().to_bits().to_be(),
        },
        sin_zero: [0; 8],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn both_ends_agree() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host) else {
                continue; // no IPv6 here
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, from) = listener.accept().unwrap();
            let seen = Address::of_peer(server.as_raw_fd()).unwrap();
            let told = Address::of_socket(client.as_raw_fd()).unwrap();
            for address in [seen, told] {
                match (address, from) {
                    (Address::V4(a), SocketAddr::V4(b)) => assert_eq!(a, b),
                    (Address::V6(a), SocketAddr::V6(b)) => assert_eq!(*a, b),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn an_unnamed_unix_socket_has_an_address_and_an_idle_address_is_small() {
        let (one, _two) = UnixStream::pair().unwrap();
        assert!(matches!(
            Address::of_peer(one.as_raw_fd()),
            Ok(Address::Other(a)) if a.is_unnamed()
        ));
        assert!(size_of::<Address>() <= 16);
        let unconnected = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = Address::of_peer(unconnected.as_raw_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    }
}
