//! Context variables: what belongs to a task and to those that it creates, without being handed on.
//!
//! A context is a short list of values, shared until it is changed. A task gets its creator's as it
//! is at that moment, and what it sets is its own. A task without one (its creator had none) costs
//! nothing; a scheduled call has that of who scheduled it. Outside of any loop the thread has one,
//! which the main task of a run gets.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime;
use crate::task;

thread_local! {
    static OUTSIDE: RefCell<Context> = const { RefCell::new(Context(None)) };
}

/// The values of all context variables at some moment: asyncio's `contextvars.Context`. Clones are
/// cheap.
///
/// ```
/// static USER: rondel::ContextVar<&str> = rondel::ContextVar::new("user");
///
/// rondel::run(async {
///     USER.set("ann");
///     let context: rondel::Context = rondel::copy_context();
///     USER.set("bob");
///     context.run(|| assert_eq!(USER.get(), Some("ann")));
///     assert_eq!(USER.get(), Some("bob"));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
#[derive(Clone, Default)]
pub struct Context(Option<Rc<Values>>);

type Values = Vec<(u64, Rc<dyn Any>)>;

impl Context {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn value(&self, id: u64) -> Option<Rc<dyn Any>> {
        let values = self.0.as_ref()?;
        let (_, value) = values.iter().find(|(of, _)| *of == id)?;
        Some(Rc::clone(value))
    }

    /// Replaces a value; gives the one before.
    fn replace(&mut self, id: u64, value: Option<Rc<dyn Any>>) -> Option<Rc<dyn Any>> {
        let values = Rc::make_mut(self.0.get_or_insert_default());
        let place = values.iter().position(|(of, _)| *of == id);
        match (place, value) {
            (Some(place), Some(value)) => Some(std::mem::replace(&mut values[place].1, value)),
            (Some(place), None) => Some(values.swap_remove(place).1),
            (None, Some(value)) => {
                values.push((id, value));
                None
            }
            (None, None) => None,
        }
    }

    /// Calls `f` with these values. What it sets is gone when it returns.
    ///
    /// ```
    /// rondel::run(async {
    ///     static USER: rondel::ContextVar<&str> = rondel::ContextVar::new("user");
    ///
    ///     let context = rondel::copy_context();
    ///     context.run(|| USER.set("ann"));
    ///     assert_eq!(USER.get(), None);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        struct Back(Option<Context>);
        impl Drop for Back {
            fn drop(&mut self) {
                if let Some(context) = self.0.take() {
                    drop(swap(context));
                }
            }
        }
        let _back = Back(Some(swap(self.clone())));
        f()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("values", &self.0.as_ref().map_or(0, |values| values.len()))
            .finish()
    }
}

/// Applies `f` to the context of what runs now. It must not run foreign code.
fn with<R>(f: impl FnOnce(&mut Context) -> R) -> R {
    let mut f = Some(f);
    let found = runtime::try_current(|runtime| {
        let f = f.take()?;
        Some(match task::current_header(runtime) {
            Some(task) => task.with_context(f),
            None => f(&mut runtime.context.borrow_mut()),
        })
    });
    match (found.flatten(), f) {
        (Some(result), _) => result,
        (None, Some(f)) => OUTSIDE.with_borrow_mut(f),
        (None, None) => unreachable!("f is taken where there is a runtime, which gives a result"),
    }
}

/// Makes `context` the current one; gives the one before.
pub(crate) fn swap(context: Context) -> Context {
    with(|current| std::mem::replace(current, context))
}

/// The values that all context variables have now.
///
/// See [`Context`] for an example.
///
/// ```
/// rondel::run(async {
///     static USER: rondel::ContextVar<&str> = rondel::ContextVar::new("user");
///
///     USER.set("ann");
///     let context = rondel::copy_context();
///     USER.set("bob");
///     assert_eq!(context.run(|| USER.get()), Some("ann"));
/// })?;
/// # Ok::<(), rondel::RunError>(())
/// ```
pub fn copy_context() -> Context {
    with(|context| context.clone())
}

