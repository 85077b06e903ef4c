//! The example programs, as processes: what they print, to the letter.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The path of an example, built if need be.
fn example(name: &str) -> PathBuf {
    let features = if name.starts_with("hyper") {
        "hyper"
    } else {
        ""
    };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "rondel", "--example", name])
        .args(["--features", features])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(built.success());
    // This test is target/<profile>/deps/…; the example is of the profile that a plain build has.
    let me = std::env::current_exe().unwrap();
    let target = me.ancestors().nth(3).unwrap();
    target.join("debug/examples").join(name)
}

fn output_of(name: &str) -> (Output, Duration) {
    let path = example(name);
    let start = Instant::now();
    let output = Command::new(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output, start.elapsed())
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn coroutine_object() {
    let (output, took) = output_of("coroutine_object");
    let mut lines = stdout(&output).lines();
    let first = lines.next().unwrap();
    assert!(
        first.starts_with("<future coroutine_object::my_coroutine::{{closure}} of "),
        "{first}"
    );
    assert!(lines.next().unwrap().starts_with("It was never awaited: "));
    assert_eq!(lines.next(), None);
    assert!(took < Duration::from_secs(1));
}

#[test]
fn say_after_tasks() {
    let (output, took) = output_of("say_after_tasks");
    assert_eq!(stdout(&output), "hello\nworld\ntook 2 seconds\n");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(3));
}

#[test]
fn say_after_gather() {
    let (output, took) = output_of("say_after_gather");
    assert_eq!(
        stdout(&output),
        "hello\nworld\n(\"HELLO\", \"WORLD\")\ntook 2 seconds\n"
    );
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(3));
}

#[test]
fn crawler() {
    let (output, _) = output_of("crawler");
    // 1,000 pages of 100 lines "This is page N.\n".
    let digits: usize = (0..1000).map(|n: u32| n.to_string().len()).sum();
    let bytes = 100 * (1000 * "This is page .\n".len() + digits);
    assert_eq!(stdout(&output), format!("1000 pages, {bytes} bytes\n"));
}

/// The echo server on a free port, killed if the test fails.
struct EchoServer {
    process: Child,
    address: SocketAddr,
    lines: io::Lines<BufReader<std::process::ChildStdout>>,
}

impl EchoServer {
    fn start() -> Self {
        let mut process = Command::new(example("echo_server"))
            .arg("0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let address = first.strip_prefix("serving on ").unwrap().parse().unwrap();
        Self {
            process,
            address,
            lines,
        }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    fn descriptors(&self) -> usize {
        let fds = format!("/proc/{}/fd", self.process.id());
        std::fs::read_dir(fds).unwrap().count()
    }

    /// Ctrl-C; gives what was printed since, and what went wrong.
    fn interrupt(mut self) -> (Vec<String>, String) {
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(self.process.id() as libc::pid_t, libc::SIGINT) };
        let rest = self.lines.by_ref().map(Result::unwrap).collect();
        let mut errors = String::new();
        let stderr = self.process.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut errors).unwrap();
        let status = self.process.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
        (rest, errors)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn echo_server() {
    let mut server = EchoServer::start();
    let mut client = TcpStream::connect(server.address).unwrap();
    let from = client.local_addr().unwrap();

    client.write_all(b"Hello, World!").unwrap();
    let mut echo = [0; 13];
    client.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"Hello, World!");
    assert_eq!(
        server.line(),
        format!("received 'Hello, World!' from {from}")
    );

    // As `nc` does at the end of its input: it ends its side, and reads to the end of the other.
    client.write_all(&[b'x'; 150]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [b'x'; 150]);
    let (hundred, fifty) = ("x".repeat(100), "x".repeat(50));
    assert_eq!(server.line(), format!("received '{hundred}' from {from}"));
    assert_eq!(server.line(), format!("received '{fifty}' from {from}"));
    assert_eq!(server.line(), format!("{from} is done"));

    // Someone who is still connected does not hold it up.
    let mut idle = TcpStream::connect(server.address).unwrap();
    idle.write_all(b"!").unwrap();
    let address = idle.local_addr().unwrap();
    assert_eq!(server.line(), format!("received '!' from {address}"));
    let (lines, errors) = server.interrupt();
    assert_eq!(lines, ["stopped by Ctrl-C"]);
    assert_eq!(errors, "");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"!");
}

