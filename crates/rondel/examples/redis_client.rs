//! A client of Redis: `redis_client HOST PORT` sends each line of standard input as a command, all
//! at once over one connection, and prints the answers.
//!
//! Many tasks share the connection. Whoever asks puts the half of a future into a queue, in the
//! order of the questions; one task reads the answers and completes one after the other. Who is
//! cancelled while it waits leaves its place in the queue, so that the others' answers stay theirs.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::Rc;

use rondel::{StreamReader, StreamWriter, oneshot};

/// What Redis answers.
enum Reply {
    Text(String),
    Error(String),
    Number(i64),
    Nothing,
    Many(Vec<Reply>),
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Error(error) => write!(f, "error: {error}"),
            Self::Number(number) => number.fmt(f),
            Self::Nothing => f.write_str("(nothing)"),
            Self::Many(replies) => {
                let all: Vec<_> = replies.iter().map(Self::to_string).collect();
                write!(f, "[{}]", all.join(", "))
            }
        }
    }
}

/// The next answer: a line, and for some kinds what it announces.
async fn read_reply(reader: &mut StreamReader) -> io::Result<Reply> {
    let line = String::from_utf8_lossy(reader.readuntil(b"\r\n").await?).into_owned();
    let unknown = || io::Error::other(format!("no answer of Redis: {line:?}"));
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or_else(unknown)?;
    let number = || rest.parse::<i64>().map_err(io::Error::other);
    Ok(match kind {
        "+" => Reply::Text(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Number(number()?),
        "$" | "*" if number()? < 0 => Reply::Nothing,
        "$" => {
            let length = usize::try_from(number()?).map_err(io::Error::other)?;
            let text = reader.readexactly(length + 2).await?;
            Reply::Text(String::from_utf8_lossy(&text[..length]).into_owned())
        }
        "*" => {
            let mut replies = Vec::new();
            for _ in 0..number()? {
                replies.push(Box::pin(read_reply(reader)).await?);
            }
            Reply::Many(replies)
        }
        _ => return Err(unknown()),
    })
}

/// Who waits, in the order of the questions; nothing when the connection is lost.
type Waiting = Rc<RefCell<Option<VecDeque<oneshot::Sender<Reply>>>>>;

struct Client {
    writer: StreamWriter,
    waiting: Waiting,
}

impl Client {
    async fn connect(host: &str, port: u16) -> io::Result<Self> {
        let (mut reader, writer) = rondel::open_connection((host, port)).await?;
        let waiting: Waiting = Rc::new(RefCell::new(Some(VecDeque::new())));
        let of_reader = Rc::clone(&waiting);
        let reading = async move {
            while let Ok(reply) = read_reply(&mut reader).await {
                let first = of_reader
                    .borrow_mut()
                    .as_mut()
                    .and_then(VecDeque::pop_front);
                if let Some(first) = first {
                    let _ = first.send(reply);
                }
            }
            // Those who still wait are told that nothing comes.
            of_reader.take();
        };
        rondel::create_task(reading).detach();
        Ok(Self { writer, waiting })
    }

    async fn ask(&self, words: &[&str]) -> io::Result<Reply> {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command += &format!("${}\r\n{word}\r\n", word.len());
        }
        let (sender, receiver) = oneshot::channel();
        match &mut *self.waiting.borrow_mut() {
            Some(waiting) => waiting.push_back(sender),
            None => return Err(io::ErrorKind::NotConnected.into()),
        }
        // The place of the answer and the command, without an await between them.
        self.writer.write(command);
        self.writer.drain().await?;
        receiver.await.map_err(io::Error::other)
    }
}

#[rondel::main]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port] = &arguments[..] else {
        return Err(io::Error::other("arguments: HOST PORT"));
    };
    let client = Client::connect(host, port.parse().map_err(io::Error::other)?).await?;
    let input = rondel::stdin()?.read_to_end().await?.to_vec();
    let input = String::from_utf8(input).map_err(io::Error::other)?;
    let commands: Vec<Vec<&str>> = input
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let asked = commands.iter().map(|words| client.ask(words));
    for reply in rondel::gather_scoped(asked).await {
        println!("{}", reply?);
    }
    Ok(())
}
