//! What became of deliveries, and the wish to be left.

use super::fake::*;
use super::pair::*;
use crate::connection::{Deliveries, LinkError, LinkRoom, SendError};
use crate::proto::control::{Control, DetachCode, LinkRole, Outcome, Settle};
use crate::proto::hello::Capabilities;
use crate::proto::{Lane, LinkId, PeerMisbehaved};
use std::ops::Range;
use std::time::Duration;

/// A link on which the server sends and the client settles.
fn settling(pair: &mut Pair) -> LinkId {
    let link = pair.client().attach(LinkRole::SettlingConsumer, AMPLE);
    pair.settle();
    assert_eq!(pair.server().requested.last().map(|request| request.role), Some(LinkRole::SettlingConsumer));
    link
}

fn deliveries(link: LinkId, lane: Lane, positions: Range<u64>) -> Deliveries {
    Deliveries { link, lane, positions }
}

fn settle(pair: &mut Pair, deliveries: &Deliveries, outcome: Outcome) {
    pair.client().connection.settle(deliveries, outcome).unwrap();
}

fn none_closed(pair: &Pair) {
    assert!(pair.ends.iter().all(|end| end.closed.is_empty()));
}

/// Lanes overtake each other, and bulk comes in chunks: the positions by which the receiver settles are the sender's.
#[test]
fn both_ends_count_alike_by_lane() {
    let mut pair = Pair::open(with(usual()));
    let link = settling(&mut pair);
    let other = settling(&mut pair);
    let mut sent: Vec<(LinkId, Lane, u64)> = Vec::new();
    for tag in 0..60 {
        let (lane, bytes) = [(Lane::Bulk, 70_000), (Lane::Normal, 300), (Lane::Urgent, 10)][tag as usize % 3];
        let link = if tag % 7 == 0 { other } else { link };
        pair.server().send(lane, Some(link), tag, bytes);
        sent.push((link, lane, tag));
    }
    pair.settle();
    let arrived: Vec<_> = pair.client().messages.drain(..).collect();
    let order: Vec<_> = arrived.iter().map(|message| message.head.correlation_id.0).collect();
    assert!(!order.is_sorted(), "no lane has overtaken another, so this shows nothing");
    for message in &arrived {
        let found = Deliveries::of(message).unwrap();
        let (link, lane, tag) = (found.link, found.lane, message.head.correlation_id.0);
        let before =
            sent.iter().take_while(|it| it.2 != tag).filter(|it| (it.0, it.1) == (link, lane)).count();
        assert_eq!(found.positions, before as u64..before as u64 + 1, "message {tag}");
    }
}

#[test]
fn neighbours_leave_as_one_record_with_what_leaves_next() {
    let mut pair = Pair::open(with(usual()));
    let link = settling(&mut pair);
    for tag in 0..40 {
        pair.server().send([Lane::Normal, Lane::Urgent][tag as usize % 2], Some(link), tag, 10);
    }
    pair.settle();
    let arrived: Vec<_> = pair.client().messages.drain(..).collect();
    let sends = pair.client().sends;
    for message in arrived.iter().rev() {
        settle(&mut pair, &Deliveries::of(message).unwrap(), Outcome::Accepted);
    }
    pair.client().send(Lane::Normal, None, 1, 100);
    pair.settle();
    assert_eq!(pair.client().sends, sends + 1, "settling costs no send of its own");
    assert_eq!(pair.server().messages.len(), 1);
    let mut settled = std::mem::take(&mut pair.server().settled);
    settled.sort_by_key(|(it, _)| it.lane.index());
    let of = |lane| (deliveries(link, lane, 0..20), Outcome::Accepted);
    assert_eq!(settled, [of(Lane::Urgent), of(Lane::Normal)]);
    none_closed(&pair);
}

