//! Servers over real sockets: how they end, what handlers may do, errors in asyncio's words,
//! descriptors.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use rondel::{
    Server, ServerOptions, StreamReader, StreamWriter, create_task, gather, getaddrinfo,
    open_connection, open_unix_connection, run, sleep, start_server, start_server_with,
    start_unix_server, start_unix_server_with, task_group, timeout, yield_now,
};

const LOCAL: (&str, u16) = ("127.0.0.1", 0);
/// Long enough for anything that happens at all. A test that needs it has failed.
const AGES: Duration = Duration::from_secs(20);

/// Runs a test; what hangs fails.
fn test(main: impl AsyncFnOnce() -> io::Result<()>) {
    run(async { timeout(AGES, main()).await.expect("the test hangs") })
        .unwrap()
        .unwrap();
}

/// Lets the connection be reset instead of closed.
fn reset(peer: TcpStream) {
    socket2::SockRef::from(&peer)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(peer);
}

async fn echo(mut reader: StreamReader, writer: StreamWriter) -> io::Result<()> {
    loop {
        let data = reader.read(4096).await?;
        if data.is_empty() {
            return Ok(());
        }
        writer.write(data);
        writer.drain().await?;
    }
}

// Servers

#[test]
fn a_server_serves_many_at_once_and_wait_closed_waits_for_the_last() {
    test(async || {
        let server = start_server(echo, LOCAL).await?;
        let address = server.addresses()[0];
        let clients: Vec<_> = (0..100)
            .map(|number| async move {
                let (mut reader, writer) = open_connection(address).await?;
                for round in 0..10 {
                    let text = format!("client {number}, round {round}\n");
                    writer.write(&text);
                    writer.drain().await?;
                    assert_eq!(reader.readline().await?, text.as_bytes());
                }
                Ok::<_, io::Error>((reader, writer))
            })
            .collect();
        let mut alive = gather(clients).await?;
        server.close();
        assert!(!server.is_serving());
        assert!(open_connection(address).await.is_err());
        assert!(
            timeout(Duration::from_millis(5), server.wait_closed())
                .await
                .is_err()
        );
        let last = alive.pop().unwrap()?;
        drop(alive);
        assert!(
            timeout(Duration::from_millis(20), server.wait_closed())
                .await
                .is_err()
        );
        drop(last);
        server.wait_closed().await;
        Ok(())
    });
}

#[test]
fn serve_forever_ends_with_close_and_closes_when_it_is_cancelled() {
    test(async || {
        let server = Rc::new(start_server(echo, LOCAL).await?);
        let serving = Rc::clone(&server);
        let task = create_task(async move { serving.serve_forever().await });
        yield_now().await;
        server.close();
        task.await?;

        let server = Rc::new(start_server(echo, LOCAL).await?);
        let serving = Rc::clone(&server);
        let task = create_task(async move { serving.serve_forever().await });
        yield_now().await;
        task.cancel();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(!server.is_serving());
        Ok(())
    });
}

#[test]
fn clients_can_be_closed_and_aborted() {
    test(async || {
        for abort in [false, true] {
            let server = start_server(echo, LOCAL).await?;
            let (mut reader, writer) = open_connection(server.addresses()[0]).await?;
            writer.write("x");
            assert_eq!(reader.readexactly(1).await?, b"x");
            if abort {
                server.abort_clients();
            } else {
                server.close_clients();
            }
            assert_eq!(reader.read(1).await?, b"");
            server.close();
            server.wait_closed().await;
        }
        Ok(())
    });
}

#[test]
fn a_handler_that_fails_or_panics_closes_its_connection_and_nothing_else() {
    test(async || {
        let server = start_server(
            async |mut reader: StreamReader, writer: StreamWriter| {
                match reader.readline().await? {
                    b"panic\n" => panic!("as you wish"),
                    b"fail\n" => return Err(io::Error::other("as you wish")),
                    line => writer.write(line),
                }
                Ok(())
            },
            LOCAL,
        )
        .await?;
        for (request, answer) in [("panic\n", ""), ("fail\n", ""), ("fine\n", "fine\n")] {
            let (mut reader, writer) = open_connection(server.addresses()[0]).await?;
            writer.write(request);
            assert_eq!(reader.read_to_end().await?, answer.as_bytes());
        }
        Ok(())
    });
}

