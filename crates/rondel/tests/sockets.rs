//! Sockets around the streams: their addresses, those of others, listeners, and which of several
//! addresses is taken.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rondel::{
    AsyncFd, ConnectionOptions, HostPort, Instant, ServerOptions, StreamListener, StreamReader,
    StreamWriter, create_task, from_std, into_std, listen, listen_unix, open_connection,
    open_connection_with, run, sleep, start_server_on, timeout, yield_now,
};

const LOCAL: (&str, u16) = ("127.0.0.1", 0);
const AGES: Duration = Duration::from_secs(20);

fn test(main: impl AsyncFnOnce() -> io::Result<()>) {
    run(async { timeout(AGES, main()).await.expect("the test hangs") })
        .unwrap()
        .unwrap();
}

#[test]
fn both_halves_know_both_addresses() {
    test(async || {
        let listener = TcpListener::bind(LOCAL)?;
        let (reader, writer) = open_connection(listener.local_addr()?).await?;
        let (peer, address) = listener.accept()?;
        assert_eq!(reader.local_addr()?, address);
        assert_eq!(writer.local_addr()?, address);
        assert_eq!(reader.peer_addr()?, peer.local_addr()?);
        assert_eq!(writer.peer_addr()?, peer.local_addr()?);
        writer.abort();
        assert_eq!(
            reader.local_addr().unwrap_err().kind(),
            ErrorKind::NotConnected
        );
        // Known all the same.
        assert_eq!(reader.peer_addr()?, peer.local_addr()?);
        let (one, _other) = UnixStream::pair()?;
        let (reader, _writer) = from_std(one)?;
        assert_eq!(
            reader.peer_addr().unwrap_err().kind(),
            ErrorKind::Unsupported
        );
        Ok(())
    });
}

#[test]
fn sockets_come_from_the_standard_library_and_go_back() {
    test(async || {
        let listener = TcpListener::bind(LOCAL)?;
        let ours = TcpStream::connect(listener.local_addr()?)?;
        let (mut peer, _) = listener.accept()?;
        let number = ours.as_raw_fd();
        let (mut reader, writer) = from_std(ours)?;
        assert_eq!(reader.peer_addr()?, listener.local_addr()?);
        peer.write_all(b"a line\nand more")?;
        assert_eq!(reader.readline().await?, b"a line\n");
        writer.write("written before");
        let adopted = into_std(reader, writer).await?;
        assert_eq!(adopted.socket.as_raw_fd(), number);
        assert_eq!(adopted.unread, b"and more");
        let mut memory = [0; 14];
        peer.read_exact(&mut memory)?;
        assert_eq!(&memory, b"written before");

        // Nothing of the loop's is left on it: once more, and into the descriptor's own type.
        let (reader, writer) = from_std(adopted.socket)?;
        peer.write_all(b"x")?;
        // Received while nobody reads.
        sleep(Duration::from_millis(5)).await;
        let adopted = into_std(reader, writer).await?;
        assert_eq!(adopted.unread, b"x");
        let mut socket = TcpStream::from(adopted.socket);
        socket.set_nonblocking(false)?;
        peer.write_all(b"later")?;
        drop(peer);
        let mut rest = String::new();
        socket.read_to_string(&mut rest)?;
        assert_eq!(rest, "later");
        Ok(())
    });
}

#[test]
fn what_is_no_stream_or_not_one_connection_is_refused() {
    test(async || {
        let datagrams = std::net::UdpSocket::bind(LOCAL)?;
        assert_eq!(
            from_std(datagrams).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        let (one, other) = UnixStream::pair()?;
        let (reader, _writer) = from_std(one)?;
        let (_reader, writer) = from_std(other)?;
        let error = into_std(reader, writer).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        Ok(())
    });
}

#[test]
fn a_listener_gives_connections_one_by_one() {
    test(async || {
        let listener = listen(LOCAL, ServerOptions::default()).await?;
        let address = listener.local_addr()?;
        // Given up at its first poll: what comes then is the next one's.
        assert!(
            timeout(Duration::from_millis(2), listener.accept())
                .await
                .is_err()
        );
        let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address)).collect();
        for client in clients {
            let mut client = client?;
            let (mut reader, writer) = listener.accept().await?;
            assert_eq!(reader.peer_addr()?, client.local_addr()?);
            client.write_all(b"ping")?;
            assert_eq!(reader.readexactly(4).await?, b"ping");
            writer.write("pong");
            drop((reader, writer));
            let mut answer = String::new();
            // The loop has nothing to do for this: the writer's end was sent when it was dropped.
            yield_now().await;
            client.read_to_string(&mut answer)?;
            assert_eq!(answer, "pong");
        }
        Ok(())
    });
}

