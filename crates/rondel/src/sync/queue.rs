//! `Queue`, `PriorityQueue`, `LifoQueue`: items from tasks to tasks.
//!
//! One implementation, [`Core`], with asyncio's rules; the three types differ in the order of their
//! items (`order.rs`).

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::future::poll_fn;

use super::event::Event;
use super::order::{Fifo, Lifo, Order, Priority};
use super::wait_list::{Wait, WaitList};
use crate::budget;

/// A queue without its outside: also what `mpsc` is made of.
pub(crate) struct Core<O: Order> {
    items: RefCell<O>,
    /// Zero: without limit.
    maxsize: usize,
    /// Room that is kept for items to come.
    reserved: Cell<usize>,
    getters: WaitList,
    putters: WaitList,
    unfinished: Cell<usize>,
    finished: Event,
    is_shut_down: Cell<bool>,
}

impl<O: Order> Core<O> {
    pub(crate) fn new(maxsize: usize) -> Self {
        let finished = Event::new();
        finished.set();
        Self {
            items: RefCell::default(),
            maxsize,
            reserved: Cell::new(0),
            getters: WaitList::default(),
            putters: WaitList::default(),
            unfinished: Cell::new(0),
            finished,
            is_shut_down: Cell::new(false),
        }
    }

    pub(crate) fn qsize(&self) -> usize {
        self.items.borrow().len()
    }

    fn is_empty(&self) -> bool {
        self.qsize() == 0
    }

    fn is_full(&self) -> bool {
        self.maxsize > 0 && self.qsize() + self.reserved.get() >= self.maxsize
    }

    /// Waits in the queue of getters or putters until it was woken.
    async fn wait(&self, list: &WaitList, may_go_on: impl Fn() -> bool) {
        let mut turn = Turn {
            list,
            wait: list.wait(),
            may_go_on: &may_go_on,
        };
        poll_fn(|context| {
            turn.wait.poll_with(context, || {
                if may_go_on() {
                    list.wake_next();
                }
            })
        })
        .await;
    }

    pub(crate) async fn put(&self, item: O::Item) -> Result<(), PutError<O::Item>> {
        budget::taken().await;
        while self.is_full() {
            if self.is_shut_down.get() {
                return Err(PutError(item));
            }
            self.wait(&self.putters, || !self.is_full()).await;
        }
        self.put_nowait(item)
            .map_err(|error| PutError(error.into_inner()))
    }

    pub(crate) fn put_nowait(&self, item: O::Item) -> Result<(), PutNowaitError<O::Item>> {
        if self.is_shut_down.get() {
            return Err(PutNowaitError::ShutDown(item));
        }
        if self.is_full() {
            return Err(PutNowaitError::Full(item));
        }
        self.items.borrow_mut().push(item);
        self.unfinished.set(self.unfinished.get() + 1);
        self.finished.clear();
        self.getters.wake_next();
        Ok(())
    }

    pub(crate) async fn get(&self) -> Result<O::Item, QueueShutDown> {
        budget::taken().await;
        loop {
            match self.get_nowait() {
                Ok(item) => return Ok(item),
                Err(GetNowaitError::ShutDown) => return Err(QueueShutDown),
                Err(GetNowaitError::Empty) => {
                    self.wait(&self.getters, || !self.is_empty()).await;
                }
            }
        }
    }

    pub(crate) fn get_nowait(&self) -> Result<O::Item, GetNowaitError> {
        let item = self.items.borrow_mut().pop();
        match item {
            Some(item) => {
                self.putters.wake_next();
                Ok(item)
            }
            None if self.is_shut_down.get() => Err(GetNowaitError::ShutDown),
            None => Err(GetNowaitError::Empty),
        }
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.is_shut_down.get()
    }

    /// Waits for room, and keeps it.
    pub(crate) async fn reserve(&self) -> Result<Reserved<'_, O>, QueueShutDown> {
        budget::taken().await;
        loop {
            if self.is_shut_down.get() {
                return Err(QueueShutDown);
            }
            if !self.is_full() {
                self.reserved.set(self.reserved.get() + 1);
                return Ok(Reserved(self));
            }
            self.wait(&self.putters, || !self.is_full()).await;
        }
    }

    fn task_done(&self) -> Result<(), TaskDoneError> {
        let left = self.unfinished.get().checked_sub(1).ok_or(TaskDoneError)?;
        self.unfinished.set(left);
        if left == 0 {
            self.finished.set();
        }
        Ok(())
    }

    async fn join(&self) {
        if self.unfinished.get() > 0 {
            self.finished.wait().await;
        }
    }

    pub(crate) fn shutdown(&self, immediate: bool) {
        self.is_shut_down.set(true);
        let mut thrown_away = O::default();
        if immediate {
            std::mem::swap(&mut thrown_away, &mut *self.items.borrow_mut());
            let left = self.unfinished.get().saturating_sub(thrown_away.len());
            self.unfinished.set(left);
            if left == 0 {
                self.finished.set();
            }
        }
        self.getters.wake_all();
        self.putters.wake_all();
        drop(thrown_away); // at last: their destructors may be anything
    }

    fn fmt(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("qsize", &self.qsize())
            .field("maxsize", &self.maxsize)
            .field("getters", &self.getters.len())
            .field("putters", &self.putters.len())
            .field("unfinished_tasks", &self.unfinished.get())
            .field("shutdown", &self.is_shut_down.get())
            .finish()
    }
}

