//! Servers: listening sockets, and the handlers of what they accept.
//!
//! A [`Listener`] is registered with the reactor as long as its server listens. When it is
//! reported, what waits there is accepted in a batch, and each connection's handler becomes a task.
//! [`Serving`] is what the handle, the listeners and the connections share: it counts the
//! connections, so that `wait_closed` can wait for the last.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use slab::Slab;
use socket2::Socket;

use super::binding::{UnixPath, adopted, bind, bind_unix};
use super::connection::Connection;
use super::server_options::{HandlerOutput, ServerOptions};
use super::{StreamReader, StreamWriter};
use crate::exceptions::{call_exception_handler, report_panic};
use crate::resolver::HostPort;
use crate::runtime::{self, Runtime, Source};
use crate::task::{Waiter, catch, create_task};
use crate::time::sleep;
use rondel_engine::transport::address::Address;
use rondel_engine::transport::listener::{ACCEPT_RETRY_DELAY, AcceptError, accept_batch};

/// Listens on a TCP address and runs `handler` in a new task for each connection.
///
/// The handler is an `async fn(StreamReader, StreamWriter)` or a closure like it, which may
/// capture: what it has is there for all connections. A name may have several addresses: the server
/// listens on all of them. Port 0 is a free port: see [`Server::addresses`]. If a handler fails or
/// panics, the loop's [exception handler](crate::set_exception_handler) is told, unless all that
/// has happened is that the peer is gone; its connection is closed when the handler's streams go,
/// once everything is sent.
///
/// # Errors
/// `AddrInUse` and others, with asyncio's text; a name that is not known.
///
/// ```
/// use rondel::{StreamReader, StreamWriter};
///
/// async fn echo(mut reader: StreamReader, writer: StreamWriter) -> std::io::Result<()> {
///     loop {
///         let data = reader.read(1024).await?;
///         if data.is_empty() {
///             return Ok(());
///         }
///         writer.write(data);
///         writer.drain().await?;
///     }
/// }
///
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let server = rondel::start_server(echo, ("127.0.0.1", 0)).await?;
///     let (mut reader, writer) = rondel::open_connection(server.addresses()[0]).await?;
///     writer.write("hello");
///     assert_eq!(reader.readexactly(5).await?, b"hello");
///
///     let greeting = String::from("good day");
///     let server = rondel::start_server(async move |_, writer| writer.write(&greeting), ("127.0.0.1", 0)).await?;
///     let (mut reader, _writer) = rondel::open_connection(server.addresses()[0]).await?;
///     assert_eq!(reader.read_to_end().await?, b"good day");
///     Ok(())
/// })?
/// # }
/// ```
pub async fn start_server<H, O>(handler: H, address: impl Into<HostPort>) -> io::Result<Server>
where
    H: AsyncFn(StreamReader, StreamWriter) -> O + 'static,
    O: HandlerOutput + 'static,
{
    start_server_with(handler, address, ServerOptions::default()).await
}

/// As [`start_server`], with options.
///
/// # Errors
/// As [`start_server`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let mut options = rondel::ServerOptions::default();
///     options.limit = 10;
///     let server = rondel::start_server_with(async |mut reader: rondel::StreamReader, _| {
///         let error = reader.readuntil(b"\n").await.unwrap_err();
///         assert!(matches!(error, rondel::ReadError::LimitOverrun(_)));
///     }, ("127.0.0.1", 0), options).await?;
///
///     let (mut reader, writer) = rondel::open_connection(server.addresses()[0]).await?;
///     writer.write("much longer than ten\n");
///     assert_eq!(reader.read_to_end().await?, b"");
///     Ok(())
/// })?
/// # }
/// ```
pub async fn start_server_with<H, O>(
    handler: H,
    address: impl Into<HostPort>,
    options: ServerOptions,
) -> io::Result<Server>
where
    H: AsyncFn(StreamReader, StreamWriter) -> O + 'static,
    O: HandlerOutput + 'static,
{
    let mut sockets = Vec::new();
    for address in address.into().resolve_passive().await? {
        sockets.push(bind(address, &options)?);
    }
    serve(handler, sockets, options, None)
}

