//! What `StreamReader` is made of, in both faces.
//!
//! * `read_buffer.rs`: the bytes that have arrived and are not read yet, and what each kind of read makes of them.

pub mod read_buffer;
