//! A crawler: fetches 1,000 pages from a local server over 1,000 connections at once, each read to
//! its end. The twin of `examples/crawler.py`.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use rondel::{ServerOptions, StreamReader, StreamWriter};

const PAGES: usize = 1000;

/// Requests that have come in: the number of the page, and the way to answer.
type Requests = Rc<RefCell<Vec<(usize, StreamWriter)>>>;

fn body(number: usize) -> String {
    format!("This is page {number}.\n").repeat(100)
}

async fn handle_page(
    requests: Requests,
    mut reader: StreamReader,
    writer: StreamWriter,
) -> io::Result<()> {
    let request = String::from_utf8_lossy(reader.readline().await?).into_owned();
    let path = request.split(' ').nth(1).unwrap_or_default();
    let number = path
        .trim_start_matches('/')
        .parse()
        .map_err(io::Error::other)?;
    requests.borrow_mut().push((number, writer));

    // No page is sent before every request has come in: all connections are open at the same time.
    if requests.borrow().len() == PAGES {
        for (number, writer) in requests.take() {
            writer.write("HTTP/1.0 200 OK\r\n\r\n");
            writer.write(body(number));
            // Here the writer goes, and its connection is closed once everything is sent.
        }
    }
    Ok(())
}

async fn fetch(server: SocketAddr, number: usize) -> io::Result<usize> {
    let (mut reader, writer) = rondel::open_connection(server).await?;
    writer.write(format!("GET /{number} HTTP/1.0\r\n"));
    let page = reader.read_to_end().await?;
    let expected = format!("HTTP/1.0 200 OK\r\n\r\n{}", body(number));
    assert_eq!(page, expected.as_bytes());
    Ok(body(number).len())
}

async fn program() -> io::Result<()> {
    let requests = Requests::default();
    let mut options = ServerOptions::default();
    options.backlog = PAGES as i32;
    let server = rondel::start_server_with(
        move |reader, writer| handle_page(Rc::clone(&requests), reader, writer),
        ("127.0.0.1", 0),
        options,
    )
    .await?;

    let address = server.addresses()[0];
    let fetches: Vec<_> = (0..PAGES).map(|number| fetch(address, number)).collect();
    let mut bytes = 0;
    for size in rondel::gather(fetches).await? {
        bytes += size?;
    }
    println!("{PAGES} pages, {bytes} bytes");
    Ok(())
}

/// Each connection takes two descriptors here, since the server is in the same process.
fn allow_descriptors(wanted: u64) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct is valid for both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_cur.max(wanted).min(limit.rlim_max);
        if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    allow_descriptors(2 * PAGES as u64 + 100)?;
    rondel::run(program())?
}