/// Listens on a Unix socket, and removes it from the file system when it is closed. A socket that
/// someone has left there is replaced. A path that begins with a zero byte is an abstract address:
/// a name that is in no file system, and gone with the server.
///
/// # Errors
/// What `bind` fails with, `AddrInUse` if the path is something else than a socket.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let path = std::env::temp_dir().join(format!("rondel-doc-server-{}.sock", std::process::id()));
/// rondel::run(async {
///     let server = rondel::start_unix_server(async |_, writer| writer.write("hi"), &path).await?;
///     assert!(path.exists());
///     server.close();
///     assert!(!path.exists());
///     Ok(())
/// })?
/// # }
/// ```
pub async fn start_unix_server<H, O>(handler: H, path: impl AsRef<Path>) -> io::Result<Server>
where
    H: AsyncFn(StreamReader, StreamWriter) -> O + 'static,
    O: HandlerOutput + 'static,
{
    start_unix_server_with(handler, path, ServerOptions::default()).await
}

/// As [`start_unix_server`], with options; `reuse_port` means nothing to Unix sockets.
///
/// # Errors
/// As [`start_unix_server`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let mut options = rondel::ServerOptions::default();
///     options.backlog = 1000;
///     let name = format!("\0rondel-doc-abstract-{}", std::process::id());
///     let _server = rondel::start_unix_server_with(async |_, writer| writer.write("hi"), &name, options).await?;
///     let (mut reader, _writer) = rondel::open_unix_connection(&name).await?;
///     assert_eq!(reader.read_to_end().await?, b"hi");
///     Ok(())
/// })?
/// # }
/// ```
pub async fn start_unix_server_with<H, O>(
    handler: H,
    path: impl AsRef<Path>,
    options: ServerOptions,
) -> io::Result<Server>
where
    H: AsyncFn(StreamReader, StreamWriter) -> O + 'static,
    O: HandlerOutput + 'static,
{
    let (socket, unlink) = bind_unix(path.as_ref(), &options)?;
    serve(handler, vec![socket], options, unlink)
}

/// Serves on a socket that listens already: a `TcpListener` or `UnixListener` of the standard
/// library, or one of [`listen_fds`](crate::listen_fds). asyncio's `start_server(sock=…)`. Of the
/// options, the backlog is how many connections are accepted at a time.
///
/// # Errors
/// What making it non-blocking fails with; what registering it fails with.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let address = listener.local_addr()?;
/// rondel::run(async {
///     let greet = async |_, writer: rondel::StreamWriter| writer.write("hi");
///     let _server = rondel::start_server_on(greet, listener, rondel::ServerOptions::default())?;
///     let (mut reader, _writer) = rondel::open_connection(address).await?;
///     assert_eq!(reader.read_to_end().await?, b"hi");
///     Ok(())
/// })?
/// # }
/// ```
pub fn start_server_on<H, O>(
    handler: H,
    listener: impl Into<OwnedFd>,
    options: ServerOptions,
) -> io::Result<Server>
where
    H: AsyncFn(StreamReader, StreamWriter) -> O + 'static,
    O: HandlerOutput + 'static,
{
    let socket = adopted(listener.into())?;
    serve(handler, vec![socket.into()], options, None)
}

fn serve<H, O>(
    handler: H,
    sockets: Vec<Socket>,
    options: ServerOptions,
    unlink: Option<UnixPath>,
) -> io::Result<Server>
where
    H: AsyncFn(StreamReader, StreamWriter) -> O + 'static,
    O: HandlerOutput + 'static,
{
    let runtime = runtime::current();
    let serving = Rc::new(Serving {
        runtime: Rc::clone(&runtime),
        listeners: RefCell::new(Vec::new()),
        connections: RefCell::new(Slab::new()),
        waiters: RefCell::new(Vec::new()),
        unlink: Cell::new(unlink),
    });
    let server = Server {
        addresses: sockets
            .iter()
            .filter_map(|socket| socket.local_addr().ok()?.as_socket())
            .collect(),
        serving,
    };
    let handler = Rc::new(handler);
    #[cfg(feature = "rustls")]
    let (ssl, handshake_timeout) = (options.ssl, options.ssl_handshake_timeout);
    let handler: Rc<Handler> = Rc::new(move |reader, writer| {
        let handler = Rc::clone(&handler);
        #[cfg(feature = "rustls")]
        let ssl = ssl.clone();
        let connection = writer.connection().ok().map(Rc::clone);
        create_task(async move {
            // Called in the task, so that whatever it does first is the task's, too. So is what its
            // error's text does.
            let handled = async move {
                #[cfg(feature = "rustls")]
                let (reader, writer) = match ssl {
                    None => (reader, writer),
                    Some(ssl) => {
                        let tls = super::Tls::Server(ssl);
                        match super::tls::secured(reader, writer, tls, handshake_timeout).await {
                            Ok(secured) => secured,
                            Err(_) => return None,
                        }
                    }
                };
                handler(reader, writer).await.failure()
            };
            match catch(handled).await {
                Ok(None) => {}
                Ok(Some(failure)) => {
                    let ordinary = connection.and_then(|it| it.ordinary_loss());
                    if !ordinary.is_some_and(|loss| failure.contains(&loss)) {
                        call_exception_handler(UNHANDLED, &failure);
                    }
                }
                Err(panic) => report_panic(UNHANDLED, &*panic),
            }
        })
        .detach();
    });
    for socket in sockets {
        let listener = Rc::new(Listener {
            socket: socket.into(),
            backlog: usize::try_from(options.backlog).unwrap_or(1).max(1),
            limit: options.limit,
            serving: Rc::downgrade(&server.serving),
            handler: Rc::clone(&handler),
        });
        listener.watch(&runtime)?;
        server.serving.listeners.borrow_mut().push(listener);
    }
    Ok(server)
}

