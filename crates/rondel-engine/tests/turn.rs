//! One turn of the loop: what runs in which order, and how long it waits. Tested with a host whose
//! items are strings.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use rondel_engine::event_loop::clock::{Clock, Jump};
use rondel_engine::event_loop::timers::Timer;
use rondel_engine::event_loop::{EventLoop, Host};

type Loop = EventLoop<Letters>;
type Action = Box<dyn Fn(&Loop)>;

/// Runs an item by recording its name and performing the action registered under it.
#[derive(Default)]
struct Letters {
    trace: RefCell<Vec<String>>,
    actions: RefCell<Vec<(String, Action)>>,
    /// The loop that contains this host, while it runs.
    this: Cell<Option<*const Loop>>,
    /// The time of a clock that the program has replaced.
    patched: Cell<Option<u64>>,
    interrupts: Cell<usize>,
}

#[derive(Clone)]
struct Name {
    text: String,
    cancelled: Rc<Cell<bool>>,
}

impl Timer for Name {
    fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }
}

fn name(text: impl Into<String>) -> Name {
    Name {
        text: text.into(),
        cancelled: Rc::default(),
    }
}

#[derive(Debug)]
enum Exit {
    Asked,
    Io(io::Error),
}

impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Host for Letters {
    type Item = String;
    type Source = String;
    type Timer = Name;
    type Remote = String;
    type Exit = Exit;

    fn run(&self, item: String) -> ControlFlow<Exit> {
        self.trace.borrow_mut().push(item.clone());
        if item == "exit" {
            return ControlFlow::Break(Exit::Asked);
        }
        let found = self
            .actions
            .borrow()
            .iter()
            .position(|(name, _)| *name == item);
        if let Some(index) = found {
            let (_, action) = self.actions.borrow_mut().remove(index);
            // SAFETY: `run` below has set it to the loop that it borrows.
            action(unsafe { &*self.this.get().unwrap() });
        }
        ControlFlow::Continue(())
    }

    fn readable(&self, source: &String) -> Option<String> {
        Some(format!("{source} readable"))
    }

    fn writable(&self, source: &String) -> Option<String> {
        Some(format!("{source} writable"))
    }

    fn due(&self, timer: Name) -> Option<String> {
        (!timer.is_cancelled()).then_some(timer.text)
    }

    fn received(&self, remote: String) -> Option<String> {
        Some(remote)
    }

    fn now(&self, clock: &Clock) -> u64 {
        self.patched.get().unwrap_or_else(|| clock.now())
    }

    fn interrupted(&self) -> ControlFlow<Exit> {
        self.interrupts.set(self.interrupts.get() + 1);
        ControlFlow::Continue(())
    }
}

fn virtual_loop() -> Loop {
    EventLoop::new(Letters::default(), Clock::at(0, Jump::Always)).unwrap()
}

fn real_loop() -> Loop {
    EventLoop::new(Letters::default(), Clock::Monotonic).unwrap()
}

fn soon(event_loop: &Loop, what: &str) {
    event_loop.call_soon(what.to_owned());
}

/// Registers an action that is performed once, when the item of this name runs.
fn on(event_loop: &Loop, what: &str, action: impl Fn(&Loop) + 'static) {
    let action = (what.to_owned(), Box::new(action) as Action);
    event_loop.host.actions.borrow_mut().push(action);
}

fn run(event_loop: &Loop) -> Result<(), Exit> {
    event_loop.host.this.set(Some(event_loop));
    event_loop.run_forever()
}

fn turn(event_loop: &Loop) -> Vec<String> {
    event_loop.host.this.set(Some(event_loop));
    event_loop.turn().unwrap();
    trace(event_loop)
}

fn trace(event_loop: &Loop) -> Vec<String> {
    event_loop.host.trace.take()
}