#[test]
fn tasks_may_share_a_listener() {
    test(async || {
        let listener = std::rc::Rc::new(listen(LOCAL, ServerOptions::default()).await?);
        let address = listener.local_addr()?;
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let listener = std::rc::Rc::clone(&listener);
                create_task(async move { listener.accept().await.map(|_| ()) })
            })
            .collect();
        yield_now().await;
        let _clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address)).collect();
        for worker in workers {
            worker.await.map_err(io::Error::other)??;
        }
        Ok(())
    });
}

#[test]
fn a_unix_listener_leaves_no_file() {
    test(async || {
        let path = std::env::temp_dir().join(format!("rondel-listener-{}", std::process::id()));
        let listener = listen_unix(&path, ServerOptions::default())?;
        let mut client = UnixStream::connect(&path)?;
        let (mut reader, _writer) = listener.accept().await?;
        client.write_all(b"hello\n")?;
        assert_eq!(reader.readline().await?, b"hello\n");
        drop(listener);
        assert!(!path.exists());
        Ok(())
    });
}

#[test]
fn listeners_of_the_standard_library_serve() {
    test(async || {
        async fn greet(_: StreamReader, writer: StreamWriter) {
            writer.write("hi");
        }
        let listener = TcpListener::bind(LOCAL)?;
        let address = listener.local_addr()?;
        let server = start_server_on(greet, listener, ServerOptions::default())?;
        assert_eq!(server.addresses(), [address]);
        let (mut reader, _writer) = open_connection(address).await?;
        assert_eq!(reader.read_to_end().await?, b"hi");

        let path = std::env::temp_dir().join(format!("rondel-adopted-{}", std::process::id()));
        let listener = StreamListener::from_std(UnixListener::bind(&path)?)?;
        let mut client = UnixStream::connect(&path)?;
        std::fs::remove_file(&path)?;
        let (_reader, writer) = listener.accept().await?;
        writer.write("hi");
        writer.flushed().await?;
        let mut memory = [0; 2];
        client.read_exact(&mut memory)?;
        Ok(())
    });
}

/// A service manager gives the listening socket as descriptor 3 and says for whom; this test is run
/// once more as the service.
#[test]
fn a_service_manager_s_sockets_are_taken_once() {
    if std::env::var("RONDEL_TEST_ACTIVATED").is_ok() {
        test(async || {
            let mut sockets = rondel::listen_fds()?;
            assert_eq!(sockets.len(), 1);
            assert_eq!(sockets[0].as_raw_fd(), 3);
            assert!(rondel::listen_fds()?.is_empty());
            let listener = StreamListener::from_std(sockets.remove(0))?;
            let (_reader, writer) = listener.accept().await?;
            writer.write("activated");
            writer.flushed().await
        });
        return;
    }
    let listener = TcpListener::bind(LOCAL).unwrap();
    let address = listener.local_addr().unwrap();
    let mut service = Command::new("sh")
        .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&0", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "a_service_manager_s_sockets_are_taken_once"])
        .env("RONDEL_TEST_ACTIVATED", "1")
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut answer = String::new();
    TcpStream::connect(address)
        .unwrap()
        .read_to_string(&mut answer)
        .unwrap();
    assert_eq!(answer, "activated");
    assert!(service.wait().unwrap().success());
    // Not for us.
    assert!(rondel::listen_fds().unwrap().is_empty());
}

/// An address that answers nothing: its queue of connections is full.
struct Swallowing {
    address: SocketAddr,
    _listener: socket2::Socket,
    _waiting: Vec<socket2::Socket>,
}

