//! Which ports of a host are open: `port_scanner HOST FIRST LAST`.
//!
//! A semaphore bounds how many connections are tried at a time, a timeout how long each may take. A
//! connect that is given up leaves nothing behind.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use rondel::{Semaphore, create_task, open_connection, timeout};

const AT_A_TIME: usize = 100;
const PATIENCE: Duration = Duration::from_millis(500);

#[rondel::main]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, first, last] = &*arguments else {
        return Err(io::Error::other("arguments: HOST FIRST LAST"));
    };
    let first: u16 = first.parse().map_err(io::Error::other)?;
    let last: u16 = last.parse().map_err(io::Error::other)?;
    let slots = Rc::new(Semaphore::new(AT_A_TIME));
    let scans: Vec<_> = (first..=last)
        .map(|port| {
            let (slots, host) = (Rc::clone(&slots), host.clone());
            create_task(async move {
                let _slot = slots.acquire().await;
                let connected = timeout(PATIENCE, open_connection((&*host, port))).await;
                matches!(connected, Ok(Ok(_))).then_some(port)
            })
        })
        .collect();
    for scan in scans {
        if let Some(port) = scan.await.map_err(io::Error::other)? {
            println!("{port}");
        }
    }
    Ok(())
}