#[test]
fn a_batch_is_what_was_ready_when_it_began() {
    let event_loop = virtual_loop();
    on(&event_loop, "a", |event_loop| soon(event_loop, "c"));
    soon(&event_loop, "a");
    soon(&event_loop, "b");
    assert_eq!(turn(&event_loop), ["a", "b"]);
    assert_eq!(turn(&event_loop), ["c"]);
}

#[test]
fn io_comes_before_timers_and_timers_before_the_inbox_but_all_behind_what_is_ready() {
    let event_loop = virtual_loop();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"x").unwrap();
    event_loop
        .add_reader(ours.as_raw_fd(), "io".to_owned())
        .unwrap();
    event_loop
        .add_writer(ours.as_raw_fd(), "io".to_owned())
        .unwrap();
    event_loop.call_at(0, name("timer"));
    event_loop.inbox().send("mail".to_owned());
    soon(&event_loop, "ready");
    soon(&event_loop, "stop");
    on(&event_loop, "stop", Loop::stop);
    // The first turn of a run polls the reactor even though something is ready.
    run(&event_loop).unwrap();
    assert_eq!(
        trace(&event_loop),
        [
            "ready",
            "stop",
            "io readable",
            "io writable",
            "timer",
            "mail"
        ]
    );
}

#[test]
fn stopping_finishes_the_batch_and_keeps_what_it_queued() {
    let event_loop = virtual_loop();
    on(&event_loop, "a", |event_loop| {
        event_loop.stop();
        soon(event_loop, "later");
    });
    soon(&event_loop, "a");
    soon(&event_loop, "b");
    run(&event_loop).unwrap();
    assert_eq!(trace(&event_loop), ["a", "b"]);
    // Stopped before it runs: one turn, as in asyncio's `stop(); run_forever()`.
    event_loop.stop();
    run(&event_loop).unwrap();
    assert_eq!(trace(&event_loop), ["later"]);
    event_loop.stop();
    run(&event_loop).unwrap();
    assert!(trace(&event_loop).is_empty());
}

#[test]
fn breaking_out_leaves_the_rest_of_the_batch_queued() {
    let event_loop = virtual_loop();
    for item in ["a", "exit", "b", "stop"] {
        soon(&event_loop, item);
    }
    assert!(matches!(run(&event_loop), Err(Exit::Asked)));
    assert_eq!(trace(&event_loop), ["a", "exit"]);
    assert_eq!(event_loop.ready_len(), 2);
    on(&event_loop, "stop", Loop::stop);
    run(&event_loop).unwrap();
    assert_eq!(trace(&event_loop), ["b", "stop"]);
}

#[test]
fn virtual_time_jumps_from_timer_to_timer_and_stands_while_there_is_work() {
    let event_loop = virtual_loop();
    event_loop.call_at(3_000_000_000, name("three"));
    event_loop.call_at(1_000_000_000, name("one"));
    event_loop.call_at(1_000_000_000, name("one again"));
    on(&event_loop, "one again", |event_loop| {
        assert_eq!(event_loop.now(), 1_000_000_000);
        soon(event_loop, "work");
    });
    on(&event_loop, "work", |event_loop| {
        assert_eq!(event_loop.now(), 1_000_000_000)
    });
    on(&event_loop, "three", |event_loop| {
        assert_eq!(event_loop.now(), 3_000_000_000);
        event_loop.stop();
    });
    run(&event_loop).unwrap();
    assert_eq!(trace(&event_loop), ["one", "one again", "work", "three"]);
}

#[test]
fn a_cancelled_timer_is_not_waited_for() {
    let event_loop = virtual_loop();
    let cancelled = name("cancelled");
    event_loop.call_at(1_000, cancelled.clone());
    event_loop.call_at(5_000, name("kept"));
    cancelled.cancelled.set(true);
    event_loop.timer_cancelled(|timer| Rc::ptr_eq(&timer.cancelled, &cancelled.cancelled));
    assert_eq!(event_loop.timers_len(), 2);
    assert_eq!(turn(&event_loop), ["kept"]);
    assert_eq!(event_loop.now(), 5_000);
    assert_eq!(event_loop.timers_len(), 0);
}

