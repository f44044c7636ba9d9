//! Peers that break the protocol: a raw end of the network that says and sends what no engine would.

use super::*;
use crate::backend::rdma::credit::WINDOW_LIMIT;
use crate::backend::rdma::greeting::Greeting;
use crate::backend::rdma::one_sided::ReadsAtOnce;
use crate::backend::rdma::receives::SLOT_BYTES;
use crate::backend::rdma::verbs::fake::FakeVerbs;
use crate::backend::rdma::verbs::*;

/// A peer that neither reads nor lets read.
const NO_READS: ReadsAtOnce = ReadsAtOnce { started: 0, answered: 0 };

const RAW_ADDRESS: &str = "10.0.0.9";
const PARAMETERS: ConnectParameters =
    ConnectParameters { retry_count: 6, rnr_retry_count: 6, reads_answered: 4, reads_started: 4 };

/// An end without an engine.
struct Raw {
    verbs: FakeVerbs,
    identifier: Identifier,
}

impl Raw {
    /// Connects to a place, with a greeting of its own making.
    fn connect(rig: &mut Rig, place: &str, greeting: &[u8]) -> Self {
        let mut verbs = rig.network.end(&[RAW_ADDRESS]);
        let identifier = verbs.resolve(place.parse().unwrap(), None, Duration::ZERO).unwrap();
        let mut raw = Self { verbs, identifier };
        rig.network.run_until_quiet();
        assert!(matches!(raw.event(), Some(Event::AddressResolved(_))));
        raw.verbs.resolve_route(identifier, Duration::ZERO).unwrap();
        rig.network.run_until_quiet();
        assert!(matches!(raw.event(), Some(Event::RouteResolved(_))));
        raw.make_queue_pair();
        raw.verbs.connect(identifier, &PARAMETERS, greeting).unwrap();
        raw
    }

    fn make_queue_pair(&mut self) {
        let sizes = DeviceSizes { completions: 256, receives: 64, receive_parts: 2 };
        self.verbs.device(self.identifier, &sizes).unwrap();
        let sizes = QueuePairSizes { sends: 128, parts: 2, inline_bytes: 64 };
        self.verbs.create_queue_pair(self.identifier, &sizes).unwrap();
    }

    fn event(&mut self) -> Option<Event> {
        self.verbs.take_event().unwrap()
    }

    /// Sends nothing, with the position up to which the other may send.
    fn say(&mut self, limit: u32) {
        let operation = Operation::Send { immediate: limit };
        let request = Request { work: 0, operation, parts: &[], is_signaled: true, is_inline: true };
        // SAFETY: it names no memory.
        let posted = unsafe { self.verbs.post(self.identifier, &[request]) };
        assert_eq!(posted.count, 1);
    }
}

/// An engine with a channel to a good peer, and one to a raw one. (Rig, good channel at both, bad channel, raw.)
fn with_a_bad_peer(limit: u32) -> (Rig, (Channel, Channel), Channel, Raw) {
    let (mut rig, near, far) = Rig::connected();
    let place = rig.ends[1].listen().1;
    let mut raw = Raw::connect(
        &mut rig,
        &place,
        &Greeting { slot_bytes: SLOT_BYTES, limit, reads: NO_READS, beside: None }.encode(),
    );
    let mut bad = None;
    // An engine at rest looks for who wants to connect once in 256 polls.
    for _ in 0..600 {
        rig.round();
        raw.event();
        let accepted = rig.ends[1].said.iter().find_map(|event| match event {
            WireEvent::Accepted { channel, .. } => Some(*channel),
            _ => None,
        });
        bad = bad.or(accepted);
    }
    (rig, (near, far), bad.expect("it was accepted"), raw)
}

/// The bad channel ends with a word about why, and the good one goes on.
fn assert_only_it_ends(mut rig: Rig, (near, far): (Channel, Channel), bad: Channel, word: &str) {
    assert_broken(&rig.end_of(1, bad), word);
    rig.ends[1].said.clear();
    rig.pass((0, near), (1, far), &content(100_000));
    rig.pass((1, far), (0, near), &content(100_000));
    rig.ends[0].engine().close(near);
    rig.end_of(0, near);
    rig.end_of(1, far);
    rig.assert_empty();
}

#[test]
fn a_peer_that_sends_beyond_its_credit_loses_its_channel() {
    let (rig, good, bad, mut raw) = with_a_bad_peer(64);
    // There are eight for it, and others that are meant for the good one.
    (0..9).for_each(|_| raw.say(64));
    assert_only_it_ends(rig, good, bad, "sent beyond position 8");
}

#[test]
fn a_limit_that_goes_back_or_too_far_ends_the_channel() {
    for limit in [63, 0, 64 + WINDOW_LIMIT, u32::MAX] {
        let (rig, good, bad, mut raw) = with_a_bad_peer(64);
        raw.say(limit);
        assert_only_it_ends(rig, good, bad, &format!("allows sends up to {limit}, after it had allowed 64"));
    }
}

