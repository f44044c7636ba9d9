//! One-sided reads when something fails: no buffer is lost, none is read that was withdrawn, and whoever waits is told.

use super::*;
use crate::backend::OneSided;
use crate::backend::rdma::verbs::fake::Fault;
use crate::pool::Body;

const BYTES: usize = 900_000;

/// The end that exposes, and the one that reads.
const OWNER: usize = 0;
const READER: usize = 1;

impl Rig {
    /// A body in pieces that lie apart.
    fn scattered(&mut self, pieces: usize) -> Body {
        let end = &mut self.ends[OWNER];
        let mut body = Body::new();
        for _ in 0..pieces {
            let segment = end.segment(&content(1_000));
            body.push(segment, &mut end.pool).unwrap();
        }
        body
    }

    fn begin_to_read(&mut self, channel: Channel, read: u64, descriptor: &[u8], bytes: usize) {
        let end = &mut self.ends[READER];
        let engine = end.engine.as_mut().unwrap();
        engine.read(channel, read, descriptor, bytes as u64, &mut end.pool).unwrap();
    }

    fn outcome(&mut self, of: u64) -> Option<std::io::Result<Box<Body>>> {
        let is_it = |event: &WireEvent| matches!(event, WireEvent::Read { read, .. } if *read == of);
        let place = self.ends[READER].said.iter().position(is_it)?;
        match self.ends[READER].said.remove(place) {
            WireEvent::Read { outcome, .. } => Some(outcome),
            _ => None,
        }
    }

    /// A whole read over a channel, of a body that is offered now.
    #[track_caller]
    fn offer_and_read(&mut self, (near, far): (Channel, Channel), body: &Body, bytes: &[u8]) {
        let descriptor = self.ends[OWNER].engine().expose(near, 70, body).unwrap();
        self.network.run_until_quiet();
        self.begin_to_read(far, 71, &descriptor, bytes.len());
        self.until(|rig| rig.ends[READER].said.iter().any(|event| matches!(event, WireEvent::Read { .. })));
        let read = self.outcome(71).unwrap().unwrap();
        assert!(read.segments().flat_map(|segment| segment.iter()).eq(bytes));
        self.ends[OWNER].engine().withdraw(near, 70);
        self.rounds(3);
    }
}

/// Ends with a body that is being read, of which so many steps have been taken; and the body.
fn reading(steps: usize) -> (Rig, Channel, Channel, Body) {
    let (mut rig, near, far) = Rig::connected();
    rig.rounds(5);
    let end = &mut rig.ends[OWNER];
    let body = end.pool.copy_body(&content(BYTES)).unwrap();
    let descriptor = end.engine().expose(near, 1, &body).unwrap();
    rig.network.run_until_quiet();
    rig.begin_to_read(far, 1, &descriptor, BYTES);
    // The table of its pieces; and then these are asked for.
    rig.network.run_until_quiet();
    rig.ends[READER].poll();
    (0..steps).for_each(|_| assert!(rig.network.step()));
    (rig, near, far, body)
}

#[test]
fn a_reader_that_is_killed_gives_the_owner_its_memory_back() {
    for steps in [0, 1, 5, 13] {
        let (mut rig, near, _, body) = reading(steps);
        rig.ends[READER].kill();
        let reason = rig.end_of(OWNER, near);
        assert!(matches!(reason, ChannelEnd::Peer | ChannelEnd::Broken(_)), "{reason:?}");
        assert_eq!(
            (rig.network.open_windows(rig.ends[OWNER].name), rig.network.left(rig.ends[OWNER].name).windows),
            (0, 0)
        );
        drop(body);
        rig.until_nothing_lingers();
        rig.network.assert_clean();
        let held = rig.ends[OWNER].engine().devices[0].receives.buffers();
        assert_eq!(rig.ends[OWNER].buffers_out(), held);
    }
}