#[test]
fn echo_server_with_5000_clients_at_once() {
    const CLIENTS: usize = 5000;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct is valid for both calls. The server inherits the limit.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_cur.max(CLIENTS as u64 + 200).min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    let mut server = EchoServer::start();
    let before = server.descriptors();
    let address = server.address;

    let clients = std::thread::spawn(move || {
        rondel::run(async move {
            let mut clients = Vec::with_capacity(CLIENTS);
            // No more at a time than the server's backlog: the kernel drops what exceeds it, and
            // TCP tries again only after a second.
            while clients.len() < CLIENTS {
                let wave: Vec<_> = (0..50)
                    .map(|_| async move {
                        let (mut reader, writer) = rondel::open_connection(address).await?;
                        writer.write("first");
                        assert_eq!(reader.readexactly(5).await?, b"first");
                        Ok::<_, io::Error>((reader, writer))
                    })
                    .collect();
                for client in rondel::gather(wave).await? {
                    clients.push(client?);
                }
            }
            // All are connected. Now they all write, and then they all read.
            for (number, (_, writer)) in clients.iter().enumerate() {
                writer.write(format!("{number:06}"));
                writer.drain().await?;
            }
            let mut addresses = HashSet::new();
            for (number, (reader, writer)) in clients.iter_mut().enumerate() {
                assert_eq!(
                    reader.readexactly(6).await?,
                    format!("{number:06}").as_bytes()
                );
                addresses.insert(writer.sockname());
            }
            assert_eq!(addresses.len(), CLIENTS);
            for (reader, writer) in &mut clients {
                writer.write_eof()?;
                assert_eq!(reader.read_to_end().await?, b"");
            }
            Ok::<(), io::Error>(())
        })
    });
    let mut done = 0;
    while done < CLIENTS {
        done += usize::from(server.line().ends_with(" is done"));
    }
    clients.join().unwrap().unwrap().unwrap();
    assert_eq!(server.descriptors(), before);
    let (lines, errors) = server.interrupt();
    assert_eq!(lines, ["stopped by Ctrl-C"]);
    assert_eq!(errors, "");
}

/// A server that prints where it serves, ended by Ctrl-C.
struct Serving {
    process: Child,
    address: SocketAddr,
}

impl Serving {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(example(name));
        let mut process = command
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = process.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("serving on ").unwrap();
        let address = address.parse().unwrap();
        Self { process, address }
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        BufReader::new(stream)
    }

    fn stop(mut self) {
        let pid = libc::pid_t::try_from(self.process.id()).unwrap();
        // SAFETY: a child that was not waited for.
        unsafe { libc::kill(pid, libc::SIGINT) };
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn said(stream: &mut BufReader<TcpStream>, line: &str) {
    let mut read = String::new();
    stream.read_line(&mut read).unwrap();
    assert_eq!(read.trim_end(), line);
}

#[test]
fn chat() {
    let server = Serving::start("chat", &["0"]);
    let enter = |name: &str| {
        let mut client = server.connect();
        said(&mut client, "your name?");
        client
            .get_mut()
            .write_all(format!("{name}\n").as_bytes())
            .unwrap();
        client
    };
    let mut ann = enter("ann");
    said(&mut ann, "welcome, ann");
    let mut bob = enter("bob");
    said(&mut bob, "welcome, bob");
    said(&mut ann, "bob: hello");
    said(&mut enter("bob"), "not that one");
    ann.get_mut().write_all(b"how are you?\n").unwrap();
    said(&mut bob, "ann: how are you?");
    drop(bob);
    said(&mut ann, "bob: goodbye");
    server.stop();
}

#[test]
fn half_close_proxy() {
    let host = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = host.local_addr().unwrap().port().to_string();
    let proxy = Serving::start("half_close_proxy", &["0", "127.0.0.1", &port]);
    let answering = std::thread::spawn(move || {
        let (mut client, _) = host.accept().unwrap();
        let mut all = Vec::new();
        // Its end comes before the answer is sent.
        client.read_to_end(&mut all).unwrap();
        client
            .write_all(format!("{} bytes", all.len()).as_bytes())
            .unwrap();
    });
    let mut client = proxy.connect().into_inner();
    client.write_all(&vec![1; 3_000_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "3000000 bytes");
    answering.join().unwrap();
    proxy.stop();
}

#[test]
fn port_scanner() {
    let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = open.local_addr().unwrap().port();
    let (first, last) = (port.saturating_sub(20), port.saturating_add(20));
    let output = Command::new(example("port_scanner"))
        .args(["127.0.0.1", &first.to_string(), &last.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let found: Vec<u16> = stdout(&output)
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert!(found.contains(&port) && found.is_sorted());
}

#[test]
#[cfg(feature = "hyper")]
fn hyper_hello() {
    let server = Serving::start("hyper_hello", &["0"]);
    for visitor in 1..3 {
        let mut client = server.connect().into_inner();
        let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        client.write_all(request).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.ends_with(&format!("Hello, visitor {visitor}\n")),
            "{answer}"
        );
    }
    server.stop();
}
