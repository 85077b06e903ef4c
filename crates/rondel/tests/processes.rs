//! Children, pipes, datagrams and signals: with real ones.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use rondel::{
    Process, add_signal_handler, all_tasks, create_datagram_endpoint, create_subprocess_exec,
    create_task, open_read_pipe, open_write_pipe, run, shell, signal, sleep, timeout, yield_now,
};

const AGES: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(10);

fn test(main: impl AsyncFnOnce() -> io::Result<()>) {
    run(async { timeout(AGES, main()).await.expect("the test hangs") })
        .unwrap()
        .unwrap();
}

fn piped(text: &str) -> Command {
    let mut command = shell(text);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Whether there is such a process, or its zombie.
fn exists(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

async fn gone(pid: u32) {
    while exists(pid) {
        sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_child_s_streams_are_read_and_written_like_others() {
    test(async || {
        let mut cat = create_subprocess_exec(&mut piped("cat; echo done >&2")).await?;
        let (input, output) = (cat.stdin.take().unwrap(), cat.stdout.as_mut().unwrap());
        for line in ["one\n", "two\n"] {
            input.write(line);
            input.drain().await?;
            assert_eq!(output.readline().await?, line.as_bytes());
        }
        assert_eq!(cat.returncode(), None);
        input.close();
        input.wait_closed().await?;
        assert_eq!(cat.stderr.as_mut().unwrap().readline().await?, b"done\n");
        assert!(cat.wait().await?.success());
        assert_eq!(cat.returncode(), Some(0));
        // Again, and too late.
        assert!(cat.wait().await?.success());
        cat.kill()
    });
}

#[test]
fn communicate_neither_stalls_nor_loses_anything_if_it_is_dropped() {
    test(async || {
        let much = vec![b'x'; 1_000_000];
        let mut cat = create_subprocess_exec(&mut piped("tee /dev/stderr")).await?;
        let (output, errors) = cat.communicate(&much).await?;
        assert!(output == much && errors == much);

        let mut slow = piped("echo first; sleep 0.05; cat");
        let mut slow = create_subprocess_exec(&mut slow).await?;
        let mut rounds = 0;
        let output = loop {
            let input: &[u8] = if rounds == 0 { &much } else { b"" };
            match timeout(SOON, slow.communicate(input)).await {
                Ok(result) => break result?.0,
                Err(_) => rounds += 1,
            }
        };
        assert!(rounds > 0);
        assert!(output == [b"first\n", &*much].concat());

        // Who does not want the input.
        let mut deaf = create_subprocess_exec(&mut piped("exec <&-; echo no")).await?;
        assert_eq!(deaf.communicate(&much).await?.0, b"no\n");
        Ok(())
    });
}

#[test]
fn signals_end_a_child_and_its_code_says_so() {
    test(async || {
        for (end, code) in [
            (Process::terminate as fn(&Process) -> _, -libc::SIGTERM),
            (Process::kill, -libc::SIGKILL),
        ] {
            let mut child = create_subprocess_exec(Command::new("sleep").arg("60")).await?;
            assert!(timeout(SOON, child.wait()).await.is_err());
            end(&child)?;
            child.wait().await?;
            assert_eq!(child.returncode(), Some(code));
        }
        let missing = create_subprocess_exec(&mut Command::new("/no/such/program")).await;
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
        Ok(())
    });
}

#[test]
fn children_that_are_dropped_leave_no_zombie() {
    test(async || {
        // One that ends by itself, later.
        let child = create_subprocess_exec(Command::new("sleep").arg("0.02")).await?;
        let pid = child.pid();
        drop(child);
        assert!(exists(pid));
        gone(pid).await;
        // One that has ended, unnoticed.
        let child = create_subprocess_exec(&mut Command::new("true")).await?;
        let pid = child.pid();
        sleep(SOON * 3).await;
        drop(child);
        gone(pid).await;
        // One that is killed, by a timeout.
        let mut child = create_subprocess_exec(Command::new("sleep").arg("60")).await?;
        child.kill_on_drop(true);
        let pid = child.pid();
        let waiting = async move { child.wait().await };
        assert!(timeout(SOON, waiting).await.is_err());
        gone(pid).await;
        Ok(())
    });
}

#[test]
fn a_child_that_is_to_be_killed_does_not_outlive_the_run() {
    let pid = run(async {
        let mut command = Command::new("sleep");
        let mut child = create_subprocess_exec(command.arg("60")).await.unwrap();
        child.kill_on_drop(true);
        let pid = child.pid();
        create_task(async move { child.wait().await }).detach();
        yield_now().await;
        pid
    })
    .unwrap();
    assert!(!exists(pid));
}

// Pipes

#[test]
fn a_pipe_that_nobody_reads_holds_its_writer_up() {
    test(async || {
        let (read, write) = io::pipe()?;
        let (mut reader, writer) = (open_read_pipe(read)?, open_write_pipe(write)?);
        writer.write(vec![1; 500_000]);
        assert!(writer.write_buffer_size() > 0);
        assert!(timeout(SOON, writer.drain()).await.is_err());
        let reading = create_task(async move { reader.read_to_end().await.map(<[u8]>::len) });
        writer.drain().await?;
        writer.write(vec![2; 500_000]);
        // Its rest goes by itself.
        drop(writer);
        let read = reading.await.map_err(io::Error::other)??;
        assert_eq!(read, 1_000_000);
        Ok(())
    });
}

#[test]
fn what_is_written_to_a_pipe_goes_on_without_a_drain() {
    const LENGTH: usize = 1_000_000;
    test(async || {
        let mut cat = create_subprocess_exec(&mut piped("cat")).await?;
        let (input, output) = (cat.stdin.take().unwrap(), cat.stdout.as_mut().unwrap());
        input.write(vec![b'x'; LENGTH]);
        assert_eq!(output.readexactly(LENGTH).await?.len(), LENGTH);
        input.flushed().await?;
        // A dropped writer ends behind what was written, and no task of the program's sees to that.
        input.write(vec![b'y'; LENGTH]);
        drop(input);
        assert_eq!(all_tasks().len(), 1);
        assert_eq!(output.read_to_end().await?.len(), LENGTH);
        assert!(cat.wait().await?.success());
        Ok(())
    });
}

#[test]
fn who_waits_for_a_pipe_hears_of_its_end() {
    test(async || {
        let (_read, write) = io::pipe()?;
        let writer = Rc::new(open_write_pipe(write)?);
        writer.set_write_buffer_limits(0, 0)?;
        writer.write(vec![0; 1_000_000]);
        let (drains, closes) = (Rc::clone(&writer), Rc::clone(&writer));
        let draining = create_task(async move { drains.drain().await });
        let closing = create_task(async move { closes.wait_closed().await });
        sleep(SOON).await;
        assert!(!draining.done() && !closing.done());
        writer.abort();
        let drained = draining.await.map_err(io::Error::other)?;
        assert_eq!(drained.unwrap_err().kind(), ErrorKind::ConnectionReset);
        closing.await.map_err(io::Error::other)?
    });
    test(async || {
        let (mut read, write) = io::pipe()?;
        let writer = Rc::new(open_write_pipe(write)?);
        let closes = Rc::clone(&writer);
        let closing = create_task(async move { closes.wait_closed().await });
        sleep(SOON).await;
        writer.write("the end");
        writer.close();
        closing.await.map_err(io::Error::other)??;
        let mut all = String::new();
        read.read_to_string(&mut all)?;
        assert_eq!(all, "the end");
        Ok(())
    });
}

#[test]
fn a_pipe_whose_reader_is_gone_says_so() {
    test(async || {
        let (read, write) = io::pipe()?;
        let writer = open_write_pipe(write)?;
        drop(read);
        writer.write("hello");
        assert_eq!(
            writer.drain().await.unwrap_err().kind(),
            ErrorKind::BrokenPipe
        );
        assert!(writer.is_closing());
        assert!(writer.peer_addr().is_err());
        Ok(())
    });
}

#[test]
fn what_is_written_to_a_pipe_at_the_end_of_a_run_arrives() {
    let (mut read, write) = io::pipe().unwrap();
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        read.read_to_end(&mut all).map(|_| all.len())
    });
    run(async { open_write_pipe(write).map(|writer| writer.write(vec![0; 1_000_000])) })
        .unwrap()
        .unwrap();
    assert_eq!(reading.join().unwrap().unwrap(), 1_000_000);
}

#[test]
fn reads_of_a_pipe_that_are_dropped_take_nothing() {
    test(async || {
        let (read, mut write) = io::pipe()?;
        let mut reader = open_read_pipe(read)?;
        for byte in b"0123456789" {
            write.write_all(&[*byte])?;
            assert!(
                timeout(Duration::ZERO, reader.readexactly(100))
                    .await
                    .is_err()
            );
            yield_now().await;
        }
        assert_eq!(reader.readexactly(4).await?, b"0123");
        drop(write);
        assert_eq!(reader.read_to_end().await?, b"456789");
        assert!(reader.at_eof());
        Ok(())
    });
}

// Datagrams

#[test]
fn datagrams_keep_their_bounds_and_go_to_one_task_each() {
    test(async || {
        let server = create_datagram_endpoint(Some(("127.0.0.1", 0).into()), None).await?;
        let address = server.local_addr()?;
        let client = create_datagram_endpoint(None, Some(address.into())).await?;
        assert_eq!(client.peer_addr()?, address);
        for size in [0, 1, 1000, 60_000] {
            client.send(&vec![3; size]).await?;
            assert!(timeout(Duration::ZERO, async {}).await.is_ok());
            let (data, from) = server.recv_from().await?;
            assert_eq!((data.len(), from), (size, client.local_addr()?));
            server.send_to(b"thanks", from).await?;
            assert_eq!(client.recv().await?, b"thanks");
        }
        // Given up, one after the other: each datagram is somebody's.
        for number in 0..10_u8 {
            assert!(
                timeout(Duration::from_millis(1), server.recv_from())
                    .await
                    .is_err()
            );
            client.send(&[number]).await?;
            assert_eq!(server.recv().await?, [number]);
        }
        client.send(b"longer").await?;
        let mut memory = [0; 4];
        assert_eq!(server.recv_from_into(&mut memory).await?.0, 4);
        assert_eq!(
            client.send(&[0; 70_000]).await.unwrap_err().raw_os_error(),
            Some(libc::EMSGSIZE)
        );
        Ok(())
    });
}

#[test]
fn a_datagram_that_is_refused_says_so_and_sockets_come_and_go() {
    test(async || {
        let nobody = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let client = create_datagram_endpoint(None, Some(nobody.into())).await?;
        client.send(b"x").await?;
        assert_eq!(
            client.recv().await.unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
        assert!(create_datagram_endpoint(None, None).await.is_err());
        let socket = client.into_std();
        let again = rondel::DatagramEndpoint::from_std(socket)?;
        assert_eq!(again.peer_addr()?, nobody);
        Ok(())
    });
}

#[test]
fn an_address_has_a_name_or_says_that_it_has_none() {
    test(async || {
        let address = "192.0.2.1:80".parse().unwrap();
        let numbers = libc::NI_NUMERICHOST | libc::NI_NUMERICSERV;
        let (host, service) = rondel::getnameinfo(address, numbers).await?;
        assert_eq!((&*host, &*service), ("192.0.2.1", "80"));
        let flags = libc::NI_NUMERICHOST | libc::NI_NAMEREQD;
        assert!(rondel::getnameinfo(address, flags).await.is_err());
        Ok(())
    });
}

// Signals. Each test has one of its own, for they are the whole process's.

fn raise(signal: i32) {
    // SAFETY: sends a signal to this thread.
    unsafe { libc::raise(signal) };
}

#[test]
fn a_signal_reaches_everyone_who_listens_and_several_are_one() {
    test(async || {
        let (mut one, mut other) = (signal(libc::SIGUSR1)?, signal(libc::SIGUSR1)?);
        assert!(timeout(SOON, one.recv()).await.is_err());
        raise(libc::SIGUSR1);
        raise(libc::SIGUSR1);
        one.recv().await?;
        other.recv().await?;
        assert!(timeout(SOON, one.recv()).await.is_err());
        drop(other);
        raise(libc::SIGUSR1);
        one.recv().await
    });
}

#[test]
fn a_signal_that_nobody_listens_to_any_more_does_what_it_did_before() {
    let mut child = Command::new("sleep");
    test(async || {
        let action = || {
            let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: asks only.
            unsafe {
                libc::sigaction(libc::SIGWINCH, std::ptr::null(), action.as_mut_ptr());
                action.assume_init().sa_sigaction
            }
        };
        let before = action();
        let listening = signal(libc::SIGWINCH)?;
        assert_ne!(action(), before);
        drop(listening);
        assert_eq!(action(), before);
        for refused in [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, 0, 1000] {
            let error = signal(refused).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{refused}");
        }
        let mut child = create_subprocess_exec(child.arg("0")).await?;
        child.wait().await.map(|_| ())
    });
}

#[test]
fn a_handler_is_called_in_the_loop_until_it_is_dropped() {
    test(async || {
        let count = Rc::new(Cell::new(0));
        let counted = Rc::clone(&count);
        let _listening = signal(libc::SIGUSR2)?;
        let handler = add_signal_handler(libc::SIGUSR2, move || counted.set(counted.get() + 1))?;
        for expected in 1..4 {
            raise(libc::SIGUSR2);
            while count.get() < expected {
                sleep(Duration::from_millis(1)).await;
            }
        }
        drop(handler);
        raise(libc::SIGUSR2);
        sleep(SOON).await;
        assert_eq!(count.get(), 3);
        Ok(())
    });
}

#[test]
fn a_virtual_clock_does_not_wait_for_signals() {
    rondel::Builder::new()
        .virtual_clock()
        .run(async {
            let mut hangups = signal(libc::SIGHUP).unwrap();
            assert!(
                timeout(Duration::from_secs(3600), hangups.recv())
                    .await
                    .is_err()
            );
        })
        .unwrap();
}
