//! Encrypted streams: against themselves, Python's `ssl` and OpenSSL's programs.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rondel::{
    ConnectionOptions, ReadError, Server, ServerOptions, StreamReader, StreamWriter, Tls,
    create_task, from_std, open_connection, open_connection_with, run, spawn_blocking,
    start_server_with, start_tls, timeout, yield_now,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

const LOCAL: (&str, u16) = ("127.0.0.1", 0);
const AGES: Duration = Duration::from_secs(20);

fn test(main: impl AsyncFnOnce() -> io::Result<()>) {
    run(async { timeout(AGES, main()).await.expect("the test hangs") })
        .unwrap()
        .unwrap();
}

fn data(name: &str) -> String {
    format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn identity(name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    (
        vec![CertificateDer::from_pem_file(data(&format!("{name}.pem"))).unwrap()],
        PrivateKeyDer::from_pem_file(data(&format!("{name}.key"))).unwrap(),
    )
}

fn authority() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(data("ca.pem")).unwrap())
        .unwrap();
    Arc::new(roots)
}

fn client() -> ClientConfig {
    ClientConfig::builder()
        .with_root_certificates(authority())
        .with_no_client_auth()
}

fn server() -> ServerConfig {
    let (certificates, key) = identity("server");
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap()
}

async fn serve<H>(handler: H, config: ServerConfig) -> io::Result<Server>
where
    H: AsyncFn(StreamReader, StreamWriter) -> io::Result<()> + 'static,
{
    let mut options = ServerOptions::default();
    options.ssl = Some(Arc::new(config));
    start_server_with(handler, LOCAL, options).await
}

async fn connect(
    server: &Server,
    config: ClientConfig,
) -> io::Result<(StreamReader, StreamWriter)> {
    let mut options = ConnectionOptions::default();
    options.ssl = Some(Arc::new(config));
    open_connection_with(server.addresses()[0], options).await
}

async fn echo(mut reader: StreamReader, writer: StreamWriter) -> io::Result<()> {
    loop {
        let data = reader.read(4096).await?;
        if data.is_empty() {
            writer.write("|end");
            return Ok(());
        }
        writer.write(data);
        writer.drain().await?;
    }
}

#[test]
fn each_side_reads_what_the_other_has_written_and_its_end() {
    test(async || {
        for size in [0, 1, 16 * 1024, 16 * 1024 + 1, 1_000_000] {
            let server = serve(echo, server()).await?;
            let (mut reader, writer) = connect(&server, client()).await?;
            let message: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            let sent = message.clone();
            let sender = create_task(async move {
                writer.write(&sent);
                writer.drain().await?;
                // Its side only: the answer still comes.
                drop(writer);
                Ok::<(), io::Error>(())
            });
            let answer = reader.read_to_end().await?;
            assert!(answer.strip_suffix(b"|end") == Some(&*message));
            sender.await.map_err(io::Error::other)??;
        }
        Ok(())
    });
}

#[test]
fn the_kinds_of_reads_work_as_over_plain_sockets() {
    test(async || {
        let talk = async |_: StreamReader, writer: StreamWriter| {
            for piece in ["a li", "ne\n", "to the|", "12345", "rest"] {
                writer.write(piece);
                writer.drain().await?;
                yield_now().await;
            }
            Ok(())
        };
        let server = serve(talk, server()).await?;
        let (mut reader, writer) = connect(&server, client()).await?;
        assert_eq!(reader.readline().await?, b"a line\n");
        assert_eq!(reader.readuntil(b"|").await?, b"to the|");
        assert_eq!(reader.readexactly(5).await?, b"12345");
        let Err(ReadError::Incomplete(error)) = reader.readexactly(5).await else {
            panic!("four bytes are left")
        };
        assert_eq!(error.partial, b"rest");
        assert!(reader.at_eof());
        writer.close();
        writer.wait_closed().await
    });
}

#[test]
fn a_read_that_is_dropped_in_the_middle_of_a_record_loses_nothing() {
    test(async || {
        let server = serve(echo, server()).await?;
        let (mut reader, writer) = connect(&server, client()).await?;
        let mut expected = 0_u32;
        for round in 0..200_u32 {
            writer.write(vec![round as u8; 1 + (round as usize * 97) % 5000]);
            expected += 1 + (round * 97) % 5000;
            let _given_up = timeout(Duration::ZERO, reader.readexactly(1_000_000)).await;
            yield_now().await;
        }
        let all = reader.readexactly(expected as usize).await?;
        let mut rest = all;
        for round in 0..200_usize {
            let (record, others) = rest.split_at(1 + (round * 97) % 5000);
            assert!(record.iter().all(|byte| *byte == round as u8));
            rest = others;
        }
        Ok(())
    });
}

