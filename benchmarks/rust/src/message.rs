//! The messages of the load generator: all differ, and none is stored.
//!
//! Message `(connection, sequence)` is a 16-byte header with both numbers, then bytes of a fixed
//! pool from an offset that depends on them. If a server loses, repeats, reorders or mixes up
//! bytes, or sends one connection's bytes to another, the reply does not match in
//! [`Messages::matches`].

/// Length of the header with the connection and the sequence number, in bytes.
const HEADER: usize = 16;
/// Number of start positions in the pool.
const OFFSETS: usize = 4096;

/// All messages of one size.
#[derive(Debug)]
pub struct Messages {
    size: usize,
    pool: Vec<u8>,
}

impl Messages {
    /// Messages of `size` bytes each; `None` when a header does not fit into them.
    pub fn new(size: usize) -> Option<Self> {
        if size < HEADER {
            return None;
        }
        // xorshift64*: any generator will do whose bytes do not repeat within a message.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let pool = std::iter::repeat_with(|| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        })
        .take(size + OFFSETS)
        .collect();
        Some(Self { size, pool })
    }

    /// The length of one message in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Fills `out` with message `(connection, sequence)`, from the message's byte `from` on.
    pub fn write(&self, connection: usize, sequence: u64, from: usize, out: &mut [u8]) {
        let (header, body) = self.parts(connection, sequence);
        let split = HEADER.saturating_sub(from).min(out.len());
        let (head, tail) = out.split_at_mut(split);
        if !head.is_empty() {
            head.copy_from_slice(&header[from..from + split]);
        }
        let start = (from + split) - HEADER.min(from + split);
        tail.copy_from_slice(&body[start..start + tail.len()]);
    }

    /// Whether `received` is message `(connection, sequence)` from its byte `from` on.
    pub fn matches(&self, connection: usize, sequence: u64, from: usize, received: &[u8]) -> bool {
        let (header, body) = self.parts(connection, sequence);
        let split = HEADER.saturating_sub(from).min(received.len());
        let (head, tail) = received.split_at(split);
        if !head.is_empty() && head != &header[from..from + split] {
            return false;
        }
        let start = (from + split) - HEADER.min(from + split);
        body.get(start..start + tail.len()) == Some(tail)
    }

    fn parts(&self, connection: usize, sequence: u64) -> ([u8; HEADER], &[u8]) {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&(connection as u64).to_le_bytes());
        header[8..].copy_from_slice(&sequence.to_le_bytes());
        let offset = (connection.wrapping_mul(31) + (sequence as usize).wrapping_mul(7)) % OFFSETS;
        (header, &self.pool[offset..offset + self.size - HEADER])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(messages: &Messages, connection: usize, sequence: u64) -> Vec<u8> {
        let mut out = vec![0; messages.size()];
        messages.write(connection, sequence, 0, &mut out);
        out
    }

    #[test]
    fn every_split_of_a_message_matches_and_writes_the_same_bytes() {
        let messages = Messages::new(64).unwrap();
        let message = whole(&messages, 7, 1_000_003);
        for cut in 0..=64 {
            assert!(messages.matches(7, 1_000_003, 0, &message[..cut]));
            assert!(messages.matches(7, 1_000_003, cut, &message[cut..]));
            let mut tail = vec![0; 64 - cut];
            messages.write(7, 1_000_003, cut, &mut tail);
            assert_eq!(tail, message[cut..]);
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let messages = Messages::new(64).unwrap();
        for position in 0..64 {
            let mut message = whole(&messages, 3, 9);
            message[position] ^= 1;
            assert!(!messages.matches(3, 9, 0, &message), "byte {position}");
        }
    }

    #[test]
    fn another_connection_or_sequence_or_surplus_does_not_match() {
        let messages = Messages::new(64).unwrap();
        let mut message = whole(&messages, 3, 9);
        assert!(!messages.matches(4, 9, 0, &message));
        assert!(!messages.matches(3, 10, 0, &message));
        message.push(0);
        assert!(!messages.matches(3, 9, 0, &message));
    }

    #[test]
    fn a_message_holds_its_header() {
        assert!(Messages::new(15).is_none());
        assert!(Messages::new(16).is_some());
    }
}
