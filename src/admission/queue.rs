//! The changes that wait for the writer, by the address they come from.
//!
//! With one line for all, a client that keeps it full would make every other caller wait behind thousands, or be refused.
//! So each address has a line of its own. Places are shared ([`is_within_share`]): one address leaves a quarter of them to
//! the others. And the writer takes from each line in turn, so a change waits for as many changes as there are addresses,
//! not for as many as one of them has asked for.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::refusal::Refusal;
use crate::model::{Origin, budget::is_within_share};

/// The end that changes are put into. Clones share it.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The end that the writer takes from. When it is dropped, what waits is dropped.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    places: usize,
    waiting: Mutex<Waiting<T>>,
    arrived: Notify,
}

#[derive(Debug)]
struct Waiting<T> {
    /// None of them is empty. What the daemon itself asks for has a line, too.
    lines: HashMap<Option<Origin>, VecDeque<T>>,
    /// Each of them once, the next one first.
    turns: VecDeque<Option<Origin>>,
    count: usize,
    closed: bool,
}

/// A queue with so many places.
pub(crate) fn queue<T>(places: usize) -> (Sender<T>, Receiver<T>) {
    let waiting = Waiting { lines: HashMap::new(), turns: VecDeque::new(), count: 0, closed: false };
    let shared = Arc::new(Shared { places, waiting: Mutex::new(waiting), arrived: Notify::new() });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Sender<T> {
    /// Puts a change into the line of its origin.
    ///
    /// # Errors
    /// All places, or those of the origin, are taken; or the queue is closed.
    pub(crate) fn try_send(&self, origin: Option<Origin>, change: T) -> Result<(), Refusal> {
        let mut waiting = self.0.waiting();
        if waiting.closed {
            return Err(Refusal::ShuttingDown);
        }
        let own = waiting.lines.get(&origin).map_or(0, VecDeque::len) + 1;
        let Some(free) = self.0.places.checked_sub(waiting.count + 1) else { return Err(Refusal::Overloaded) };
        // The last places are for lines that are empty.
        if own > 1 && !is_within_share(own as u64, free as u64) {
            return Err(Refusal::Overloaded);
        }
        if own == 1 {
            waiting.turns.push_back(origin);
        }
        waiting.lines.entry(origin).or_default().push_back(change);
        waiting.count += 1;
        drop(waiting);
        self.0.arrived.notify_one();
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Waits until something is there, and takes it as [`Receiver::take`] does. Returns false once the queue is closed and
    /// empty.
    pub(crate) async fn recv(&mut self, group: &mut Vec<T>, most: usize) -> bool {
        loop {
            if self.take(group, most) > 0 {
                return true;
            }
            if self.0.waiting().closed {
                return false;
            }
            // A change that arrives before this has left a permit.
            self.0.arrived.notified().await;
        }
    }

    /// Takes what is there, one of each line in turn, until `group` has `most`. Returns how many were taken.
    pub(crate) fn take(&mut self, group: &mut Vec<T>, most: usize) -> usize {
        let mut waiting = self.0.waiting();
        let before = group.len();
        while group.len() < most
            && let Some(change) = waiting.next()
        {
            group.push(change);
        }
        group.len() - before
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.0.waiting().count
    }

    /// Lets no more in. What waits can still be taken.
    pub(crate) fn close(&mut self) {
        self.0.waiting().closed = true;
        self.0.arrived.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.waiting().closed
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.closed = true;
        waiting.turns.clear();
        waiting.count = 0;
        let dropped = std::mem::take(&mut waiting.lines);
        drop(waiting);
        drop(dropped);
    }
}

impl<T> Shared<T> {
    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Waiting<T> {
    fn next(&mut self) -> Option<T> {
        let origin = self.turns.pop_front()?;
        let line = self.lines.get_mut(&origin)?;
        let change = line.pop_front()?;
        self.count -= 1;
        if line.is_empty() {
            self.lines.remove(&origin);
        } else {
            self.turns.push_back(origin);
        }
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(number: u64) -> Option<Origin> {
        Some(Origin::from_hash(number))
    }

    /// Puts in as many as get a place.
    fn fill(sender: &Sender<u64>, number: u64) -> usize {
        std::iter::repeat_with(|| sender.try_send(origin(number), number)).take_while(Result::is_ok).count()
    }

    #[test]
    fn address_that_fills_its_line_leaves_places_to_others() {
        let (sender, receiver) = queue(100);
        assert_eq!(fill(&sender, 1), 75);
        assert_eq!(fill(&sender, 2), 18);
        assert_eq!(fill(&sender, 3), 5);
        assert_eq!(fill(&sender, 4), 1);
        assert_eq!(fill(&sender, 5), 1, "the last place");
        assert_eq!((fill(&sender, 6), receiver.len()), (0, 100));
        assert_eq!(sender.try_send(None, 0), Err(Refusal::Overloaded));
    }

    #[test]
    fn lines_are_taken_from_in_turn() {
        let (sender, mut receiver) = queue(100);
        for change in 10..15 {
            sender.try_send(origin(1), change).unwrap();
        }
        sender.try_send(origin(2), 20).unwrap();
        sender.try_send(None, 30).unwrap();
        sender.try_send(origin(2), 21).unwrap();
        let mut group = Vec::new();
        assert_eq!(receiver.take(&mut group, 6), 6);
        assert_eq!(group, [10, 20, 30, 11, 21, 12]);
        assert_eq!(receiver.take(&mut group, 100), 2, "a group of eight, as many as wait");
        assert_eq!((&group[6..], receiver.len()), (&[13, 14][..], 0));
    }

    #[tokio::test]
    async fn closed_queue_hands_out_what_waits_and_takes_no_more() {
        let (sender, mut receiver) = queue(10);
        sender.try_send(origin(1), 1).unwrap();
        receiver.close();
        assert_eq!(sender.try_send(origin(1), 2), Err(Refusal::ShuttingDown));
        let mut group = Vec::new();
        assert!(receiver.recv(&mut group, 10).await);
        assert!(!receiver.recv(&mut group, 10).await);
        assert_eq!(group, [1]);
    }

    #[tokio::test]
    async fn waiting_receiver_gets_what_arrives() {
        let (sender, mut receiver) = queue(10);
        let mut group = Vec::new();
        let (received, sent) = tokio::join!(receiver.recv(&mut group, 10), async { sender.try_send(origin(1), 7) });
        assert_eq!((received, sent, group.as_slice()), (true, Ok(()), &[7][..]));
    }

    #[test]
    fn dropped_receiver_drops_what_waits() {
        let (sender, receiver) = queue(10);
        let change = Arc::new(());
        sender.try_send(None, Arc::clone(&change)).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&change), 1);
        assert_eq!(sender.try_send(None, change), Err(Refusal::ShuttingDown));
    }
}
