//! Links come and go, from both ends, at the same time, with messages on their way.

use super::fake::*;
use super::pair::*;
use crate::connection::{LinkError, LinkRoom, SendError};
use crate::proto::control::{DetachCode, LinkRole};
use crate::proto::{Lane, Parameters};

const NONE: LinkRoom = LinkRoom { messages: 0, bytes: 0 };

/// A producer that queues and detaches at once loses nothing, and is no violation at the other end.
#[test]
fn what_was_queued_before_a_detach_still_arrives() {
    for (owner, sender) in [(CLIENT, CLIENT), (SERVER, CLIENT)] {
        let mut pair = Pair::open(with(usual()));
        let role = if owner == sender { LinkRole::Producer } else { LinkRole::Consumer };
        let link = pair.ends[owner].attach(role, if owner == sender { NONE } else { AMPLE });
        pair.settle();
        // A bulk message, so that the detach has to wait for more than one send.
        for (tag, (lane, bytes)) in
            [(Lane::Bulk, 200_000), (Lane::Normal, 100), (Lane::Urgent, 9000)].into_iter().enumerate()
        {
            pair.ends[sender].send(lane, Some(link), tag as u64, bytes);
        }
        pair.ends[sender].connection.detach_link(link, DetachCode::Normal, "done");
        pair.settle();
        assert_eq!(pair.ends[1 - sender].messages.len(), 3);
        assert_eq!(pair.ends[1 - sender].detached, [(link, DetachCode::Normal, "done".to_owned())]);
        assert_eq!(pair.ends[sender].detached, [], "it asked for it");
        assert!(pair.ends.iter().all(|end| end.closed.is_empty()), "{:?}", pair.ends.map(|end| end.closed));
    }
}

/// The receiver detaches while the sender has more queued than it may send at once.
#[test]
fn what_the_sender_had_queued_arrives_after_the_receiver_detached() {
    let mut pair = Pair::open(with(usual()));
    let link = pair.link(CLIENT);
    for tag in 0..5 {
        pair.client().send(Lane::Normal, Some(link), tag, 100_000);
    }
    pair.server().connection.detach_link(link, DetachCode::DestinationDeleted, "gone");
    pair.settle();
    assert_eq!(pair.server().messages.len(), 5);
    assert_eq!(pair.client().detached.len(), 1);
    let refused =
        crate::message::Message::new(crate::proto::record::MessageKind::Message, Default::default());
    let refused = crate::message::Message {
        head: crate::proto::record::MessageHead { link: Some(link), ..refused.head },
        ..refused
    };
    let client = pair.client();
    let (error, _) = client.connection.send(refused, &mut client.pool).unwrap_err();
    assert_eq!(error, SendError::Link(LinkError::NotAttached(link)));
    assert!(pair.ends.iter().all(|end| end.closed.is_empty()));
}

#[test]
fn both_ends_may_detach_at_once_and_the_number_is_used_again_in_order() {
    let mut pair = Pair::open(with(Parameters { links_max: 1, ..usual() }));
    for round in 0..20 {
        let link = pair.link(CLIENT);
        pair.client().send(Lane::Normal, Some(link), round, 100_000);
        pair.client().connection.detach_link(link, DetachCode::Normal, "");
        if round % 2 == 0 {
            pair.server().connection.detach_link(link, DetachCode::Normal, "");
        }
        // The next attach is queued as soon as the number is free, behind the detach that may still wait.
        while pair.client().connection.attach(LinkRole::Producer, named(), NONE).is_err() {
            pair.turn();
            pair.now = pair.now + std::time::Duration::from_micros(1);
        }
        pair.settle();
        pair.client().connection.detach_link(link, DetachCode::Normal, "");
        pair.settle();
        assert!(pair.ends.iter().all(|end| end.closed.is_empty()), "round {round}");
    }
    assert_eq!(pair.server().messages.len(), 20);
}

fn named() -> crate::proto::control::Address<'static> {
    crate::proto::control::Address::Named(crate::proto::text::Name::new("queue").unwrap())
}

