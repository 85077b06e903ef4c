//! `rondel::fs`: against the standard library, and what dropped futures have done.

use std::cell::Cell;
use std::fs as std_fs;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, Read, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use rondel::fs::{self, File};
use rondel::{create_task, run, spawn_blocking, timeout, yield_now};

const AGES: Duration = Duration::from_secs(20);

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rondel-{}-{name}", std::process::id()));
        std_fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std_fs::remove_dir_all(&self.0);
    }
}

fn test(name: &str, main: impl AsyncFnOnce(&Folder) -> io::Result<()>) {
    let folder = Folder::new(name);
    run(async { timeout(AGES, main(&folder)).await.expect("the test hangs") })
        .unwrap()
        .unwrap();
}

/// Polls a future so many times, each time when it was woken, and drops it if it is not ready then.
async fn at_most<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Keeps all threads of the pool busy until the result is dropped, so that nothing else begins.
fn busy_pool() -> Vec<mpsc::Sender<()>> {
    (0..32)
        .map(|_| {
            let (sender, receiver) = mpsc::channel::<()>();
            spawn_blocking(move || receiver.recv()).detach();
            sender
        })
        .collect()
}

#[test]
fn functions_do_what_those_of_the_standard_library_do() {
    test("functions", async |folder| {
        let (a, b) = (folder.at("a"), folder.at("b"));
        fs::write(&a, "content").await?;
        assert_eq!(std_fs::read(&a)?, b"content");
        assert_eq!(fs::read(&a).await?, b"content");
        assert_eq!(fs::read_to_string(&a).await?, "content");
        fs::write(&a, vec![0xff]).await?;
        let error = fs::read_to_string(&a).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);

        assert_eq!(fs::copy(&a, &b).await?, 1);
        fs::rename(&b, folder.at("c")).await?;
        assert!(!fs::exists(&b).await? && fs::exists(folder.at("c")).await?);
        fs::hard_link(&a, &b).await?;
        fs::set_permissions(&a, std_fs::Permissions::from_mode(0o600)).await?;
        let mode = fs::metadata(&b).await?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let link = folder.at("link");
        fs::symlink(&a, &link).await?;
        assert_eq!(fs::read_link(&link).await?, a);
        assert!(fs::symlink_metadata(&link).await?.is_symlink());
        assert!(fs::metadata(&link).await?.is_file());
        assert_eq!(fs::canonicalize(&link).await?, std_fs::canonicalize(&a)?);

        fs::create_dir(folder.at("one")).await?;
        fs::create_dir_all(folder.at("two/three")).await?;
        fs::remove_dir(folder.at("one")).await?;
        let full = fs::remove_dir(folder.at("two")).await.unwrap_err();
        assert_eq!(full.kind(), ErrorKind::DirectoryNotEmpty);
        fs::remove_dir_all(folder.at("two")).await?;
        fs::remove_file(&a).await?;
        assert_eq!(fs::read(&a).await.unwrap_err().kind(), ErrorKind::NotFound);
        Ok(())
    });
}

#[test]
fn a_directory_of_any_size_is_read_once() {
    test("directory", async |folder| {
        for count in [0, 1, 255, 256, 257, 600] {
            let path = folder.at(&count.to_string());
            std_fs::create_dir(&path)?;
            for number in 0..count {
                std_fs::write(path.join(format!("{number:03}")), "")?;
            }
            // Undisturbed, and dropped after each first poll.
            for polls in [usize::MAX, 1, 2] {
                let mut entries = fs::read_dir(&path).await?;
                let mut names = Vec::new();
                loop {
                    match at_most(polls, entries.next_entry()).await {
                        None => yield_now().await,
                        Some(entry) => match entry? {
                            Some(entry) => names.push(entry.file_name().into_string().unwrap()),
                            None => break,
                        },
                    }
                }
                names.sort();
                let all: Vec<_> = (0..count).map(|number| format!("{number:03}")).collect();
                assert_eq!(names, all);
                assert!(entries.next_entry().await?.is_none());
            }
        }
        let missing = fs::read_dir(folder.at("none")).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        Ok(())
    });
}

