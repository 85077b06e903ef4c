//! Channels: each function that waits is cancelled at every poll; what is sent arrives, once and in
//! order.

use std::collections::VecDeque;
use std::rc::Rc;

use proptest::prelude::*;
use rondel::{Lock, broadcast, create_task, mpsc, oneshot, timeout, watch};

use super::cut::at_every_poll;
use super::{SECOND, turns, virtually};

#[test]
fn oneshot_receive_and_closed() {
    at_every_poll(1, async |knife| {
        let (sender, receiver) = oneshot::channel();
        let receiver = Rc::new(Lock::new(receiver));
        let of_victim = Rc::clone(&receiver);
        let victim = create_task(async move {
            knife
                .cut(async move { (&mut *of_victim.acquire().await).await })
                .await
        });
        turns(2).await;
        sender.send(1).unwrap();
        let whole = victim.await.unwrap();
        let mut receiver = receiver.acquire().await;
        match whole {
            Some(value) => assert_eq!(value, Ok(1)),
            None => assert_eq!(timeout(SECOND, &mut *receiver).await, Ok(Ok(1))),
        }
    });
    at_every_poll(1, async |knife| {
        let (sender, receiver) = oneshot::channel::<()>();
        let sender = Rc::new(Lock::new(sender));
        let of_victim = Rc::clone(&sender);
        let victim = create_task(async move {
            knife
                .cut(async move { of_victim.acquire().await.closed().await })
                .await
        });
        turns(2).await;
        drop(receiver);
        victim.await.unwrap();
        timeout(SECOND, sender.acquire().await.closed())
            .await
            .unwrap();
    });
}

#[test]
fn oneshot_ends() {
    virtually(async {
        let (sender, receiver) = oneshot::channel::<i32>();
        drop(sender);
        assert_eq!(receiver.await, Err(oneshot::RecvError));
        let (sender, mut receiver) = oneshot::channel();
        receiver.close();
        assert_eq!(sender.send(1), Err(1));
        let (sender, mut receiver) = oneshot::channel();
        sender.send(Rc::new(())).unwrap();
        receiver.close();
        assert!(receiver.await.is_ok());
    });
}

#[test]
fn mpsc_send_reserve_and_receive() {
    for reserve in [false, true] {
        at_every_poll(1, async move |knife| {
            let (sender, mut receiver) = mpsc::channel(1);
            sender.try_send(0).unwrap();
            let of_victim = sender.clone();
            let victim = create_task(async move {
                let send = async move {
                    match reserve {
                        true => of_victim.reserve().await.unwrap().send(1),
                        false => of_victim.send(1).await.unwrap(),
                    }
                };
                knife.cut(send).await.is_some()
            });
            turns(1).await;
            let other = create_task(async move { sender.send(2).await });
            turns(2).await;
            let mut values = Vec::new();
            while let Some(value) = timeout(SECOND, receiver.recv()).await.expect("lost") {
                values.push(value);
            }
            other.await.unwrap().unwrap();
            let whole = victim.await.unwrap();
            assert_eq!(values, if whole { vec![0, 1, 2] } else { vec![0, 2] });
        });
    }
    at_every_poll(1, async |knife| {
        let (sender, receiver) = mpsc::unbounded();
        let receiver = Rc::new(Lock::new(receiver));
        let of_victim = Rc::clone(&receiver);
        let victim = create_task(async move {
            knife
                .cut(async move { of_victim.acquire().await.recv().await })
                .await
        });
        turns(2).await;
        sender.try_send(1).unwrap();
        sender.try_send(2).unwrap();
        drop(sender);
        let first = victim.await.unwrap();
        let mut values: Vec<_> = first.flatten().into_iter().collect();
        let mut receiver = receiver.acquire().await;
        while let Some(value) = timeout(SECOND, receiver.recv()).await.unwrap() {
            values.push(value);
        }
        assert_eq!(values, [1, 2]);
    });
}

#[test]
fn mpsc_ends() {
    virtually(async {
        let (sender, receiver) = mpsc::channel(1);
        sender.try_send(1).unwrap();
        let waiting = sender.clone();
        let waiting = create_task(async move { waiting.send(2).await });
        let permit = sender.clone();
        let permit = create_task(async move { permit.reserve().await.map(drop) });
        turns(1).await;
        drop(receiver);
        assert_eq!(waiting.await.unwrap(), Err(mpsc::SendError(2)));
        assert_eq!(permit.await.unwrap(), Err(mpsc::SendError(())));
        assert!(sender.is_closed() && sender.try_send(3) == Err(mpsc::TrySendError::Closed(3)));
        let (sender, mut receiver) = mpsc::channel(2);
        let permit = sender.reserve().await.unwrap();
        sender.try_send(1).unwrap();
        assert_eq!(sender.try_send(2), Err(mpsc::TrySendError::Full(2)));
        drop(permit);
        sender.try_send(2).unwrap();
        receiver.close();
        assert_eq!(
            (receiver.recv().await, receiver.recv().await),
            (Some(1), Some(2))
        );
        assert_eq!(receiver.recv().await, None);
    });
}