/// Room for one item. Dropping it gives the room to the next who waits.
pub(crate) struct Reserved<'a, O: Order>(&'a Core<O>);

impl<O: Order> Reserved<'_, O> {
    /// Puts the item there. In a queue that was shut down it is dropped.
    pub(crate) fn put(self, item: O::Item) {
        let core = self.0;
        core.reserved.set(core.reserved.get() - 1);
        std::mem::forget(self);
        drop(core.put_nowait(item));
    }
}

impl<O: Order> Drop for Reserved<'_, O> {
    fn drop(&mut self) {
        self.0.reserved.set(self.0.reserved.get() - 1);
        self.0.putters.wake_next();
    }
}

/// A place in the queue of those who wait for an item, or for room.
struct Turn<'a, F: Fn() -> bool> {
    list: &'a WaitList,
    wait: Wait<'a>,
    may_go_on: &'a F,
}

impl<F: Fn() -> bool> Drop for Turn<'_, F> {
    fn drop(&mut self) {
        if self.wait.leave() && (self.may_go_on)() {
            self.list.wake_next();
        }
    }
}

macro_rules! queue {
    ($(#[$doc:meta])* $name:ident, $order:ident $(, $bound:ident)?) => {
        $(#[$doc])*
        pub struct $name<T $(: $bound)?>(Core<$order<T>>);

        impl<T $(: $bound)?> $name<T> {
            /// A queue for at most `maxsize` items; zero is without limit.
            pub fn new(maxsize: usize) -> Self {
                Self(Core::new(maxsize))
            }

            /// Adds an item; waits for room if the queue is full.
            ///
            /// # Errors
            /// If the queue was [shut down](Self::shutdown). The item is in the error.
            ///
            /// # Cancel safety
            /// A future that is dropped has put nothing: the item goes with it. If there was just
            /// room for it, the next who waits for room is woken.
            pub async fn put(&self, item: T) -> Result<(), PutError<T>> {
                self.0.put(item).await
            }

            /// Adds an item if there is room.
            ///
            /// # Errors
            /// If there is none, or the queue was [shut down](Self::shutdown). The item is in the
            /// error.
            pub fn put_nowait(&self, item: T) -> Result<(), PutNowaitError<T>> {
                self.0.put_nowait(item)
            }

            /// Takes an item; waits for one if the queue is empty.
            ///
            /// # Errors
            /// If the queue is empty and was [shut down](Self::shutdown).
            ///
            /// # Cancel safety
            /// A future that is dropped has taken nothing. If there was just an item for it, the
            /// next who waits for one is woken.
            pub async fn get(&self) -> Result<T, QueueShutDown> {
                self.0.get().await
            }

            /// Takes an item if there is one.
            ///
            /// # Errors
            /// If there is none.
            pub fn get_nowait(&self) -> Result<T, GetNowaitError> {
                self.0.get_nowait()
            }

            /// Says that what was taken by one [`get`](Self::get) has been worked off; see
            /// [`join`](Self::join).
            ///
            /// # Errors
            /// If it was called more often than items were put.
            pub fn task_done(&self) -> Result<(), TaskDoneError> {
                self.0.task_done()
            }

            /// Waits until [`task_done`](Self::task_done) was called for each item that was put.
            ///
            /// # Cancel safety
            /// A future that is dropped has taken nothing.
            pub async fn join(&self) {
                self.0.join().await;
            }

            /// Ends the queue: nothing can be put any more. What is in it can still be taken, or,
            /// with `immediate`, is dropped, as if it had been worked off. Who waits for room is
            /// woken, and who waits for an item that will not come.
            pub fn shutdown(&self, immediate: bool) {
                self.0.shutdown(immediate);
            }

            /// How many items there are.
            pub fn qsize(&self) -> usize {
                self.0.qsize()
            }

            /// How many items it is for; zero is without limit.
            pub fn maxsize(&self) -> usize {
                self.0.maxsize
            }

            /// Whether there are no items.
            pub fn empty(&self) -> bool {
                self.0.is_empty()
            }

            /// Whether there is no room.
            pub fn full(&self) -> bool {
                self.0.is_full()
            }
        }

        impl<T $(: $bound)?> Default for $name<T> {
            /// A queue without limit.
            fn default() -> Self {
                Self::new(0)
            }
        }

        impl<T $(: $bound)?> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(stringify!($name), f)
            }
        }
    };
}

