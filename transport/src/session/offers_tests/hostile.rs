//! Peers that offer what they may not. The hello is right; what follows is made up.

use super::rig::*;
use crate::connection::{CloseReason, ConnectionEvent, OneSidedTask};
use crate::message::Message;
use crate::pool::{Body, GatherList};
use crate::proto::control::{Address, Attach, CloseCode, Control, LinkCredit, LinkRole};
use crate::proto::frame::{FrameHeader, FrameKind};
use crate::proto::handshake::{AwaitServerHello, LocalEnd};
use crate::proto::hello::{Capabilities, ProcessIdentity, SessionTerms};
use crate::proto::record::MessageKind;
use crate::proto::text::Name;
use crate::proto::{
    Incarnation, Lane, LinkId, OFFERS_MAX, Origin, Parameters, PeerMisbehaved, ProcessId, SessionId,
    SessionToken, Stream, record_aligned,
};
use crate::session::Session;
use std::time::Duration;

/// A server under test, which a made-up client talks to.
struct Hostile {
    rig: Rig,
    frame: u32,
    closed: Vec<CloseReason>,
    messages: usize,
}

impl Hostile {
    fn new(exposures_max: usize, capabilities: Capabilities) -> Self {
        let mut rig = Rig::with(exposures_max, config());
        let (connection, _) = config();
        let local = LocalEnd {
            capabilities,
            process: ProcessIdentity {
                process: ProcessId([9; 16]),
                incarnation: Incarnation(1),
                origin: Origin(9),
            },
            parameters: Parameters { packet_bytes: 4096, ..connection.parameters },
            securities: Vec::new(),
            wires: Vec::new(),
            name: None,
        };
        let terms = SessionTerms { expiry_ms: 5000, ..SessionTerms::default() };
        let (_, hello) = AwaitServerHello::start(local, terms).unwrap();
        let server = Session::server(rig.common(SERVER), traits(exposures_max), rig.now).unwrap();
        rig.ends[SERVER].session = Some(server);
        let mut hostile = Self { rig, frame: 0, closed: Vec::new(), messages: 0 };
        hostile.feed(&hello);
        hostile.session().accept(0, SessionId::new([1; 16]).unwrap(), SessionToken([1; 32]));
        let credit = LinkCredit::default();
        let address = Address::Named(Name::new("queue").unwrap());
        let link = LinkId::new(1).unwrap();
        let attach = Control::Attach(Attach { link, role: LinkRole::Producer, address, credit });
        let mut record = vec![0; attach.encoded_bytes()];
        attach.encode_into(&mut record).unwrap();
        hostile.frame(FrameKind::Control, &[record]);
        hostile
    }

    fn session(&mut self) -> &mut Session {
        self.rig.ends[SERVER].session()
    }

    fn feed(&mut self, bytes: &[u8]) {
        let (now, end) = (self.rig.now, &mut self.rig.ends[SERVER]);
        let mut buffer = end.pool.buffer(bytes.len()).unwrap();
        buffer.put_slice(bytes);
        end.session.as_mut().unwrap().handle_segment(0, buffer.split(), now);
        self.pull();
    }

    fn pull(&mut self) {
        let (now, room, end) = (self.rig.now, self.rig.ends[SERVER].room, &mut self.rig.ends[SERVER]);
        let session = end.session.as_mut().unwrap();
        while let Some(event) = session.poll_event(now, &mut end.pool, &mut None).unwrap() {
            match event {
                ConnectionEvent::AttachRequested(request) => session.accept_link(request.link, room).unwrap(),
                ConnectionEvent::Message => self.messages += 1,
                ConnectionEvent::Closed(reason) | ConnectionEvent::Interrupted(reason) => {
                    self.closed.push(reason)
                }
                _ => {}
            }
        }
        let mut gather = GatherList::new();
        while session.poll_transmit(0, now, &mut end.pool, &mut gather).unwrap() {
            gather.clear();
            session.handle_sent(0);
        }
    }

