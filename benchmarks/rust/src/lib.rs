//! What the benchmark programs share. Nothing here is part of Rondel.
//!
//! The programs are in `bin/`: `load` drives an echo server and checks what comes back, `floor` is the cheapest
//! correct echo server, and one program for each Rust runtime holds its echo server and its in-process cases.
//! `benchmarks/run.py` starts them and puts their figures side by side.
//!
//! * [`message`] — what is sent, computed from (connection, sequence), so that a reply can be checked without a copy.
//! * [`histogram`] — latencies.
//! * [`meter`] — when a load generator measures.
//! * [`datagrams`], [`one_shot`], [`requests`] — loads besides the echo over lasting connections, which is in `bin/load.rs`.
//! * [`cpu_clock`] — CPU time of this process and of another one.
//! * [`epoll`] — the four calls of epoll the load generator and the floor need.
//! * [`in_process`] — the driver of the cases that need no socket.
//! * [`options`] — the command line.

pub mod cpu_clock;
pub mod datagrams;
pub mod epoll;
pub mod histogram;
pub mod in_process;
pub mod message;
pub mod meter;
pub mod one_shot;
pub mod options;
pub mod requests;
pub mod stream;
