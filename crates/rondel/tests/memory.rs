//! What tasks, timers and groups have used is given back when they have ended.
//!
//! The allocator counts for each thread what it has handed out, so tests that run beside each other
//! do not meet.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use rondel::{Task, create_task, sleep, task_group, yield_now};

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    LIVE.set(LIVE.get() + bytes);
}

// SAFETY: the system's allocator does it; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many tasks there are at a time.
const MANY: usize = 100_000;
/// What the loop may keep for the next burst: room in its rings, and the memory of some tasks.
const KEPT: isize = 384 * 1024;

/// Runs `burst` on a loop; gives what it has left behind once the loop has waited.
async fn left_by<F: Future<Output = ()>>(burst: impl FnOnce() -> F) -> isize {
    sleep(Duration::from_millis(1)).await;
    let before = LIVE.get();
    burst().await;
    sleep(Duration::from_millis(1)).await;
    LIVE.get() - before
}

/// As many tasks as there are, each of which uses a place in the ready ring.
fn spawn_many() -> Vec<Task<usize>> {
    let task = |number| create_task(async move { number });
    (0..MANY).map(task).collect()
}

#[test]
fn tasks_that_have_ended() {
    let left = rondel::run(left_by(async || {
        for (number, task) in spawn_many().into_iter().enumerate() {
            assert_eq!(task.await.unwrap(), number);
        }
    }));
    let left = left.unwrap();
    assert!(left <= KEPT, "{left} bytes");
}

#[test]
fn tasks_that_nobody_has_waited_for() {
    let left = rondel::run(left_by(async || {
        spawn_many().into_iter().for_each(Task::detach);
        yield_now().await;
    }));
    let left = left.unwrap();
    assert!(left <= KEPT, "{left} bytes");
}

#[test]
fn tasks_that_have_slept() {
    let slept = rondel::Builder::new()
        .virtual_clock()
        .run(left_by(async || {
            let tasks: Vec<_> = (0..MANY)
                .map(|number| create_task(sleep(Duration::from_millis(number as u64))))
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        }));
    let left = slept.unwrap();
    assert!(left <= KEPT, "{left} bytes");
}

#[test]
fn a_loop_that_never_waits() {
    let left = rondel::run(async {
        let before = LIVE.get();
        spawn_many().into_iter().for_each(Task::detach);
        // More turns than may pass without the reactor being polled.
        for _ in 0..100 {
            yield_now().await;
        }
        LIVE.get() - before
    });
    let left = left.unwrap();
    assert!(left <= KEPT, "{left} bytes");
}

#[test]
fn members_of_a_group_that_goes_on() {
    let left = rondel::run(task_group(async |group| {
        Ok::<_, std::convert::Infallible>(
            left_by(async || {
                for _ in 0..MANY {
                    group.create_task(async { Ok(()) }).detach();
                }
                yield_now().await;
                yield_now().await;
            })
            .await,
        )
    }));
    let left = left.unwrap().unwrap();
    assert!(left <= KEPT, "{left} bytes");
}
