//! What becomes of failures that reach nobody, and of the process when nobody reads standard error.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use rondel::{
    StreamReader, StreamWriter, create_task, open_connection, run, set_exception_handler, sleep,
    spawn_blocking, start_server, timeout, yield_now,
};

const LOCAL: (&str, u16) = ("127.0.0.1", 0);
/// Long enough for anything that happens at all. A test that needs it has failed.
const AGES: Duration = Duration::from_secs(20);

/// What the exception handler was told.
#[derive(Clone, Default)]
struct Told(Rc<RefCell<Vec<String>>>);

impl Told {
    /// Listens on the running loop.
    fn listen(&self) {
        let told = self.clone();
        set_exception_handler(move |context| told.0.borrow_mut().push(context.to_string()));
    }

    fn take(&self) -> Vec<String> {
        self.0.take()
    }

    async fn wait(&self) -> Vec<String> {
        timeout(AGES, async {
            while self.0.borrow().is_empty() {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("nothing was told");
        self.take()
    }
}

#[test]
fn the_exception_handler_hears_of_what_nobody_awaits() {
    let told = Told::default();
    run(async {
        told.listen();
        create_task(async { panic!("a task") }).detach();
        yield_now().await;
        assert_eq!(told.take(), ["Task exception was never retrieved: a task"]);
        // Of another thread: on this one, through the inbox.
        spawn_blocking(|| panic!("a thread")).detach();
        assert_eq!(
            told.wait().await,
            ["Exception in spawn_blocking was never retrieved: a thread"]
        );
        rondel::call_exception_handler("The program says", &"so");
        assert_eq!(told.take(), ["The program says: so"]);
        // At the end of the loop it is still there.
        spawn_blocking(|| panic!("the end")).detach();
    })
    .unwrap();
    assert_eq!(
        told.take(),
        ["Exception in spawn_blocking was never retrieved: the end"]
    );
}

#[test]
fn an_exception_handler_that_panics_or_is_replaced_while_it_runs_harms_nothing() {
    let told = Told::default();
    run(async {
        set_exception_handler(|_| panic!("not again"));
        create_task(async { panic!("first") }).detach();
        yield_now().await;
        let next = told.clone();
        set_exception_handler(move |_| next.listen());
        create_task(async { panic!("second") }).detach();
        create_task(async { panic!("third") }).detach();
        yield_now().await;
        struct Unspeakable;
        impl fmt::Display for Unspeakable {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("no words")
            }
        }
        set_exception_handler(rondel::default_exception_handler);
        rondel::call_exception_handler("Here comes", &Unspeakable);
    })
    .unwrap();
    assert_eq!(told.take(), ["Task exception was never retrieved: third"]);
}

/// Runs a test of this file once more, with a standard error that nobody reads; `false` in that
/// process.
fn with_closed_stderr(test: &str) -> bool {
    const CHILD: &str = "RONDEL_TEST_CLOSED_STDERR";
    if std::env::var_os(CHILD).is_some() {
        return false;
    }
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(CHILD, "1")
        .stderr(Stdio::from(writer))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("still serving"),
        "{said}"
    );
    true
}

#[test]
fn a_server_outlives_its_standard_error() {
    if with_closed_stderr("a_server_outlives_its_standard_error") {
        return;
    }
    run(async {
        let server = start_server(async |_, _| Err::<(), _>("bad request"), LOCAL).await?;
        for _ in 0..2 {
            let (mut reader, writer) = open_connection(server.addresses()[0]).await?;
            assert_eq!(reader.read_to_end().await?, b"");
            drop(writer);
        }
        create_task(async { panic!("unheard") }).detach();
        spawn_blocking(|| panic!("unheard")).detach();
        sleep(Duration::from_millis(5)).await;
        // Writes to a connection that is lost are told of after a few times.
        let (_reader, writer) = open_connection(server.addresses()[0]).await?;
        writer.transport_is_lost().await;
        (0..10).for_each(|_| writer.write("x"));
        assert!(server.is_serving());
        println!("still serving");
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

trait Lost {
    async fn transport_is_lost(&self);
}

impl Lost for StreamWriter {
    async fn transport_is_lost(&self) {
        self.close();
        let _ = self.wait_closed().await;
    }
}

/// Lets the connection be reset instead of closed.
fn reset(peer: TcpStream) {
    socket2::SockRef::from(&peer)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(peer);
}

/// An error as programs make them: with a cause, which its text includes.
#[derive(Debug)]
struct Context(io::Error);

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "while answering: {}", self.0)
    }
}

#[test]
fn a_client_that_resets_its_connection_is_no_news() {
    let told = Told::default();
    run(async {
        told.listen();
        let ended = Rc::new(RefCell::new(Vec::new()));
        let end = Rc::clone(&ended);
        let server = start_server(
            async move |mut reader: StreamReader, _: StreamWriter| -> io::Result<()> {
                let read = reader.read(10).await.map(|_| ());
                end.borrow_mut()
                    .push(read.as_ref().map_err(io::Error::kind).err());
                read
            },
            LOCAL,
        )
        .await?;
        let end = Rc::clone(&ended);
        let wrapping = start_server(
            async move |mut reader: StreamReader, _: StreamWriter| {
                let read = reader.read(10).await.map(|_| ());
                end.borrow_mut()
                    .push(read.as_ref().map_err(io::Error::kind).err());
                read.map_err(Context)
            },
            LOCAL,
        )
        .await?;
        for address in [server.addresses()[0], wrapping.addresses()[0]] {
            reset(TcpStream::connect(address)?);
        }
        timeout(AGES, async {
            while ended.borrow().len() < 2 {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await?;
        assert_eq!(*ended.borrow(), [Some(ErrorKind::ConnectionReset); 2]);
        assert_eq!(told.take(), [""; 0]);
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}

#[test]
fn a_reset_of_another_connection_and_other_errors_after_a_reset_are_told() {
    let told = Told::default();
    run(async {
        told.listen();
        let server = start_server(
            async |mut reader: StreamReader, _: StreamWriter| match reader.read(10).await {
                Ok([]) => Err("Connection reset by peer (os error 104): the database".to_owned()),
                Ok(_) => Ok(()),
                Err(_) => Err("a bug".to_owned()),
            },
            LOCAL,
        )
        .await?;
        drop(TcpStream::connect(server.addresses()[0])?);
        let of_another = "Unhandled exception in client_connected_cb: \
                          Connection reset by peer (os error 104): the database";
        assert_eq!(told.wait().await, [of_another]);
        reset(TcpStream::connect(server.addresses()[0])?);
        assert_eq!(
            told.wait().await,
            ["Unhandled exception in client_connected_cb: a bug"]
        );
        io::Result::Ok(())
    })
    .unwrap()
    .unwrap();
}