/// What differs in outcome is told apart, what was said is said again, and a range may begin with what was settled.
#[test]
fn outcomes_are_told_apart_and_may_be_said_again() {
    let mut pair = Pair::open(with(usual()));
    let link = settling(&mut pair);
    (0..4).for_each(|tag| pair.server().send(Lane::Normal, Some(link), tag, 10));
    pair.settle();
    let of = |positions| deliveries(link, Lane::Normal, positions);
    let said = [(of(1..2), Outcome::Rejected), (of(2..3), Outcome::Released), (of(0..4), Outcome::Accepted)];
    for (deliveries, outcome) in &said {
        settle(&mut pair, deliveries, *outcome);
    }
    settle(&mut pair, &of(2..2), Outcome::Rejected);
    pair.settle();
    assert_eq!(pair.server().settled, said);
    settle(&mut pair, &of(0..4), Outcome::Accepted);
    pair.settle();
    assert_eq!(pair.server().settled.len(), 4);
    none_closed(&pair);
}

#[test]
fn only_what_arrived_on_a_link_that_settles_can_be_settled() {
    let mut pair = Pair::open(with(usual()));
    let link = settling(&mut pair);
    let plain = pair.client().attach(LinkRole::Consumer, AMPLE);
    pair.settle();
    pair.server().send(Lane::Normal, Some(link), 1, 10);
    pair.server().send(Lane::Normal, Some(plain), 2, 10);
    pair.settle();
    let of = |link, lane, positions| deliveries(link, lane, positions);
    let client = &mut pair.client().connection;
    let refused = client.settle(&of(link, Lane::Normal, 0..2), Outcome::Accepted);
    assert_eq!(refused, Err(LinkError::NotDelivered { link, position: 1, delivered: 1 }));
    assert!(client.settle(&of(link, Lane::Urgent, 0..1), Outcome::Accepted).is_err(), "of another lane");
    let refused = client.settle(&of(plain, Lane::Normal, 0..1), Outcome::Accepted);
    assert_eq!(refused, Err(LinkError::NotSettled(plain)));
    // The end that sends cannot.
    let refused = pair.server().connection.settle(&of(link, Lane::Normal, 0..1), Outcome::Accepted);
    assert_eq!(refused, Err(LinkError::NotSettled(link)));
    pair.settle();
    assert_eq!(pair.server().settled, []);
}

/// What was settled before a detach is said before it; what arrives behind it is the sender's again, and is not given
/// to an application that could not settle it.
#[test]
fn a_detach_divides_what_was_settled_from_what_goes_back() {
    let mut pair = Pair::open(with(usual()));
    let link = settling(&mut pair);
    pair.server().send(Lane::Normal, Some(link), 1, 10);
    pair.settle();
    settle(&mut pair, &deliveries(link, Lane::Normal, 0..1), Outcome::Accepted);
    pair.client().connection.detach_link(link, DetachCode::Normal, "enough");
    pair.client().messages.clear();
    // On their way when the detach leaves, one of them in chunks.
    pair.server().send(Lane::Normal, Some(link), 2, 10);
    pair.server().send(Lane::Bulk, Some(link), 3, 100_000);
    pair.settle();
    assert_eq!(pair.client().messages.len(), 0);
    let settled = [(deliveries(link, Lane::Normal, 0..1), Outcome::Accepted)];
    assert_eq!(pair.server().settled, settled);
    assert_eq!(pair.server().detached.len(), 1);
    let refused = pair.client().connection.settle(&deliveries(link, Lane::Normal, 0..1), Outcome::Accepted);
    assert_eq!(refused, Err(LinkError::NotSettled(link)));
    // The number is free again, and counts anew.
    assert_eq!(settling(&mut pair), link);
    pair.server().send(Lane::Normal, Some(link), 4, 10);
    pair.settle();
    assert_eq!(pair.client().messages[0].position, 0);
    none_closed(&pair);
}