#[test]
fn a_connection_that_breaks_in_a_read_ends_by_name_and_another_brings_the_body() {
    for end in [OWNER, READER] {
        for steps in [0, 1, 5, 13] {
            let (mut rig, near, far, body) = reading(steps);
            let identifier = [rig.ends[0].identifier(near), rig.ends[1].identifier(far)][end];
            rig.network.break_queue_pair(rig.ends[end].name, identifier);
            assert_broken(&rig.end_of(READER, far), "a send failed");
            assert!(rig.outcome(1).is_none(), "a read ends once");
            rig.end_of(OWNER, near);
            let place = rig.ends[1].listen().1;
            let again = rig.connect(0, 1, &place);
            rig.offer_and_read(again, &body, &content(BYTES));
            drop(body);
            rig.ends[OWNER].engine().close(again.0);
            rig.end_of(OWNER, again.0);
            rig.end_of(READER, again.1);
            rig.assert_empty();
        }
    }
}

#[test]
fn a_device_that_is_removed_in_a_read_ends_the_channel_by_name_and_another_brings_the_body() {
    for end in [OWNER, READER] {
        for steps in [0, 1, 5, 13] {
            let (mut rig, near, far, body) = reading(steps);
            let (name, address) = (rig.ends[end].name, ADDRESSES[end]);
            rig.network.remove_device(name, address);
            let channels = [near, far];
            assert_broken(&rig.end_of(end, channels[end]), "the RDMA device was removed");
            let reason = rig.end_of(1 - end, channels[1 - end]);
            assert!(matches!(reason, ChannelEnd::Peer | ChannelEnd::Broken(_)), "{reason:?}");
            assert!(rig.outcome(1).is_none(), "a read ends once");
            rig.rounds(300);
            assert_eq!(rig.network.left(name), Default::default(), "the removal waits for it");
            rig.network.return_device(name, address);
            rig.ends.iter_mut().for_each(|end| end.said.clear());
            let place = rig.ends[1].listen().1;
            let again = rig.connect(0, 1, &place);
            rig.offer_and_read(again, &body, &content(BYTES));
            drop(body);
            rig.ends[OWNER].engine().close(again.0);
            rig.end_of(OWNER, again.0);
            rig.end_of(READER, again.1);
            rig.assert_empty();
        }
    }
}

#[test]
fn what_is_withdrawn_is_closed_as_far_as_there_is_room() {
    let small = RdmaConfig { sends_max: 64, ..config() };
    let mut rig = Rig::with(FakeNetwork::in_turn(), &[small, config()]);
    let place = rig.ends[1].listen().1;
    let (near, far) = rig.connect(0, 1, &place);
    for _ in 0..6 {
        rig.pass((0, near), (1, far), &content(100_000));
    }
    rig.rounds(3);
    let body = rig.scattered(40);
    let name = rig.ends[OWNER].name;
    let (identifier, bytes) = (rig.ends[OWNER].identifier(near), body.len());
    rig.ends[OWNER].engine().expose(near, 1, &body).unwrap();
    rig.rounds(3);
    // With the table of them.
    assert_eq!(rig.network.open_windows(name), 41);
    // More than half of the send queue is taken, by what nobody has looked at.
    rig.network.hold_sends(name, identifier);
    rig.ends[OWNER].send(near, &content(40 * 17_000)).unwrap();
    let room = rig.ends[OWNER].state(near).link.as_ref().unwrap().queue.room();
    assert!((1..41).contains(&room), "{room}");
    rig.ends[OWNER].engine().withdraw(near, 1);
    let device = rig.ends[OWNER].engine().devices[0].device;
    rig.network.hold_completions(name, device);
    rig.network.release_sends(name, identifier);
    rig.rounds(5);
    assert_eq!(rig.network.open_windows(name), 41 - room as usize, "it waits for room for all of them");
    rig.network.release_completions(name, device);
    drop(body);
    rig.until(|rig| rig.network.open_windows(name) == 0);
    rig.until(|rig| rig.ends[OWNER].has_sent(near));
    rig.ends.iter_mut().for_each(|end| end.said.clear());
    rig.rounds(5);
    rig.assert_clean();
    assert!(bytes > 0);
    rig.ends[OWNER].engine().close(near);
    rig.end_of(OWNER, near);
    rig.end_of(READER, far);
    rig.assert_empty();
}

