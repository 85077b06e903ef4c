//! Reads with arguments of unexpected types. As in asyncio, these are checked when the read is
//! awaited, and some only when there are bytes to slice.

use super::{Kind, Read, check_exception, empty, incomplete};
use crate::awaitable::Next;
use crate::cpython::error::{Builtin, raised_matches, take_exception, type_error, value_error};
use crate::cpython::object::{tuple_item, tuple_len};
use crate::cpython::{Object, Owned, Raised, Res};
use crate::streams::reader::Reader;
use crate::transport::names::imports;

const NO_INDEX: &str = "slice indices must be integers or None or have an __index__ method";

/// As an index; `None` if it is none.
fn index_of(given: &Object) -> Res<Option<isize>> {
    let no_index = Builtin::Type.class();
    match given.to_count() {
        Ok(n) => Ok(Some(n)),
        Err(Raised) if raised_matches(no_index) => {
            drop(take_exception());
            Ok(None)
        }
        Err(Raised) => Err(Raised),
    }
}

impl Read {
    /// `read(given)`, where `given` is no `int`.
    #[cold]
    pub(super) fn unfit(&self, reader: &Reader, woken: bool) -> Res<Next> {
        let given = self.extra.or_none();
        if !woken {
            check_exception(reader)?;
            let zero = Owned::from_i64(0)?;
            if given.equals(&zero)? {
                return empty();
            }
            if given.is_less(&zero)? {
                self.extra.clear();
                self.kind.set(Kind::All);
                return self.all(reader, false);
            }
            if reader.len() == 0 && !reader.eof.get() {
                return self.wait(reader, "read");
            }
        }
        match index_of(&given)? {
            Some(n) if n >= 0 => Self::take(reader, n as usize),
            Some(n) => Self::take(reader, reader.len().saturating_sub(n.unsigned_abs())),
            None => type_error(NO_INDEX),
        }
    }

    /// `readexactly(given)`, where `given` is no `int`.
    #[cold]
    pub(super) fn unfit_exactly(&self, reader: &Reader, woken: bool) -> Res<Next> {
        let given = self.extra.or_none();
        if !woken {
            let zero = Owned::from_i64(0)?;
            if given.is_less(&zero)? {
                return value_error("readexactly size can not be less than zero");
            }
            check_exception(reader)?;
            if given.equals(&zero)? {
                return empty();
            }
        }
        let there = Owned::from_u64(reader.len() as u64)?;
        if there.is_less(&given)? {
            return match reader.eof.get() {
                true => incomplete(reader, given),
                false => self.wait(reader, "readexactly"),
            };
        }
        if there.equals(&given)? {
            return Self::take(reader, reader.len());
        }
        match index_of(&given)? {
            Some(n) => Self::take(reader, usize::try_from(n).unwrap_or(0)),
            None => type_error(NO_INDEX),
        }
    }

    /// A separator, or one of several, is not bytes. asyncio searches once there are as many bytes
    /// as the shortest has items.
    #[cold]
    pub(super) fn unfit_separators(&self, given: &Object) -> Res<()> {
        let mut sizes = Vec::new();
        let many = given.is_tuple() && imports().many_separators;
        match many {
            false => sizes.push(given.len()?),
            true => {
                for index in 0..tuple_len(given) {
                    sizes.push(tuple_item(given, index).len()?);
                }
            }
        }
        let shortest = sizes.iter().copied().min().unwrap_or(0);
        if shortest == 0 {
            return value_error("Separator should be at least one-byte string");
        }
        self.n.set(shortest as isize);
        self.kind.set(Kind::UnfitUntil);
        Ok(())
    }

    /// `readuntil` with them.
    #[cold]
    pub(super) fn unfit_until(&self, reader: &Reader) -> Res<Next> {
        if reader.len() < self.n.get() as usize {
            return match reader.eof.get() {
                true => incomplete(reader, Owned::none()),
                false => self.wait(reader, "readuntil"),
            };
        }
        // A bytearray raises the exception.
        let (given, find) = (self.extra.or_none(), Owned::from_str("find")?);
        let buffer = Owned::bytearray(&[])?;
        match given.is_tuple() && imports().many_separators {
            false => drop(buffer.call_method(&find, &[&given])?),
            true => {
                for index in 0..tuple_len(&given) {
                    buffer.call_method(&find, &[tuple_item(&given, index)])?;
                }
            }
        }
        type_error("a bytes-like object is required as a separator")
    }
}
