//! The result of `getaddrinfo` for a literal address, without calling it.
//!
//! A host that is an address needs neither a lookup nor a thread. [`Literal::parse`] accepts what
//! `inet_pton` accepts, plus a scope after an IPv6 address, and [`kinds`] returns the socket types
//! that `getaddrinfo` would list. Anything unusual (other forms of IPv4 addresses, protocols
//! besides TCP and UDP, an unknown scope) gives `None`: the caller must call `getaddrinfo`.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address, and the scope of an IPv6 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Literal {
    /// The address.
    pub ip: IpAddr,
    /// The interface index, or 0.
    pub scope: u32,
}

impl Literal {
    /// Parses `host`; `None` if it is not a plain address.
    #[inline]
    pub fn parse(host: &str) -> Option<Self> {
        let bytes = host.as_bytes();
        // Most hosts are names, which rarely pass this check.
        let first = *bytes.first()?;
        if !first.is_ascii_hexdigit() && first != b':' {
            return None;
        }
        if let Ok(ip) = host.parse::<Ipv4Addr>() {
            return Some(Self {
                ip: ip.into(),
                scope: 0,
            });
        }
        let (address, scope) = match host.split_once('%') {
            None => (host, None),
            Some((address, scope)) => (address, Some(scope)),
        };
        let ip: Ipv6Addr = address.parse().ok()?;
        let scope = match scope {
            None => 0,
            Some(scope) => scope_number(&ip, scope)?,
        };
        Some(Self {
            ip: ip.into(),
            scope,
        })
    }
}

/// As in the C library: a link-local address may have an interface name; otherwise the scope is a
/// number.
fn scope_number(ip: &Ipv6Addr, scope: &str) -> Option<u32> {
    let of_a_link = ip.is_unicast_link_local() || ip.segments()[0] & 0xff0f == 0xff02;
    if of_a_link {
        let name = CString::new(scope).ok()?;
        // SAFETY: a NUL-terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index != 0 {
            return Some(index);
        }
    }
    match scope.bytes().all(|byte| byte.is_ascii_digit()) {
        true => scope.parse().ok(),
        false => None,
    }
}

const STREAM: (i32, i32) = (libc::SOCK_STREAM, libc::IPPROTO_TCP);
const DGRAM: (i32, i32) = (libc::SOCK_DGRAM, libc::IPPROTO_UDP);
const RAW: (i32, i32) = (libc::SOCK_RAW, 0);

/// The pairs of socket type and protocol that `getaddrinfo` lists for these arguments; 0 means any.
#[inline]
pub fn kinds(socket_type: i32, protocol: i32) -> Option<&'static [(i32, i32)]> {
    match (socket_type, protocol) {
        (0, 0) => Some(&[STREAM, DGRAM, RAW]),
        (0 | libc::SOCK_STREAM, libc::IPPROTO_TCP) | (libc::SOCK_STREAM, 0) => Some(&[STREAM]),
        (0 | libc::SOCK_DGRAM, libc::IPPROTO_UDP) | (libc::SOCK_DGRAM, 0) => Some(&[DGRAM]),
        // Raw sockets have no ports; the C library decides whether one may be given.
        _ => None,
    }
}

/// Parses a decimal port number.
pub fn port(text: &str) -> Option<u16> {
    match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    #[cfg_attr(miri, ignore = "looks up a network interface")]
    fn addresses_and_what_only_looks_like_one() {
        for host in [
            "127.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "::ffff:1.2.3.4",
            "2001:db8::",
        ] {
            let literal = Literal::parse(host).unwrap();
            assert_eq!((literal.ip, literal.scope), (host.parse().unwrap(), 0));
        }
        for host in [
            "",
            "localhost",
            "127.1",
            "1",
            "0x7f.1",
            "1.2.3.4%lo",
            "::1%lo",
            "fe80::1%",
            "abc",
            "127.0.0.1 ",
            "::g",
        ] {
            assert_eq!(Literal::parse(host), None, "{host:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel for an interface's number")]
    fn scopes() {
        // SAFETY: a NUL-terminated string.
        let lo = unsafe { libc::if_nametoindex(c"lo".as_ptr()) };
        if lo != 0 {
            for host in ["fe80::1%lo", "ff02::1%lo"] {
                assert_eq!(Literal::parse(host).unwrap().scope, lo);
            }
        }
        assert_eq!(Literal::parse("fe80::1%7").unwrap().scope, 7);
        assert_eq!(Literal::parse("::1%7").unwrap().scope, 7);
        assert_eq!(Literal::parse("fe80::1%nowhere"), None);
        assert_eq!(Literal::parse("::1%99999999999"), None);
    }

    #[test]
    fn ports() {
        for (text, number) in [("0", Some(0)), ("080", Some(80)), ("65535", Some(65535))] {
            assert_eq!(port(text), number);
        }
        for text in ["65536", "http", "-1", "+1", " 1"] {
            assert_eq!(port(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_address_is_found(ip: IpAddr) {
            prop_assert_eq!(Literal::parse(&ip.to_string()), Some(Literal { ip, scope: 0 }));
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = Literal::parse(&text);
            let _ = port(&text);
        }
    }
}
