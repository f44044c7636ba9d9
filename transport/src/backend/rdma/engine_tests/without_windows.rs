//! One-sided reads between devices without windows. That nobody reads what is not his is in `one_sided`'s tests.

use super::*;
use crate::backend::rdma::verbs::Beside;
use crate::backend::rdma::verbs::fake::Fault;
use crate::backend::{Descriptor, ExposeRefused, OneSided};
use crate::pool::Body;

/// Ends of which some have windows, and a channel between them.
fn connected_with(windows: [bool; 2]) -> (Rig, Channel, Channel) {
    let configs = windows.map(|memory_windows| RdmaConfig { memory_windows, ..config() });
    let mut rig = Rig::with(FakeNetwork::in_turn(), &configs);
    let place = rig.ends[1].listen().1;
    let (near, far) = rig.connect(0, 1, &place);
    (rig, near, far)
}

fn connected() -> (Rig, Channel, Channel) {
    connected_with([false; 2])
}

impl Rig {
    /// A body in so many pieces with gaps between them.
    fn body(&mut self, end: usize, pieces: usize) -> Body {
        let mut body = Body::new();
        for _ in 0..pieces {
            let segment = self.ends[end].segment(&content(10_000));
            body.push(segment, &mut self.ends[end].pool).unwrap();
        }
        body
    }

    fn expose(
        &mut self,
        end: usize,
        channel: Channel,
        number: u64,
        pieces: usize,
    ) -> Result<Descriptor, ExposeRefused> {
        let body = self.body(end, pieces);
        self.ends[end].engine().expose(channel, number, &body)
    }

    /// What the other end reads of it, if that does not end its channel.
    fn read(&mut self, end: usize, channel: Channel, descriptor: &[u8], bytes: usize) -> Option<Vec<u8>> {
        let End { engine, pool, .. } = &mut self.ends[end];
        engine.as_mut().unwrap().read(channel, 1, descriptor, bytes as u64, pool).unwrap();
        self.until(|rig| {
            let is_over =
                |event: &WireEvent| matches!(event, WireEvent::Read { .. } | WireEvent::Closed { .. });
            rig.ends[end].said.iter().any(is_over)
        });
        let read =
            self.ends[end].said.extract_if(.., |event| matches!(event, WireEvent::Read { .. })).next()?;
        let WireEvent::Read { outcome, .. } = read else { unreachable!() };
        Some(outcome.unwrap().to_vec())
    }

    fn pinned_bytes(&mut self, end: usize) -> usize {
        self.ends[end].engine().budget.pinned_bytes
    }

    fn close(mut self, near: Channel, far: Channel) {
        self.ends[0].engine().close(near);
        self.end_of(0, near);
        self.end_of(1, far);
        self.until_nothing_lingers();
        let left = [0, 1].map(|end| self.network.left(self.ends[end].name));
        assert!(left.iter().all(|left| left.queue_pairs == 0 && left.windows == 0), "{left:?}");
        self.assert_empty();
    }
}

#[test]
fn bodies_are_read_both_ways_and_nothing_stays() {
    let (mut rig, near, far) = connected();
    assert_eq!(rig.network.left(rig.ends[0].name).queue_pairs, 3);
    for pieces in [1, 3, 4, 8] {
        for (from, to) in [((0, near), (1, far)), ((1, far), (0, near))] {
            let pinned = rig.pinned_bytes(from.0);
            let descriptor = rig.expose(from.0, from.1, 7, pieces).unwrap();
            assert!(rig.pinned_bytes(from.0) >= pinned + pieces * 10_000, "what is exposed is counted");
            let read = rig.read(to.0, to.1, &descriptor, pieces * 10_000).unwrap();
            assert!(read == content(10_000).repeat(pieces), "{pieces} pieces have brought other bytes");
            rig.ends[from.0].engine().withdraw(from.1, 7);
            assert_eq!(rig.pinned_bytes(from.0), pinned);
        }
    }
    // Sends go on beside them.
    rig.pass((0, near), (1, far), &content(40_000));
    rig.close(near, far);
}

#[test]
fn what_is_exposed_when_a_channel_ends_goes_with_it() {
    for closes in [0, 1] {
        let (mut rig, near, far) = connected();
        let pinned = rig.pinned_bytes(0);
        for number in 0..16 {
            rig.expose(0, near, number, 2).unwrap();
        }
        assert_eq!(rig.expose(0, near, 16, 2), Err(ExposeRefused::Limit { exposures: 16 }));
        let channel = [near, far][closes];
        rig.ends[closes].engine().close(channel);
        rig.end_of(0, near);
        rig.end_of(1, far);
        assert_eq!(rig.pinned_bytes(0), pinned);
        rig.assert_empty();
    }
}