#[test]
fn a_slow_reader_holds_the_writer_up() {
    test(async || {
        let (sent, sender_at) = (std::rc::Rc::new(std::cell::Cell::new(0)), 64 * 1024);
        let count = std::rc::Rc::clone(&sent);
        let flood = async move |_: StreamReader, writer: StreamWriter| {
            for _ in 0..1000 {
                writer.write(vec![7; sender_at]);
                writer.drain().await?;
                count.set(count.get() + sender_at);
            }
            Ok(())
        };
        let server = serve(flood, server()).await?;
        let (mut reader, _writer) = connect(&server, client()).await?;
        rondel::sleep(Duration::from_millis(100)).await;
        assert!(sent.get() < 1000 * sender_at);
        assert_eq!(reader.read_to_end().await?.len(), 1000 * sender_at);
        Ok(())
    });
}

#[test]
fn protocols_names_and_certificates_are_known_to_both() {
    test(async || {
        let (certificates, key) = identity("server");
        let verifier = WebPkiClientVerifier::builder(authority()).build().unwrap();
        let mut demanding = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates, key)
            .unwrap();
        demanding.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tell = async |_: StreamReader, writer: StreamWriter| {
            let told = writer.with_session(|session| {
                let rustls::Connection::Server(session) = session else {
                    panic!("it is the server's")
                };
                let certificates = session.peer_certificates().map_or(0, <[_]>::len);
                let protocol = session.alpn_protocol().map(String::from_utf8_lossy);
                format!("{:?} {protocol:?} {certificates}", session.server_name())
            });
            writer.write(told.expect("it is encrypted"));
            Ok(())
        };
        let server = serve(tell, demanding).await?;
        let (certificates, key) = identity("client");
        let mut known = ClientConfig::builder()
            .with_root_certificates(authority())
            .with_client_auth_cert(certificates, key)
            .unwrap();
        known.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut options = ConnectionOptions::default();
        options.ssl = Some(Arc::new(known));
        options.server_hostname = Some("localhost".try_into().unwrap());
        let address = server.addresses()[0];
        let (mut reader, writer) = open_connection_with(address, options).await?;
        let protocol = writer.with_session(|it| it.alpn_protocol().map(<[u8]>::to_vec));
        assert_eq!(protocol, Some(Some(b"http/1.1".to_vec())));
        assert_eq!(
            reader.read_to_end().await?,
            b"Some(\"localhost\") Some(\"http/1.1\") 1"
        );

        // Who has no certificate is sent away. With TLS 1.3 the client learns it when it reads.
        let (mut reader, _writer) = connect(&server, client()).await?;
        let error = reader.read(1).await.unwrap_err();
        assert!(error.to_string().contains("CertificateRequired"), "{error}");
        Ok(())
    });
}

#[test]
fn a_certificate_that_is_not_trusted_or_for_another_is_refused() {
    test(async || {
        let server = serve(echo, server()).await?;
        let stranger = ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let error = connect(&server, stranger).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");

        let mut options = ConnectionOptions::default();
        options.ssl = Some(Arc::new(client()));
        options.server_hostname = Some("example.com".try_into().unwrap());
        let address = server.addresses()[0];
        let error = open_connection_with(address, options).await.unwrap_err();
        assert!(error.to_string().contains("not valid for name"), "{error}");
        // The server goes on.
        connect(&server, client()).await?;
        Ok(())
    });
}

#[test]
fn a_start_tls_that_is_dropped_at_any_poll_closes_the_connection() {
    /// Polls a future so many times, when it was woken; `None` if it is not ready then.
    async fn at_most<F: Future>(polls: usize, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        let mut left = polls;
        std::future::poll_fn(|context| {
            if left == 0 {
                return std::task::Poll::Ready(None);
            }
            left -= 1;
            match future.as_mut().poll(context) {
                std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(None),
                polled => polled.map(Some),
            }
        })
        .await
    }
    test(async || {
        let (client, server) = (Arc::new(client()), Arc::new(server()));
        let name = || "localhost".try_into().unwrap();
        let mut polls = 0;
        loop {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            let (reader, writer) = from_std(theirs)?;
            let tls = Tls::Server(Arc::clone(&server));
            let peer = create_task(async move {
                let (mut reader, _writer) = start_tls(reader, writer, tls).await?;
                reader.read(100).await.map(<[u8]>::to_vec)
            });
            let (reader, writer) = from_std(ours)?;
            let upgraded = start_tls(reader, writer, Tls::Client(Arc::clone(&client), name()));
            let upgraded = at_most(polls, upgraded).await;
            let Some(upgraded) = upgraded else {
                // The peer is told, wherever the handshake was.
                let told = peer.await.map_err(io::Error::other)?;
                assert!(told.is_err(), "{told:?} after {polls} polls");
                polls += 1;
                continue;
            };
            let (_reader, writer) = upgraded?;
            writer.write("hello");
            assert_eq!(peer.await.map_err(io::Error::other)??, b"hello");
            break;
        }
        assert!(polls > 1);
        Ok(())
    });
}

