//! The example programs, as processes: what they print, to the letter.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The path of an example, built if need be.
fn example(name: &str) -> PathBuf {
    // Those of this test: then the library, and mostly the example itself, is built already.
    let features = [
        ("futures-io", cfg!(feature = "futures-io")),
        ("hyper", cfg!(feature = "hyper")),
        ("rustls", cfg!(feature = "rustls")),
        ("tokio-io", cfg!(feature = "tokio-io")),
        ("tracing", cfg!(feature = "tracing")),
    ];
    let features: Vec<&str> = features
        .into_iter()
        .filter_map(|(name, is_on)| is_on.then_some(name))
        .collect();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "rondel", "--example", name])
        .args(["--features", &features.join(",")])
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

#[test]
fn worker_pool() {
    let program = example("worker_pool");
    let run = |arguments: &[&str]| {
        let output = Command::new(&program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        stdout(&output).to_owned()
    };
    assert_eq!(
        run(&["4", "100"]),
        "100 jobs, total 328350\n0 tasks are left\n"
    );
    // More workers than jobs, and no jobs.
    assert_eq!(run(&["9", "3"]), "3 jobs, total 5\n0 tasks are left\n");
    assert_eq!(run(&["2", "0"]), "0 jobs, total 0\n0 tasks are left\n");
    let failed = run(&["4", "100", "50"]);
    let [told, left] = failed.lines().collect::<Vec<_>>()[..] else {
        panic!("{failed}");
    };
    assert!(told.starts_with("given up: ") && told.contains("job 50 can't be done"));
    assert_eq!(left, "0 tasks are left");
}

/// Feeds a program; gives what it has printed.
fn fed(program: &str, arguments: &[&str], input: &str) -> String {
    let mut process = Command::new(example(program))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // All at once: it is less than a pipe takes.
    let mut stdin = process.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    stdout(&output).to_owned()
}

/// Commands of Redis, and what the client prints.
const COMMANDS: [(&str, &str); 9] = [
    ("SET counter 41", "OK"),
    ("INCR counter", "42"),
    ("GET counter", "42"),
    ("GET nothing", "(nothing)"),
    ("RPUSH list a bc", "2"),
    ("LRANGE list 0 -1", "[a, bc]"),
    ("LRANGE nothing 0 -1", "[]"),
    ("ECHO last", "last"),
    ("NONSENSE", "error: ERR unknown command"),
];

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn check_redis(port: u16) {
    let (commands, answers): (Vec<_>, Vec<_>) = COMMANDS.iter().copied().unzip();
    let input = commands.join("\n") + "\n";
    let printed = fed("redis_client", &["127.0.0.1", &port.to_string()], &input);
    let printed: Vec<&str> = printed.lines().collect();
    assert_eq!(printed.len(), answers.len(), "{printed:?}");
    for (printed, answer) in printed.iter().zip(answers) {
        assert!(printed.starts_with(answer), "{printed}, not {answer}");
    }
}

#[test]
fn redis_client_of_a_server_that_answers_byte_by_byte() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.set_nodelay(true).unwrap();
        let mut requests = BufReader::new(client.try_clone().unwrap());
        let mut line = || {
            let mut line = String::new();
            requests.read_line(&mut line).unwrap();
            line.trim_end().to_owned()
        };
        let answers = [
            "+OK\r\n",
            ":42\r\n",
            "$2\r\n42\r\n",
            "$-1\r\n",
            ":2\r\n",
            "*2\r\n$1\r\na\r\n$2\r\nbc\r\n",
            "*0\r\n",
            "$4\r\nlast\r\n",
            "-ERR unknown command\r\n",
        ];
        for ((command, _), answer) in COMMANDS.iter().zip(answers) {
            let count: usize = line().strip_prefix('*').unwrap().parse().unwrap();
            let words: Vec<String> = (0..count)
                .map(|_| {
                    let length = line();
                    let word = line();
                    assert_eq!(length, format!("${}", word.len()));
                    word
                })
                .collect();
            assert_eq!(words.join(" "), *command);
            for byte in answer.bytes() {
                client.write_all(&[byte]).unwrap();
            }
        }
    });
    check_redis(port);
    serving.join().unwrap();
}

