//! Who uses something that any thread may use, and one closes: the last one releases it.
//!
//! A word counts the users, and says whether it is closed. Once it is, nobody comes in, so that the
//! count gets to zero exactly once.

use crate::sync::{AtomicU32, Ordering};

const CLOSED: u32 = 1;
const USER: u32 = 2;

/// [`USER`] for each use; [`CLOSED`] once there may be no more.
pub(super) struct Uses(AtomicU32);

impl Uses {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// A use begins, unless it is closed.
    #[inline]
    #[must_use]
    pub(super) fn enter(&self) -> bool {
        let enter = |word: u32| (word & CLOSED == 0).then(|| word + USER);
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, enter)
            .is_ok()
    }

    /// A use ends. `true`: the caller is to release what was used.
    #[inline]
    #[must_use]
    pub(super) fn leave(&self) -> bool {
        self.0.fetch_sub(USER, Ordering::AcqRel) == USER | CLOSED
    }

    /// There are to be no more uses. `true`: the caller is to release what was used.
    #[must_use]
    pub(super) fn close(&self) -> bool {
        self.0.fetch_or(CLOSED, Ordering::AcqRel) == 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire) & CLOSED != 0
    }

    /// In the child of a fork: who was counted is a thread of the parent's. It is not closed.
    pub(super) fn forget_users(&self) {
        self.0.store(0, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod interleavings {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    use super::Uses;

    /// Something that may be used until it is released. Loom finds a use that does not come before
    /// that.
    struct Used {
        uses: Uses,
        releases: UnsafeCell<u32>,
    }

    impl Used {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                uses: Uses::new(),
                releases: UnsafeCell::new(0),
            })
        }

        fn release(&self) {
            // SAFETY: loom finds whoever is there at the same time.
            self.releases.with_mut(|releases| unsafe { *releases += 1 });
        }

        fn with(&self) -> bool {
            let may = self.uses.enter();
            if may {
                // SAFETY: as in `release`.
                self.releases
                    .with(|releases| assert_eq!(unsafe { *releases }, 0));
                if self.uses.leave() {
                    self.release();
                }
            }
            may
        }

        fn close(&self) {
            if self.uses.close() {
                self.release();
            }
        }

        fn check(&self) {
            assert!(!self.with());
            // SAFETY: as in `release`.
            self.releases
                .with(|releases| assert_eq!(unsafe { *releases }, 1));
        }
    }

    #[test]
    fn the_last_of_users_and_closer_releases() {
        loom::model(|| {
            let used = Used::new();
            let users = [(); 2].map(|()| {
                let used = Arc::clone(&used);
                thread::spawn(move || used.with())
            });
            used.close();
            for user in users {
                user.join().unwrap();
            }
            used.check();
        });
    }

    #[test]
    fn closing_twice_releases_once() {
        loom::model(|| {
            let used = Used::new();
            let other = Arc::clone(&used);
            let closer = thread::spawn(move || {
                other.with();
                other.close();
            });
            used.close();
            closer.join().unwrap();
            used.check();
        });
    }
}
