//! A pool that has nothing to give delays; it loses and changes nothing.

use super::model::{Says, Sender};
use super::pieces::{Arrived, BodySize, Cutter, Spec, pool, settled};
use crate::message::Message;
use crate::packing::{Inbox, InboxError, Offers, Outbox, PackingRules, Windows};
use crate::pool::{BUFFER_BYTES_MAX, BUFFER_CLASSES, BufferMut, GatherList, Pool, PoolConfig};
use crate::proto::Lane;
use crate::proto::credit::SendWindow;
use crate::proto::record::MessageHead;
use proptest::prelude::*;

/// One slab for each size of buffer, a few for the longer ones, and no more.
fn tiny_pool() -> Pool {
    let slab_bytes = BUFFER_BYTES_MAX;
    let bytes_max = (3 + 4 + 8) * slab_bytes;
    let mut pool = Pool::new(PoolConfig { bytes_max, slab_bytes, huge_pages: false }).unwrap();
    let held: Vec<_> = [(256, 1), (1024, 1), (4096, 1), (16_384, 16), (65_536, 8)]
        .into_iter()
        .flat_map(|(class_bytes, count)| std::iter::repeat_n(class_bytes, count))
        .map(|class_bytes| pool.buffer(class_bytes).unwrap())
        .collect();
    drop(held);
    pool
}

/// All that the pool has.
fn exhaust(pool: &mut Pool) -> Vec<BufferMut> {
    let mut held = Vec::new();
    for class_bytes in BUFFER_CLASSES {
        while let Ok(buffer) = pool.buffer(class_bytes) {
            held.push(buffer);
        }
    }
    held
}

/// Everything that can need a buffer: long heads, copied bodies, bodies to be joined, chunks.
fn load() -> Vec<Spec> {
    let eager = |lane, bytes, extensions| Spec { extensions, reply_address: true, ..Spec::new(lane, bytes) };
    let mut load: Vec<_> = (0..40).map(|index| eager(Lane::Normal, 50 * index, (index * 6) as u8)).collect();
    load.push(Spec { piece_bytes: 20, ..eager(Lane::Urgent, 3_500, 9) });
    load.push(Spec { piece_bytes: 20, ..eager(Lane::Normal, 12_000, 9) });
    load.push(Spec { size: BodySize::Chunks(3, 5), ..eager(Lane::Bulk, 0, 40) });
    load.push(Spec { piece_bytes: 60, size: BodySize::Chunks(1, 5), ..eager(Lane::Urgent, 0, 40) });
    load.extend((0..20).map(|index| eager(Lane::Bulk, 100 * index, 0)));
    load
}

fn loaded(bodies: &mut Pool) -> (Outbox, Windows) {
    let rules = PackingRules::new(&settled());
    let mut outbox = Outbox::new(rules, 1000, u64::MAX);
    for (number, spec) in load().iter().enumerate() {
        outbox.push(spec.build(&rules, number as u64, bodies)).unwrap();
        outbox.push_control(&[0x7e, 0, 0, 0, 8, 0, 0, 0]);
    }
    (
        outbox,
        Windows {
            frames: SendWindow::new(1000, 4),
            chunks: SendWindow::new(1000, 0),
            offers: Offers::default(),
        },
    )
}