    fn frame(&mut self, kind: FrameKind, records: &[Vec<u8>]) {
        let header = FrameHeader {
            kind,
            ack_stream: Stream::Lane(Lane::Urgent),
            records: records.len() as u16,
            frame_number_low: self.frame,
            frame_limit_low: 64,
            chunk_limit_low: 2,
            record_bytes: records.iter().map(|record| record.len() as u32).sum(),
            ack_sequence: 0,
        };
        self.frame += 1;
        let mut frame = header.encode().to_vec();
        records.iter().for_each(|record| frame.extend_from_slice(record));
        frame.resize(header.frame_bytes() as usize, 0);
        self.feed(&frame);
    }

    fn offer(&mut self, sequence: u64, total_bytes: u64, descriptor: &[u8]) {
        let record = offer(Lane::Normal, sequence, total_bytes, descriptor);
        self.frame(FrameKind::Data, &[record]);
    }

    fn plain(&mut self, sequence: u64) {
        let mut head = Message::new(MessageKind::Message, Body::new()).head;
        (head.lane, head.link, head.lane_sequence) = (Lane::Normal, LinkId::new(1), sequence);
        let mut record = vec![0; 64];
        head.encode_into(&[], 64, &mut record).unwrap();
        self.frame(FrameKind::Data, &[record]);
    }

    /// The number of the next read that it would start.
    fn read(&mut self) -> Option<u64> {
        let now = self.rig.now;
        match self.session().poll_one_sided(0, now)? {
            OneSidedTask::Read { read, .. } => Some(read),
            task => panic!("{task:?}"),
        }
    }

    #[track_caller]
    fn assert_misbehaved(&mut self, violation: PeerMisbehaved) {
        assert_eq!(self.closed, [CloseReason::Misbehaved(violation)]);
        assert_eq!(self.read(), None, "it reads nothing any more");
    }
}

fn offer(lane: Lane, sequence: u64, total_bytes: u64, descriptor: &[u8]) -> Vec<u8> {
    let mut extension = [0; 80];
    extension[..4].copy_from_slice(&[0xff, 0xff, descriptor.len() as u8, 0]);
    extension[4..4 + descriptor.len()].copy_from_slice(descriptor);
    let mut head = Message::new(MessageKind::Message, Body::new()).head;
    (head.lane, head.link, head.lane_sequence) = (lane, LinkId::new(1), sequence);
    (head.offered, head.total_body_bytes) = (true, total_bytes);
    let extensions = &extension[..record_aligned(4 + descriptor.len())];
    let bytes = head.head_bytes_needed(extensions.len());
    let mut record = vec![0; bytes];
    head.encode_into(extensions, bytes, &mut record).unwrap();
    record
}

#[test]
fn an_offer_that_was_not_negotiated() {
    for (exposures_max, capabilities) in [(16, Capabilities::default()), (0, Capabilities::ONE_SIDED_READS)] {
        let mut hostile = Hostile::new(exposures_max, capabilities);
        hostile.offer(0, 20_000, &[1; 8]);
        hostile.assert_misbehaved(PeerMisbehaved::OfferNotNegotiated { lane: Lane::Normal });
    }
}

#[test]
fn more_offers_than_there_may_be() {
    let mut hostile = Hostile::new(16, Capabilities::ONE_SIDED_READS);
    (0..OFFERS_MAX as u64).for_each(|sequence| hostile.offer(sequence, 20_000, &[1; 8]));
    assert_eq!(hostile.closed, []);
    hostile.offer(OFFERS_MAX as u64, 20_000, &[1; 8]);
    hostile.assert_misbehaved(PeerMisbehaved::OfferOverrun { offers: OFFERS_MAX + 1, limit: OFFERS_MAX });
}

#[test]
fn descriptors_and_lengths_that_are_none() {
    for bytes in [0, 65] {
        let mut hostile = Hostile::new(16, Capabilities::ONE_SIDED_READS);
        hostile.offer(0, 20_000, &vec![1; bytes]);
        hostile.assert_misbehaved(PeerMisbehaved::ExtensionValue { kind: 0x7fff, bytes: bytes as u16 });
    }
    let mut hostile = Hostile::new(16, Capabilities::ONE_SIDED_READS);
    hostile.offer(0, (1 << 20) + 1, &[1; 64]);
    hostile.assert_misbehaved(PeerMisbehaved::MessageTooLong { body_bytes: (1 << 20) + 1, limit: 1 << 20 });
}