#[test]
fn broadcast_receive() {
    at_every_poll(1, async |knife| {
        let (sender, receiver) = broadcast::channel(4);
        let mut other = sender.subscribe();
        let receiver = Rc::new(Lock::new(receiver));
        let of_victim = Rc::clone(&receiver);
        let victim = create_task(async move {
            knife
                .cut(async move { of_victim.acquire().await.recv().await })
                .await
        });
        turns(2).await;
        for value in [1, 2] {
            sender.send(value).unwrap();
        }
        drop(sender);
        let mut values: Vec<_> = victim
            .await
            .unwrap()
            .map(Result::unwrap)
            .into_iter()
            .collect();
        let mut receiver = receiver.acquire().await;
        while let Ok(value) = timeout(SECOND, receiver.recv()).await.unwrap() {
            values.push(value);
        }
        assert_eq!(values, [1, 2]);
        assert_eq!((other.recv().await, other.recv().await), (Ok(1), Ok(2)));
        assert_eq!(other.recv().await, Err(broadcast::RecvError::Closed));
    });
}

#[test]
fn watch_changed_and_wait_for() {
    for by_predicate in [false, true] {
        at_every_poll(1, async move |knife| {
            let (sender, receiver) = watch::channel(0);
            let receiver = Rc::new(Lock::new(receiver));
            let of_victim = Rc::clone(&receiver);
            let victim = create_task(async move {
                let changed = async move {
                    let mut receiver = of_victim.acquire().await;
                    match by_predicate {
                        true => receiver.wait_for(|value| *value > 0).await.map(drop),
                        false => receiver.changed().await,
                    }
                };
                knife.cut(changed).await.is_some()
            });
            turns(2).await;
            sender.send(1);
            let whole = victim.await.unwrap();
            let mut receiver = receiver.acquire().await;
            if !whole {
                timeout(SECOND, receiver.changed()).await.unwrap().unwrap();
            }
            assert_eq!(*receiver.borrow(), 1);
            assert_eq!(receiver.has_changed(), Ok(false));
        });
    }
    virtually(async {
        let (sender, mut receiver) = watch::channel(0);
        assert!(!sender.send_if_modified(|_| false) && receiver.has_changed() == Ok(false));
        let waiting = create_task(async move {
            let end = receiver.changed().await;
            (end, receiver.changed().await)
        });
        turns(1).await;
        sender.send(1);
        drop(sender);
        assert_eq!(waiting.await.unwrap(), (Ok(()), Err(watch::RecvError)));
        let (sender, receiver) = watch::channel(());
        let other = receiver.clone();
        let closed = create_task(async move { sender.closed().await });
        turns(1).await;
        drop((receiver, other));
        closed.await.unwrap();
    });
}

#[derive(Clone, Debug)]
enum Op {
    Send,
    Receive(usize),
    Subscribe,
    Unsubscribe(usize),
}

proptest! {
    #[test]
    fn each_receiver_of_a_broadcast_gets_the_newest_values_in_order(
        capacity in 1_usize..5,
        ops in proptest::collection::vec(prop_oneof![
            4 => Just(Op::Send),
            4 => any::<usize>().prop_map(Op::Receive),
            1 => Just(Op::Subscribe),
            1 => any::<usize>().prop_map(Op::Unsubscribe),
        ], 0..80),
    ) {
        let (sender, first) = broadcast::channel(capacity);
        // Each with what it is to get, and how much of it it has missed.
        let mut receivers = vec![(first, VecDeque::new(), 0)];
        let mut sent = 0;
        for op in ops {
            let number = receivers.len().max(1);
            match op {
                Op::Send => {
                    prop_assert_eq!(sender.send(sent).is_ok(), !receivers.is_empty());
                    for (_, queue, missed) in &mut receivers {
                        queue.push_back(sent);
                        if queue.len() > capacity {
                            queue.pop_front();
                            *missed += 1;
                        }
                    }
                    sent += 1;
                }
                Op::Receive(index) => {
                    if let Some((receiver, queue, missed)) = receivers.get_mut(index % number) {
                        let expected = match std::mem::take(missed) {
                            0 => queue.pop_front().ok_or(broadcast::TryRecvError::Empty),
                            missed => Err(broadcast::TryRecvError::Lagged(missed)),
                        };
                        prop_assert_eq!(receiver.try_recv(), expected);
                    }
                }
                Op::Subscribe => receivers.push((sender.subscribe(), VecDeque::new(), 0)),
                Op::Unsubscribe(index) => {
                    if !receivers.is_empty() {
                        receivers.swap_remove(index % number);
                    }
                }
            }
            prop_assert_eq!(sender.receiver_count(), receivers.len());
        }
    }
}