#[test]
fn redis_client_of_redis() {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    command.args(["--save", "", "--appendonly", "no", "--dir", "/tmp"]);
    let Ok(process) = command.stdout(Stdio::null()).spawn() else {
        eprintln!("skipped: there is no redis-server");
        return;
    };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let _server = Serving { process, address };
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it does not serve"
        );
        std::thread::sleep(Duration::from_millis(20)); // nothing tells when it does
    }
    check_redis(port);
}

#[cfg(feature = "rustls")]
fn data(name: &str) -> String {
    format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What is to be skipped without OpenSSL's program.
#[cfg(feature = "rustls")]
fn have_openssl() -> bool {
    let version = Command::new("openssl").arg("version").output();
    let found = version.is_ok();
    if !found {
        eprintln!("skipped: there is no openssl");
    }
    found
}

#[test]
#[cfg(feature = "rustls")]
fn tls_echo() {
    let (certificate, key) = (data("server.pem"), data("server.key"));
    let server = Serving::start("tls_echo", &["serve", "0", &certificate, &key]);
    let port = server.address.port().to_string();
    let authority = data("ca.pem");
    let arguments = ["visit", "localhost", &port, &authority];
    // The server is at 127.0.0.1 alone, the name has two addresses.
    assert_eq!(
        fed("tls_echo", &arguments, "hello\nworld\n"),
        "hello\nworld\n"
    );
    if have_openssl() {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_return_error"])
            .args(["-connect", &server.address.to_string()])
            .args(["-servername", "localhost", "-verify_hostname", "localhost"])
            .args(["-CAfile", &authority])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        client.stdin.as_mut().unwrap().write_all(b"ping\n").unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(client.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ping\n");
        client.kill().unwrap();
        client.wait().unwrap();
    }
    server.stop();
}

#[test]
#[cfg(feature = "rustls")]
fn tls_visit_of_openssl_s_server() {
    if !have_openssl() {
        return;
    }
    let port = free_port();
    let process = Command::new("openssl")
        .args(["s_server", "-quiet", "-rev"])
        .args(["-accept", &format!("127.0.0.1:{port}")])
        .args(["-cert", &data("server.pem"), "-key", &data("server.key")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let _server = Serving { process, address };
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it does not serve"
        );
        std::thread::sleep(Duration::from_millis(20)); // nothing tells when it does
    }
    let (port, authority) = (port.to_string(), data("ca.pem"));
    let arguments = ["visit", "127.0.0.1", &port, &authority];
    assert_eq!(fed("tls_echo", &arguments, "abc\nxyz\n"), "cba\nzyx\n");
}

#[test]
#[cfg(feature = "futures-io")]
fn websocket() {
    use async_tungstenite::tungstenite::{Message, client};

    let server = Serving::start("websocket", &["0"]);
    let visit = || {
        let url = format!("ws://{}/", server.address);
        client(url, server.connect().into_inner()).unwrap().0
    };
    let (mut ann, mut bob) = (visit(), visit());
    ann.send(Message::text("hello")).unwrap();
    assert_eq!(ann.read().unwrap(), Message::text("HELLO"));
    assert_eq!(bob.read().unwrap(), Message::text("HELLO"));
    let long = "x".repeat(200_000);
    bob.send(Message::text(long.clone())).unwrap();
    assert_eq!(ann.read().unwrap(), Message::text(long.to_uppercase()));
    ann.close(None).unwrap();
    assert!(matches!(ann.read(), Ok(Message::Close(_))));
    server.stop();
}

#[test]
#[cfg(feature = "hyper")]
fn axum_hello() {
    let server = Serving::start("axum_hello", &["0"]);
    let ask = |path: &str| {
        let mut client = server.connect().into_inner();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("/hello/ann").ends_with("Hello, ann, visitor 1\n"));
    assert!(ask("/hello/bob").ends_with("Hello, bob, visitor 2\n"));
    assert!(ask("/nowhere").starts_with("HTTP/1.1 404 Not Found\r\n"));
    server.stop();
}