/// A variable with a value for each task: asyncio's `contextvars.ContextVar`, which other runtimes
/// call a task-local.
///
/// A task begins with the values that its creator has at that moment. What it sets it sees itself,
/// and so do tasks and calls that it schedules after that.
///
/// ```
/// use rondel::ContextVar;
///
/// static REQUEST: ContextVar<u32> = ContextVar::new("request");
///
/// async fn log() -> String {
///     format!("request {}", REQUEST.get().unwrap_or(0))
/// }
///
/// rondel::run(async {
///     let handler = async |number| {
///         REQUEST.set(number);
///         rondel::yield_now().await;
///         rondel::create_task(log()).await.unwrap()
///     };
///     let logged = rondel::gather([1, 2].map(handler)).await?;
///     assert_eq!(logged, ["request 1", "request 2"]);
///     assert_eq!(log().await, "request 0");
///     Ok::<(), rondel::JoinError>(())
/// })??;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ContextVar<T> {
    name: &'static str,
    /// Zero until it is first used.
    id: AtomicU64,
    /// It has no value itself, so it can be a `static` whatever its type.
    _value: PhantomData<fn() -> T>,
}

impl<T: 'static> ContextVar<T> {
    /// A variable; the name is for who debugs.
    ///
    /// ```
    /// static REQUEST: rondel::ContextVar<u64> = rondel::ContextVar::new("request");
    /// assert_eq!(REQUEST.get(), None);
    /// ```
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            id: AtomicU64::new(0),
            _value: PhantomData,
        }
    }

    fn id(&self) -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        // Relaxed: the number itself is all there is to see.
        match self.id.load(Ordering::Relaxed) {
            0 => {
                let new = LAST.fetch_add(1, Ordering::Relaxed) + 1;
                let set = self
                    .id
                    .compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
                set.map_or_else(|other| other, |_| new)
            }
            id => id,
        }
    }

    fn value(&self) -> Option<Rc<dyn Any>> {
        let id = self.id();
        with(|context| context.value(id))
    }

    /// The value; `None` if it has none here.
    ///
    /// ```
    /// rondel::run(async {
    ///     static REQUEST: rondel::ContextVar<u64> = rondel::ContextVar::new("request");
    ///     REQUEST.set(7);
    ///     assert_eq!(REQUEST.get(), Some(7));
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn get(&self) -> Option<T>
    where
        T: Clone,
    {
        self.with(|value| value.cloned())
    }

    /// Calls `f` with the value.
    ///
    /// ```
    /// static TAGS: rondel::ContextVar<Vec<String>> = rondel::ContextVar::new("tags");
    ///
    /// assert_eq!(TAGS.with(|tags| tags.map_or(0, Vec::len)), 0);
    /// ```
    pub fn with<R>(&self, f: impl FnOnce(Option<&T>) -> R) -> R {
        let value = self.value();
        f(value.as_deref().and_then(|value| value.downcast_ref()))
    }

    /// Sets the value for what runs now, and what it creates from now on.
    ///
    /// ```
    /// rondel::run(async {
    ///     static REQUEST: rondel::ContextVar<u64> = rondel::ContextVar::new("request");
    ///     let token = REQUEST.set(7);
    ///     REQUEST.reset(token);
    ///     assert_eq!(REQUEST.get(), None);
    /// })?;
    /// # Ok::<(), rondel::RunError>(())
    /// ```
    pub fn set(&self, value: T) -> Token<T> {
        let id = self.id();
        let value: Rc<dyn Any> = Rc::new(value);
        Token {
            id,
            before: with(|context| context.replace(id, Some(value))),
            _value: PhantomData,
        }
    }

    /// Gives the variable the value back that it had before [`set`](Self::set).
    ///
    /// # Panics
    /// If the token is another variable's.
    ///
    /// ```
    /// static LEVEL: rondel::ContextVar<i32> = rondel::ContextVar::new("level");
    ///
    /// let token = LEVEL.set(1);
    /// LEVEL.reset(token);
    /// assert_eq!(LEVEL.get(), None);
    /// ```
    pub fn reset(&self, token: Token<T>) {
        let id = self.id();
        assert_eq!(token.id, id, "the token was made by another variable");
        drop(with(|context| context.replace(id, token.before)));
    }
}

impl<T> fmt::Debug for ContextVar<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextVar")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What [`ContextVar::set`] has replaced.
///
/// ```
/// static LEVEL: rondel::ContextVar<i32> = rondel::ContextVar::new("level");
///
/// let token: rondel::Token<i32> = LEVEL.set(1);
/// LEVEL.reset(token);
/// ```
pub struct Token<T> {
    id: u64,
    before: Option<Rc<dyn Any>>,
    _value: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for Token<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}
