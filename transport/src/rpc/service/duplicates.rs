//! Which requests were handled already, and what was answered.

use crate::message::Message;
use crate::pool::Pool;
use crate::proto::record::MessageHead;
use crate::proto::{MessageNumber, Origin};
use std::collections::HashMap;

/// What tells copies of one message apart from different messages.
pub(super) type Key = (Origin, MessageNumber);

/// The last so many requests of which copies may come, and the replies to the latest of them.
///
/// Every operation takes constant time, amortised. Memory is taken while the window fills for the first time, and not
/// after that. Whoever sends may choose origins and numbers, so they are hashed by a key that nobody knows.
#[derive(Debug)]
pub(super) struct Duplicates {
    window: usize,
    reply_bytes_max: usize,
    /// A ring: what is remembered as the `n`th is at `n` modulo the window.
    entries: Vec<Entry>,
    places: HashMap<Key, usize>,
    /// How many were ever remembered.
    remembered: u64,
    /// No reply before this one is kept.
    oldest_kept: u64,
    kept_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    reply: Option<Message>,
    /// What keeping the reply costs.
    bytes: usize,
}

/// By what a message is remembered of which copies may come: its sender says so, or a broker has given it out before.
/// One that its sender has not numbered (numbers begin at 1) cannot be told apart from others that were not either, so
/// it is handled whenever it comes.
#[inline]
pub(super) fn repeatable(head: &MessageHead) -> Option<Key> {
    let is_numbered = head.message_number != MessageNumber::default();
    (is_numbered && (head.copies || head.redelivered)).then_some((head.origin, head.message_number))
}

impl Duplicates {
    /// Remembers `window` requests, and replies that keep `reply_bytes_max` bytes of buffers alive.
    pub(super) fn new(window: usize, reply_bytes_max: usize) -> Self {
        Self {
            window,
            reply_bytes_max,
            entries: Vec::new(),
            places: HashMap::new(),
            remembered: 0,
            oldest_kept: 0,
            kept_bytes: 0,
        }
    }

    /// Whether this message was remembered, and is not forgotten.
    pub(super) fn contains(&self, key: Key) -> bool {
        self.places.contains_key(&key)
    }

    /// The reply to it, once more, if it is still kept. It shares the body.
    pub(super) fn reply(&self, key: Key, pool: &mut Pool) -> Option<Message> {
        let place = *self.places.get(&key)?;
        share(self.entries[place].reply.as_ref()?, pool)
    }

    /// Remembers a message, in place of the oldest one if there are as many as there may be; with its reply if there
    /// is one and room for it.
    pub(super) fn remember(&mut self, key: Key, reply: Option<&Message>, pool: &mut Pool) {
        if self.window == 0 {
            return;
        }
        let place = self.make_place(key);
        // Without a buffer for it, it is not kept: whoever repeats the request waits in vain, as if it was lost.
        let Some(reply) = reply.and_then(|reply| keepable(reply, pool)) else { return };
        let bytes = reply.body.held_bytes() + reply.extensions.as_ref().map_or(0, |it| it.held_bytes());
        if bytes > self.reply_bytes_max {
            return;
        }
        while self.kept_bytes + bytes > self.reply_bytes_max {
            self.drop_oldest_reply();
        }
        self.kept_bytes += bytes;
        (self.entries[place].reply, self.entries[place].bytes) = (Some(reply), bytes);
    }

    fn make_place(&mut self, key: Key) -> usize {
        if self.places.capacity() == 0 {
            // Twice as many as are ever in it, so that it cleans up in place instead of growing.
            self.places.reserve(2 * (self.window + 1));
        }
        let place = (self.remembered % self.window as u64) as usize;
        self.remembered += 1;
        let entry = Entry { key, reply: None, bytes: 0 };
        if place < self.entries.len() {
            let before = std::mem::replace(&mut self.entries[place], entry);
            self.places.remove(&before.key);
            self.kept_bytes -= before.bytes;
            self.oldest_kept = self.oldest_kept.max(self.remembered - self.window as u64);
        } else {
            self.entries.push(entry);
        }
        self.places.insert(key, place);
        place
    }

    /// The next of those that may keep one. There are as many as bytes are kept for, so it ends before the newest.
    fn drop_oldest_reply(&mut self) {
        let place = (self.oldest_kept % self.window as u64) as usize;
        self.oldest_kept += 1;
        let entry = &mut self.entries[place];
        entry.reply = None;
        self.kept_bytes -= std::mem::take(&mut entry.bytes);
    }
}

/// A share of a reply that is to be held for long. Few bytes in a large buffer, as an echo's are in the buffer that
/// they were received in, are copied into one that fits, since what counts is what they keep alive.
fn keepable(reply: &Message, pool: &mut Pool) -> Option<Message> {
    let mut reply = share(reply, pool)?;
    reply.body.compact(pool).ok()?;
    Some(reply)
}