const UNHANDLED: &str = "Unhandled exception in client_connected_cb";

type Handler = dyn Fn(StreamReader, StreamWriter);

/// One listening socket.
pub(crate) struct Listener {
    socket: OwnedFd,
    backlog: usize,
    limit: usize,
    serving: Weak<Serving>,
    handler: Rc<Handler>,
}

impl Listener {
    fn watch(self: &Rc<Self>, runtime: &Runtime) -> io::Result<()> {
        let source = Source::Listener(Rc::clone(self));
        drop(
            runtime
                .event_loop
                .add_reader(self.socket.as_raw_fd(), source)?,
        );
        Ok(())
    }

    /// Accepts what waits.
    pub(crate) fn accept(self: &Rc<Self>) {
        for accepted in accept_batch(self.socket.as_raw_fd(), self.backlog) {
            // A handler, started by an earlier one of the batch, can't have closed the server: it
            // has not run yet.
            let Some(serving) = self.serving.upgrade() else {
                return;
            };
            match accepted {
                Ok((socket, peer)) => {
                    if matches!(peer, Address::V4(_) | Address::V6(_)) {
                        // As asyncio: small messages are not to wait for acknowledgements.
                        let _ = socket2::SockRef::from(&socket).set_tcp_nodelay(true);
                    }
                    let connection = Connection::new(
                        Rc::clone(&serving.runtime),
                        socket,
                        Some(peer),
                        self.limit,
                    );
                    match connection {
                        Ok(connection) => self.handle(&serving, connection),
                        Err(error) => call_exception_handler(
                            "Error on transport creation for incoming connection",
                            &error,
                        ),
                    }
                }
                Err(AcceptError::Exhausted(error)) => {
                    call_exception_handler("socket.accept() out of system resource", &error);
                    self.pause(&serving);
                }
                Err(AcceptError::Failed(error)) => {
                    call_exception_handler("socket.accept() failed", &error)
                }
            }
        }
    }

    /// Closes the server that this listens for.
    pub(crate) fn close_server(&self) {
        if let Some(serving) = self.serving.upgrade() {
            serving.close();
        }
    }

    fn handle(&self, serving: &Rc<Serving>, connection: Rc<Connection>) {
        let key = serving
            .connections
            .borrow_mut()
            .insert(Rc::downgrade(&connection));
        connection.set_server(Rc::downgrade(serving), key);
        let reader = StreamReader::new(Rc::clone(&connection));
        (self.handler)(reader, StreamWriter::new(connection));
    }

    /// Looks away for a while: the descriptor would be reported in every turn.
    fn pause(self: &Rc<Self>, serving: &Serving) {
        drop(
            serving
                .runtime
                .event_loop
                .remove_reader(self.socket.as_raw_fd()),
        );
        let listener = Rc::downgrade(self);
        create_task(async move {
            sleep(Duration::from_nanos(ACCEPT_RETRY_DELAY)).await;
            // Gone, if the server was closed meanwhile.
            if let Some(listener) = listener.upgrade()
                && let Some(serving) = listener.serving.upgrade()
                && let Err(error) = listener.watch(&serving.runtime)
            {
                call_exception_handler("socket.accept() failed", &error);
            }
        })
        .detach();
    }
}

/// What a server's handle, listeners and connections share.
pub(crate) struct Serving {
    runtime: Rc<Runtime>,
    /// Empty once the server is closed.
    listeners: RefCell<Vec<Rc<Listener>>>,
    connections: RefCell<Slab<Weak<Connection>>>,
    /// Who waits for the server to close, or for its connections to end.
    waiters: RefCell<Vec<Waiter>>,
    unlink: Cell<Option<UnixPath>>,
}

impl Serving {
    fn is_serving(&self) -> bool {
        !self.listeners.borrow().is_empty()
    }