/// The refusal and the asker's change of mind cross on their way.
#[test]
fn a_detach_may_cross_the_refusal_of_its_attach() {
    let mut pair = Pair::open(with(usual()));
    pair.server().grants = None;
    let link = pair.client().attach(LinkRole::Producer, NONE);
    pair.settle();
    pair.client().connection.detach_link(link, DetachCode::Normal, "never mind");
    pair.server().connection.refuse_link(link, DetachCode::NoSuchDestination, "no queue").unwrap();
    pair.settle();
    assert!(pair.ends.iter().all(|end| end.closed.is_empty() && end.connection.is_open()));
    assert_eq!(pair.client().detached, [], "it had given the link up");
    assert_eq!(pair.client().attach(LinkRole::Producer, NONE), link, "its number is free again");
    pair.settle();
    pair.server().connection.accept_link(link, AMPLE).unwrap();
    pair.settle();
    assert_eq!(pair.client().attached, [link]);
}

#[test]
fn a_refused_link_says_why_and_its_number_is_free() {
    let mut pair = Pair::open(with(usual()));
    pair.server().grants = None;
    let link = pair.client().attach(LinkRole::Consumer, AMPLE);
    pair.settle();
    pair.server().connection.refuse_link(link, DetachCode::NoSuchDestination, "no queue 'x'").unwrap();
    assert_eq!(
        pair.server().connection.refuse_link(link, DetachCode::Normal, ""),
        Err(LinkError::NotAttached(link))
    );
    pair.settle();
    assert_eq!(pair.client().detached, [(link, DetachCode::NoSuchDestination, "no queue 'x'".to_owned())]);
    assert_eq!(pair.client().attach(LinkRole::Consumer, AMPLE), link);
}

#[test]
fn as_many_links_as_were_settled_and_no_more() {
    let mut pair = Pair::open(with(Parameters { links_max: 3, ..usual() }));
    let links: Vec<_> = (0..3).map(|_| pair.client().attach(LinkRole::Producer, NONE)).collect();
    assert_eq!(
        pair.client().connection.attach(LinkRole::Producer, named(), NONE),
        Err(SendError::Link(LinkError::LinkLimit { links_max: 3 }))
    );
    // The other end has as many of its own.
    for _ in 0..3 {
        pair.server().attach(LinkRole::Consumer, AMPLE);
    }
    pair.settle();
    assert_eq!((pair.client().attached.clone(), pair.server().attached.len()), (links, 3));
}

/// Grants that were said before the link was there are not forgotten.
#[test]
fn room_that_was_given_before_the_answer_counts_when_it_comes() {
    let mut pair = Pair::open(with(usual()));
    let link = pair.client().attach(LinkRole::Consumer, NONE);
    pair.client().connection.set_link_room(link, LinkRoom { messages: 4, bytes: 400 }).unwrap();
    pair.settle();
    assert_eq!(pair.client().attached, [link]);
    (0..4).for_each(|tag| pair.server().send(Lane::Normal, Some(link), tag, 10));
    pair.settle();
    assert_eq!(pair.client().messages.len(), 4);
}

/// A control record may wait because it is too long for what is left of a packet. No shorter message goes before it:
/// the record could be the answer that makes its link.
#[test]
fn control_records_that_do_not_fit_keep_messages_behind_them() {
    let mut fake = Fake::new(with(least()));
    fake.control(&[&attach(1, LinkRole::Consumer)]);
    fake.heard.clear();
    let name = "n".repeat(100);
    let name = crate::proto::text::Name::new(&name).unwrap();
    for _ in 0..2 {
        fake.connection
            .attach(LinkRole::Consumer, crate::proto::control::Address::Named(name), AMPLE)
            .unwrap();
    }
    let message =
        message(crate::proto::record::MessageKind::Message, Lane::Urgent, Some(id(1)), 1, 1, &mut fake.pool);
    fake.connection.send(message, &mut fake.pool).map_err(|(error, _)| error).unwrap();
    fake.listen();
    let records = fake.records();
    assert_eq!(records.len(), 3);
    assert!(matches!(records[2], Heard::Message(_)), "{records:?}");
}