#[test]
fn handshakes_that_do_not_come_to_an_end_are_given_up() {
    test(async || {
        let silent = TcpListener::bind(LOCAL)?;
        let mut options = ConnectionOptions::default();
        options.ssl = Some(Arc::new(client()));
        options.ssl_handshake_timeout = Duration::from_millis(20);
        let connecting = open_connection_with(silent.local_addr()?, options.clone());
        let error = connecting.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);

        // Cancelled: the connection is gone.
        options.ssl_handshake_timeout = AGES;
        let (peer, _) = silent.accept()?;
        drop(peer);
        let connecting = open_connection_with(silent.local_addr()?, options.clone());
        assert!(
            timeout(Duration::from_millis(20), connecting)
                .await
                .is_err()
        );
        let (mut peer, _) = silent.accept()?;
        let mut hello = Vec::new();
        // Its first message, and the end.
        let _ = io::Read::read_to_end(&mut peer, &mut hello);

        let connecting = create_task(open_connection_with(silent.local_addr()?, options));
        rondel::sleep(Duration::from_millis(5)).await;
        let (peer, _) = silent.accept()?;
        drop(peer);
        let error = connecting.await.map_err(io::Error::other)?.unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
            ),
            "{error:?}"
        );
        Ok(())
    });
}

/// A connection over which both sides have agreed to encrypt.
fn pair() -> io::Result<[(StreamReader, StreamWriter); 2]> {
    let (one, other) = std::os::unix::net::UnixStream::pair()?;
    Ok([from_std(one)?, from_std(other)?])
}

fn tls_client() -> Tls {
    Tls::Client(Arc::new(client()), "localhost".try_into().unwrap())
}

#[test]
fn a_connection_is_encrypted_when_both_agree() {
    test(async || {
        let [(mut reader, writer), (mut their_reader, their_writer)] = pair()?;
        let theirs = create_task(async move {
            assert_eq!(their_reader.readline().await?, b"STARTTLS\n");
            their_writer.write("go ahead\n");
            let tls = Tls::Server(Arc::new(server()));
            let (reader, writer) = start_tls(their_reader, their_writer, tls).await?;
            echo(reader, writer).await
        });
        writer.write("STARTTLS\n");
        assert_eq!(reader.readline().await?, b"go ahead\n");
        let (mut reader, writer) = start_tls(reader, writer, tls_client()).await?;
        writer.write("secret");
        assert_eq!(reader.readexactly(6).await?, b"secret");
        assert!(rondel::into_std(reader, writer).await.is_err());
        // Both halves are gone: the peer has read a proper end, and tries to answer.
        let _ = theirs.await.map_err(io::Error::other)?;
        Ok(())
    });
}

