//! The reactor with real pipes and sockets: hang-ups, closed and reused descriptors, duplicates,
//! regular files.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rondel_engine::event_loop::clock::Clock;
use rondel_engine::event_loop::timers::Timer;
use rondel_engine::event_loop::{EventLoop, Host};

/// Records the reports. Its timers only end a wait.
#[derive(Default)]
struct Reports(RefCell<Vec<String>>);

struct Tick;

impl Timer for Tick {
    fn is_cancelled(&self) -> bool {
        false
    }
}

impl Host for Reports {
    type Item = String;
    type Source = &'static str;
    type Timer = Tick;
    type Remote = ();
    type Exit = io::Error;

    fn run(&self, item: String) -> ControlFlow<io::Error> {
        self.0.borrow_mut().push(item);
        ControlFlow::Continue(())
    }
    fn readable(&self, source: &&'static str) -> Option<String> {
        Some(format!("{source} in"))
    }
    fn writable(&self, source: &&'static str) -> Option<String> {
        Some(format!("{source} out"))
    }
    fn due(&self, _: Tick) -> Option<String> {
        None
    }
    fn received(&self, (): ()) -> Option<String> {
        None
    }
}

type Loop = EventLoop<Reports>;

fn new_loop() -> Loop {
    EventLoop::new(Reports::default(), Clock::Monotonic).unwrap()
}

/// The reports of one poll of the descriptors. The first turn of a run always polls, and a stopped
/// loop does not wait.
fn look(event_loop: &Loop) -> Vec<String> {
    event_loop.stop();
    event_loop.run_forever().unwrap();
    // Items queued by the poll are run in the same turn.
    event_loop.host.0.take()
}