    fn close(&self) {
        let listeners = self.listeners.take();
        for listener in &listeners {
            let fd = listener.socket.as_raw_fd();
            drop(self.runtime.event_loop.remove_reader(fd));
        }
        drop(listeners);
        if let Some(unlink) = self.unlink.take() {
            unlink.remove();
        }
        self.wake();
    }

    /// A connection is over.
    pub(super) fn detach(&self, key: usize) {
        let mut connections = self.connections.borrow_mut();
        drop(connections.try_remove(key));
        let last = connections.is_empty();
        drop(connections);
        if last {
            self.wake();
        }
    }

    fn wake(&self) {
        for waiter in self.waiters.take() {
            waiter.wake();
        }
    }

    async fn wait_until(&self, done: impl Fn(&Self) -> bool) {
        poll_fn(|context| {
            // Of a loop that has ended nothing is to be expected.
            if done(self) || self.runtime.is_over() {
                return Poll::Ready(());
            }
            let mut waiters = self.waiters.borrow_mut();
            if !waiters.iter().any(|waiter| waiter.is(context)) {
                waiters.push(Waiter::new(context));
            }
            Poll::Pending
        })
        .await;
    }

    fn clients(&self) -> Vec<Rc<Connection>> {
        let connections = self.connections.borrow();
        connections
            .iter()
            .filter_map(|(_, weak)| weak.upgrade())
            .collect()
    }
}

/// A listening server, as [`start_server`] gives it. Dropping it closes it; connections live on.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// rondel::run(async {
///     let server = rondel::start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
///     assert!(server.is_serving());
///     println!("Serving on {:?}", server.addresses());
///     server.close();
///     server.wait_closed().await;
///     Ok(())
/// })?
/// # }
/// ```
#[must_use = "a server that is dropped is closed"]
pub struct Server {
    addresses: Vec<SocketAddr>,
    serving: Rc<Serving>,
}

impl Server {
    /// The addresses it was bound to; asyncio's `[s.getsockname() for s in server.sockets]`. Empty
    /// for a Unix server.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
    ///     assert!(server.addresses()[0].ip().is_loopback());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether it accepts connections.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
    ///     assert!(server.is_serving());
    ///     server.close();
    ///     assert!(!server.is_serving());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn is_serving(&self) -> bool {
        self.serving.is_serving()
    }

    /// Serves until the task is cancelled (by Ctrl-C, say), which closes the server, or until
    /// somebody [closes](Self::close) it and its connections are over.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     use std::time::Duration;
    ///
    ///     let server = rondel::start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
    ///     let served = rondel::timeout(Duration::from_millis(1), server.serve_forever()).await;
    ///     assert!(served.is_err());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn serve_forever(&self) {
        struct CloseOnDrop<'a>(&'a Serving);
        impl Drop for CloseOnDrop<'_> {
            fn drop(&mut self) {
                self.0.close();
            }
        }
        let _close = CloseOnDrop(&self.serving);
        self.wait_closed().await;
    }

    /// Stops listening. Connections live on.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
    ///     server.close();
    ///     assert!(rondel::open_connection(server.addresses()[0]).await.is_err());
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn close(&self) {
        self.serving.close();
    }

    /// Waits until the server is closed and all its connections are over.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
    ///     server.close();
    ///     server.wait_closed().await;
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub async fn wait_closed(&self) {
        self.serving
            .wait_until(|serving| !serving.is_serving() && serving.connections.borrow().is_empty())
            .await;
    }

    /// Closes all connections, each when what was written to it is sent.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let wait = async |mut reader: rondel::StreamReader, _| reader.read(1).await.map(|_| ());
    ///     let server = rondel::start_server(wait, ("127.0.0.1", 0)).await?;
    ///     let (mut reader, _writer) = rondel::open_connection(server.addresses()[0]).await?;
    ///     rondel::sleep(std::time::Duration::from_millis(1)).await;
    ///     server.close();
    ///     server.close_clients();
    ///     assert_eq!(reader.read(1).await?, b"");
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn close_clients(&self) {
        for connection in self.serving.clients() {
            connection.close();
        }
    }

    /// Closes all connections at once.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// rondel::run(async {
    ///     let server = rondel::start_server(async |_, _| (), ("127.0.0.1", 0)).await?;
    ///     server.close();
    ///     server.abort_clients();
    ///     Ok(())
    /// })?
    /// # }
    /// ```
    pub fn abort_clients(&self) {
        for connection in self.serving.clients() {
            connection.abort();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.close();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .field("serving", &self.is_serving())
            .finish_non_exhaustive()
    }
}
