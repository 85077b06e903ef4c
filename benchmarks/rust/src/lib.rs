//! Shared code of the benchmark programs. It is not part of Rondel.
//!
//! The programs are in `bin/`: `load` drives a server and checks its replies, `floor` is the
//! cheapest correct echo server, and one program per Rust runtime contains its echo server and
//! in-process cases. `benchmarks/run.py` starts them and compares their figures.
//!
//! * [`message`] — the messages, computed from (connection, sequence), so that a reply can be
//!   checked without a copy.
//! * [`drive`] — the load generator's loop; [`meter`] — its measurement.
//! * [`echo`], [`datagrams`], [`one_shot`], [`requests`] — the loads.
//! * [`cpu_clock`] — CPU time of this process and of another one.
//! * [`epoll`] — the epoll calls that the load generator and the floor need.
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