#[test]
fn what_is_slipped_in_before_the_handshake_is_not_taken_for_the_peer_s() {
    test(async || {
        let [(mut reader, writer), (mut their_reader, their_writer)] = pair()?;
        their_writer.write("go ahead\nand do as I say\n");
        assert_eq!(reader.readline().await?, b"go ahead\n");
        let error = start_tls(reader, writer, tls_client()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        // The peer is told why: an alert.
        let told = their_reader.read_to_end().await?;
        assert_eq!(told[told.len() - 7], 21, "{told:?}");
        Ok(())
    });
}

#[test]
fn a_stream_that_is_cut_off_says_so_after_what_has_come() {
    test(async || {
        let cut = async |_: StreamReader, writer: StreamWriter| {
            writer.write("the half of");
            writer.flushed().await?;
            // Past the session.
            writer.with_socket(|socket| {
                socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Write)
            });
            std::future::pending().await
        };
        let server = serve(cut, server()).await?;
        let (mut reader, _writer) = connect(&server, client()).await?;
        assert_eq!(reader.readexactly(11).await?, b"the half of");
        for _ in 0..2 {
            let error = reader.read(100).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
        Ok(())
    });
}

#[test]
fn who_does_not_speak_tls_is_sent_away_and_nobody_hears_of_it() {
    test(async || {
        let reported = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = std::rc::Rc::clone(&reported);
        rondel::set_exception_handler(move |_| count.set(count.get() + 1));
        let server = serve(echo, server()).await?;
        let (mut reader, writer) = open_connection(server.addresses()[0]).await?;
        writer.write("GET / HTTP/1.1\r\n\r\n");
        let _alert = reader.read_to_end().await;
        server.close();
        server.wait_closed().await;
        assert_eq!(reported.get(), 0);
        Ok(())
    });
}

// Others

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_there(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    let found = command
        .arg(argument)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

const PYTHON_SERVER: &str = r#"
import socket, ssl, sys
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[1], sys.argv[2])
if sys.argv[3] == "1.2":
    context.maximum_version = ssl.TLSVersion.TLSv1_2
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
with context.wrap_socket(listener.accept()[0], server_side=True) as peer:
    line = b""
    while not line.endswith(b"\n"):
        line += peer.recv(100)
    peer.sendall(peer.version().encode() + b" " + line.upper() + b"x" * 1_000_000)
    peer.unwrap()
"#;

const PYTHON_CLIENT: &str = r#"
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as bare:
    with context.wrap_socket(bare, server_hostname="localhost") as peer:
        peer.sendall(b"y" * 1_000_000 + b"\n")
        peer.unwrap() if len(sys.argv) > 3 else None
        got = b""
        while not got.endswith(b"\n"):
            got += peer.recv(100_000)
        assert got == b"y" * 1_000_000 + b"\n", len(got)
        peer.sendall(b"bye")
        # The server's end, in the proper way.
        while peer.recv(100):
            pass
"#;

#[test]
fn python_s_server_understands_and_is_understood() {
    if !is_there("python3", "--version") {
        return;
    }
    for version in ["1.2", "1.3"] {
        let arguments = [data("server.pem"), data("server.key"), version.to_owned()];
        let mut program = Command::new("python3");
        program.args(["-c", PYTHON_SERVER]).args(arguments);
        let mut program = Program(program.stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        let output = program.0.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let port = line.trim().parse::<u16>().unwrap();
        test(async || {
            let mut options = ConnectionOptions::default();
            options.ssl = Some(Arc::new(client()));
            let (mut reader, writer) = open_connection_with(("127.0.0.1", port), options).await?;
            writer.write("hello\n");
            let answer = reader.readline().await?;
            assert_eq!(answer, format!("TLSv{version} HELLO\n").as_bytes());
            assert_eq!(reader.read_to_end().await?, vec![b'x'; 1_000_000]);
            writer.close();
            writer.wait_closed().await
        });
        assert!(program.0.wait().unwrap().success());
    }
}

#[test]
fn python_s_client_understands_and_is_understood() {
    if !is_there("python3", "--version") {
        return;
    }
    test(async || {
        let answer = async |mut reader: StreamReader, writer: StreamWriter| {
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                reader.read_buf(&mut line).await?;
            }
            writer.write_owned(line);
            assert_eq!(reader.readexactly(3).await?, b"bye");
            Ok(())
        };
        let server = serve(answer, server()).await?;
        let port = server.addresses()[0].port().to_string();
        let status = spawn_blocking(move || {
            let mut client = Command::new("python3");
            client
                .args(["-c", PYTHON_CLIENT, &data("ca.pem"), &port])
                .status()
        });
        assert!(status.await.map_err(io::Error::other)??.success());
        Ok(())
    });
}

#[test]
fn openssl_s_programs_understand_and_are_understood() {
    if !is_there("openssl", "version") {
        return;
    }
    test(async || {
        let greet = async |mut reader: StreamReader, writer: StreamWriter| {
            writer.write(reader.readline().await?.to_ascii_uppercase());
            Ok(())
        };
        let listening = serve(greet, server()).await?;
        let address = listening.addresses()[0].to_string();
        let output = spawn_blocking(move || {
            let mut client = Command::new("openssl");
            let trusted = data("ca.pem");
            client.args([
                "s_client", "-connect", &address, "-CAfile", &trusted, "-quiet",
            ]);
            client.args(["-verify_return_error", "-servername", "localhost"]);
            client
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null());
            let mut client = client.spawn()?;
            let mut input = client.stdin.take().unwrap();
            input.write_all(b"hello\n")?;
            // Its input is kept open: it is to end because the server has.
            let output = client.wait_with_output();
            drop(input);
            output
        });
        let output = output.await.map_err(io::Error::other)??;
        assert_eq!(output.stdout, b"HELLO\n");
        assert!(output.status.success());
        Ok(())
    });
}