#[test]
fn timers_follow_a_clock_that_the_program_has_replaced() {
    let event_loop = real_loop();
    event_loop.host.patched.set(Some(1_000));
    event_loop.call_at(5_000_000_000_000, name("far"));
    soon(&event_loop, "a");
    on(&event_loop, "a", |event_loop| {
        event_loop.host.patched.set(Some(6_000_000_000_000))
    });
    assert_eq!(turn(&event_loop), ["a"]);
    assert_eq!(turn(&event_loop), ["far"]);
}

/// Runs up to `turns` busy turns while a descriptor is ready. Returns after how many it was
/// reported.
fn turns_until_io(event_loop: &Loop, turns: usize) -> Option<usize> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    event_loop
        .add_reader(ours.as_raw_fd(), "io".to_owned())
        .unwrap();
    soon(event_loop, "busy");
    turn(event_loop);
    theirs.write_all(b"x").unwrap();
    let mut seen = None;
    for number in 0..turns {
        soon(event_loop, "busy");
        if turn(event_loop).contains(&"io readable".to_owned()) {
            seen = Some(number);
            break;
        }
    }
    event_loop.remove_reader(ours.as_raw_fd());
    seen
}

#[test]
fn io_is_looked_for_at_least_every_64_turns() {
    for event_loop in [virtual_loop(), real_loop()] {
        for _ in 0..5 {
            assert!(turns_until_io(&event_loop, 66).is_some());
        }
    }
}

#[test]
fn io_is_looked_for_in_slow_turns_too() {
    let event_loop = real_loop();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    event_loop
        .add_reader(ours.as_raw_fd(), "io".to_owned())
        .unwrap();
    soon(&event_loop, "busy");
    turn(&event_loop);
    theirs.write_all(b"x").unwrap();
    // Longer than any tick of the coarse clock, which bounds the time without a poll.
    thread::sleep(Duration::from_millis(11));
    soon(&event_loop, "busy");
    assert_eq!(turn(&event_loop), ["busy", "io readable"]);
    event_loop.remove_reader(ours.as_raw_fd());
}

#[test]
fn due_timers_run_though_there_is_always_work() {
    let event_loop = real_loop();
    let deadline = event_loop.now() + 2_000_000;
    event_loop.call_at(deadline, name("timer"));
    loop {
        soon(&event_loop, "busy");
        let early = event_loop.now() < deadline;
        let done = turn(&event_loop).contains(&"timer".to_owned());
        if done {
            assert!(event_loop.now() >= deadline);
            break;
        }
        assert!(
            early,
            "a turn that began after the deadline left the timer out"
        );
    }
}

#[test]
fn a_wait_is_neither_shorter_than_asked_nor_a_millisecond_longer() {
    let event_loop = real_loop();
    let mut shortest = u64::MAX;
    // The shortest of many: a busy machine only makes waits longer.
    for _ in 0..50 {
        let start = event_loop.now();
        event_loop.call_at(start + 200_000, name("timer"));
        while turn(&event_loop).is_empty() {}
        let waited = event_loop.now() - start;
        assert!(waited >= 200_000, "{waited} ns");
        shortest = shortest.min(waited);
    }
    assert!(shortest < 900_000, "{shortest} ns");
}

#[test]
fn mail_ends_a_wait_and_keeps_its_order() {
    let event_loop = real_loop();
    let inbox = event_loop.inbox().clone();
    let thread = thread::spawn(move || {
        for number in 0..100 {
            inbox.send(number.to_string());
        }
    });
    let mut received = Vec::new();
    while received.len() < 100 {
        // There is no timer, so only the mail can end the wait.
        received.extend(turn(&event_loop));
    }
    let expected: Vec<_> = (0..100).map(|number: i32| number.to_string()).collect();
    assert_eq!(received, expected);
    thread.join().unwrap();
}