#[test]
fn a_device_that_takes_a_part_of_what_opens_or_closes_windows_ends_nothing() {
    for after in [0, 3] {
        let (mut rig, near, far) = Rig::connected();
        rig.rounds(5);
        let name = rig.ends[OWNER].name;
        let body = rig.scattered(10);
        rig.network.inject(name, Fault::PostRefused { after });
        rig.ends[OWNER].engine().expose(near, 1, &body).unwrap_err();
        rig.until(|rig| rig.network.open_windows(name) == 0);
        rig.ends[OWNER].engine().expose(near, 2, &body).unwrap();
        rig.rounds(3);
        assert_eq!(rig.network.open_windows(name), 11);
        drop(body);
        rig.network.inject(name, Fault::PostRefused { after });
        rig.ends[OWNER].engine().withdraw(near, 2);
        rig.until(|rig| rig.network.open_windows(name) == 0);
        rig.rounds(3);
        rig.assert_clean();
        rig.pass((0, near), (1, far), &content(20_000));
        rig.ends[OWNER].engine().close(near);
        rig.end_of(OWNER, near);
        rig.end_of(READER, far);
        rig.assert_empty();
    }
}

/// On devices that check only a region's bounds each window has a region of its own.
#[test]
fn memory_that_cannot_be_deregistered_stays_out_until_its_device_is_closed() {
    for way in ["withdrawn", "closed", "never exposed", "withdrawn beside", "closed beside"] {
        let memory_windows = !way.ends_with("beside");
        let configs = [0, 1].map(|_| RdmaConfig { memory_windows, ..config() });
        let mut rig = Rig::with(FakeNetwork::in_turn(), &configs);
        let name = rig.ends[OWNER].name;
        rig.network.change_device(name, ADDRESSES[OWNER], |device| device.limits.windows_have_bounds = false);
        let place = rig.ends[1].listen().1;
        // One that is told when the device goes.
        rig.connect(0, 1, &place);
        let (near, far) = rig.connect(0, 1, &place);
        let body = rig.ends[OWNER].pool.copy_body(&content(50_000)).unwrap();
        let before = rig.ends[OWNER].engine().budget.pinned_bytes;
        rig.network.inject(name, Fault::DeregisterFails(libc::EBUSY));
        if way == "never exposed" {
            rig.network.inject(name, Fault::WindowFails(libc::ENOMEM));
            rig.ends[OWNER].engine().expose(near, 1, &body).unwrap_err();
        } else {
            rig.ends[OWNER].engine().expose(near, 1, &body).unwrap();
            rig.rounds(3);
        }
        drop(body);
        if way.starts_with("withdrawn") {
            rig.ends[OWNER].engine().withdraw(near, 1);
        } else {
            rig.ends[OWNER].engine().close(near);
            rig.end_of(OWNER, near);
            rig.end_of(READER, far);
        }
        rig.rounds(5);
        rig.until_nothing_lingers();
        let engine = rig.ends[OWNER].engine();
        assert_eq!(engine.budget.pinned_bytes, before + 50_000, "{way}: it counts");
        let held = engine.devices[0].receives.buffers();
        assert_eq!(rig.ends[OWNER].buffers_out(), held + 1, "{way}: the device may still reach it");
        rig.network.remove_device(name, ADDRESSES[OWNER]);
        rig.rounds(600);
        rig.ends[OWNER].said.clear();
        assert_eq!(rig.ends[OWNER].engine().budget.pinned_bytes, 0, "{way}");
        assert_eq!(rig.ends[OWNER].buffers_out(), 0, "{way}: it reaches nothing any more");
    }
}
