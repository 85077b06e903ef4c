//! The bytes that have arrived and are not read yet, and the result of each kind of read.
//!
//! The rules are those of asyncio's `StreamReader`, as pure logic: nothing here waits. A read gets
//! a [`Step`]; if that is [`Step::Wait`], it asks again after more was fed.
//!
//! Usually one chunk arrives and one read takes all of it: then the chunk itself is returned,
//! without a copy. Only when another chunk arrives before that are the bytes joined in a separate
//! buffer, which is freed when it is empty.

use std::alloc::{Layout, handle_alloc_error};
use std::collections::TryReserveError;
use std::fmt;

use memchr::{memchr, memmem};

/// asyncio's default limit, in bytes; the transport is paused when more than twice as much is
/// buffered.
pub const DEFAULT_LIMIT: usize = 64 * 1024;

/// What a read must do next.
///
/// ```
/// use rondel_engine::read_buffer::{Step, read_exactly};
///
/// assert_eq!(read_exactly(3, false, 5), Step::Wait);
/// assert_eq!(read_exactly(3, true, 5), Step::Incomplete);
/// assert_eq!(read_exactly(8, false, 5), Step::Take(5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take this many bytes: they are the result.
    Take(usize),
    /// Wait until something is fed, then ask again.
    Wait,
    /// The stream has ended before the read was satisfied. The buffered bytes are the partial
    /// result.
    Incomplete,
    /// The limit was exceeded without a separator, or before it.
    Overrun(Overrun),
}

/// A line or record longer than the limit. The message is asyncio's.
///
/// ```
/// use rondel_engine::read_buffer::{Overrun, Search, Step};
///
/// let overrun = Overrun { consumed: 6, found: true };
/// assert_eq!(Search::default().one(b"a line\n", false, b"\n", 5), Step::Overrun(overrun));
/// assert_eq!(overrun.to_string(), "Separator is found, but chunk is longer than limit");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// The number of bytes before the separator, or known to contain none.
    pub consumed: usize,
    /// Whether a separator was found.
    pub found: bool,
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.found {
            true => "Separator is found, but chunk is longer than limit",
            false => "Separator is not found, and chunk exceed the limit",
        })
    }
}

impl std::error::Error for Overrun {}

/// `read(n)` with `n > 0`, of `len` buffered bytes.
#[inline]
pub fn read(len: usize, eof: bool, n: usize) -> Step {
    if len == 0 && !eof {
        Step::Wait
    } else {
        Step::Take(len.min(n))
    }
}

/// `readexactly(n)`, of `len` buffered bytes.
#[inline]
pub fn read_exactly(len: usize, eof: bool, n: usize) -> Step {
    if len >= n {
        Step::Take(n)
    } else if eof {
        Step::Incomplete
    } else {
        Step::Wait
    }
}

/// The progress of the search of one `readuntil` or `readline`.
///
/// ```
/// use rondel_engine::read_buffer::{Search, Step};
///
/// let mut search = Search::default();
/// assert_eq!(search.one(b"a li", false, b"\n", 100), Step::Wait);
/// assert_eq!(search.one(b"a line\nand", false, b"\n", 100), Step::Take(7));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Search {
    /// No separator starts in this many bytes at the front.
    offset: usize,
}

impl Search {
    /// Looks for one separator, which must not be empty.
    #[inline]
    pub fn one(&mut self, bytes: &[u8], eof: bool, separator: &[u8], limit: usize) -> Step {
        let len = bytes.len();
        if len >= self.offset + separator.len() {
            if let Some(at) = find(&bytes[self.offset..], separator) {
                let start = self.offset + at;
                return Self::found(start, start + separator.len(), limit);
            }
            self.offset = len + 1 - separator.len();
            if self.offset > limit {
                return self.overrun();
            }
        }
        Self::ended(eof)
    }

    /// Looks for several separators, sorted by length, none of them empty; the match that ends
    /// first wins.
    pub fn any(&mut self, bytes: &[u8], eof: bool, separators: &[&[u8]], limit: usize) -> Step {
        let (Some(shortest), Some(longest)) = (separators.first(), separators.last()) else {
            return Self::ended(eof);
        };
        let len = bytes.len();
        if len >= self.offset + shortest.len() {
            let matches = separators.iter().filter_map(|separator| {
                let start = self.offset + find(&bytes[self.offset..], separator)?;
                Some((start, start + separator.len()))
            });
            if let Some((start, end)) = matches.min_by_key(|&(_, end)| end) {
                return Self::found(start, end, limit);
            }
            self.offset = (len + 1).saturating_sub(longest.len());
            if self.offset > limit {
                return self.overrun();
            }
        }
        Self::ended(eof)
    }