fn share(reply: &Message, pool: &mut Pool) -> Option<Message> {
    let body = reply.body.share(pool).ok()?;
    Some(Message { head: reply.head, extensions: reply.extensions.clone(), body, position: 0 })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pool::PoolConfig;
    use crate::proto::record::MessageKind;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn pool() -> Pool {
        Pool::new(PoolConfig { slab_bytes: 64 << 10, huge_pages: false, ..PoolConfig::default() }).unwrap()
    }

    fn request(origin: u64, number: u64) -> Key {
        (Origin(origin), MessageNumber(number))
    }

    /// Forgets by the book: a queue in order of arrival, searched from end to end.
    #[derive(Default)]
    struct Oracle(VecDeque<(Key, Option<(u8, usize)>)>);

    impl Oracle {
        fn remember(&mut self, key: Key, reply: Option<(u8, usize)>, window: usize, bytes_max: usize) {
            if window == 0 {
                return;
            }
            if self.0.len() == window {
                self.0.pop_front();
            }
            let reply = reply.filter(|(_, bytes)| *bytes <= bytes_max);
            self.0.push_back((key, None));
            if let Some(reply) = reply {
                while self.0.iter().filter_map(|(_, it)| *it).map(|(_, bytes)| bytes).sum::<usize>() + reply.1
                    > bytes_max
                {
                    let oldest = self.0.iter_mut().find(|(_, it)| it.is_some()).unwrap();
                    oldest.1 = None;
                }
                self.0.back_mut().unwrap().1 = Some(reply);
            }
        }

        fn find(&self, key: Key) -> Option<Option<(u8, usize)>> {
            self.0.iter().find(|(its, _)| *its == key).map(|(_, reply)| *reply)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn it_remembers_what_a_queue_in_order_of_arrival_does(
            window in 0..20_usize,
            bytes_max in 0..20_000_usize,
            arrivals in proptest::collection::vec((0..3_u64, 0..12_u64, proptest::option::of(0..6000_usize)), 1..200),
        ) {
            let mut pool = pool();
            let mut duplicates = Duplicates::new(window, bytes_max);
            let mut oracle = Oracle::default();
            let mut capacity = None;
            for (number, (origin, message, reply_bytes)) in arrivals.into_iter().enumerate() {
                let key = request(origin, message);
                let expected = oracle.find(key);
                prop_assert_eq!(duplicates.contains(key), expected.is_some());
                let reply = duplicates.reply(key, &mut pool).map(|reply| reply.body.to_vec());
                let mark = number as u8;
                match (expected, reply) {
                    (Some(Some((mark, _))), Some(body)) => prop_assert!(body.iter().all(|byte| *byte == mark)),
                    (Some(None) | None, None) => {}
                    (expected, reply) => prop_assert!(false, "{expected:?}, and not {reply:?}"),
                }
                if expected.is_some() {
                    continue;
                }
                let reply = reply_bytes.map(|bytes| {
                    Message::new(MessageKind::Reply, pool.copy_body(&vec![mark; bytes]).unwrap())
                });
                let costs = reply.as_ref().map(|reply| {
                    let kept = keepable(reply, &mut pool).unwrap();
                    (mark, kept.body.held_bytes())
                });
                duplicates.remember(key, reply.as_ref(), &mut pool);
                oracle.remember(key, costs, window, bytes_max);
                let kept: usize = oracle.0.iter().filter_map(|(_, it)| *it).map(|(_, bytes)| bytes).sum();
                prop_assert_eq!(duplicates.kept_bytes, kept);
                prop_assert!(duplicates.kept_bytes <= bytes_max && duplicates.entries.len() <= window);
                let now = duplicates.places.capacity();
                prop_assert!(now <= *capacity.get_or_insert(now));
            }
        }
    }

    #[test]
    fn a_few_bytes_of_a_large_buffer_are_kept_without_it() {
        let (mut pool, mut duplicates) = (pool(), Duplicates::new(4, 1024));
        let large = pool.copy_body(&[7; 16_000]).unwrap();
        let mut body = crate::pool::Body::new();
        body.push(large.slices(100, 10).next().unwrap(), &mut pool).unwrap();
        assert!(body.held_bytes() > 1024);
        let reply = Message::new(MessageKind::Reply, body);
        duplicates.remember(request(1, 1), Some(&reply), &mut pool);
        assert_eq!(duplicates.reply(request(1, 1), &mut pool).unwrap().body.to_vec(), [7; 10]);
        assert!(duplicates.kept_bytes < 1024);
    }

    #[test]
    fn only_what_is_marked_is_looked_up() {
        let mut head = Message::new(MessageKind::Request, crate::pool::Body::new()).head;
        (head.origin, head.message_number) = request(3, 4);
        assert_eq!(repeatable(&head), None);
        head.copies = true;
        assert_eq!(repeatable(&head), Some(request(3, 4)));
        (head.copies, head.redelivered) = (false, true);
        assert_eq!(repeatable(&head), Some(request(3, 4)));
        head.message_number = MessageNumber(0);
        assert_eq!(repeatable(&head), None, "all that are not numbered would be one");
    }

    /// Fifty times around the ring: the table of places cleans up in place.
    #[test]
    fn it_does_not_grow_once_it_is_full() {
        let (mut pool, mut duplicates) = (pool(), Duplicates::new(100, 1 << 20));
        (0..100).for_each(|number| duplicates.remember(request(1, number), None, &mut pool));
        let (ring, table) = (duplicates.entries.capacity(), duplicates.places.capacity());
        (100..5000).for_each(|number| duplicates.remember(request(1, number), None, &mut pool));
        assert_eq!(duplicates.entries.capacity(), ring);
        // What was removed takes room until the next cleaning, so the table may say less, but never more.
        assert!(duplicates.places.capacity() <= table);
        assert!(duplicates.contains(request(1, 4900)) && !duplicates.contains(request(1, 4899)));
        assert!(!duplicates.contains(request(2, 4999)), "another origin is another message");
    }

    #[test]
    fn a_kept_reply_is_the_same_bytes_and_not_a_copy() {
        let (mut pool, mut duplicates) = (pool(), Duplicates::new(4, 1 << 20));
        let reply = Message::new(MessageKind::Reply, pool.copy_body(&[7; 3000]).unwrap());
        duplicates.remember(request(1, 1), Some(&reply), &mut pool);
        let again = duplicates.reply(request(1, 1), &mut pool).unwrap();
        let address = |message: &Message| message.body.segments().next().unwrap().as_ptr();
        assert_eq!(address(&again), address(&reply));
    }
}
