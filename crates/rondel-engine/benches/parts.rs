//! Measures the engine's parts separately: `cargo bench -p rondel-engine`. The time is that of one
//! call of a function; where it processes several items, `items` gives the rate per item.
//!
//! `make bench` measures whole programs.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsRawFd;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use rondel_engine::event_loop::inbox::{Inbox, WakeUp};
use rondel_engine::event_loop::ready::Ready;
use rondel_engine::event_loop::timers::{Timer, Timers};
use rondel_engine::read_buffer::{ReadBuffer, Search, Step};
use rondel_engine::transport::write_queue::{Flushed, WriteQueue};

fn main() {
    divan::main();
}

const ITEMS: usize = 1_000;

/// With `waiting` items in the ring, each that runs queues itself again.
#[divan::bench(args = [1, 100, 10_000])]
fn ready_ring(bencher: Bencher, waiting: usize) {
    let ready = Ready::new();
    for item in 0..waiting {
        ready.push(item);
    }
    bencher.counter(ItemsCount::new(ITEMS)).bench_local(|| {
        for _ in 0..ITEMS {
            let item = ready.pop().unwrap_or_default();
            ready.push(black_box(item));
        }
    });
}

#[derive(Default)]
struct Timeout {
    is_cancelled: Cell<bool>,
}

impl Timer for Timeout {
    fn is_cancelled(&self) -> bool {
        self.is_cancelled.get()
    }
}

/// Deadlines within about a second, in pseudorandom order.
fn deadlines() -> impl Iterator<Item = u64> {
    (0_u64..).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 34)
}

/// Sets all timers, then fires all.
#[divan::bench(args = [100, 10_000])]
fn timers_that_fire(bencher: Bencher, count: usize) {
    bencher
        .counter(ItemsCount::new(count))
        .with_inputs(Timers::new)
        .bench_local_values(|mut timers| {
            for deadline in deadlines().take(count) {
                timers.push(deadline, Timeout::default());
            }
            while let Some(timer) = timers.pop_due(u64::MAX) {
                black_box(timer);
            }
            timers
        });
}

/// With `pending` other timers, each is cancelled before the next one is set.
#[divan::bench(args = [0, 1_000])]
fn timers_that_are_cancelled(bencher: Bencher, pending: usize) {
    let mut timers = Timers::new();
    for deadline in deadlines().take(pending) {
        timers.push(deadline, Timeout::default());
    }
    bencher.counter(ItemsCount::new(ITEMS)).bench_local(|| {
        for number in 0..ITEMS as u64 {
            timers.push(u64::MAX - number, Timeout::default());
            black_box(timers.cancelled(|timer| {
                timer.is_cancelled.set(true);
                true
            }));
        }
    });
}

struct Nobody;

impl WakeUp for Nobody {
    fn wake(&self) {}
}

/// Items that arrive while the loop does not wait, and are taken together.
#[divan::bench(args = [1, 100])]
fn inbox(bencher: Bencher, together: usize) {
    let inbox = Inbox::new(Nobody);
    bencher.counter(ItemsCount::new(together)).bench_local(|| {
        for item in 0..together {
            inbox.send(item);
        }
        black_box(inbox.take(usize::MAX))
    });
}

/// Each item arrives while the loop is about to wait.
#[divan::bench]
fn inbox_of_a_loop_that_waits(bencher: Bencher) {
    let inbox = Inbox::new(Nobody);
    bencher.bench_local(|| {
        let may_wait = inbox.prepare_to_park();
        inbox.send(0);
        inbox.unpark();
        (may_wait, black_box(inbox.take(usize::MAX)))
    });
}

fn copied(bytes: &[u8]) -> Result<Vec<u8>, ()> {
    Ok(bytes.to_vec())
}

/// Each chunk is read whole.
#[divan::bench(args = [64, 65_536])]
fn read_buffer_of_one_chunk(bencher: Bencher, size: usize) {
    let mut buffer = ReadBuffer::new();
    bencher
        .with_inputs(|| vec![b'x'; size])
        .bench_local_values(|chunk| {
            buffer.feed(chunk);
            buffer.take(size, copied)
        });
}

/// A chunk of many lines.
#[divan::bench]
fn read_buffer_of_lines(bencher: Bencher) {
    let chunk = b"a line of so many bytes\r\n".repeat(100);
    let mut buffer = ReadBuffer::new();
    bencher
        .counter(ItemsCount::new(100_usize))
        .with_inputs(|| chunk.clone())
        .bench_local_values(|chunk| {
            buffer.feed(chunk);
            while let Step::Take(len) =
                Search::default().one(buffer.as_slice(), false, b"\n", 65_536)
            {
                drop(black_box(buffer.take(len, copied)));
            }
        });
}

/// Chunks that are written in one turn and sent with one system call.
#[divan::bench(args = [1, 16])]
fn write_queue(bencher: Bencher, chunks: usize) {
    let sink = File::create("/dev/null").expect("/dev/null is there");
    let mut queue = WriteQueue::new();
    bencher.counter(ItemsCount::new(chunks)).bench_local(|| {
        for _ in 0..chunks {
            queue.push(&[b'x'; 64][..]);
        }
        assert!(matches!(
            queue.flush_file(sink.as_raw_fd()),
            Flushed::Drained
        ));
    });
}
