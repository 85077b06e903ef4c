//! What the benchmark programs share. Nothing here is part of Rondel.
//!
//! The programs are in `bin/`: `load` drives an echo server and checks what comes back, `floor` is
//! the cheapest correct echo server, and one program for each Rust runtime holds its echo server
//! and its in-process cases. `benchmarks/run.py` starts them and puts their figures side by side.
//!
//! * [`message`] — what is sent, computed from (connection, sequence), so that a reply can be
//!   checked without a copy.
//! * [`drive`] — the load generator's loop; [`meter`] — when it measures.
//! * [`echo`], [`datagrams`], [`one_shot`], [`requests`] — the loads.
//! * [`cpu_clock`] — CPU time of this process and of another one.
//! * [`epoll`] — the four calls of epoll the load generator and the floor need.
//! * [`in_process`] — the driver of the cases that need no socket.
//! * [`options`] — the command line.

pub mod cpu_clock;
pub mod datagrams;
pub mod drive;
pub mod echo;
pub mod epoll;
pub mod in_process;
pub mod message;
pub mod meter;
pub mod one_shot;
pub mod options;
pub mod requests;
pub mod stream;