/// How many times the loop wakes in 20 ms without anything to report.
fn spins(event_loop: &Loop) -> usize {
    let end = event_loop.now() + 20_000_000;
    let mut turns = 0;
    while event_loop.now() < end {
        event_loop.call_at(end, Tick);
        event_loop.turn().unwrap();
        turns += 1;
    }
    assert!(event_loop.host.0.take().is_empty());
    turns
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

#[test]
fn readiness_is_reported_as_long_as_it_lasts_and_for_the_side_that_is_watched() {
    let event_loop = new_loop();
    let (mut ours, mut theirs) = pair();
    let fd = ours.as_raw_fd();
    event_loop.add_reader(fd, "a").unwrap();
    assert!(look(&event_loop).is_empty());
    theirs.write_all(b"x").unwrap();
    assert_eq!(look(&event_loop), ["a in"]);
    assert_eq!(look(&event_loop), ["a in"]);
    event_loop.add_writer(fd, "b").unwrap();
    assert_eq!(look(&event_loop), ["a in", "b out"]);
    assert_eq!(event_loop.add_reader(fd, "c").unwrap(), Some("a"));
    ours.read_exact(&mut [0]).unwrap();
    assert_eq!(look(&event_loop), ["b out"]);
    assert_eq!(event_loop.remove_writer(fd), Some("b"));
    assert_eq!(event_loop.remove_writer(fd), None);
    assert!(look(&event_loop).is_empty());
    assert_eq!(event_loop.remove_reader(fd), Some("c"));
    theirs.write_all(b"x").unwrap();
    assert!(look(&event_loop).is_empty());
}

#[test]
fn a_hang_up_is_readable_and_writable() {
    let event_loop = new_loop();
    let (ours, theirs) = pair();
    event_loop.add_reader(ours.as_raw_fd(), "reader").unwrap();
    event_loop.add_writer(ours.as_raw_fd(), "writer").unwrap();
    drop(theirs);
    assert_eq!(look(&event_loop), ["reader in", "writer out"]);
}

#[test]
fn the_writing_end_of_a_pipe_learns_that_nobody_reads() {
    let event_loop = new_loop();
    let (reader, writer) = io::pipe().unwrap();
    // Only for reading, as a pipe transport does to detect that the other end is closed.
    event_loop.add_reader(writer.as_raw_fd(), "closed").unwrap();
    assert!(look(&event_loop).is_empty());
    drop(reader);
    assert_eq!(look(&event_loop), ["closed in"]);
}

#[test]
fn a_hang_up_on_a_muted_reader_does_not_spin() {
    let event_loop = new_loop();
    let (ours, mut theirs) = pair();
    event_loop.add_reader(ours.as_raw_fd(), "muted").unwrap();
    assert_eq!(event_loop.mute_reader(ours.as_raw_fd()), Some("muted"));
    theirs.write_all(b"x").unwrap();
    assert!(spins(&event_loop) <= 3);
    drop(theirs);
    assert!(spins(&event_loop) <= 3);
    // Missed events are found when it is watched again.
    event_loop.add_reader(ours.as_raw_fd(), "again").unwrap();
    assert_eq!(look(&event_loop), ["again in"]);
}

#[test]
fn muting_the_reader_leaves_the_writer() {
    let event_loop = new_loop();
    let (ours, mut theirs) = pair();
    let fd = ours.as_raw_fd();
    event_loop.add_reader(fd, "reader").unwrap();
    event_loop.add_writer(fd, "writer").unwrap();
    event_loop.mute_reader(fd);
    theirs.write_all(b"x").unwrap();
    assert_eq!(look(&event_loop), ["writer out"]);
    event_loop.add_reader(fd, "reader").unwrap();
    assert_eq!(look(&event_loop), ["reader in", "writer out"]);
}

#[test]
fn a_reset_ends_in_a_report_for_both_sides() {
    let event_loop = new_loop();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    event_loop.add_reader(ours.as_raw_fd(), "reader").unwrap();
    socket2::SockRef::from(&theirs)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(theirs);
    assert_eq!(look(&event_loop), ["reader in"]);
    event_loop.add_writer(ours.as_raw_fd(), "writer").unwrap();
    assert_eq!(look(&event_loop), ["reader in", "writer out"]);
}

#[test]
fn regular_files_and_bad_descriptors_are_refused_and_leave_nothing() {
    let event_loop = new_loop();
    let file = File::open(
        file!()
            .rsplit_once('/')
            .map_or("Cargo.toml", |_| "Cargo.toml"),
    )
    .unwrap();
    let error = event_loop.add_reader(file.as_raw_fd(), "file").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    for fd in [-1, RawFd::MIN, 1_000_000] {
        let error = event_loop.add_writer(fd, "bad").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{fd}");
        assert_eq!(event_loop.remove_writer(fd), None);
        assert_eq!(event_loop.mute_reader(fd), None);
    }
    event_loop.for_each_source(|source| panic!("{source} is still there"));
}

/// Makes `to` a duplicate of `from`, closing the file it was.
fn replace(to: &OwnedFd, from: &OwnedFd) {
    // SAFETY: both descriptors are open.
    assert!(unsafe { libc::dup2(from.as_raw_fd(), to.as_raw_fd()) } >= 0);
}

#[test]
fn a_number_that_is_closed_and_used_again_starts_afresh() {
    let event_loop = new_loop();
    let (ours, mut theirs) = pair();
    let (other, mut others) = pair();
    let ours = OwnedFd::from(ours);
    let fd = ours.as_raw_fd();
    event_loop.add_reader(fd, "first").unwrap();
    theirs.write_all(b"x").unwrap();
    // Closed behind the loop's back: the kernel forgets the registration, the loop does not.
    replace(&ours, &OwnedFd::from(other));
    assert!(look(&event_loop).is_empty());
    // The new owner watches another side than the old one, and the kernel has neither registration.
    event_loop.add_writer(fd, "second").unwrap();
    assert_eq!(look(&event_loop), ["second out"]);
    assert_eq!(event_loop.add_reader(fd, "second").unwrap(), Some("first"));
    others.write_all(b"x").unwrap();
    assert_eq!(look(&event_loop), ["second in", "second out"]);
}

#[test]
fn a_registration_that_lives_on_in_a_duplicate_is_reported_to_nobody() {
    let event_loop = new_loop();
    let (ours, mut theirs) = pair();
    let duplicate = ours.as_fd().try_clone_to_owned().unwrap();
    let ours = OwnedFd::from(ours);
    let fd = ours.as_raw_fd();
    event_loop.add_reader(fd, "first").unwrap();
    theirs.write_all(b"x").unwrap();
    assert_eq!(look(&event_loop), ["first in"]);
    // Removed, closed and reused. The duplicate keeps the socket open, but not the registration.
    event_loop.remove_reader(fd);
    let (next, mut nexts) = pair();
    replace(&ours, &OwnedFd::from(next));
    assert!(look(&event_loop).is_empty());
    assert!(spins(&event_loop) <= 3);
    // The number's next owner gets its own reports, not those of the old token.
    event_loop.add_reader(fd, "next").unwrap();
    assert!(look(&event_loop).is_empty());
    nexts.write_all(b"x").unwrap();
    assert_eq!(look(&event_loop), ["next in"]);
    drop(duplicate);
}

#[test]
fn duplicates_are_watched_each_for_itself() {
    let event_loop = new_loop();
    let (ours, mut theirs) = pair();
    let duplicate = ours.as_fd().try_clone_to_owned().unwrap();
    event_loop.add_reader(ours.as_raw_fd(), "one").unwrap();
    event_loop.add_reader(duplicate.as_raw_fd(), "two").unwrap();
    theirs.write_all(b"x").unwrap();
    let mut reports = look(&event_loop);
    reports.sort_unstable();
    assert_eq!(reports, ["one in", "two in"]);
    event_loop.remove_reader(ours.as_raw_fd());
    drop(ours);
    assert_eq!(look(&event_loop), ["two in"]);
}

#[test]
fn more_descriptors_than_one_wait_reports_all_come() {
    let event_loop = new_loop();
    let pairs: Vec<_> = (0..1500).map_while(|_| UnixStream::pair().ok()).collect();
    for (ours, theirs) in &pairs {
        event_loop.add_reader(ours.as_raw_fd(), "x").unwrap();
        (&mut &*theirs).write_all(b"x").unwrap();
    }
    // The first wait reports 1,024 events; the kernel reports the others next.
    let reports = look(&event_loop).len() + look(&event_loop).len();
    assert!(reports >= pairs.len(), "{reports} of {}", pairs.len());
}

/// Runs `child` in a forked process; it must return true.
fn in_a_fork(child: impl FnOnce() -> bool) {
    // SAFETY: the child uses only state of the forking thread, and exits without running the
    // parent's code.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        // SAFETY: no preconditions; ends the process.
        unsafe { libc::_exit(i32::from(!matches!(answer, Ok(true)))) };
    }
    let mut status = 0;
    // SAFETY: our own child, and a valid pointer for its status.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0);
}