#[test]
fn a_send_that_is_longer_than_a_slot_ends_the_channel() {
    let (rig, good, bad, mut raw) = with_a_bad_peer(64);
    let long = vec![7_u8; SLOT_BYTES as usize + 1];
    let device = Device(0);
    // SAFETY: it lives until the end of the test, after everything was carried out.
    let region = unsafe { raw.verbs.register(device, long.as_ptr() as u64, long.len()) }.unwrap();
    let part = Part { address: long.as_ptr() as u64, bytes: long.len() as u32, key: region.key };
    let operation = Operation::Send { immediate: 64 };
    let request = Request { work: 0, operation, parts: &[part], is_signaled: true, is_inline: false };
    // SAFETY: as above.
    assert_eq!(unsafe { raw.verbs.post(raw.identifier, &[request]) }.count, 1);
    assert_only_it_ends(rig, good, bad, "receiving failed");
}

#[test]
fn a_bad_greeting_is_refused_and_both_ends_say_why() {
    let good = Greeting { slot_bytes: SLOT_BYTES, limit: 64, reads: NO_READS, beside: None };
    let mut later = good.encode();
    later[4] = 9;
    let cases: [(&[u8], &str); 4] = [
        (b"GET / HTTP/1.1\r\n", "not Underlay's"),
        (&later, "version 9"),
        (&Greeting { limit: 2, ..good }.encode(), "allows 2 sends"),
        (&Greeting { slot_bytes: 1, ..good }.encode(), "takes 1 bytes"),
    ];
    for (greeting, word) in cases {
        let mut rig = Rig::new(FakeNetwork::in_turn(), 2);
        let place = rig.ends[1].listen().1;
        let mut raw = Raw::connect(&mut rig, &place, greeting);
        rig.until(|rig| rig.ends[1].said.iter().any(|event| matches!(event, WireEvent::AcceptFailed { .. })));
        let WireEvent::AcceptFailed { error, .. } = &rig.ends[1].said[0] else {
            panic!("{:?}", rig.ends[1].said)
        };
        assert!(error.to_string().contains(word), "{error}");
        rig.network.run_until_quiet();
        let Some(Event::Rejected { reason, .. }) = raw.event() else { panic!("it is told") };
        assert!(String::from_utf8_lossy(&reason).contains(word));
        // And the listener goes on.
        rig.ends[1].said.clear();
        rig.connect(0, 1, &place);
    }
}

/// An engine that has asked for a channel, and who is asked.
fn asking() -> (Rig, Channel, Raw) {
    let mut rig = Rig::new(FakeNetwork::in_turn(), 1);
    let mut verbs = rig.network.end(&[RAW_ADDRESS]);
    let (_, place) = verbs.listen(format!("{RAW_ADDRESS}:0").parse().unwrap(), 8).unwrap();
    let channel = rig.ends[0].engine().connect(&place.to_string()).unwrap();
    let mut identifier = None;
    for _ in 0..10 {
        rig.round();
        if let Some(Event::Requested { identifier: asked, .. }) = verbs.take_event().unwrap() {
            identifier = Some(asked);
            break;
        }
    }
    let mut raw = Raw { verbs, identifier: identifier.expect("it asks") };
    raw.make_queue_pair();
    (rig, channel, raw)
}

#[test]
fn a_bad_answer_fails_the_connection() {
    let (mut rig, channel, mut raw) = asking();
    raw.verbs.accept(raw.identifier, &PARAMETERS, b"220 mail.example.org").unwrap();
    assert_not_connected(&rig.end_of(0, channel), "not Underlay's");
    rig.assert_empty();
}

#[test]
fn a_bad_answer_with_half_a_send_behind_it_costs_no_receive_request() {
    let (mut rig, channel, mut raw) = asking();
    let content = vec![7_u8; 16_000];
    // SAFETY: it lives until the end of the test, after everything was carried out.
    let region = unsafe { raw.verbs.register(Device(0), content.as_ptr() as u64, content.len()) }.unwrap();
    let part = Part { address: content.as_ptr() as u64, bytes: content.len() as u32, key: region.key };
    let operation = Operation::Send { immediate: 64 };
    let request = Request { work: 0, operation, parts: &[part], is_signaled: true, is_inline: false };
    raw.verbs.accept(raw.identifier, &PARAMETERS, b"220 mail.example.org").unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { raw.verbs.post(raw.identifier, &[request]) }.count, 1);
    let (name, identifier) = (rig.ends[0].name, rig.ends[0].identifier(channel));
    rig.network.run_until_quiet();
    // The connection manager has taken the answer; the send comes before the answer is looked at.
    rig.ends[0].engine().fetch_connection_events().unwrap();
    while !rig.network.is_receiving(name, identifier) {
        assert!(rig.network.step());
    }
    assert_not_connected(&rig.end_of(0, channel), "not Underlay's");
    rig.until_nothing_lingers();
    rig.rounds(2);
    let device = &rig.ends[0].engine().devices[0];
    assert_eq!(device.shares.free_now() as usize, device.receives.posted());
    assert_eq!(rig.network.receives_lost(name), 0);
    rig.assert_empty();
}