#[test]
fn what_cannot_be_exposed_is_refused_and_leaves_nothing() {
    let (mut rig, near, far) = connected();
    assert_eq!(rig.expose(0, near, 1, 9), Err(ExposeRefused::Scattered { segments: 9 }));
    let pinned = rig.pinned_bytes(0);
    rig.ends[0].engine().budget.bytes_max = pinned + 19_999;
    assert_eq!(rig.expose(0, near, 2, 2), Err(ExposeRefused::Limit { exposures: 0 }));
    rig.ends[0].engine().budget.bytes_max = 1 << 30;
    rig.network.inject(rig.ends[0].name, Fault::RegisterFails(libc::ENOMEM));
    assert_eq!(rig.expose(0, near, 3, 1), Err(ExposeRefused::Limit { exposures: 0 }));
    assert_eq!(rig.pinned_bytes(0), pinned);
    assert!(rig.expose(0, near, 4, 1).is_ok(), "the next one is exposed again");
    rig.close(near, far);
}

/// Or its peer would read it for as long as the channel lives.
#[test]
fn a_body_that_cannot_be_withdrawn_ends_its_channel_and_stays_where_it_is() {
    let (mut rig, near, far) = connected();
    rig.expose(0, near, 1, 1).unwrap();
    rig.network.inject(rig.ends[0].name, Fault::DeregisterFails(libc::EIO));
    rig.ends[0].engine().withdraw(near, 1);
    assert_broken(&rig.end_of(0, near), "could not be deregistered");
    rig.end_of(1, far);
    assert_eq!(rig.ends[0].buffers_out() - held(&mut rig, 0), 1, "its memory is the device's for ever");
}

fn held(rig: &mut Rig, end: usize) -> usize {
    rig.ends[end].engine().devices.iter().map(|device| device.receives.buffers()).sum()
}

/// Both have to be without windows: a device with them makes no queue pairs beside.
#[test]
fn whose_peer_has_windows_sends_bodies_in_chunks() {
    for windows in [[true, false], [false, true]] {
        let (mut rig, near, far) = connected_with(windows);
        for (end, channel) in [(0, near), (1, far)] {
            let has_windows = windows[end];
            assert_eq!(rig.ends[end].engine().exposures_max(channel) > 0, has_windows, "{windows:?}, {end}");
            assert_eq!(rig.expose(end, channel, 1, 1).is_ok(), has_windows);
        }
        rig.pass((0, near), (1, far), &content(40_000));
        rig.ends[0].engine().close(near);
        rig.end_of(0, near);
        rig.end_of(1, far);
        rig.assert_empty();
    }
}

#[test]
fn without_queue_pairs_beside_a_channel_works_and_exposes_nothing() {
    for poor in [0, 1] {
        for missing in [Beside::Reading, Beside::Answering] {
            let configs = [false; 2].map(|memory_windows| RdmaConfig { memory_windows, ..config() });
            let mut rig = Rig::with(FakeNetwork::in_turn(), &configs);
            rig.network.inject(rig.ends[poor].name, Fault::CreateBesideFails(missing, libc::ENOMEM));
            let place = rig.ends[1].listen().1;
            let (near, far) = rig.connect(0, 1, &place);
            assert_eq!(rig.ends[0].engine().exposures_max(near), 0);
            assert_eq!(rig.ends[1].engine().exposures_max(far), 0);
            let left = rig.network.left(rig.ends[poor].name).queue_pairs;
            assert_eq!(left, 1, "{missing:?}: both or none");
            rig.pass((0, near), (1, far), &content(40_000));
            rig.close(near, far);
        }
    }
}

#[test]
fn queue_pairs_beside_that_do_not_connect_end_the_attempt() {
    for poor in [0, 1] {
        let configs = [false; 2].map(|memory_windows| RdmaConfig { memory_windows, ..config() });
        let mut rig = Rig::with(FakeNetwork::in_turn(), &configs);
        rig.network.inject(rig.ends[poor].name, Fault::ConnectBesideFails(libc::EIO));
        let place = rig.ends[1].listen().1;
        let channel = rig.ends[0].engine().connect(&place).unwrap();
        let reason = rig.end_of(0, channel);
        assert!(matches!(reason, ChannelEnd::ConnectFailed(_) | ChannelEnd::Peer), "{poor}: {reason:?}");
        rig.rounds(5);
        rig.assert_empty();
    }
}
