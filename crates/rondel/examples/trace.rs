//! Runs a program of tasks, locks, queues, timeouts and cancellations that is given on standard
//! input, and writes down what happens. `tests/differential/test_rust_traces.py` runs the same
//! programs on asyncio, and compares.
//!
//! A program is words. `locks 2`, `events 1`, `conditions 1`, `semaphores 2 1 3` (two, of one and
//! three permits), `queues 1 0` and `barriers 1 2` say what there is; each `task { … }` is a list
//! of operations; those of `roots 2` begin at once. Times are milliseconds.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::rc::Rc;
use std::str::SplitWhitespace;
use std::time::Duration;

use rondel::{
    Barrier, CancelHandle, Condition, Event, Instant, Lock, Queue, Semaphore, create_task, sleep,
    timeout, yield_now,
};

/// Later than anything that a program waits for.
const END: Duration = Duration::from_secs(1_000_000);

enum Op {
    Yield,
    Sleep(Duration),
    Lock(usize, Vec<Op>),
    Semaphore(usize, Vec<Op>),
    Timeout(Duration, Vec<Op>),
    Put(usize, usize),
    Get(usize),
    Done(usize),
    Join(usize),
    Shutdown(usize, bool),
    Set(usize),
    Clear(usize),
    Wait(usize),
    Spawn(usize),
    Cancel(usize),
    AwaitNotified(usize),
    Notify(usize, usize),
    Barrier(usize),
}

#[derive(Default)]
struct World {
    locks: Vec<Lock>,
    semaphores: Vec<Semaphore>,
    queues: Vec<Queue<usize>>,
    events: Vec<Event>,
    conditions: Vec<Condition>,
    barriers: Vec<Barrier>,
    programs: Vec<Vec<Op>>,
    roots: usize,
    tasks: RefCell<Vec<Option<CancelHandle>>>,
    trace: RefCell<Vec<String>>,
    is_over: Cell<bool>,
    began: Option<Instant>,
}

impl World {
    fn parse(program: &str) -> Self {
        let mut words = program.split_whitespace();
        let mut world = Self::default();
        while let Some(word) = words.next() {
            let what = if word == "task" {
                assert_eq!(words.next(), Some("{"));
                world.programs.push(block(&mut words));
                continue;
            } else {
                number(&mut words)
            };
            match word {
                "locks" => world.locks = (0..what).map(|_| Lock::default()).collect(),
                "events" => world.events = (0..what).map(|_| Event::new()).collect(),
                "conditions" => {
                    world.conditions = (0..what).map(|_| Condition::default()).collect()
                }
                "roots" => world.roots = what,
                sized => {
                    let sizes: Vec<_> = (0..what).map(|_| number(&mut words)).collect();
                    match sized {
                        "semaphores" => {
                            world.semaphores = sizes.into_iter().map(Semaphore::new).collect()
                        }
                        "queues" => world.queues = sizes.into_iter().map(Queue::new).collect(),
                        "barriers" => {
                            world.barriers = sizes.into_iter().map(Barrier::new).collect()
                        }
                        other => panic!("what is {other}?"),
                    }
                }
            }
        }
        world.tasks.get_mut().resize(world.programs.len(), None);
        world
    }

    fn note(&self, task: usize, what: &str) {
        if let (Some(began), false) = (self.began, self.is_over.get()) {
            let time = began.elapsed().as_millis();
            self.trace
                .borrow_mut()
                .push(format!("{time} {task} {what}"));
        }
    }
}

fn number(words: &mut SplitWhitespace<'_>) -> usize {
    words.next().expect("a number").parse().expect("a number")
}

fn millis(words: &mut SplitWhitespace<'_>) -> Duration {
    Duration::from_millis(number(words) as u64)
}

fn block(words: &mut SplitWhitespace<'_>) -> Vec<Op> {
    let mut ops = Vec::new();
    loop {
        let inner = |words: &mut SplitWhitespace<'_>| {
            assert_eq!(words.next(), Some("{"));
            block(words)
        };
        ops.push(match words.next().expect("an operation or }") {
            "}" => return ops,
            "yield" => Op::Yield,
            "sleep" => Op::Sleep(millis(words)),
            "lock" => Op::Lock(number(words), inner(words)),
            "semaphore" => Op::Semaphore(number(words), inner(words)),
            "timeout" => Op::Timeout(millis(words), inner(words)),
            "put" => Op::Put(number(words), number(words)),
            "get" => Op::Get(number(words)),
            "done" => Op::Done(number(words)),
            "join" => Op::Join(number(words)),
            "shutdown" => Op::Shutdown(number(words), number(words) == 1),
            "set" => Op::Set(number(words)),
            "clear" => Op::Clear(number(words)),
            "wait" => Op::Wait(number(words)),
            "spawn" => Op::Spawn(number(words)),
            "cancel" => Op::Cancel(number(words)),
            "notified" => Op::AwaitNotified(number(words)),
            "notify" => Op::Notify(number(words), number(words)),
            "barrier" => Op::Barrier(number(words)),
            other => panic!("what is {other}?"),
        });
    }
}