#[test]
fn a_forked_child_disturbs_nothing_of_its_parent_s() {
    let event_loop = new_loop();
    let (ours, mut theirs) = pair();
    let (other, mut others) = pair();
    let fd = ours.as_raw_fd();
    event_loop.add_reader(fd, "parent's").unwrap();
    in_a_fork(|| {
        event_loop.forked();
        event_loop.add_reader(other.as_raw_fd(), "child's").unwrap();
        event_loop.remove_reader(fd);
        others.write_all(b"x").unwrap();
        let seen = look(&event_loop);
        event_loop.close();
        seen == ["child's in"]
    });
    theirs.write_all(b"x").unwrap();
    assert_eq!(look(&event_loop), ["parent's in"]);
}

#[test]
fn a_forked_child_that_removes_before_it_adds_disturbs_nothing_either() {
    let event_loop = new_loop();
    let (ours, mut theirs) = pair();
    let fd = ours.as_raw_fd();
    event_loop.add_reader(fd, "reader").unwrap();
    event_loop.add_writer(fd, "writer").unwrap();
    in_a_fork(|| {
        event_loop.forked();
        event_loop.remove_writer(fd);
        event_loop.remove_reader(fd);
        event_loop.close();
        true
    });
    theirs.write_all(b"x").unwrap();
    assert_eq!(look(&event_loop), ["reader in", "writer out"]);
}

#[test]
fn a_forked_child_goes_on_with_what_was_registered_and_is_woken_itself() {
    let event_loop = new_loop();
    let (ours, mut theirs) = pair();
    let (closed, _peer) = pair();
    event_loop.add_reader(ours.as_raw_fd(), "kept").unwrap();
    event_loop.add_reader(closed.as_raw_fd(), "closed").unwrap();
    in_a_fork(|| {
        event_loop.forked();
        drop(closed);
        theirs.write_all(b"x").unwrap();
        let kept = look(&event_loop) == ["kept in"];
        let mut byte = [0];
        (&ours).read_exact(&mut byte).unwrap();
        // Woken by a thread of the child, through the child's own eventfd.
        let inbox = std::sync::Arc::clone(event_loop.inbox());
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            inbox.send(());
        });
        event_loop.turn().unwrap();
        thread.join().unwrap();
        kept && event_loop.host.0.take().is_empty()
    });
    // Neither the bytes nor the wake-up arrived in the parent.
    assert!(look(&event_loop).is_empty());
    assert!(spins(&event_loop) <= 3);
}

#[test]
fn waking_and_closing_at_once_never_writes_to_a_descriptor_that_is_closed() {
    for _ in 0..50 {
        let event_loop = new_loop();
        let inbox = std::sync::Arc::clone(event_loop.inbox());
        let sender = std::thread::spawn(move || (0..200).for_each(|_| inbox.send(())));
        event_loop.call_at(event_loop.now() + 100_000, Tick);
        event_loop.turn().unwrap();
        event_loop.close();
        // The next owner of the eventfd's number must not receive bytes.
        let (ours, theirs) = pair();
        sender.join().unwrap();
        for mut end in [&ours, &theirs] {
            end.set_nonblocking(true).unwrap();
            let error = end.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }
}