    fn found(start: usize, end: usize, limit: usize) -> Step {
        if start > limit {
            return Step::Overrun(Overrun {
                consumed: start,
                found: true,
            });
        }
        Step::Take(end)
    }

    fn overrun(self) -> Step {
        Step::Overrun(Overrun {
            consumed: self.offset,
            found: false,
        })
    }

    fn ended(eof: bool) -> Step {
        if eof { Step::Incomplete } else { Step::Wait }
    }
}

#[inline]
fn find(bytes: &[u8], separator: &[u8]) -> Option<usize> {
    match separator {
        [byte] => memchr(*byte, bytes),
        _ => memmem::find(bytes, separator),
    }
}

/// How many bytes `readline` discards at an [`Overrun`]: the line with its separator if there is
/// one, otherwise everything.
pub fn overlong_line(bytes: &[u8], separator: &[u8], overrun: Overrun) -> usize {
    match bytes.get(overrun.consumed..) {
        Some(rest) if rest.starts_with(separator) => overrun.consumed + separator.len(),
        _ => bytes.len(),
    }
}

/// Bytes in order of arrival, in chunks of type `C` as the transport made them.
///
/// ```
/// use rondel_engine::read_buffer::ReadBuffer;
///
/// let mut buffer = ReadBuffer::new();
/// buffer.feed(b"one ".to_vec());
/// buffer.feed(b"two".to_vec());
/// buffer.discard(2);
/// assert_eq!(buffer.as_slice(), b"e two");
/// ```
#[derive(Debug)]
pub struct ReadBuffer<C>(Held<C>);

#[derive(Debug)]
enum Held<C> {
    Nothing,
    /// One chunk of which the first `start` bytes have been read, but never all.
    Chunk {
        chunk: C,
        start: usize,
    },
    /// The bytes of several chunks.
    Joined(Box<Joined>),
}

#[derive(Debug)]
struct Joined {
    bytes: Vec<u8>,
    /// How many bytes at the front have been read.
    start: usize,
}

impl Joined {
    fn try_extend(&mut self, more: &[u8]) -> Result<(), TryReserveError> {
        // Removes the bytes that were read, so that they don't accumulate. The cost is amortised
        // over the reads.
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.try_reserve(more.len())?;
        self.bytes.extend_from_slice(more);
        Ok(())
    }
}

impl<C> Default for ReadBuffer<C> {
    fn default() -> Self {
        Self(Held::Nothing)
    }
}