#[test]
fn handlers_may_be_functions_and_closures_of_all_kinds_and_capture() {
    async fn function(_: StreamReader, writer: StreamWriter) {
        writer.write("function");
    }
    async fn answer(server: io::Result<Server>) -> io::Result<String> {
        let (mut reader, _writer) = open_connection(server?.addresses()[0]).await?;
        Ok(String::from_utf8_lossy(reader.read_to_end().await?).into_owned())
    }

    test(async || {
        let server = start_server(function, LOCAL).await;
        assert_eq!(answer(server).await?, "function");
        let server = start_server(async |_, writer| writer.write("async closure"), LOCAL).await;
        assert_eq!(answer(server).await?, "async closure");
        let captured = String::from("captured");
        let server = start_server(async move |_r, w| w.write(&captured), LOCAL).await;
        assert_eq!(answer(server).await?, "captured");
        let served = Rc::new(Cell::new(0));
        let count = Rc::clone(&served);
        let server = start_server(
            async move |mut reader, writer| {
                count.set(count.get() + 1);
                writer.write(reader.readline().await?);
                writer.drain().await
            },
            LOCAL,
        )
        .await?;
        for round in 1..=3 {
            let (mut reader, writer) = open_connection(server.addresses()[0]).await?;
            writer.write("line\n");
            assert_eq!(reader.readline().await?, b"line\n");
            assert_eq!(served.get(), round);
        }
        let text = Rc::new(String::from("a closure that gives a future"));
        let server = start_server(
            move |_, writer: StreamWriter| {
                let text = Rc::clone(&text);
                async move { writer.write(text.as_bytes()) }
            },
            LOCAL,
        )
        .await;
        assert_eq!(answer(server).await?, "a closure that gives a future");
        Ok(())
    });
}

#[test]
fn a_panic_before_a_handler_s_first_await_is_that_connection_s_alone() {
    test(async || {
        let panics = Cell::new(true);
        let server = start_server(
            move |_, writer: StreamWriter| {
                assert!(!panics.replace(false), "as you wish");
                async move { writer.write("fine") }
            },
            LOCAL,
        )
        .await?;
        for answer in ["", "fine"] {
            let (mut reader, _writer) = open_connection(server.addresses()[0]).await?;
            assert_eq!(reader.read_to_end().await?, answer.as_bytes());
        }
        Ok(())
    });
}

#[test]
fn an_empty_host_is_every_interface() {
    test(async || {
        // A free port of both families; another process may take it meanwhile, so try again.
        let mut server: Option<Server> = None;
        for _ in 0..20 {
            let port = TcpListener::bind(LOCAL)?.local_addr()?.port();
            if let Ok(started) = start_server(echo, ("", port)).await {
                server = Some(started);
                break;
            }
        }
        let server = server.expect("no port is free on all interfaces");
        assert!(
            server
                .addresses()
                .iter()
                .all(|address| address.ip().is_unspecified())
        );
        let port = server.addresses()[0].port();
        let (_reader, writer) = open_connection(("127.0.0.1", port)).await?;
        assert_eq!(writer.peername().map(|address| address.port()), Some(port));
        Ok(())
    });
}

