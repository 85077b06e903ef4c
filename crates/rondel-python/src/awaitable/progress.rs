//! Resuming an awaitable through `send`, `throw` and `close`, until it yields or returns.

use pyo3::ffi;

use super::awaited::{poll, throw_into};
use super::{Next, Stage, Steps, This};
use crate::cpython::error::{
    raise_instance, raised_matches, restore, runtime_error, take_exception, type_error, value_error,
};
use crate::cpython::stack::check_stack;
use crate::cpython::{Object, Owned, OwnedNative, Raised, Res, names, none};
use crate::future::{self, Future};
use crate::untracked;

/// The result of a `send` or `throw`.
pub(super) enum Progress {
    Yielded(Owned),
    Returned(Owned),
}

impl<T: Steps> This<T> {
    /// Resumes with `None`, as an `await` in a coroutine does. This function inlines the common
    /// cases.
    #[inline(always)]
    pub(super) fn resume(&self) -> Res<Progress> {
        let next = match self.stage.get() {
            Stage::Fresh => {
                untracked::forget(&self.tracked);
                self.stage.set(Stage::Running);
                self.steps.advance(None)
            }
            Stage::Suspended => {
                let awaited = match self.inner.get() {
                    None => Owned::none(),
                    Some(inner) => match future::value_if_done(inner) {
                        Some(value) => value,
                        None => return self.send(none()),
                    },
                };
                self.stage.set(Stage::Running);
                self.inner.clear();
                self.steps.advance(Some(Ok(awaited)))
            }
            _ => return self.send(none()),
        };
        match next {
            Ok(Next::Return(value)) => {
                self.finish_here();
                Ok(Progress::Returned(value))
            }
            Ok(Next::Yield) => {
                self.suspend();
                Ok(Progress::Yielded(Owned::none()))
            }
            Ok(Next::Wait(future)) => Ok(Progress::Yielded(self.wait_for(future))),
            next => self.go_on(next),
        }
    }

    #[inline(never)]
    pub(super) fn send(&self, value: &Object) -> Res<Progress> {
        match self.stage.get() {
            Stage::Fresh if !value.is_none() => {
                type_error("can't send non-None value to a just-started coroutine")
            }
            Stage::Fresh => {
                untracked::forget(&self.tracked);
                self.advance(None)
            }
            Stage::Suspended => {
                self.stage.set(Stage::Running);
                let Some(inner) = self.inner.cloned() else {
                    return self.advance(Some(Ok(Owned::none())));
                };
                self.after(poll(&inner, value))
            }
            stage => self.misused(stage),
        }
    }

    /// Handles what the awaited object has yielded, returned or raised.
    fn after(&self, polled: Res<Progress>) -> Res<Progress> {
        match polled {
            Ok(Progress::Yielded(value)) => {
                self.stage.set(Stage::Suspended);
                Ok(Progress::Yielded(value))
            }
            Ok(Progress::Returned(value)) => {
                self.inner.clear();
                self.advance(Some(Ok(value)))
            }
            Err(Raised) => {
                // The awaited object's destructor must not see the exception.
                if let Some(inner) = self.inner.take() {
                    let exception = take_exception();
                    drop(inner);
                    restore(exception);
                }
                self.advance(Some(Err(Raised)))
            }
        }
    }

    fn advance(&self, awaited: Option<Res<Owned>>) -> Res<Progress> {
        self.stage.set(Stage::Running);
        self.go_on(self.steps.advance(awaited))
    }

    /// Handles the result of a step, and runs further steps until the awaitable yields or ends.
    #[inline(never)]
    fn go_on(&self, mut next: Res<Next>) -> Res<Progress> {
        loop {
            let awaited = match next {
                Ok(Next::Return(value)) => {
                    self.finish();
                    return Ok(Progress::Returned(value));
                }
                Ok(Next::Yield) => {
                    self.suspend();
                    return Ok(Progress::Yielded(Owned::none()));
                }
                Ok(Next::Wait(future)) => return Ok(Progress::Yielded(self.wait_for(future))),
                Ok(Next::Await(inner)) => match poll(&inner, none()) {
                    Ok(Progress::Yielded(value)) => {
                        self.inner.set(inner);
                        self.suspend();
                        return Ok(Progress::Yielded(value));
                    }
                    Ok(Progress::Returned(value)) => Ok(value),
                    Err(Raised) => Err(Raised),
                },
                Err(Raised) => {
                    let exception = take_exception();
                    self.finish();
                    return Err(restore(exception));
                }
            };
            next = self.steps.advance(Some(awaited));
        }
    }

    /// Waits for a future that was just made. Returns what must be yielded for it.
    #[inline]
    fn wait_for(&self, future: OwnedNative<Future>) -> Owned {
        future.set_blocking(true);
        let yielded = future.object().own();
        self.inner.fill(future.into_owned());
        self.suspend();
        yielded
    }

    /// Suspends the awaitable. It may be part of a cycle from now on, so it is tracked.
    #[inline]
    fn suspend(&self) {
        self.stage.set(Stage::Suspended);
        if !self.tracked.get() && !self.steps.holds_nothing() {
            // SAFETY: a live object of a collected type, which is not tracked yet.
            unsafe { ffi::PyObject_GC_Track(self.as_ptr().cast()) };
            self.tracked.set(true);
        }
    }

    pub(super) fn finish(&self) {
        self.finish_here();
    }

    #[inline(always)]
    fn finish_here(&self) {
        self.stage.set(if T::REUSABLE {
            Stage::Fresh
        } else {
            Stage::Done
        });
        self.inner.clear();
        self.steps.release();
    }

    /// Throws the exception that is set.
    pub(super) fn throw(&self) -> Res<Progress> {
        match self.stage.get() {
            Stage::Fresh => {
                untracked::forget(&self.tracked);
                let exception = take_exception();
                self.finish();
                Err(restore(exception))
            }
            Stage::Suspended => {
                self.stage.set(Stage::Running);
                let Some(inner) = self.inner.cloned() else {
                    return self.advance(Some(Err(Raised)));
                };
                self.after(throw_into(&inner))
            }
            stage => {
                drop(take_exception());
                self.misused(stage)
            }
        }
    }

    pub(super) fn close(&self) -> Res<()> {
        match self.stage.get() {
            Stage::Done => Ok(()),
            Stage::Fresh => {
                untracked::forget(&self.tracked);
                self.finish();
                Ok(())
            }
            stage @ Stage::Running => self.misused(stage).map(drop),
            Stage::Suspended => {
                check_stack()?;
                self.stage.set(Stage::Running);
                if let Some(inner) = self.inner.take()
                    && let Some(close) = inner.getattr_optional(&names().close)?
                {
                    close.call(&[])?;
                }
                // SAFETY: a built-in class lives as long as the interpreter.
                let exit = unsafe { Object::from_ptr(ffi::PyExc_GeneratorExit) };
                let _set = raise_instance::<()>(exit.call(&[])?);
                match self.advance(Some(Err(Raised))) {
                    Ok(Progress::Returned(_)) => Ok(()),
                    Ok(Progress::Yielded(_)) => runtime_error("coroutine ignored GeneratorExit"),
                    Err(Raised) if raised_matches(exit) => {
                        drop(take_exception());
                        Ok(())
                    }
                    Err(Raised) => Err(Raised),
                }
            }
        }
    }

    #[cold]
    fn misused(&self, stage: Stage) -> Res<Progress> {
        match stage {
            Stage::Running => value_error("coroutine already executing"),
            _ => runtime_error("cannot reuse already awaited coroutine"),
        }
    }
}
