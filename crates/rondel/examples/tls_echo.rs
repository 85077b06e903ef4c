//! An echo server over TLS, and a client for it, both by rustls:
//!
//! * `tls_echo serve PORT CERTIFICATE KEY`. Try it with `openssl s_client -connect 127.0.0.1:PORT`.
//! * `tls_echo visit NAME PORT AUTHORITY` sends what it reads from standard input, line by line,
//!   and prints what comes back.

use std::io;
use std::sync::Arc;

use rondel::{ConnectionOptions, ServerOptions, StreamReader, StreamWriter};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

async fn echo(mut reader: StreamReader, writer: StreamWriter) -> io::Result<()> {
    loop {
        let data = reader.read(1 << 14).await?;
        if data.is_empty() {
            return Ok(());
        }
        writer.write(data);
        writer.drain().await?;
    }
}

async fn serve(port: u16, certificate: &str, key: &str) -> io::Result<()> {
    let chain = CertificateDer::pem_file_iter(certificate).map_err(io::Error::other)?;
    let chain = chain.collect::<Result<_, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key);
    let mut options = ServerOptions::default();
    options.ssl = Some(Arc::new(config.map_err(io::Error::other)?));
    let server = rondel::start_server_with(echo, ("127.0.0.1", port), options).await?;
    println!("serving on {}", server.addresses()[0]);
    rondel::ctrl_c().await
}

async fn visit(name: &str, port: u16, authority: &str) -> io::Result<()> {
    let mut trusted = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(authority).map_err(io::Error::other)?;
    trusted.add(authority).map_err(io::Error::other)?;
    let config = ClientConfig::builder()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let mut options = ConnectionOptions::default();
    options.ssl = Some(Arc::new(config));
    let (mut reader, writer) = rondel::open_connection_with((name, port), options).await?;
    let mut input = rondel::stdin()?;
    loop {
        let line = input.readline().await?;
        if line.is_empty() {
            return Ok(());
        }
        writer.write(line);
        let answer = reader.readline().await?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        print!("{}", String::from_utf8_lossy(answer));
    }
}

#[rondel::main]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", port, certificate, key] => {
            serve(port.parse().map_err(io::Error::other)?, certificate, key).await
        }
        ["visit", name, port, authority] => {
            visit(name, port.parse().map_err(io::Error::other)?, authority).await
        }
        _ => Err(io::Error::other(
            "arguments: serve PORT CERTIFICATE KEY, or visit NAME PORT AUTHORITY",
        )),
    }
}