impl Swallowing {
    fn new() -> io::Result<Self> {
        let stream = |kind: socket2::Type| socket2::Socket::new(socket2::Domain::IPV4, kind, None);
        let listener = stream(socket2::Type::STREAM)?;
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        listener.listen(0)?;
        let address = listener.local_addr()?;
        let mut waiting = Vec::new();
        for _ in 0..4 {
            let client = stream(socket2::Type::STREAM.nonblocking())?;
            let _in_progress = client.connect(&address);
            waiting.push(client);
        }
        Ok(Self {
            address: address.as_socket().unwrap(),
            _listener: listener,
            _waiting: waiting,
        })
    }
}

fn refusing() -> io::Result<SocketAddr> {
    TcpListener::bind(LOCAL)?.local_addr()
}

#[test]
fn an_address_that_swallows_connections_costs_one_delay() {
    test(async || {
        let (swallowing, listener) = (Swallowing::new()?, TcpListener::bind(LOCAL)?);
        let good = listener.local_addr()?;
        let addresses: HostPort = vec![swallowing.address, good].into();
        let began = Instant::now();
        let (reader, _writer) = open_connection(addresses.clone()).await?;
        assert_eq!(reader.peer_addr()?, good);
        assert!(began.elapsed() >= Duration::from_millis(250));

        let mut options = ConnectionOptions::default();
        options.happy_eyeballs_delay = Some(Duration::from_millis(10));
        let began = Instant::now();
        open_connection_with(addresses.clone(), options.clone()).await?;
        assert!(began.elapsed() < Duration::from_millis(250));

        options.happy_eyeballs_delay = None;
        let one_by_one = open_connection_with(addresses, options);
        assert!(
            timeout(Duration::from_millis(300), one_by_one)
                .await
                .is_err()
        );
        Ok(())
    });
}

#[test]
fn refusals_cost_no_delay_and_are_all_told() {
    test(async || {
        let (one, other) = (refusing()?, refusing()?);
        let began = Instant::now();
        let error = open_connection(vec![one, other]).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_millis(250));
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let failed = |address: SocketAddr| {
            let (host, port) = (address.ip(), address.port());
            format!("[Errno 111] Connect call failed ('{host}', {port})")
        };
        assert_eq!(
            error.to_string(),
            format!("Multiple exceptions: {}, {}", failed(one), failed(other))
        );
        let error = open_connection(Vec::<SocketAddr>::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        Ok(())
    });
}

#[test]
fn a_connect_that_is_given_up_leaves_no_descriptor() {
    test(async || {
        let swallowing = Swallowing::new()?;
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        // Other tests of this process have descriptors, too, unless each has a process of its own.
        let alone = std::env::var("NEXTEST").is_ok();
        let before = count();
        for _ in 0..3 {
            let addresses = vec![swallowing.address; 3];
            let mut options = ConnectionOptions::default();
            options.happy_eyeballs_delay = Some(Duration::from_millis(1));
            let connecting = open_connection_with(addresses, options);
            assert!(
                timeout(Duration::from_millis(10), connecting)
                    .await
                    .is_err()
            );
        }
        assert!(!alone || count() == before);
        Ok(())
    });
}