#[test]
fn very_much_mail_does_not_hold_up_a_timer() {
    let event_loop = virtual_loop();
    for number in 0..5000 {
        event_loop.inbox().send(number.to_string());
    }
    soon(&event_loop, "ready");
    event_loop.call_at(0, name("timer"));
    let mut received = turn(&event_loop);
    assert!(received.len() < 2000, "{}", received.len());
    received.retain(|item| item != "ready" && item != "timer");
    let first = received.len();
    while received.len() < 5000 {
        // Nothing else is ready, and the turn does not wait.
        received.extend(turn(&event_loop));
    }
    assert!(first > 0 && !event_loop.inbox().has_mail());
    let expected: Vec<_> = (0..5000).map(|number: i32| number.to_string()).collect();
    assert_eq!(received, expected);
}

#[test]
fn what_a_closed_loop_held_comes_out() {
    let event_loop = virtual_loop();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    event_loop
        .add_reader(ours.as_raw_fd(), "reader".to_owned())
        .unwrap();
    event_loop
        .add_writer(ours.as_raw_fd(), "writer".to_owned())
        .unwrap();
    event_loop.call_at(5, name("timer"));
    event_loop.inbox().send("mail".to_owned());
    soon(&event_loop, "ready");
    let drained = event_loop.drain();
    assert_eq!(drained.ready, ["ready"]);
    assert_eq!(drained.sources, ["reader", "writer"]);
    assert_eq!(drained.remotes, ["mail"]);
    assert_eq!(drained.timers[0].text, "timer");
    let again = event_loop.drain();
    assert!(again.ready.is_empty() && again.sources.is_empty() && again.timers.is_empty());
    event_loop.inbox().close();
    event_loop.inbox().send("late".to_owned());
    assert!(event_loop.drain().remotes.is_empty());
}

/// A step of a random program for the loop.
#[derive(Clone, Debug)]
enum Step {
    Soon,
    Timer(u64),
    Cancel(usize),
    Mail,
    Turn,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::Soon),
        (0_u64..20).prop_map(Step::Timer),
        any::<usize>().prop_map(Step::Cancel),
        Just(Step::Mail),
        Just(Step::Turn),
    ];
    proptest::collection::vec(step, 0..80)
}

fn trace_of(steps: &[Step]) -> Vec<String> {
    let event_loop = virtual_loop();
    let mut timers = Vec::new();
    let mut whole = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Soon => soon(&event_loop, &format!("soon {number}")),
            Step::Timer(delay) => {
                let timer = name(format!("timer {number}"));
                event_loop.call_at(event_loop.now() + delay, timer.clone());
                timers.push(timer);
            }
            Step::Cancel(which) if !timers.is_empty() => {
                let timer = timers.swap_remove(which % timers.len());
                timer.cancelled.set(true);
                event_loop.timer_cancelled(|other| Rc::ptr_eq(&other.cancelled, &timer.cancelled));
            }
            Step::Cancel(_) => {}
            Step::Mail => event_loop.inbox().send(format!("mail {number}")),
            // With nothing to wait for, a turn would wait without limit.
            Step::Turn => {
                soon(&event_loop, "turn");
                whole.extend(turn(&event_loop));
                whole.push(format!("at {}", event_loop.now()));
            }
        }
    }
    whole
}

proptest! {
    #[test]
    fn the_same_program_has_the_same_trace(steps in steps()) {
        prop_assert_eq!(trace_of(&steps), trace_of(&steps));
    }
}

#[test]
fn exits_convert_from_errors_of_the_reactor() {
    let exit: Result<Infallible, Exit> = Err(io::Error::from_raw_os_error(libc::EBADF).into());
    assert!(matches!(exit, Err(Exit::Io(error)) if error.raw_os_error() == Some(libc::EBADF)));
}