#[test]
fn a_file_has_one_position_for_reads_and_writes() {
    test("position", async |folder| {
        let path = folder.at("file");
        let mut options = std_fs::OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let mut file = File::open_with(&options, &path).await?;
        file.write_all("0123456789").await?;
        assert_eq!(file.read(10).await?, b"");
        assert_eq!(file.seek(SeekFrom::Start(2)).await?, 2);
        assert_eq!(file.read(3).await?, b"234");
        file.write_all("xy").await?;
        assert_eq!(file.read_to_end().await?, b"789");
        assert_eq!(file.seek(SeekFrom::End(-4)).await?, 6);
        assert_eq!(file.seek(SeekFrom::Current(-6)).await?, 0);
        assert_eq!(file.read_at(2, 5).await?, b"xy");
        assert_eq!(file.read_to_end().await?, b"01234xy789");
        for nowhere in [SeekFrom::Current(-11), SeekFrom::End(-11)] {
            let error = file.seek(nowhere).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(file.seek(SeekFrom::Current(0)).await?, 10);
        file.set_len(4).await?;
        assert_eq!(file.metadata().await?.len(), 4);
        file.sync_data().await?;
        file.sync_all().await?;

        // The standard library's file goes on where this one was, and the other way round.
        file.seek(SeekFrom::Start(1)).await?;
        let mut standard = file.into_std().await?;
        let mut two = [0; 2];
        standard.read_exact(&mut two)?;
        assert_eq!(&two, b"12");
        let mut file = File::from_std(standard).await?;
        assert_eq!(file.read_to_end().await?, b"3");
        Ok(())
    });
}

#[test]
fn a_large_file_comes_whole() {
    test("large", async |folder| {
        let content: Vec<u8> = (0..3_500_000_u32).map(|n| (n % 251) as u8).collect();
        let path = folder.at("file");
        let mut file = File::create(&path).await?;
        file.write_all(content.clone()).await?;
        assert_eq!(std_fs::read(&path)?, content);
        let mut file = File::open(&path).await?;
        assert_eq!(file.read(10).await?, content[..10]);
        assert!(file.read_to_end().await? == content[10..]);
        Ok(())
    });
}

#[test]
fn what_has_no_position_is_no_file() {
    test("pipe", async |_| {
        let (reader, mut writer) = io::pipe()?;
        writer.write_all(b"lost?")?;
        let reader = std_fs::File::from(std::os::fd::OwnedFd::from(reader));
        let mut copy = reader.try_clone()?;
        let error = File::from_std(reader).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESPIPE));
        let mut data = [0; 5];
        copy.read_exact(&mut data)?;
        assert_eq!(&data, b"lost?");
        Ok(())
    });
}

#[test]
fn reads_that_are_dropped_take_nothing() {
    test("reads", async |folder| {
        let path = folder.at("file");
        std_fs::write(&path, "0123456789")?;
        for polls in 1..4 {
            let mut file = File::open(&path).await?;
            let mut all = Vec::new();
            let drops = Cell::new(0);
            // Each is dropped twice, and then let be.
            for attempt in 0.. {
                let polls = if attempt % 3 == 2 { usize::MAX } else { polls };
                // Otherwise its thread may be done before the first poll is.
                let busy = (polls == 1).then(busy_pool);
                let read = at_most(polls, file.read(3)).await;
                drop(busy);
                match read {
                    Some(piece) if piece.as_ref().is_ok_and(Vec::is_empty) => break,
                    Some(piece) => all.extend(piece?),
                    None => drops.set(drops.get() + 1),
                }
            }
            assert_eq!(all, b"0123456789");
            assert!(polls > 1 || drops.get() > 2);
            file.seek(SeekFrom::Start(4)).await?;
            let busy = busy_pool();
            assert!(at_most(1, file.read_to_end()).await.is_none());
            drop(busy);
            assert_eq!(file.seek(SeekFrom::Current(0)).await?, 4);
            assert_eq!(file.read_to_end().await?, b"456789");
        }
        Ok(())
    });
}

#[test]
fn writes_that_are_dropped_are_done_in_their_order() {
    test("writes", async |folder| {
        let path = folder.at("file");
        let mut file = File::create(&path).await?;
        let busy = busy_pool();
        // No thread can have begun.
        assert!(at_most(1, file.write_all("one,")).await.is_none());
        drop(busy);
        // This one waits for the first, and is dropped before it has begun itself, or after.
        let second = at_most(1, file.write_all("two,")).await;
        file.write_all("three").await?;
        file.sync_all().await?;
        let all = match second {
            Some(_) => "one,two,three",
            // It never came to its own.
            None => "one,three",
        };
        assert_eq!(std_fs::read_to_string(&path)?, all);

        let mut file = File::create(&path).await?;
        let busy = busy_pool();
        assert!(at_most(1, file.write_all("left")).await.is_none());
        drop((file, busy));
        let kept = async || {
            fs::read(&path)
                .await
                .is_ok_and(|content| content == b"left")
        };
        while !kept().await {
            yield_now().await;
        }
        Ok(())
    });
}

#[test]
fn a_dropped_write_s_failure_is_told_by_the_next_call() {
    test("failure", async |folder| {
        let path = folder.at("file");
        std_fs::write(&path, "")?;
        let mut file = File::open(&path).await?;
        let busy = busy_pool();
        assert!(at_most(1, file.write_all("not allowed")).await.is_none());
        drop(busy);
        let error = file.metadata().await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        assert_eq!(file.metadata().await?.len(), 0);
        Ok(())
    });
}

#[test]
fn what_no_thread_has_begun_is_not_done_when_it_is_dropped() {
    test("unbegun", async |folder| {
        let path = folder.at("file");
        let busy = busy_pool();
        assert!(at_most(1, fs::write(&path, "never")).await.is_none());
        let task = create_task(fs::create_dir(folder.at("never")));
        yield_now().await;
        task.cancel();
        assert!(task.await.unwrap_err().is_cancelled());
        drop(busy);
        // Jobs begin in their order: when this one is done, the others would have begun.
        fs::write(folder.at("other"), "done").await?;
        assert!(!path.exists() && !folder.at("never").exists());
        Ok(())
    });
}

#[test]
fn the_loop_goes_on_meanwhile() {
    test("meanwhile", async |folder| {
        let fifo = folder.at("fifo");
        let name = std::ffi::CString::new(fifo.to_str().unwrap()).unwrap();
        // SAFETY: a string that ends.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        // Opening blocks until there is somebody at the other end.
        let opening = create_task(fs::read(fifo.clone()));
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(!opening.done());
        fs::write(&fifo, "through").await?;
        assert_eq!(opening.await.map_err(io::Error::other)??, b"through");
        Ok(())
    });
}
