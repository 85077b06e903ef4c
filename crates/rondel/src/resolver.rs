//! Names to addresses.
//!
//! Literal addresses are answered at once. Anything else is a blocking `getaddrinfo` on threads of
//! its own, so that slow names hold up neither the loop nor `spawn_blocking`.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use crate::blocking::Pool;
use crate::runtime;

/// How many names are looked up at once.
const THREADS: usize = 4;

/// A host, by name or address, and a port: what [`open_connection`](crate::open_connection) and
/// [`start_server`](crate::start_server) take.
///
/// ```
/// use rondel::HostPort;
///
/// let same: [HostPort; 3] = [
///     ("127.0.0.1", 8888).into(),
///     "127.0.0.1:8888".into(),
///     std::net::SocketAddr::from(([127, 0, 0, 1], 8888)).into(),
/// ];
/// assert!(same.iter().all(|address| address.to_string() == "127.0.0.1:8888"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort(Kind);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Address(SocketAddr),
    /// Looked up already.
    Addresses(Vec<SocketAddr>),
    Name(String, u16),
    /// A text without a port; an error once it is used.
    Invalid(String),
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self(Kind::Address(address))
    }
}

/// Several addresses of one host, in the order of preference.
impl From<Vec<SocketAddr>> for HostPort {
    fn from(addresses: Vec<SocketAddr>) -> Self {
        Self(Kind::Addresses(addresses))
    }
}

impl From<(IpAddr, u16)> for HostPort {
    fn from((host, port): (IpAddr, u16)) -> Self {
        Self(Kind::Address(SocketAddr::new(host, port)))
    }
}

impl From<(&str, u16)> for HostPort {
    fn from((host, port): (&str, u16)) -> Self {
        Self(match host.parse::<IpAddr>() {
            Ok(address) => Kind::Address(SocketAddr::new(address, port)),
            Err(_) => Kind::Name(host.to_owned(), port),
        })
    }
}

impl From<(String, u16)> for HostPort {
    fn from((host, port): (String, u16)) -> Self {
        (&*host, port).into()
    }
}

impl From<&str> for HostPort {
    fn from(text: &str) -> Self {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return address.into();
        }
        let parts = text.rsplit_once(':');
        match parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
            Some((host, port)) => Self(Kind::Name(host.to_owned(), port)),
            None => Self(Kind::Invalid(text.to_owned())),
        }
    }
}

impl From<String> for HostPort {
    fn from(text: String) -> Self {
        (&*text).into()
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Kind::Address(address) => address.fmt(f),
            Kind::Addresses(addresses) => {
                addresses
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, address)| {
                        write!(f, "{}{address}", if index == 0 { "" } else { "," })
                    })
            }
            Kind::Name(host, port) => write!(f, "{host}:{port}"),
            Kind::Invalid(text) => f.write_str(text),
        }
    }
}

impl HostPort {
    /// Whom a certificate has to be for.
    #[cfg(feature = "rustls")]
    pub(crate) fn server_name(&self) -> io::Result<rustls::pki_types::ServerName<'static>> {
        match &self.0 {
            Kind::Address(address) => Ok(address.ip().into()),
            Kind::Name(host, _) => host
                .clone()
                .try_into()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error)),
            Kind::Addresses(_) | Kind::Invalid(_) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "You must set server_hostname when using ssl without a host",
            )),
        }
    }

    /// The addresses to connect to. At least one.
    pub(crate) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.0 {
            Kind::Address(address) => Ok(vec![*address]),
            Kind::Addresses(addresses) if addresses.is_empty() => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "there is no address",
            )),
            Kind::Addresses(addresses) => Ok(addresses.clone()),
            Kind::Name(host, port) => getaddrinfo(host, *port).await,
            Kind::Invalid(text) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("no port in address {text:?}"),
            )),
        }
    }

    /// The addresses to listen on: as [`resolve`](Self::resolve), but no host at all is every
    /// interface.
    pub(crate) async fn resolve_passive(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.0 {
            Kind::Name(host, port) if host.is_empty() => Ok(vec![
                SocketAddr::from(([0, 0, 0, 0], *port)),
                SocketAddr::from(([0_u16; 8], *port)),
            ]),
            _ => self.resolve().await,
        }
    }
}

/// Looks a name up, as the system does it, without blocking the loop: the addresses of `host`, with
/// `port`, in the order of preference. Literal addresses are given back at once.
///
/// # Errors
/// What the system's resolver says, e.g. that the name isn't known.
///
/// ```
/// rondel::run(async {
///     let addresses = rondel::getaddrinfo("127.0.0.1", 80).await?;
///     assert_eq!(addresses, ["127.0.0.1:80".parse().unwrap()]);
///     Ok::<(), std::io::Error>(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn getaddrinfo(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let name = host.to_owned();
    let lookup = runtime::with_current(|runtime| {
        runtime
            .resolver
            .get_or_init(|| Pool::new("rondel-resolver", THREADS))
            .spawn(runtime, move || {
                let found = (&*name, port).to_socket_addrs()?;
                Ok::<Vec<_>, io::Error>(found.collect())
            })
    });
    let mut found = lookup.await??;
    found.dedup();
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "getaddrinfo() returned empty list",
        ));
    }
    Ok(found)
}

/// Looks up the name of an address, and that of the service at its port, without blocking the loop:
/// asyncio's `loop.getnameinfo`. What has no name is given as a number, unless `flags`
/// (`libc::NI_NAMEREQD`, …) say otherwise.
///
/// # Errors
/// What the system's resolver says.
///
/// ```
/// rondel::run(async {
///     let address = "127.0.0.1:80".parse().unwrap();
///     let flags = libc::NI_NUMERICHOST | libc::NI_NUMERICSERV;
///     let (host, port) = rondel::getnameinfo(address, flags).await?;
///     assert_eq!((&*host, &*port), ("127.0.0.1", "80"));
///     Ok::<(), std::io::Error>(())
/// })??;
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn getnameinfo(address: SocketAddr, flags: i32) -> io::Result<(String, String)> {
    let lookup = runtime::with_current(|runtime| {
        runtime
            .resolver
            .get_or_init(|| Pool::new("rondel-resolver", THREADS))
            .spawn(runtime, move || nameinfo(address, flags))
    });
    lookup.await?
}

fn nameinfo(address: SocketAddr, flags: i32) -> io::Result<(String, String)> {
    let address = socket2::SockAddr::from(address);
    let (mut host, mut service) = ([0_u8; 1025], [0_u8; 32]);
    // SAFETY: an address of the length that is said, and so much room for each of the texts.
    let code = unsafe {
        libc::getnameinfo(
            address.as_ptr().cast(),
            address.len(),
            host.as_mut_ptr().cast(),
            host.len() as libc::socklen_t,
            service.as_mut_ptr().cast(),
            service.len() as libc::socklen_t,
            flags,
        )
    };
    match code {
        0 => {}
        libc::EAI_SYSTEM => return Err(io::Error::last_os_error()),
        code => {
            // SAFETY: it gives a text that stays where it is.
            let text = unsafe { std::ffi::CStr::from_ptr(libc::gai_strerror(code)) };
            return Err(io::Error::other(text.to_string_lossy().into_owned()));
        }
    }
    let text = |bytes: &[u8]| {
        let text = std::ffi::CStr::from_bytes_until_nul(bytes);
        text.map(|text| text.to_string_lossy().into_owned())
            .map_err(io::Error::other)
    };
    Ok((text(&host)?, text(&service)?))
}
