//! The registrations of each descriptor.
//!
//! Descriptors are small integers, so the table is indexed by them: a directory of pages, each made
//! when the kernel first watches one of its descriptors. A large or invalid number does not cost
//! memory for the numbers below it. A token is the descriptor's number and the generation of its
//! slot, so an event reported for a registration that is gone finds no slot.

use std::io;
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

    /// Whether all sides of `other` are included.
    #[inline]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether no side is included.
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

/// One descriptor's entry in the table.
pub(super) struct Slot<S> {
    /// The source to queue when the descriptor is readable.
    pub(super) reader: Option<S>,
    /// The source to queue when the descriptor is writable.
    pub(super) writer: Option<S>,
    /// What the kernel watches. While a reader is muted this is more than the sources above.
    pub(super) registered: Interest,
    generation: u32,
}

impl<S> Slot<S> {
    const fn new() -> Self {
        Self {
            reader: None,
            writer: None,
            registered: Interest::NONE,
            generation: 0,
        }
    }
}

/// Descriptors per page.
const PAGE: usize = 64;

type Page<S> = Box<[Slot<S>; PAGE]>;

/// The table of descriptors.
pub(super) struct Registry<S> {
    pages: Vec<Option<Page<S>>>,
    watched: usize,
}

impl<S> Registry<S> {
    pub(super) fn new() -> Self {
        Self {
            pages: Vec::new(),
            watched: 0,
        }
    }

    /// Whether the kernel watches nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.watched == 0
    }

    /// Makes room for a descriptor that the kernel watches.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub(super) fn make_room(&mut self, fd: RawFd) -> io::Result<()> {
        if self.get(fd).is_some() {
            return Ok(());
        }
        self.add_page(fd)
    }

    #[cold]
    fn add_page(&mut self, fd: RawFd) -> io::Result<()> {
        let index = usize::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        let index = index / PAGE;
        if let Some(more) = (index + 1).checked_sub(self.pages.len()) {
            self.pages.try_reserve(more)?;
            self.pages.resize_with(index + 1, || None);
        }
        let mut slots = Vec::new();
        slots.try_reserve_exact(PAGE)?;
        slots.resize_with(PAGE, Slot::new);
        let page = Page::try_from(slots.into_boxed_slice());
        self.pages[index] = Some(page.map_err(|_| io::ErrorKind::OutOfMemory)?);
        Ok(())
    }

    pub(super) fn get(&mut self, fd: RawFd) -> Option<&mut Slot<S>> {
        let index = usize::try_from(fd).ok()?;
        let page = self.pages.get_mut(index / PAGE)?.as_mut()?;
        Some(&mut page[index % PAGE])
    }

    #[inline]
    fn slot(&self, fd: RawFd) -> Option<&Slot<S>> {
        let index = usize::try_from(fd).ok()?;
        let page = self.pages.get(index / PAGE)?.as_ref()?;
        Some(&page[index % PAGE])
    }

    pub(super) fn sources_of(&self, fd: RawFd) -> (Option<&S>, Option<&S>) {
        match self.slot(fd) {
            Some(slot) => (slot.reader.as_ref(), slot.writer.as_ref()),
            None => (None, None),
        }
    }

    pub(super) fn registered(&self, fd: RawFd) -> Interest {
        self.slot(fd).map_or(Interest::NONE, |slot| slot.registered)
    }

    /// Records what the kernel watches now for a descriptor that has a slot. Ending a registration
    /// starts a new generation of the slot.
    pub(super) fn set_registered(&mut self, fd: RawFd, interest: Interest) {
        let Some(slot) = self.get(fd) else { return };
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

    /// Starts a new generation although the old registration was never removed.
    pub(super) fn renew(&mut self, fd: RawFd) -> u64 {
        self.set_registered(fd, Interest::NONE);
        self.token(fd)
    }

    /// The top bit is never set, which keeps `u64::MAX` free.
    pub(super) fn token(&self, fd: RawFd) -> u64 {
        let generation = self.slot(fd).map_or(0, |slot| slot.generation);
        u64::from(generation) << 32 | fd as u64
    }

    pub(super) fn fd_of(&self, token: u64) -> Option<RawFd> {
        let (generation, fd) = ((token >> 32) as u32, token as u32 as RawFd);
        let slot = self.slot(fd)?;
        (slot.generation == generation && !slot.registered.is_empty()).then_some(fd)
    }

    fn slots(&self) -> impl Iterator<Item = (RawFd, &Slot<S>)> {
        let pages = self.pages.iter().enumerate();
        pages
            .filter_map(|(index, page)| page.as_ref().map(|page| (index * PAGE, page)))
            .flat_map(|(first, page)| {
                let slots = page.iter().enumerate();
                slots.map(move |(index, slot)| ((first + index) as RawFd, slot))
            })
    }

    /// The descriptors that the kernel should watch.
    pub(super) fn watched(&self) -> Vec<RawFd> {
        self.slots()
            .filter(|(_, slot)| !slot.registered.is_empty())
            .map(|(fd, _)| fd)
            .collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &S> {
        self.slots()
            .flat_map(|(_, slot)| [slot.reader.as_ref(), slot.writer.as_ref()])
            .flatten()
    }

    pub(super) fn take(&mut self) -> Vec<S> {
        self.watched = 0;
        std::mem::take(&mut self.pages)
            .into_iter()
            .flatten()
            .flat_map(|page| *page)
            .flat_map(|slot| [slot.reader, slot.writer])
            .flatten()
            .collect()
    }
}
