//! Datagrams: [`DatagramEndpoint`], what asyncio's `create_datagram_endpoint` makes, without the
//! protocol.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Socket, Type};

use crate::descriptor::{AsyncFd, Side};
use crate::resolver::HostPort;

/// The most bytes that a datagram has.
const LARGEST: usize = 64 * 1024;

/// Makes an endpoint for UDP: bound to a local address, or to any; connected to a remote one, or
/// not.
///
/// Names are looked up, and their first address of a common family is taken.
///
/// # Errors
/// What `bind` and `connect` fail with; a name that is not known; that there is neither address.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let server = rondel::create_datagram_endpoint(Some(("127.0.0.1", 0).into()), None).await?;
///     let address = server.local_addr()?;
///     let client = rondel::create_datagram_endpoint(None, Some(address.into())).await?;
///     client.send(b"ping").await?;
///     let (data, from) = server.recv_from().await?;
///     server.send_to(&data, from).await?;
///     assert_eq!(client.recv().await?, b"ping");
///     Ok(())
/// })?
/// # }
/// ```
pub async fn create_datagram_endpoint(
    local: Option<HostPort>,
    remote: Option<HostPort>,
) -> io::Result<DatagramEndpoint> {
    let locals = match &local {
        Some(local) => local.resolve_passive().await?,
        None => Vec::new(),
    };
    let remotes = match &remote {
        Some(remote) => remote.resolve().await?,
        None => Vec::new(),
    };
    let pairs: Vec<_> = match (local, remote) {
        (None, None) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "unexpected address family",
            ));
        }
        (Some(_), None) => locals
            .into_iter()
            .map(|local| (Some(local), None))
            .collect(),
        (None, Some(_)) => remotes
            .into_iter()
            .map(|remote| (None, Some(remote)))
            .collect(),
        (Some(_), Some(_)) => locals
            .into_iter()
            .flat_map(|local| remotes.iter().map(move |remote| (local, *remote)))
            .filter(|(local, remote)| local.is_ipv4() == remote.is_ipv4())
            .map(|(local, remote)| (Some(local), Some(remote)))
            .collect(),
    };
    let mut failure = io::Error::new(
        io::ErrorKind::InvalidInput,
        "can not get address information",
    );
    for (local, remote) in pairs {
        match open(local, remote) {
            Ok(socket) => return DatagramEndpoint::from_std(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn open(local: Option<SocketAddr>, remote: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let Some(address) = local.or(remote) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if let Some(local) = local {
        socket.bind(&local.into())?;
    }
    if let Some(remote) = remote {
        socket.connect(&remote.into())?;
    }
    Ok(socket.into())
}

/// A UDP socket. Tasks may share it: all methods take `&self`, and a datagram is one task's.
///
/// A datagram is received or sent whole by one call: a future that is dropped before it is ready
/// has received none, and sent none.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let local = ("127.0.0.1", 0);
///     let server = rondel::create_datagram_endpoint(Some(local.into()), None).await?;
///     let client = rondel::create_datagram_endpoint(Some(local.into()), None).await?;
///     client.send_to(b"ping", server.local_addr()?).await?;
///     let (data, from) = server.recv_from().await?;
///     assert_eq!((&*data, from), (&b"ping"[..], client.local_addr()?));
///     Ok(())
/// })?
/// # }
/// ```
pub struct DatagramEndpoint {
    socket: AsyncFd<UdpSocket>,
}

impl DatagramEndpoint {
    /// Takes a socket of the standard library over.
    ///
    /// # Errors
    /// What making it non-blocking fails with.
    ///
    /// # Panics
    /// If no loop runs on this thread.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    ///     let endpoint = rondel::DatagramEndpoint::from_std(socket)?;
    ///     endpoint.send_to(b"to itself", endpoint.local_addr()?).await?;
    ///     assert_eq!(endpoint.recv().await?, b"to itself");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    #[track_caller]
    pub fn from_std(socket: UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: AsyncFd::new(socket),
        })
    }

    /// Gives the socket back. It still does not block.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let local = Some(("127.0.0.1", 0).into());
    ///     let endpoint = rondel::create_datagram_endpoint(local, None).await?;
    ///     let socket: std::net::UdpSocket = endpoint.into_std();
    ///     socket.set_nonblocking(false)?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn into_std(self) -> UdpSocket {
        self.socket.into_inner()
    }

    /// The socket, to set an option of it.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let local = Some(("127.0.0.1", 0).into());
    ///     let endpoint = rondel::create_datagram_endpoint(local, None).await?;
    ///     endpoint.socket().set_broadcast(true)?;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn socket(&self) -> &UdpSocket {
        self.socket.get_ref()
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// What `getsockname` fails with.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let local = Some(("127.0.0.1", 0).into());
    ///     let endpoint = rondel::create_datagram_endpoint(local, None).await?;
    ///     assert_ne!(endpoint.local_addr()?.port(), 0);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    /// The address that it is connected to.
    ///
    /// # Errors
    /// `NotConnected` if it is not.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let remote = ("127.0.0.1", 53).into();
    ///     let endpoint = rondel::create_datagram_endpoint(None, Some(remote)).await?;
    ///     assert_eq!(endpoint.peer_addr()?.port(), 53);
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket().peer_addr()
    }

    /// Sends a datagram to an address. Waits if the kernel's buffer is full.
    ///
    /// # Errors
    /// What `sendto` fails with: that it is too large, or that an earlier one was refused.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let local = Some(("127.0.0.1", 0).into());
    ///     let endpoint = rondel::create_datagram_endpoint(local, None).await?;
    ///     endpoint.send_to(b"data", endpoint.local_addr()?).await?;
    ///     assert_eq!(endpoint.recv().await?, b"data");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn send_to(&self, data: &[u8], address: SocketAddr) -> io::Result<()> {
        let send = |socket: &UdpSocket| socket.send_to(data, address);
        self.socket.with(Side::Writing, send).await.map(|_| ())
    }

    /// Sends a datagram to the address that it is connected to.
    ///
    /// # Errors
    /// As [`send_to`](Self::send_to); `DestinationAddressRequired` if it is not connected.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let local = Some(("127.0.0.1", 0).into());
    ///     let server = rondel::create_datagram_endpoint(local, None).await?;
    ///     let remote = Some(server.local_addr()?.into());
    ///     let client = rondel::create_datagram_endpoint(None, remote).await?;
    ///     client.send(b"data").await?;
    ///     assert_eq!(server.recv().await?, b"data");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn send(&self, data: &[u8]) -> io::Result<()> {
        let send = |socket: &UdpSocket| socket.send(data);
        self.socket.with(Side::Writing, send).await.map(|_| ())
    }

    /// Receives a datagram, and whom it is from.
    ///
    /// # Errors
    /// What `recvfrom` fails with: `ConnectionRefused` if what was sent from a connected endpoint
    /// had nobody to receive it.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let local = Some(("127.0.0.1", 0).into());
    ///     let endpoint = rondel::create_datagram_endpoint(local, None).await?;
    ///     let address = endpoint.local_addr()?;
    ///     endpoint.send_to(b"data", address).await?;
    ///     assert_eq!(endpoint.recv_from().await?, (b"data".to_vec(), address));
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn recv_from(&self) -> io::Result<(Vec<u8>, SocketAddr)> {
        let mut memory = Vec::new();
        let receive = |socket: &UdpSocket| {
            memory.resize(LARGEST, 0);
            socket.recv_from(&mut memory)
        };
        let (count, from) = self.socket.with(Side::Reading, receive).await?;
        memory.truncate(count);
        memory.shrink_to_fit();
        Ok((memory, from))
    }

    /// Receives a datagram into the program's own memory; how much it was, and whom it is from.
    /// What there is no room for is lost.
    ///
    /// # Errors
    /// As [`recv_from`](Self::recv_from).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let local = Some(("127.0.0.1", 0).into());
    ///     let endpoint = rondel::create_datagram_endpoint(local, None).await?;
    ///     endpoint.send_to(b"data", endpoint.local_addr()?).await?;
    ///     let mut memory = [0; 3];
    ///     let (count, _) = endpoint.recv_from_into(&mut memory).await?;
    ///     assert_eq!(&memory[..count], b"dat");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn recv_from_into(&self, memory: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let receive = |socket: &UdpSocket| socket.recv_from(memory);
        self.socket.with(Side::Reading, receive).await
    }

    /// Receives a datagram.
    ///
    /// # Errors
    /// As [`recv_from`](Self::recv_from).
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let local = Some(("127.0.0.1", 0).into());
    ///     let endpoint = rondel::create_datagram_endpoint(local, None).await?;
    ///     endpoint.send_to(b"", endpoint.local_addr()?).await?;
    ///     assert_eq!(endpoint.recv().await?, b"", "a datagram may be empty");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn recv(&self) -> io::Result<Vec<u8>> {
        self.recv_from().await.map(|(data, _)| data)
    }
}

impl AsFd for DatagramEndpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for DatagramEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramEndpoint")
            .field("local_addr", &self.local_addr().ok())
            .field("peer_addr", &self.peer_addr().ok())
            .finish_non_exhaustive()
    }
}