#[test]
fn unix_sockets_replace_stale_ones_and_clean_up_their_own() {
    test(async || {
        let directory = std::env::temp_dir().join(format!("rondel-test-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        let path = directory.join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path)?);
        let server = start_unix_server(echo, &path).await?;
        let (mut reader, writer) = open_unix_connection(&path).await?;
        writer.write("over unix");
        assert_eq!(reader.readexactly(9).await?, b"over unix");
        assert_eq!((writer.peername(), writer.sockname()), (None, None));
        server.close();
        assert!(!path.exists());
        let error = open_unix_connection(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);

        // Another's socket of the same name is left alone; so is what is no socket.
        let server = start_unix_server(echo, &path).await?;
        std::fs::remove_file(&path)?;
        std::fs::write(&path, "a file")?;
        drop(server);
        assert!(path.exists());
        let error = start_unix_server(echo, &path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(
            error.to_string(),
            format!("Address '{}' is already in use", path.display())
        );
        std::fs::remove_dir_all(&directory)
    });
}

// Errors

#[test]
fn unix_servers_have_abstract_names_too_and_options() {
    test(async || {
        let name = format!("\0rondel-test-{}", std::process::id());
        let serve = async |backlog| {
            let mut options = ServerOptions::default();
            options.backlog = backlog;
            start_unix_server_with(echo, &name, options).await
        };
        let server = serve(500).await?;
        let error = serve(1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        // As many as the backlog says can wait; nobody accepts within this step.
        for _ in 0..300 {
            UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name[1..])?)?;
        }
        let (mut reader, writer) = open_unix_connection(&name).await?;
        writer.write("hello");
        assert_eq!(reader.readexactly(5).await?, b"hello");
        server.close();
        let error = open_unix_connection(&name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        drop(serve(1).await?);

        let error = start_unix_server(echo, "").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        Ok(())
    });
}

#[test]
fn a_port_in_use_and_a_refused_connection_say_so_in_asyncios_words() {
    test(async || {
        let server = start_server(echo, LOCAL).await?;
        let address = server.addresses()[0];
        let error = start_server(echo, address).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert_eq!(
            error.to_string(),
            format!(
                "[Errno 98] error while attempting to bind on address ('127.0.0.1', {}): address already in use",
                address.port()
            )
        );
        server.close();
        server.wait_closed().await;
        let error = open_connection(address).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(
            error.to_string(),
            format!(
                "[Errno 111] Connect call failed ('127.0.0.1', {})",
                address.port()
            )
        );
        Ok(())
    });
}

#[test]
fn hosts_that_do_not_resolve_are_errors_and_literals_need_no_thread() {
    test(async || {
        // No dot, no digits, and longer than any label may be: the resolver refuses it without
        // asking the network.
        let unknown = "x".repeat(80);
        let error = open_connection((&*unknown, 80)).await.unwrap_err();
        assert_ne!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        assert!(start_server(echo, (&*unknown, 0)).await.is_err());
        assert!(getaddrinfo(&unknown, 80).await.is_err());
        let error = open_connection("no port").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let local = getaddrinfo("localhost", 80).await?;
        assert!(local.iter().all(|address| address.ip().is_loopback()) && !local.is_empty());
        Ok(())
    });
}

#[test]
fn every_address_of_a_name_is_tried() {
    test(async || {
        // Only on IPv4; `localhost` may well be ::1 first.
        let server = start_server(echo, LOCAL).await?;
        let port = server.addresses()[0].port();
        let (_reader, writer) = open_connection(("localhost", port)).await?;
        assert_eq!(writer.peername(), Some(server.addresses()[0]));
        Ok(())
    });
}

#[test]
fn a_connect_that_is_given_up_leaves_nothing() {
    test(async || {
        // Never accepted, and a backlog that is full soon: connects hang.
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        listener.listen(0)?;
        let address = listener.local_addr()?.as_socket().unwrap();
        let group = task_group(async |group| {
            for _ in 0..5 {
                group
                    .create_task(async move { open_connection(address).await })
                    .detach();
            }
            sleep(Duration::from_millis(20)).await;
            Err::<(), _>(io::Error::other("enough"))
        });
        assert!(group.await.is_err());
        Ok(())
    });
}

/// This test again, in a process of its own, where it may change limits and count descriptors.
fn in_child(name: &str) -> Option<std::process::Output> {
    const MARK: &str = "RONDEL_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        return None;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(output)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn limit_descriptors(to: usize) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct is valid for both calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = to as libc::rlim_t;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

#[test]
fn out_of_descriptors_a_server_waits_a_second_and_recovers() {
    if let Some(output) = in_child("out_of_descriptors_a_server_waits_a_second_and_recovers") {
        let errors = String::from_utf8_lossy(&output.stderr);
        let complaints = errors
            .matches("socket.accept() out of system resource")
            .count();
        // Once for each second or so, not in each turn.
        assert!((1..=3).contains(&complaints), "{errors}");
        return;
    }
    test(async || {
        let server = start_server(echo, LOCAL).await?;
        let address = server.addresses()[0];
        let (mut reader, writer) = open_connection(address).await?;
        writer.write("before");
        assert_eq!(reader.readexactly(6).await?, b"before");
        // Room for one end of a connection, not for both.
        limit_descriptors(200);
        let mut hoard: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        assert!(hoard.pop().is_some());
        let (mut late, late_writer) = open_connection(address).await?;
        late_writer.write("late");
        assert!(
            timeout(Duration::from_millis(50), late.read(4))
                .await
                .is_err()
        );
        // The others are served meanwhile.
        writer.write("meanwhile");
        assert_eq!(reader.readexactly(9).await?, b"meanwhile");
        drop(hoard);
        assert_eq!(late.readexactly(4).await?, b"late");
        Ok(())
    });
}

#[test]
fn nothing_keeps_a_descriptor() {
    if let Some(output) = in_child("nothing_keeps_a_descriptor") {
        let errors = String::from_utf8_lossy(&output.stderr);
        for said in ["as you wish", "Unhandled exception in client_connected_cb"] {
            assert!(errors.contains(said), "{errors}");
        }
        return;
    }
    let before = descriptors();
    let path = std::env::temp_dir().join(format!("rondel-fds-{}", std::process::id()));
    let rounds = RefCell::new(0);
    for _ in 0..3 {
        test(async || {
            let inside = descriptors();
            {
                let server = start_server_with(
                    async |mut reader: StreamReader, writer: StreamWriter| {
                        let data = reader.read(100).await?;
                        assert_ne!(data, b"panic", "as you wish");
                        writer.write(data);
                        writer.drain().await
                    },
                    LOCAL,
                    ServerOptions::default(),
                )
                .await?;
                let address = server.addresses()[0];
                for request in ["echo", "panic", "echo"] {
                    let (mut reader, writer) = open_connection(address).await?;
                    writer.write(request);
                    let _ = reader.read_to_end().await?;
                }
                // A reset by the peer, a handler that is cancelled by the end of the loop, a
                // refused connection.
                reset(TcpStream::connect(address)?);
                let unix = start_unix_server(echo, &path).await?;
                let (_reader, writer) = open_unix_connection(&path).await?;
                drop(writer);
                unix.close();
                unix.wait_closed().await;
                server.close();
                server.wait_closed().await;
                assert!(open_connection(address).await.is_err());
            }
            assert_eq!(descriptors(), inside);
            // Left open on purpose: the end of the loop closes them.
            let server = start_server(echo, LOCAL).await?;
            let (_reader, writer) = open_connection(server.addresses()[0]).await?;
            writer.write("x");
            create_task(async move {
                let _kept = (server, writer);
                std::future::pending::<()>().await;
            })
            .detach();
            yield_now().await;
            *rounds.borrow_mut() += 1;
            Ok(())
        });
        assert_eq!(descriptors(), before);
    }
    assert_eq!(rounds.take(), 3);
}