impl<C: AsRef<[u8]>> ReadBuffer<C> {
    /// An empty buffer; it owns no memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// The unread bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Held::Nothing => &[],
            Held::Chunk { chunk, start } => &chunk.as_ref()[*start..],
            Held::Joined(joined) => &joined.bytes[joined.start..],
        }
    }

    /// The number of unread bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are no unread bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        matches!(self.0, Held::Nothing)
    }

    /// Appends a chunk, without a copy if the buffer is empty.
    #[inline(always)]
    pub fn feed(&mut self, chunk: C) {
        if !self.is_empty() {
            self.join(chunk.as_ref());
        } else if !chunk.as_ref().is_empty() {
            self.0 = Held::Chunk { chunk, start: 0 };
        }
    }

    /// As [`feed`](Self::feed), but fallible if memory runs out.
    ///
    /// # Errors
    /// If there is no memory; nothing was added then.
    #[inline(always)]
    pub fn try_feed(&mut self, chunk: C) -> Result<(), TryReserveError> {
        if !self.is_empty() {
            return self.try_join(chunk.as_ref());
        }
        if !chunk.as_ref().is_empty() {
            self.0 = Held::Chunk { chunk, start: 0 };
        }
        Ok(())
    }

    /// Appends bytes; `make` makes a chunk of them if the buffer is empty.
    ///
    /// # Errors
    /// Errors of `make`; nothing was added then.
    #[inline]
    pub fn feed_slice<E>(
        &mut self,
        bytes: &[u8],
        make: impl FnOnce(&[u8]) -> Result<C, E>,
    ) -> Result<(), E> {
        if !self.is_empty() {
            self.join(bytes);
        } else if !bytes.is_empty() {
            let chunk = make(bytes)?;
            self.0 = Held::Chunk { chunk, start: 0 };
        }
        Ok(())
    }

    fn join(&mut self, more: &[u8]) {
        if self.try_join(more).is_err() {
            handle_alloc_error(Layout::new::<Joined>());
        }
    }

    #[inline(never)]
    fn try_join(&mut self, more: &[u8]) -> Result<(), TryReserveError> {
        if let Held::Joined(joined) = &mut self.0 {
            return joined.try_extend(more);
        }
        let there = self.as_slice();
        let mut bytes = Vec::new();
        bytes.try_reserve_exact((there.len() + more.len()).next_power_of_two())?;
        bytes.extend_from_slice(there);
        bytes.extend_from_slice(more);
        self.0 = Held::Joined(Box::new(Joined { bytes, start: 0 }));
        Ok(())
    }

    /// Takes `n` bytes, or all if there are fewer. If they are exactly the chunk that arrived, it
    /// is returned; otherwise `make` makes a new one.
    ///
    /// # Errors
    /// Errors of `make`; nothing was taken then.
    #[inline]
    pub fn take<E>(&mut self, n: usize, make: impl FnOnce(&[u8]) -> Result<C, E>) -> Result<C, E> {
        match std::mem::take(self).0 {
            Held::Chunk { chunk, start: 0 } if n >= chunk.as_ref().len() => Ok(chunk),
            held => {
                self.0 = held;
                let bytes = self.as_slice();
                let taken = make(&bytes[..n.min(bytes.len())])?;
                self.discard(n);
                Ok(taken)
            }
        }
    }

    /// Discards `n` bytes, or all if there are fewer.
    #[inline(always)]
    pub fn discard(&mut self, n: usize) {
        if n >= self.len() {
            self.0 = Held::Nothing;
            return;
        }
        match &mut self.0 {
            Held::Nothing => {}
            Held::Chunk { start, .. } => *start += n,
            Held::Joined(joined) => joined.start += n,
        }
    }

    /// The chunk that is held, if any, for garbage collector traversal.
    pub fn chunk(&self) -> Option<&C> {
        match &self.0 {
            Held::Chunk { chunk, .. } => Some(chunk),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn copied(bytes: &[u8]) -> Result<Vec<u8>, Infallible> {
        Ok(bytes.to_vec())
    }

    fn take(buffer: &mut ReadBuffer<Vec<u8>>, n: usize) -> Vec<u8> {
        let Ok(taken) = buffer.take(n, copied);
        taken
    }

    #[test]
    fn one_chunk_for_one_read_is_handed_over_uncopied() {
        let mut buffer = ReadBuffer::new();
        let chunk = b"abc".to_vec();
        let address = chunk.as_ptr();
        buffer.feed(chunk);
        let taken = buffer.take(100, |_| Err(()));
        assert_eq!(taken.map(|taken| taken.as_ptr()), Ok(address));
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_failure_to_make_a_chunk_loses_nothing() {
        let mut buffer = ReadBuffer::new();
        buffer.feed(b"abc".to_vec());
        assert_eq!(buffer.take(2, |_| Err(())), Err(()));
        assert_eq!(buffer.feed_slice(b"d", |_| Err(())), Ok(()));
        assert_eq!(take(&mut buffer, 10), b"abcd");
        assert_eq!(buffer.feed_slice(b"e", |_| Err(())), Err(()));
        assert!(buffer.is_empty());
    }

    #[test]
    fn an_empty_buffer_is_small() {
        assert!(size_of::<ReadBuffer<Box<()>>>() <= 24);
    }

    #[test]
    fn overruns_say_how_much_asyncio_says() {
        // The separator is there, after more bytes than the limit.
        let step = Search::default().one(b"abcdef\n", false, b"\n", 3);
        let overrun = Overrun {
            consumed: 6,
            found: true,
        };
        assert_eq!(step, Step::Overrun(overrun));
        assert_eq!(overlong_line(b"abcdef\n", b"\n", overrun), 7);
        // It may be incomplete: the start of a separator is not consumed.
        let step = Search::default().one(b"abcdeSE", false, b"SEP", 3);
        let overrun = Overrun {
            consumed: 5,
            found: false,
        };
        assert_eq!(step, Step::Overrun(overrun));
        assert_eq!(overlong_line(b"abcdeSE", b"SEP", overrun), 7);
    }

    #[test]
    fn the_match_that_ends_first_wins() {
        let seps: [&[u8]; 3] = [b"-", b"ab", b"xyzzy"];
        assert_eq!(
            Search::default().any(b"1ab-", false, &seps, 9),
            Step::Take(3)
        );
        assert_eq!(
            Search::default().any(b"xyzz-y", false, &seps, 9),
            Step::Take(5)
        );
        assert_eq!(
            Search::default().any(b"xyzz", true, &seps, 9),
            Step::Incomplete
        );
    }

    /// asyncio's loop over `bytearray.find`, which starts from the beginning each time.
    fn naive(bytes: &[u8], eof: bool, separators: &[&[u8]], limit: usize) -> Step {
        let longest = separators.last().unwrap().len();
        let ends = separators.iter().filter_map(|separator| {
            let start = bytes
                .windows(separator.len())
                .position(|w| w == *separator)?;
            Some((start + separator.len(), start))
        });
        if let Some((end, start)) = ends.min_by_key(|&(end, _)| end) {
            return if start > limit {
                Step::Overrun(Overrun {
                    consumed: start,
                    found: true,
                })
            } else {
                Step::Take(end)
            };
        }
        let consumed = (bytes.len() + 1).saturating_sub(longest);
        if bytes.len() >= separators[0].len() && consumed > limit {
            return Step::Overrun(Overrun {
                consumed,
                found: false,
            });
        }
        if eof { Step::Incomplete } else { Step::Wait }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Feed(Vec<u8>),
        FeedSlice(Vec<u8>),
        Take(usize),
        Discard(usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..50);
        let op = prop_oneof![
            bytes().prop_map(Op::Feed),
            bytes().prop_map(Op::FeedSlice),
            (0_usize..80).prop_map(Op::Take),
            (0_usize..80).prop_map(Op::Discard),
        ];
        proptest::collection::vec(op, 0..60)
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_vector_would(ops in ops()) {
            let mut buffer = ReadBuffer::new();
            let mut model = Vec::new();
            for op in ops {
                match op {
                    Op::Feed(bytes) => {
                        model.extend_from_slice(&bytes);
                        buffer.feed(bytes);
                    }
                    Op::FeedSlice(bytes) => {
                        model.extend_from_slice(&bytes);
                        let Ok(()) = buffer.feed_slice(&bytes, copied);
                    }
                    Op::Take(n) => {
                        let expected: Vec<u8> = model.drain(..n.min(model.len())).collect();
                        prop_assert_eq!(take(&mut buffer, n), expected);
                    }
                    Op::Discard(n) => {
                        model.drain(..n.min(model.len()));
                        buffer.discard(n);
                    }
                }
                prop_assert_eq!(buffer.as_slice(), &model[..]);
                prop_assert_eq!(buffer.is_empty(), model.is_empty());
                if model.is_empty() {
                    prop_assert!(matches!(buffer.0, Held::Nothing));
                }
            }
        }

        #[test]
        fn a_search_that_goes_on_finds_what_one_from_the_start_does(
            chunks in proptest::collection::vec("[ab-]{0,4}", 0..12),
            separators in proptest::collection::vec("[ab-]{1,3}", 1..4),
            limit in 1_usize..12,
        ) {
            let mut separators: Vec<&[u8]> = separators.iter().map(|s| s.as_bytes()).collect();
            separators.sort_by_key(|separator| separator.len());
            let (mut bytes, mut many, mut single) = (Vec::new(), Search::default(), Search::default());
            let (mut many_done, mut single_done) = (false, false);
            let count = chunks.len();
            for (i, chunk) in chunks.into_iter().enumerate() {
                bytes.extend_from_slice(chunk.as_bytes());
                let eof = i + 1 == count;
                if !many_done {
                    let step = many.any(&bytes, eof, &separators, limit);
                    prop_assert_eq!(step, naive(&bytes, eof, &separators, limit));
                    many_done = step != Step::Wait;
                }
                if !single_done {
                    let step = single.one(&bytes, eof, separators[0], limit);
                    prop_assert_eq!(step, naive(&bytes, eof, &separators[..1], limit));
                    single_done = step != Step::Wait;
                }
            }
        }

        #[test]
        fn plain_reads(len in 0_usize..20, n in 1_usize..20, eof: bool) {
            let expected = if len > 0 || eof { Step::Take(len.min(n)) } else { Step::Wait };
            prop_assert_eq!(read(len, eof, n), expected);
            let expected = match (len >= n, eof) {
                (true, _) => Step::Take(n),
                (false, true) => Step::Incomplete,
                (false, false) => Step::Wait,
            };
            prop_assert_eq!(read_exactly(len, eof, n), expected);
        }
    }
}