/// An operation that has begun; says so if it does not come to its end.
struct Begun<'a> {
    world: &'a World,
    task: usize,
    name: &'static str,
    ended: bool,
}

impl<'a> Begun<'a> {
    fn new(world: &'a World, task: usize, name: &'static str) -> Self {
        world.note(task, &format!("{name} begins"));
        Self {
            world,
            task,
            name,
            ended: false,
        }
    }

    fn end(mut self, how: &str) {
        self.ended = true;
        self.world.note(self.task, &format!("{} {how}", self.name));
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.world
                .note(self.task, &format!("{} is cancelled", self.name));
        }
    }
}

fn run<'a>(
    world: &'a Rc<World>,
    task: usize,
    ops: &'a [Op],
) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
    Box::pin(async move {
        for op in ops {
            step(world, task, op).await;
        }
    })
}

async fn step(world: &Rc<World>, task: usize, op: &Op) {
    let begin = |name| Begun::new(world, task, name);
    match op {
        Op::Yield => yield_now().await,
        Op::Sleep(duration) => {
            let begun = begin("sleep");
            sleep(*duration).await;
            begun.end("ends");
        }
        Op::Lock(lock, ops) => {
            let begun = begin("lock");
            let guard = world.locks[*lock].acquire().await;
            world.note(task, "locked");
            run(world, task, ops).await;
            drop(guard);
            begun.end("ends");
        }
        Op::Semaphore(semaphore, ops) => {
            let begun = begin("semaphore");
            let permit = world.semaphores[*semaphore].acquire().await;
            world.note(task, "acquired");
            run(world, task, ops).await;
            drop(permit);
            begun.end("ends");
        }
        Op::Timeout(duration, ops) => {
            let begun = begin("timeout");
            let outcome = timeout(*duration, run(world, task, ops)).await;
            begun.end(if outcome.is_ok() { "ends" } else { "is over" });
        }
        Op::Put(queue, item) => {
            let begun = begin("put");
            let put = world.queues[*queue].put(*item).await;
            begun.end(if put.is_ok() { "ends" } else { "QueueShutDown" });
        }
        Op::Get(queue) => {
            let begun = begin("get");
            match world.queues[*queue].get().await {
                Ok(item) => begun.end(&item.to_string()),
                Err(_) => begun.end("QueueShutDown"),
            }
        }
        Op::Done(queue) => {
            let done = world.queues[*queue].task_done();
            world.note(
                task,
                if done.is_ok() {
                    "done"
                } else {
                    "done too often"
                },
            );
        }
        Op::Join(queue) => {
            let begun = begin("join");
            world.queues[*queue].join().await;
            begun.end("ends");
        }
        Op::Shutdown(queue, immediate) => world.queues[*queue].shutdown(*immediate),
        Op::Set(event) => world.events[*event].set(),
        Op::Clear(event) => world.events[*event].clear(),
        Op::Wait(event) => {
            let begun = begin("wait");
            world.events[*event].wait().await;
            begun.end("ends");
        }
        Op::Spawn(other) => spawn(world, *other),
        Op::Cancel(other) => {
            let handle = world.tasks.borrow()[*other].clone();
            let cancelled = handle.is_some_and(|handle| handle.cancel());
            world.note(task, if cancelled { "cancels" } else { "can't cancel" });
        }
        Op::AwaitNotified(condition) => {
            let begun = begin("notified");
            let guard = world.conditions[*condition].acquire().await;
            drop(guard.wait().await);
            begun.end("ends");
        }
        Op::Notify(condition, number) => {
            let begun = begin("notify");
            world.conditions[*condition].acquire().await.notify(*number);
            begun.end("ends");
        }
        Op::Barrier(barrier) => {
            let begun = begin("barrier");
            match world.barriers[*barrier].wait().await {
                Ok(place) => begun.end(&place.to_string()),
                Err(_) => begun.end("BrokenBarrierError"),
            }
        }
    }
}

fn spawn(world: &Rc<World>, task: usize) {
    if world.tasks.borrow()[task].is_some() {
        return;
    }
    let of_task = Rc::clone(world);
    let handle = create_task(async move {
        let begun = Begun::new(&of_task, task, "task");
        run(&of_task, task, &of_task.programs[task]).await;
        begun.end("ends");
    });
    world.tasks.borrow_mut()[task] = Some(handle.cancel_handle());
    handle.detach();
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut programs = String::new();
    std::io::stdin().read_to_string(&mut programs)?;
    for program in programs.lines() {
        let trace = rondel::Builder::new().virtual_clock().run(async {
            let mut world = World::parse(program);
            world.began = Some(Instant::now());
            let world = Rc::new(world);
            for task in 0..world.roots {
                spawn(&world, task);
            }
            sleep(END).await;
            world.is_over.set(true);
            world.trace.take()
        })?;
        println!("{}", trace.join("|"));
    }
    Ok(())
}
