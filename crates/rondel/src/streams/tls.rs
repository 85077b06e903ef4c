//! TLS by rustls: handshakes, and what is known of an encrypted connection.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, Connection as Session, ServerConfig, ServerConnection,
};

use super::{StreamReader, StreamWriter};
use crate::time_limit::timeout;

/// asyncio's `SSL_HANDSHAKE_TIMEOUT`.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// Which side of a session to be, and how: for [`start_tls`].
#[derive(Clone, Debug)]
pub enum Tls {
    /// The one that the peer's certificate is checked for; what asyncio calls `server_hostname`.
    Client(Arc<ClientConfig>, ServerName<'static>),
    /// The one that has a certificate to show.
    Server(Arc<ServerConfig>),
}

impl Tls {
    fn session(self) -> io::Result<Session> {
        let session = match self {
            Self::Client(config, name) => ClientConnection::new(config, name).map(Session::from),
            Self::Server(config) => ServerConnection::new(config).map(Session::from),
        };
        session.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}

/// Encrypts a connection that is open, as `STARTTLS` of mail servers and the like ask for;
/// asyncio's `StreamWriter.start_tls`. [`ConnectionOptions::ssl`](crate::ConnectionOptions::ssl)
/// and [`ServerOptions::ssl`](crate::ServerOptions::ssl) do it from the beginning.
///
/// What was written before leaves as it is. What has arrived and was not read counts as the
/// handshake's: nothing that was slipped in before it can pass for the peer's.
///
/// Dropped before it is ready, it closes the connection, which could not be used any more.
///
/// # Errors
/// What the handshake fails with: `InvalidData` if the certificate is not good, with rustls's text;
/// `UnexpectedEof` if the peer has gone; `TimedOut` after a minute. The connection is closed then.
///
/// # Panics
/// If the halves are of two connections.
///
/// ```no_run
/// # use std::sync::Arc;
/// # async fn upgraded(config: Arc<rustls::ClientConfig>) -> Result<(), Box<dyn std::error::Error>> {
/// let (mut reader, writer) = rondel::open_connection(("mail.example.com", 143)).await?;
/// reader.readline().await?;
/// writer.write("a STARTTLS\r\n");
/// reader.readline().await?;
/// let tls = rondel::Tls::Client(config, "mail.example.com".try_into()?);
/// let (mut reader, writer) = rondel::start_tls(reader, writer, tls).await?;
/// # Ok(())
/// # }
/// ```
pub async fn start_tls(
    reader: StreamReader,
    writer: StreamWriter,
    tls: Tls,
) -> io::Result<(StreamReader, StreamWriter)> {
    secured(reader, writer, tls, HANDSHAKE_TIMEOUT).await
}

pub(super) async fn secured(
    mut reader: StreamReader,
    writer: StreamWriter,
    tls: Tls,
    handshake_timeout: Duration,
) -> io::Result<(StreamReader, StreamWriter)> {
    assert!(
        std::rc::Rc::ptr_eq(reader.connection()?, writer.connection()?),
        "the reader and the writer are of two connections"
    );
    // As long as there is no session there is nobody to say goodbye to.
    struct Abort(Option<StreamWriter>);
    impl Drop for Abort {
        fn drop(&mut self) {
            if let Some(writer) = self.0.take()
                && let Ok(connection) = writer.connection()
            {
                connection.close_failed();
            }
        }
    }
    let mut writer = Abort(Some(writer));
    let session = tls.session()?;
    let early = reader.take_buffered();
    let connection = std::rc::Rc::clone(reader.connection()?);
    let buffer = reader.buffer_mut();
    connection.secure(session, &early, buffer)?;
    let handshake = poll_fn(|context| connection.poll_handshake(buffer, context));
    match timeout(handshake_timeout, handshake).await {
        Ok(shaken) => shaken?,
        Err(_) => {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "SSL handshake is taking longer than {} seconds: aborting the connection",
                    handshake_timeout.as_secs_f64()
                ),
            ));
        }
    }
    match writer.0.take() {
        Some(writer) => Ok((reader, writer)),
        None => Err(io::ErrorKind::NotConnected.into()),
    }
}