#[test]
fn a_local_address_is_bound_to_and_chooses_the_family() {
    test(async || {
        let listener = TcpListener::bind(LOCAL)?;
        let mut options = ConnectionOptions::default();
        options.local_addr = Some(([127, 0, 0, 3], 0).into());
        let six: SocketAddr = "[::1]:1".parse().unwrap();
        let addresses = vec![six, listener.local_addr()?];
        let (reader, _writer) = open_connection_with(addresses, options.clone()).await?;
        assert_eq!(reader.local_addr()?.ip().to_string(), "127.0.0.3");
        let error = open_connection_with(vec![six], options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        Ok(())
    });
}

#[test]
fn a_part_of_a_file_is_sent_behind_what_was_written() {
    test(async || {
        let path = std::env::temp_dir().join(format!("rondel-sendfile-{}", std::process::id()));
        let content: Vec<u8> = (0..3_000_000_u32).map(|index| index as u8).collect();
        std::fs::write(&path, &content)?;
        let file = std::fs::File::open(&path)?;
        std::fs::remove_file(&path)?;
        let listener = TcpListener::bind(LOCAL)?;
        let (_reader, writer) = open_connection(listener.local_addr()?).await?;
        let (mut peer, _) = listener.accept()?;
        let receiving = rondel::spawn_blocking(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all)
        });
        writer.write("head");
        assert_eq!(
            writer.sendfile(&file, 10, Some(1_500_000)).await?,
            1_500_000
        );
        // More than there is.
        assert_eq!(writer.sendfile(&file, 2_999_990, None).await?, 10);
        // What the kernel does not send by itself, and what can't be read.
        assert!(
            writer
                .sendfile(&std::fs::File::open("/proc/self/stat")?, 0, None)
                .await?
                > 0
        );
        assert!(
            writer
                .sendfile(&std::fs::File::open("/")?, 0, None)
                .await
                .is_err()
        );
        writer.write("tail");
        drop((writer, _reader));
        let all = receiving.await.map_err(io::Error::other)??;
        assert!(all.starts_with(b"head") && all.ends_with(b"tail"));
        assert!(all[4..1_500_004] == content[10..1_500_010]);
        assert!(all[1_500_004..1_500_014] == content[2_999_990..]);
        Ok(())
    });
}

// Descriptors of the program's own

fn pair() -> io::Result<(AsyncFd<UnixStream>, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((AsyncFd::new(ours), theirs))
}

#[test]
fn a_descriptor_is_reported_to_all_who_wait_and_again_as_long_as_it_is_ready() {
    test(async || {
        let (ours, mut theirs) = pair()?;
        let ours = std::rc::Rc::new(ours);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let ours = std::rc::Rc::clone(&ours);
                create_task(async move { ours.readable().await })
            })
            .collect();
        yield_now().await;
        assert!(waiting.iter().all(|task| !task.done()));
        theirs.write_all(b"x")?;
        for task in waiting {
            task.await.map_err(io::Error::other)??;
        }
        // Nobody has read it.
        for _ in 0..3 {
            ours.readable().await?;
            sleep(Duration::from_millis(1)).await;
        }
        ours.writable().await?;
        let mut memory = [0; 8];
        assert_eq!(ours.read_with(|mut it| it.read(&mut memory)).await?, 1);
        let more = ours.read_with(|mut it| it.read(&mut memory));
        assert!(timeout(Duration::from_millis(5), more).await.is_err());
        theirs.write_all(b"y")?;
        assert_eq!(ours.read_with(|mut it| it.read(&mut memory)).await?, 1);
        drop(theirs);
        assert_eq!(ours.read_with(|mut it| it.read(&mut memory)).await?, 0);
        Ok(())
    });
}

#[test]
fn one_descriptor_has_one_watcher_and_its_number_can_be_used_again() {
    test(async || {
        let (ours, _theirs) = pair()?;
        let fd = ours.get_ref().try_clone()?;
        let same = AsyncFd::new(ours.get_ref());
        let _ = timeout(Duration::from_millis(1), ours.readable()).await;
        let error = same.readable().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        drop(same);
        drop(fd);
        let ours = ours.into_inner();
        let again = AsyncFd::new(ours);
        let _ = timeout(Duration::from_millis(1), again.readable()).await;
        let file = AsyncFd::new(std::fs::File::open("/proc/self/exe")?);
        assert_eq!(
            file.readable().await.unwrap_err().kind(),
            ErrorKind::PermissionDenied
        );
        Ok(())
    });
}

#[test]
fn a_descriptor_that_outlives_its_loop_says_so() {
    let (ours, _theirs) = run(async {
        let (ours, theirs) = pair().unwrap();
        let _ = timeout(Duration::from_millis(1), ours.readable()).await;
        (ours, theirs)
    })
    .unwrap();
    let error = run(async { ours.readable().await }).unwrap().unwrap_err();
    assert_eq!(error.to_string(), "Event loop is closed");
}