#[test]
fn an_outbox_goes_on_where_the_pool_left_it() {
    let mut bodies = pool(64 << 20);
    let (mut outbox, mut windows) = loaded(&mut bodies);
    let (mut expected, mut gather) = (Vec::new(), GatherList::new());
    let mut says = Says::default();
    while outbox.fill(&mut windows, &mut says.announcement(), &mut bodies, &mut gather).unwrap() > 0 {
        send(&mut gather, &mut expected);
    }
    let stats = outbox.stats();

    let mut pool = tiny_pool();
    let (mut outbox, mut windows) = loaded(&mut bodies);
    let (mut stream, mut refused, mut refused_midway) = (Vec::new(), 0, 0);
    let mut held = exhaust(&mut pool);
    loop {
        let before = (windows.frames.used(), gather.len());
        match outbox.fill(&mut windows, &mut says.announcement(), &mut pool, &mut gather) {
            Ok(0) if outbox.waiting_messages() == 0 => break,
            // The longest buffers come back first, one at a time.
            Err(_) => {
                refused += 1;
                refused_midway += u32::from(gather.len() > before.1);
                if held.pop().is_none() {
                    send(&mut gather, &mut stream);
                }
            }
            Ok(_) => {
                send(&mut gather, &mut stream);
                drop(held);
                held = exhaust(&mut pool);
            }
        }
        assert!(
            outbox
                .fill_keep_alive(&mut no_windows(), &mut says.announcement(), &mut pool, &mut gather)
                .is_ok_and(|sent| !sent)
        );
    }
    assert!(refused > 20 && refused_midway > 0, "{refused} refused, {refused_midway} of them midway");
    assert!(stream == expected, "{} bytes, {} expected", stream.len(), expected.len());
    assert_eq!(outbox.stats(), stats);
}

fn no_windows() -> Windows {
    Windows { frames: SendWindow::new(0, 0), chunks: SendWindow::new(0, 0), offers: Offers::default() }
}

fn send(gather: &mut GatherList, stream: &mut Vec<u8>) {
    gather.segments().iter().for_each(|segment| stream.extend_from_slice(segment));
    gather.clear();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 16))]
    #[test]
    fn an_inbox_goes_on_where_the_pool_left_it(cut in prop_oneof![1usize..30, 30usize..200, 200usize..2_000]) {
        let mut plenty = pool(64 << 20);
        let mut sender = Sender::new(settled(), 10_000);
        load().iter().for_each(|spec| sender.push(spec, &mut plenty));
        while sender.outbox.waiting_messages() > 0 {
            sender.grant_chunks(2);
            sender.fill(&mut plenty);
        }
        let (expected, _) = take_apart(&sender, cut, &mut plenty, false);
        let (arrived, refused) = take_apart(&sender, cut, &mut tiny_pool(), true);
        prop_assert!(refused > 0);
        prop_assert_eq!(arrived.len(), load().len());
        for (message, expected) in arrived.iter().zip(&expected) {
            prop_assert!(message == expected, "{:?}, {:?} expected", message.0, expected.0);
        }
    }
}

/// A message's head, extensions and body.
type Content = (MessageHead, Vec<u8>, Vec<u8>);

/// What arrives; with `starve`, the pool has nothing to give but after it has refused.
fn take_apart(sender: &Sender, cut: usize, pool: &mut Pool, starve: bool) -> (Vec<Content>, usize) {
    let mut wire = super::pieces::pool(64 << 20);
    let mut cutter = Cutter::new(&mut wire);
    let mut inbox = Inbox::new(sender.rules, settled().limits());
    let (mut contents, mut refused) = (Vec::new(), 0);
    let mut held = if starve { exhaust(pool) } else { Vec::new() };
    for piece in sender.stream.chunks(cut) {
        cutter.cut(piece, &mut wire, |segment, _| inbox.push(segment));
        let mut arrived = Arrived::default();
        loop {
            match arrived.take_all(&mut inbox, pool) {
                Ok(()) => break,
                Err(InboxError::Pool(_)) => refused += 1,
                Err(InboxError::Peer(misbehaved)) => panic!("{misbehaved}"),
            }
            // The same call again, now that there are buffers.
            held.clear();
            arrived.take_one(&mut inbox, pool);
            held = exhaust(pool);
        }
        contents.extend(arrived.messages.iter().map(content));
    }
    (contents, refused)
}

fn content(message: &Message) -> Content {
    (message.head, message.extensions().as_bytes().to_vec(), message.body.to_vec())
}