queue! {
    /// asyncio's `Queue`: first in, first out, for any number of tasks on both sides.
    ///
    /// ```
    /// use std::rc::Rc;
    ///
    /// rondel::run(async {
    ///     let queue = Rc::new(rondel::Queue::new(2));
    ///     let of_worker = Rc::clone(&queue);
    ///     let worker = rondel::create_task(async move {
    ///         let mut sum = 0;
    ///         while let Ok(number) = of_worker.get().await {
    ///             sum += number;
    ///             of_worker.task_done().unwrap();
    ///         }
    ///         sum
    ///     });
    ///     for number in 1..=10 {
    ///         queue.put(number).await?;
    ///     }
    ///     queue.join().await;
    ///     queue.shutdown(false);
    ///     assert_eq!(worker.await?, 55);
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })??;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    Queue, Fifo
}

queue! {
    /// asyncio's `PriorityQueue`: a [`Queue`] that gives the least item first, and of equal ones
    /// the one that came first.
    ///
    /// ```
    /// let queue = rondel::PriorityQueue::new(0);
    /// for item in [(2, "b"), (1, "a"), (3, "c")] {
    ///     queue.put_nowait(item).unwrap();
    /// }
    /// assert_eq!(queue.get_nowait(), Ok((1, "a")));
    /// ```
    PriorityQueue, Priority, Ord
}

queue! {
    /// asyncio's `LifoQueue`: a [`Queue`] that gives the item first that came last.
    ///
    /// ```
    /// let queue = rondel::LifoQueue::new(0);
    /// queue.put_nowait(1).unwrap();
    /// queue.put_nowait(2).unwrap();
    /// assert_eq!(queue.get_nowait(), Ok(2));
    /// ```
    LifoQueue, Lifo
}

/// The queue was [shut down](Queue::shutdown).
///
/// ```
/// rondel::run(async {
///     let queue = rondel::Queue::<i32>::new(0);
///     queue.shutdown(false);
///     assert_eq!(queue.get().await, Err(rondel::QueueShutDown));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueShutDown;

impl fmt::Display for QueueShutDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueueShutDown")
    }
}

impl Error for QueueShutDown {}

/// [`put`](Queue::put) found the queue shut down; the item comes back. `QueueShutDown::from` drops
/// it.
///
/// ```
/// rondel::run(async {
///     let queue = rondel::Queue::new(0);
///     queue.shutdown(false);
///     let error: rondel::PutError<&str> = queue.put("item").await.unwrap_err();
///     assert_eq!(error.0, "item");
///     assert_eq!(rondel::QueueShutDown::from(error), rondel::QueueShutDown);
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PutError<T>(pub T);

impl<T> From<PutError<T>> for QueueShutDown {
    fn from(_: PutError<T>) -> Self {
        Self
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        QueueShutDown.fmt(f)
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PutError(..)")
    }
}

impl<T> Error for PutError<T> {}

/// Why [`put_nowait`](Queue::put_nowait) did not put; the item comes back.
///
/// ```
/// let queue = rondel::Queue::new(1);
/// queue.put_nowait(1).unwrap();
/// let error = queue.put_nowait(2).unwrap_err();
/// assert_eq!(error.to_string(), "QueueFull");
/// assert_eq!(error.into_inner(), 2);
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PutNowaitError<T> {
    /// asyncio's `QueueFull`.
    Full(T),
    /// asyncio's `QueueShutDown`.
    ShutDown(T),
}

impl<T> PutNowaitError<T> {
    /// The item.
    ///
    /// ```
    /// rondel::run(async {
    ///     use rondel::PutNowaitError;
    ///
    ///     let queue = rondel::Queue::new(1);
    ///     queue.put_nowait(1).unwrap();
    ///     assert_eq!(queue.put_nowait(2).map_err(PutNowaitError::into_inner), Err(2));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(item) | Self::ShutDown(item) => item,
        }
    }
}

impl<T> fmt::Display for PutNowaitError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "QueueFull",
            Self::ShutDown(_) => "QueueShutDown",
        })
    }
}

impl<T> fmt::Debug for PutNowaitError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "PutNowaitError::Full(..)",
            Self::ShutDown(_) => "PutNowaitError::ShutDown(..)",
        })
    }
}

impl<T> Error for PutNowaitError<T> {}

/// Why [`get_nowait`](Queue::get_nowait) got nothing.
///
/// ```
/// let queue = rondel::Queue::<i32>::new(0);
/// assert_eq!(queue.get_nowait(), Err(rondel::GetNowaitError::Empty));
/// queue.shutdown(true);
/// assert_eq!(queue.get_nowait(), Err(rondel::GetNowaitError::ShutDown));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GetNowaitError {
    /// asyncio's `QueueEmpty`.
    Empty,
    /// asyncio's `QueueShutDown`.
    ShutDown,
}

impl fmt::Display for GetNowaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "QueueEmpty",
            Self::ShutDown => "QueueShutDown",
        })
    }
}

impl Error for GetNowaitError {}

/// [`task_done`](Queue::task_done) was called more often than items were put: asyncio's
/// `ValueError`.
///
/// ```
/// let error = rondel::Queue::<i32>::new(0).task_done().unwrap_err();
/// assert_eq!(error.to_string(), "task_done() called too many times");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskDoneError;

impl fmt::Display for TaskDoneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("task_done() called too many times")
    }
}

impl Error for TaskDoneError {}
