//! What is registered for each descriptor.
//!
//! Descriptors are small integers, so the table is indexed by them. A token is the descriptor's number and the
//! generation of its slot: an event that was reported for a registration which is gone finds no slot.

use std::ops::{BitAnd, BitOr, BitOrAssign, Not};
use std::os::fd::RawFd;

/// The sides of a descriptor: readable, writable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interest(u8);

impl Interest {
    /// Neither side.
    pub const NONE: Self = Self(0);
    /// Reading.
    pub const READABLE: Self = Self(1);
    /// Writing.
    pub const WRITABLE: Self = Self(2);

    /// Whether all sides of `other` are in.
    #[inline]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no side is in.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Interest {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Interest {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for Interest {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for Interest {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0 & 3)
    }
}

/// One descriptor's place in the table.
pub(super) struct Slot<S> {
    /// Who reads.
    pub(super) reader: Option<S>,
    /// Who writes.
    pub(super) writer: Option<S>,
    /// What the kernel watches; may be more than the sources above while a reader is muted.
    pub(super) registered: Interest,
    generation: u32,
}

/// The table of descriptors.
pub(super) struct Registry<S> {
    slots: Vec<Slot<S>>,
    watched: usize,
}

impl<S> Registry<S> {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            watched: 0,
        }
    }

    /// Whether the kernel watches nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.watched == 0
    }

    /// The slot of a descriptor, which must not be negative.
    pub(super) fn slot(&mut self, fd: RawFd) -> &mut Slot<S> {
        let index = fd as usize;
        while self.slots.len() <= index {
            self.slots.push(Slot {
                reader: None,
                writer: None,
                registered: Interest::NONE,
                generation: 0,
            });
        }
        &mut self.slots[index]
    }

    pub(super) fn get(&mut self, fd: RawFd) -> Option<&mut Slot<S>> {
        self.slots.get_mut(usize::try_from(fd).ok()?)
    }

    pub(super) fn sources_of(&self, fd: RawFd) -> (Option<&S>, Option<&S>) {
        match usize::try_from(fd).ok().and_then(|fd| self.slots.get(fd)) {
            Some(slot) => (slot.reader.as_ref(), slot.writer.as_ref()),
            None => (None, None),
        }
    }

    pub(super) fn registered(&self, fd: RawFd) -> Interest {
        usize::try_from(fd)
            .ok()
            .and_then(|fd| self.slots.get(fd))
            .map_or(Interest::NONE, |slot| slot.registered)
    }

    /// Notes what the kernel watches now. The end of a registration ends the slot's generation.
    pub(super) fn set_registered(&mut self, fd: RawFd, interest: Interest) {
        let slot = self.slot(fd);
        let before = std::mem::replace(&mut slot.registered, interest);
        match (before.is_empty(), interest.is_empty()) {
            (true, false) => self.watched += 1,
            (false, true) => {
                slot.generation = slot.generation.wrapping_add(1) & (u32::MAX >> 1);
                self.watched -= 1;
            }
            _ => {}
        }
    }

    /// Starts a new generation though the old registration was never ended.
    pub(super) fn renew(&mut self, fd: RawFd) -> u64 {
        self.set_registered(fd, Interest::NONE);
        self.token(fd)
    }

    /// The top bit is never set, which keeps `u64::MAX` free.
    pub(super) fn token(&mut self, fd: RawFd) -> u64 {
        u64::from(self.slot(fd).generation) << 32 | fd as u64
    }

    pub(super) fn fd_of(&self, token: u64) -> Option<RawFd> {
        let (generation, index) = ((token >> 32) as u32, (token & u64::from(u32::MAX)) as usize);
        let slot = self.slots.get(index)?;
        (slot.generation == generation && !slot.registered.is_empty()).then_some(index as RawFd)
    }

    /// The descriptors that the kernel is to watch.
    pub(super) fn watched(&self) -> Vec<RawFd> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| !slot.registered.is_empty())
            .map(|(fd, _)| fd as RawFd)
            .collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &S> {
        self.slots
            .iter()
            .flat_map(|slot| [slot.reader.as_ref(), slot.writer.as_ref()])
            .flatten()
    }

    pub(super) fn take(&mut self) -> Vec<S> {
        self.watched = 0;
        std::mem::take(&mut self.slots)
            .into_iter()
            .flat_map(|slot| [slot.reader, slot.writer])
            .flatten()
            .collect()
    }
}