#[test]
fn gaps_behind_an_offer_are_found_at_once() {
    let mut hostile = Hostile::new(16, Capabilities::ONE_SIDED_READS);
    hostile.offer(0, 20_000, &[1; 8]);
    hostile.plain(1);
    hostile.plain(3);
    let violation = PeerMisbehaved::LaneOutOfSequence { lane: Lane::Normal, expected: 2, found: 3 };
    hostile.assert_misbehaved(violation);
    assert_eq!(hostile.messages, 0);
}

#[test]
fn what_waits_goes_past_no_credit() {
    let mut hostile = Hostile::new(16, Capabilities::ONE_SIDED_READS);
    let link = LinkId::new(2).unwrap();
    let credit = LinkCredit::default();
    let address = Address::Named(Name::new("narrow").unwrap());
    hostile.rig.ends[SERVER].room = crate::connection::LinkRoom { messages: 2, bytes: 1 << 20 };
    // The made-up peer is the client, whose links are odd.
    let link = LinkId::new(link.value() + 1).unwrap();
    let attach = Control::Attach(Attach { link, role: LinkRole::Producer, address, credit });
    let mut record = vec![0; attach.encoded_bytes()];
    attach.encode_into(&mut record).unwrap();
    hostile.frame(FrameKind::Control, &[record]);
    for sequence in 0..3 {
        let mut record = offer(Lane::Normal, sequence, 20_000, &[1; 8]);
        record[12] = link.value() as u8;
        hostile.frame(FrameKind::Data, &[record]);
    }
    hostile.assert_misbehaved(PeerMisbehaved::MessageCreditOverrun { link, position: 3, limit: 2 });
}

#[test]
fn what_is_held_already_is_not_read() {
    let mut hostile = Hostile::new(16, Capabilities::ONE_SIDED_READS);
    hostile.offer(0, 20_000, &[1; 8]);
    let read = hostile.read().unwrap();
    let body = hostile.rig.ends[SERVER].pool.copy_body(&[0; 20_000]).unwrap();
    let now = hostile.rig.now;
    hostile.session().handle_read(0, read, Ok(body), now);
    hostile.pull();
    assert_eq!(hostile.messages, 1);
    // The outcome of a read that nobody waits for is nobody's.
    let body = hostile.rig.ends[SERVER].pool.copy_body(&[0; 20_000]).unwrap();
    hostile.session().handle_read(0, read, Ok(body), now);
    hostile.session().handle_read(0, 77, Err("never begun".to_owned()), now);
    hostile.pull();
    assert_eq!((hostile.messages, hostile.closed.len(), hostile.read()), (1, 0, None));
    // On one connection, saying it twice is a violation.
    hostile.offer(0, 20_000, &[1; 8]);
    let violation = PeerMisbehaved::LaneOutOfSequence { lane: Lane::Normal, expected: 1, found: 0 };
    hostile.assert_misbehaved(violation);
}

/// A peer that takes what is offered to it, and never says so.
#[test]
fn offers_that_nobody_takes_are_withdrawn() {
    let mut rig = Rig::linked(16);
    rig.send(Lane::Bulk, 0, 40_000);
    rig.drops_from_server = true;
    rig.run_for(Duration::from_millis(1));
    assert_eq!(rig.channels[0].exposed[CLIENT].len(), 1);
    rig.run_for(Duration::from_millis(11_900));
    assert_eq!(rig.ends[CLIENT].interrupted, []);
    rig.run_for(Duration::from_millis(200));
    assert_eq!(rig.ends[CLIENT].interrupted, [CloseReason::OffersNotTaken(Duration::from_secs(12))]);
    assert!(rig.channels[0].exposed[CLIENT].is_empty());
    assert_eq!(CloseReason::OffersNotTaken(Duration::ZERO).code(), CloseCode::ReadFailed);
}