/// The sender ends the link while the receiver settles: late, and no violation.
#[test]
fn a_settlement_that_meets_a_detach_changes_nothing() {
    let mut pair = Pair::open(with(usual()));
    let link = settling(&mut pair);
    pair.server().send(Lane::Normal, Some(link), 1, 10);
    pair.settle();
    pair.server().connection.detach_link(link, DetachCode::DestinationDeleted, "gone");
    settle(&mut pair, &deliveries(link, Lane::Normal, 0..1), Outcome::Accepted);
    pair.settle();
    assert_eq!((pair.client().detached.len(), pair.server().settled.len()), (1, 1));
    none_closed(&pair);
}

fn fake() -> Fake {
    let mut fake = Fake::with_capabilities(with(usual()), Capabilities::SETTLEMENT);
    fake.control(&[&attach(PRODUCES, LinkRole::Producer), &attach(CONSUMES, LinkRole::SettlingConsumer)]);
    fake.control(&[&attach(5, LinkRole::Consumer)]);
    let mut message = message(
        crate::proto::record::MessageKind::Message,
        Lane::Normal,
        LinkId::new(CONSUMES),
        1,
        8,
        &mut fake.pool,
    );
    message.head.link = LinkId::new(CONSUMES);
    fake.connection.send(message, &mut fake.pool).map_err(|(error, _)| error).unwrap();
    fake.listen();
    fake
}

#[test]
fn a_peer_that_settles_what_it_cannot_is_named() {
    let settles = |link, lane, from, to| {
        Control::Settle(Settle { link: id(link), lane, outcome: Outcome::Accepted, from, to })
    };
    let mut right = fake();
    right.control(&[&settles(CONSUMES, Lane::Normal, 0, 1)]);
    right.control(&[&settles(CONSUMES, Lane::Normal, 0, 1)]);
    assert_eq!(right.closed, []);
    let undelivered =
        |lane, to, limit| PeerMisbehaved::SettledUndelivered { link: id(CONSUMES), lane, to, limit };
    let cases = [
        (settles(CONSUMES, Lane::Normal, 0, 2), undelivered(Lane::Normal, 2, 1)),
        (settles(CONSUMES, Lane::Normal, 7, u64::MAX), undelivered(Lane::Normal, u64::MAX, 1)),
        (settles(CONSUMES, Lane::Urgent, 0, 1), undelivered(Lane::Urgent, 1, 0)),
        (settles(5, Lane::Normal, 0, 1), PeerMisbehaved::LinkNotSettled { link: id(5) }),
        (settles(PRODUCES, Lane::Normal, 0, 1), PeerMisbehaved::LinkNotSettled { link: id(PRODUCES) }),
        (settles(9, Lane::Normal, 0, 1), PeerMisbehaved::LinkUnknown { link: id(9) }),
    ];
    for (control, expected) in cases {
        let mut fake = fake();
        fake.control(&[&control]);
        fake.assert_misbehaved(expected);
    }
}

/// A peer without the capability is not asked to settle, and cannot ask to.
#[test]
fn a_peer_without_the_capability_is_not_asked() {
    let mut fake = Fake::new(with(usual()));
    let address = crate::proto::control::Address::Named(crate::proto::text::Name::new("queue").unwrap());
    let room = LinkRoom { messages: 1, bytes: 1 };
    let refused = fake.connection.attach(LinkRole::SettlingConsumer, address, room).unwrap_err();
    assert_eq!(refused, SendError::Link(LinkError::NoSettlement));
}

#[test]
fn a_peer_that_is_asked_to_leave_hears_how_long_it_may_stay() {
    let mut pair = Pair::open(with(usual()));
    let link = pair.link(CLIENT);
    pair.server().connection.ask_to_leave(Duration::from_millis(5000), "update");
    pair.server().connection.ask_to_leave(Duration::MAX, "");
    pair.settle();
    let longest = Duration::from_millis(u32::MAX.into());
    let heard = [(Duration::from_secs(5), "update".to_owned()), (longest, String::new())];
    assert_eq!(pair.client().leaving, heard);
    // Nothing else has changed.
    pair.client().send(Lane::Normal, Some(link), 1, 100);
    pair.settle();
    assert_eq!(pair.server().messages.len(), 1);
    none_closed(&pair);
}
