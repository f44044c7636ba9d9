//! What whoever implements the seam must do, as tests that are generic over [`Verbs`].
//!
//! The fake runs them, and so does the real thing where there are devices: that is how we know that the fake tells the
//! truth. They ask for nothing in which devices differ. The fake's own tests have what is stricter than that.
//!
//! Needed are two ends, an address of each, and a way to let time pass.

mod beside;
mod receives;

pub(super) use beside::*;
pub(super) use receives::only_a_queue_pair_that_has_failed_may_have_let_go_of_receives;

use super::*;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::ptr;

/// Turns in which nothing comes, until a test gives up.
const TURNS_MAX: usize = 50_000;
/// Turns in which what is not to come would have come.
const TURNS_SETTLED: usize = 250;
pub(super) const MEMORY_BYTES: usize = 16 << 10;

pub(super) const CONNECTING: usize = 0;
pub(super) const ACCEPTING: usize = 1;

pub(super) const PARAMETERS: ConnectParameters =
    ConnectParameters { retry_count: 6, rnr_retry_count: 6, reads_answered: 4, reads_started: 4 };
pub(super) const DEVICE_SIZES: DeviceSizes = DeviceSizes { completions: 256, receives: 64, receive_parts: 2 };
pub(super) const SIZES: QueuePairSizes = QueuePairSizes { sends: 16, parts: 4, inline_bytes: 64 };

/// Makes a test of each case, which runs with each of the [`Ends`] that an iterator yields, perhaps with none.
macro_rules! contract {
    ($ends:expr) => {
        $crate::backend::rdma::verbs::contract::contract! { @each $ends;
            what_both_ends_say_when_they_connect_arrives,
            a_rejection_brings_its_reason,
            where_nobody_listens_a_request_is_rejected,
            numbers_that_name_nothing_are_refused,
            sends_arrive_whole_and_in_order,
            the_memory_of_an_inline_send_is_free_at_once,
            places_of_a_send_queue_come_free_with_the_next_completion,
            all_connections_of_a_device_share_its_receives,
            a_send_without_a_receive_request_breaks_its_queue_pair,
            a_send_that_is_too_long_breaks_both,
            memory_that_is_not_registered_is_not_sent,
            disconnecting_flushes_and_is_told,
            an_end_that_is_destroyed_has_disconnected,
            a_window_is_read_and_closed_and_opened_again,
            a_key_that_was_closed_opens_nothing,
            beyond_a_window_nothing_is_read,
            a_window_has_bounds_where_its_device_says_so,
            a_region_within_a_region_bounds_its_window,
            a_window_that_is_bound_twice_in_one_list_opens_by_the_second_key,
            an_open_window_is_freed_after_its_queue_pair_failed,
            a_window_is_for_one_queue_pair,
            memory_below_a_window_stays_registered,
            an_armed_queue_wakes_once,
            only_a_queue_pair_that_has_failed_may_have_let_go_of_receives,
            what_is_registered_for_a_peer_is_read_within_its_bounds,
            what_was_deregistered_is_read_no_more,
            what_is_registered_for_a_peer_is_for_that_one,
            what_this_end_registered_for_itself_is_not_read,
            who_has_disconnected_is_not_read,
            a_queue_pair_has_one_of_each_kind_beside_it,
        }
    };
    (@each $ends:expr; $($case:ident,)*) => {$(
        #[test]
        fn $case() {
            for ends in $ends {
                $crate::backend::rdma::verbs::contract::$case(ends);
            }
        }
    )*};
}
pub(in crate::backend::rdma::verbs) use contract;

/// What a test gets.
pub(super) struct Ends<V> {
    pub(super) verbs: [V; 2],
    pub(super) addresses: [IpAddr; 2],
    /// Lets a little happen, or a little time pass (some 200 us); false if nothing more will come by itself.
    pub(super) pass: Box<dyn FnMut() -> bool>,
}

/// Both ends, and what they have.
pub(super) struct World<V> {
    // First: no device touches the memory below when it goes.
    pub(super) verbs: [V; 2],
    pub(super) addresses: [IpAddr; 2],
    pub(super) pass: Box<dyn FnMut() -> bool>,
    pub(super) listener: Identifier,
    pub(super) place: SocketAddr,
    pub(super) devices: [Device; 2],
    pub(super) regions: [Region; 2],
    pub(super) memory: [Memory; 2],
}

/// One connection.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) identifiers: [Identifier; 2],
    pub(super) queue_pairs: [QueuePair; 2],
}

/// Memory that devices may touch while we do.
pub(super) struct Memory(*mut [u8; MEMORY_BYTES]);

impl Memory {
    pub(super) fn new() -> Self {
        Self(Box::into_raw(Box::new([0; MEMORY_BYTES])))
    }

    pub(super) fn address(&self, offset: usize) -> u64 {
        assert!(offset < MEMORY_BYTES);
        self.0.cast::<u8>().wrapping_add(offset) as u64
    }

    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= MEMORY_BYTES);
        // SAFETY: it lies inside, by the line above.
        unsafe { ptr::copy(bytes.as_ptr(), self.0.cast::<u8>().add(offset), bytes.len()) };
    }

    pub(super) fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= MEMORY_BYTES);
        let mut bytes = vec![0; length];
        // SAFETY: it lies inside, by the line above; the target has room.
        unsafe { ptr::copy(self.0.cast::<u8>().add(offset), bytes.as_mut_ptr(), length) };
        bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it came from a box, and the devices have let go of it: the ends are dropped before.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl<V: Verbs> World<V> {
    /// Two ends with one connection.
    pub(super) fn connected(ends: Ends<V>) -> (Self, Link) {
        Self::connected_with(ends, [PARAMETERS; 2])
    }

    pub(super) fn connected_with(ends: Ends<V>, parameters: [ConnectParameters; 2]) -> (Self, Link) {
        let Ends { mut verbs, addresses, mut pass } = ends;
        let (listener, place) = verbs[ACCEPTING].listen(SocketAddr::new(addresses[ACCEPTING], 0), 8).unwrap();
        let first = ask(&mut verbs, &mut pass, place, addresses[CONNECTING]);
        let devices = [CONNECTING, ACCEPTING].map(|side| {
            verbs[side].limits(first[side]).unwrap();
            verbs[side].device(first[side], &DEVICE_SIZES).unwrap()
        });
        let memory = [Memory::new(), Memory::new()];
        let regions = [CONNECTING, ACCEPTING].map(|side| {
            // SAFETY: the world drops it after the ends.
            unsafe { verbs[side].register(devices[side], memory[side].address(0), MEMORY_BYTES) }.unwrap()
        });
        // What was asked first was only for the devices.
        for side in [CONNECTING, ACCEPTING] {
            verbs[side].destroy(first[side]);
        }
        let mut world = Self { verbs, addresses, pass, listener, place, devices, regions, memory };
        let link = world.connect(parameters);
        (world, link)
    }

    /// One more connection.
    pub(super) fn connect(&mut self, parameters: [ConnectParameters; 2]) -> Link {
        let connecting = resolve(&mut self.verbs, &mut self.pass, self.place, self.addresses[CONNECTING]);
        let first = self.verbs[CONNECTING].create_queue_pair(connecting, &SIZES).unwrap();
        self.verbs[CONNECTING].connect(connecting, &parameters[CONNECTING], b"from connecting").unwrap();
        let Event::Requested { listener, identifier: accepting, greeting } = self.event(ACCEPTING) else {
            panic!("not a request");
        };
        assert_eq!(listener, self.listener);
        assert!(greeting.starts_with(b"from connecting\0"), "{greeting:?}");
        let second = self.verbs[ACCEPTING].create_queue_pair(accepting, &SIZES).unwrap();
        self.verbs[ACCEPTING].accept(accepting, &parameters[ACCEPTING], b"from accepting").unwrap();
        let Event::Established { identifier, greeting } = self.event(CONNECTING) else {
            panic!("not established");
        };
        assert_eq!(identifier, connecting);
        assert!(greeting.starts_with(b"from accepting\0"), "{greeting:?}");
        let Event::Established { identifier, .. } = self.event(ACCEPTING) else { panic!("not established") };
        assert_eq!(identifier, accepting);
        for sizes in [first.sizes, second.sizes] {
            assert!(sizes.sends >= SIZES.sends && sizes.parts >= SIZES.parts, "{sizes:?}");
        }
        Link { identifiers: [connecting, accepting], queue_pairs: [first, second] }
    }

    pub(super) fn event(&mut self, side: usize) -> Event {
        next_event(&mut self.verbs[side], &mut self.pass)
    }

    /// Whether a descriptor shows something.
    pub(super) fn is_readable(&self, side: usize) -> bool {
        let descriptor = self.verbs[side].descriptor().as_raw_fd();
        let mut asked = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which lives.
        unsafe { libc::poll(&raw mut asked, 1, 0) > 0 }
    }

    pub(super) fn completion(&mut self, side: usize) -> Completion {
        let mut into = [Completion::NONE];
        for _ in 0..TURNS_MAX {
            if self.verbs[side].take_completions(self.devices[side], &mut into).unwrap() > 0 {
                return into[0];
            }
            if !(self.pass)() {
                break;
            }
        }
        // What came with the last turn.
        let count = self.verbs[side].take_completions(self.devices[side], &mut into).unwrap();
        assert_eq!(count, 1, "there is no completion");
        into[0]
    }

    /// Lets everything happen that will, and checks that there is no completion.
    pub(super) fn assert_silent(&mut self, side: usize) {
        let _ = (0..TURNS_SETTLED).all(|_| (self.pass)());
        let mut into = [Completion::NONE];
        let count = self.verbs[side].take_completions(self.devices[side], &mut into).unwrap();
        assert_eq!(count, 0, "{:?}", into[0]);
    }

    pub(super) fn part(&self, side: usize, offset: usize, bytes: usize) -> Part {
        let address = self.memory[side].address(offset);
        Part { address, bytes: bytes as u32, key: self.regions[side].key }
    }

    pub(super) fn post(&mut self, side: usize, link: &Link, requests: &[Request<'_>]) -> Posted {
        // SAFETY: parts lie in the world's memory, or nowhere that is touched.
        unsafe { self.verbs[side].post(link.identifiers[side], requests) }
    }

    pub(super) fn post_all(&mut self, side: usize, link: &Link, requests: &[Request<'_>]) {
        let posted = self.post(side, link, requests);
        assert!(posted.error.is_none() && posted.count == requests.len(), "{posted:?}");
    }

    /// One request, signalled, and its completion.
    pub(super) fn done(
        &mut self,
        side: usize,
        link: &Link,
        operation: Operation,
        parts: &[Part],
    ) -> Completion {
        self.post_all(side, link, &[request(7, operation, parts)]);
        let completion = self.completion(side);
        assert_eq!((completion.work, completion.queue_pair), (7, link.queue_pairs[side].number));
        completion
    }

    pub(super) fn receive(&mut self, side: usize, work: u64, parts: &[Part]) {
        // SAFETY: as above.
        let posted =
            unsafe { self.verbs[side].post_receives(self.devices[side], &[Receive { work, parts }]) };
        assert!(posted.error.is_none() && posted.count == 1, "{posted:?}");
    }

    /// A window of the accepting end, opened for a connection.
    pub(super) fn open(
        &mut self,
        link: &Link,
        window: Window,
        key: u32,
        offset: usize,
        bytes: usize,
    ) -> Completion {
        let (region, address) = (self.regions[ACCEPTING], self.memory[ACCEPTING].address(offset));
        let bind = Operation::Bind { window, key, region, address, bytes: bytes as u64 };
        self.done(ACCEPTING, link, bind, &[])
    }

    /// Reads from the accepting end's memory into the connecting one's from its beginning.
    pub(super) fn read(&mut self, link: &Link, key: u32, offset: usize, bytes: usize) -> Completion {
        let (address, target) = (self.memory[ACCEPTING].address(offset), self.part(CONNECTING, 0, bytes));
        self.done(CONNECTING, link, Operation::Read { address, key }, &[target])
    }

    pub(super) fn assert_broken(&mut self, side: usize, link: &Link) {
        let flushed = self.done(side, link, Operation::Flush, &[]);
        assert_eq!(flushed.status, Status::FLUSHED);
    }
}

pub(super) fn next_event<V: Verbs>(verbs: &mut V, pass: &mut dyn FnMut() -> bool) -> Event {
    for _ in 0..TURNS_MAX {
        if let Some(event) = verbs.take_event().unwrap() {
            return event;
        }
        if !pass() {
            break;
        }
    }
    verbs.take_event().unwrap().expect("an event")
}

/// Resolves address and route.
pub(super) fn resolve<V: Verbs>(
    verbs: &mut [V; 2],
    pass: &mut dyn FnMut() -> bool,
    place: SocketAddr,
    source: IpAddr,
) -> Identifier {
    let (end, timeout) = (&mut verbs[CONNECTING], Duration::from_secs(2));
    let identifier = end.resolve(place, Some(SocketAddr::new(source, 0)), timeout).unwrap();
    let event = next_event(end, pass);
    assert!(matches!(event, Event::AddressResolved(of) if of == identifier), "{event:?}");
    end.resolve_route(identifier, timeout).unwrap();
    let event = next_event(end, pass);
    assert!(matches!(event, Event::RouteResolved(of) if of == identifier), "{event:?}");
    assert_eq!(end.peer(identifier), Some(place));
    identifier
}

/// A connection that was resolved at one end, and a request that came to the other and was not answered.
fn ask<V: Verbs>(
    verbs: &mut [V; 2],
    pass: &mut dyn FnMut() -> bool,
    place: SocketAddr,
    source: IpAddr,
) -> [Identifier; 2] {
    let connecting = resolve(verbs, pass, place, source);
    verbs[CONNECTING].device(connecting, &DEVICE_SIZES).unwrap();
    verbs[CONNECTING].create_queue_pair(connecting, &SIZES).unwrap();
    verbs[CONNECTING].connect(connecting, &PARAMETERS, b"").unwrap();
    match next_event(&mut verbs[ACCEPTING], pass) {
        Event::Requested { identifier, .. } => [connecting, identifier],
        other => panic!("{other:?}"),
    }
}

pub(super) fn request(work: u64, operation: Operation, parts: &[Part]) -> Request<'_> {
    Request { work, operation, parts, is_signaled: true, is_inline: false }
}

pub(super) fn send(work: u64, immediate: u32, parts: &[Part]) -> Request<'_> {
    request(work, Operation::Send { immediate }, parts)
}

pub(super) fn is_invalid(outcome: io::Result<impl Sized>) -> bool {
    outcome.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

pub(super) fn what_both_ends_say_when_they_connect_arrives<V: Verbs>(ends: Ends<V>) {
    // The greetings are looked at there.
    let (mut world, link) = World::connected(ends);
    let too_long = [1; GREETING_BYTES_MAX + 1];
    let connecting = resolve(&mut world.verbs, &mut world.pass, world.place, world.addresses[CONNECTING]);
    let end = &mut world.verbs[CONNECTING];
    end.create_queue_pair(connecting, &SIZES).unwrap();
    assert!(is_invalid(end.connect(connecting, &PARAMETERS, &too_long)));
    end.connect(connecting, &PARAMETERS, &too_long[1..]).unwrap();
    let Event::Requested { identifier, greeting, .. } = world.event(ACCEPTING) else { panic!("no request") };
    assert_eq!(greeting[..], too_long[1..]);
    assert_ne!(identifier, link.identifiers[ACCEPTING]);
    assert_eq!(world.verbs[ACCEPTING].peer(identifier).unwrap().ip(), world.addresses[CONNECTING]);
}

pub(super) fn a_rejection_brings_its_reason<V: Verbs>(ends: Ends<V>) {
    let Ends { mut verbs, addresses, mut pass } = ends;
    let (_, place) = verbs[ACCEPTING].listen(SocketAddr::new(addresses[ACCEPTING], 0), 8).unwrap();
    let [connecting, accepting] = ask(&mut verbs, &mut pass, place, addresses[CONNECTING]);
    assert!(is_invalid(verbs[ACCEPTING].reject(accepting, &[1; REJECTION_BYTES_MAX + 1])));
    verbs[ACCEPTING].reject(accepting, b"not today").unwrap();
    verbs[ACCEPTING].destroy(accepting);
    match next_event(&mut verbs[CONNECTING], &mut pass) {
        Event::Rejected { identifier, status, reason } => {
            assert_eq!((identifier, status), (connecting, 28));
            assert!(reason.starts_with(b"not today\0"), "{reason:?}");
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn where_nobody_listens_a_request_is_rejected<V: Verbs>(ends: Ends<V>) {
    let Ends { mut verbs, addresses, mut pass } = ends;
    let (listener, place) = verbs[ACCEPTING].listen(SocketAddr::new(addresses[ACCEPTING], 0), 8).unwrap();
    verbs[ACCEPTING].destroy(listener);
    let connecting = resolve(&mut verbs, &mut pass, place, addresses[CONNECTING]);
    verbs[CONNECTING].device(connecting, &DEVICE_SIZES).unwrap();
    verbs[CONNECTING].create_queue_pair(connecting, &SIZES).unwrap();
    verbs[CONNECTING].connect(connecting, &PARAMETERS, b"").unwrap();
    match next_event(&mut verbs[CONNECTING], &mut pass) {
        // IB_CM_REJ_INVALID_SERVICE_ID
        Event::Rejected { identifier, status, .. } => assert_eq!((identifier, status), (connecting, 8)),
        other => panic!("{other:?}"),
    }
}

pub(super) fn numbers_that_name_nothing_are_refused<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    let (device, region) = (world.devices[CONNECTING], world.regions[CONNECTING]);
    let nowhere = Link { identifiers: [Identifier(999); 2], ..link };
    let posted = world.post(CONNECTING, &nowhere, &[request(1, Operation::Flush, &[])]);
    assert!(posted.count == 0 && posted.error.unwrap().raw_os_error() == Some(libc::EINVAL));
    // A request before it is posted all the same.
    let bind = Operation::Bind {
        window: Window { number: 999, key: 1 },
        key: 2,
        region,
        address: world.memory[CONNECTING].address(0),
        bytes: 8,
    };
    let posted = world.post(CONNECTING, &link, &[request(1, Operation::Flush, &[]), request(2, bind, &[])]);
    assert!(posted.count == 1 && posted.error.unwrap().raw_os_error() == Some(libc::EINVAL));
    assert_eq!(world.completion(CONNECTING).work, 1);
    let verbs = &mut world.verbs[CONNECTING];
    assert!(is_invalid(verbs.take_completions(Device(9), &mut [Completion::NONE])));
    assert!(is_invalid(verbs.arm(Device(9))));
    assert!(is_invalid(verbs.allocate_window(Device(9))));
    assert!(is_invalid(verbs.free_window(Window { number: 999, key: 1 })));
    assert!(is_invalid(verbs.deregister(Region { number: 999, key: 1 })));
    assert!(is_invalid(verbs.disconnect(Identifier(999))));
    assert!(verbs.peer(Identifier(999)).is_none());
    verbs.destroy(Identifier(999));
    verbs.arm(device).unwrap();
}

pub(super) fn sends_arrive_whole_and_in_order<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    for work in 0..9 {
        let offset = work as usize * 1024;
        let parts = [world.part(ACCEPTING, offset, 100), world.part(ACCEPTING, offset + 512, 412)];
        world.receive(ACCEPTING, work, &parts);
    }
    let bytes: Vec<u8> = (0..512).map(|at| at as u8 ^ (at >> 8) as u8).collect();
    world.memory[CONNECTING].write(0, &bytes);
    for number in 0..8 {
        // Cut differently each time.
        let first = world.part(CONNECTING, 0, 60 * number + 1);
        let second = world.part(CONNECTING, 60 * number + 1, 80);
        world.post_all(
            CONNECTING,
            &link,
            &[send(100 + number as u64, 7 << 24 | number as u32, &[first, second])],
        );
    }
    world.post_all(CONNECTING, &link, &[send(108, 9, &[]), request(109, Operation::Flush, &[])]);
    for number in 0..8 {
        let arrived = world.completion(ACCEPTING);
        let length = 60 * number + 81;
        let expected = Completion {
            work: number as u64,
            queue_pair: link.queue_pairs[ACCEPTING].number,
            status: Status::SUCCESS,
            bytes: length as u32,
            immediate: 7 << 24 | number as u32,
        };
        assert_eq!(arrived, expected);
        let mut whole = world.memory[ACCEPTING].read(number * 1024, 100.min(length));
        whole.extend(world.memory[ACCEPTING].read(number * 1024 + 512, length.saturating_sub(100)));
        assert_eq!(whole, bytes[..length]);
    }
    let empty = world.completion(ACCEPTING);
    assert_eq!((empty.work, empty.bytes, empty.immediate), (8, 0, 9));
    for work in 100..110 {
        let done = world.completion(CONNECTING);
        assert_eq!((done.work, done.status), (work, Status::SUCCESS));
    }
}

pub(super) fn the_memory_of_an_inline_send_is_free_at_once<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    let given = link.queue_pairs[CONNECTING].sizes.inline_bytes as usize;
    assert!(given >= SIZES.inline_bytes as usize, "{given}");
    let target = world.part(ACCEPTING, 0, 64);
    world.receive(ACCEPTING, 1, &[target]);
    world.memory[CONNECTING].write(0, &[5; 64]);
    // Keys mean nothing here.
    let parts =
        [Part { key: 0, ..world.part(CONNECTING, 0, 60) }, Part { key: 1, ..world.part(CONNECTING, 60, 4) }];
    world.post_all(CONNECTING, &link, &[Request { is_inline: true, ..send(1, 2, &parts) }]);
    world.memory[CONNECTING].write(0, &[6; 64]);
    assert_eq!(world.completion(ACCEPTING).bytes, 64);
    assert_eq!(world.memory[ACCEPTING].read(0, 64), [5; 64]);
    assert_eq!(world.completion(CONNECTING).status, Status::SUCCESS);
    // One byte more than it can carry.
    let parts = [world.part(CONNECTING, 0, given + 1)];
    let posted = world.post(CONNECTING, &link, &[Request { is_inline: true, ..send(1, 2, &parts) }]);
    assert!(posted.count == 0 && posted.error.is_some(), "{posted:?}");
}

pub(super) fn places_of_a_send_queue_come_free_with_the_next_completion<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    for round in 0..5 {
        let list: Vec<Request<'_>> = (0..u64::from(SIZES.sends))
            .map(|work| Request {
                is_signaled: work + 1 == u64::from(SIZES.sends),
                ..request(round * 100 + work, Operation::Flush, &[])
            })
            .collect();
        world.post_all(CONNECTING, &link, &list);
        let done = world.completion(CONNECTING);
        assert_eq!((done.work, done.status), (round * 100 + u64::from(SIZES.sends) - 1, Status::SUCCESS));
    }
    world.assert_silent(CONNECTING);
}

pub(super) fn all_connections_of_a_device_share_its_receives<V: Verbs>(ends: Ends<V>) {
    let (mut world, first) = World::connected(ends);
    let second = world.connect([PARAMETERS; 2]);
    assert_ne!(first.queue_pairs[ACCEPTING].number, second.queue_pairs[ACCEPTING].number);
    for work in 0..3 {
        let target = world.part(ACCEPTING, work as usize * 64, 64);
        world.receive(ACCEPTING, work, &[target]);
    }
    for (work, link) in [second, first, second].iter().enumerate() {
        world.post_all(CONNECTING, link, &[send(0, work as u32, &[])]);
        assert_eq!(world.completion(CONNECTING).queue_pair, link.queue_pairs[CONNECTING].number);
        let arrived = world.completion(ACCEPTING);
        assert_eq!((arrived.work, arrived.immediate), (work as u64, work as u32));
        assert_eq!(arrived.queue_pair, link.queue_pairs[ACCEPTING].number);
    }
}

pub(super) fn a_send_without_a_receive_request_breaks_its_queue_pair<V: Verbs>(ends: Ends<V>) {
    // How often it is tried is what the receiving end has said.
    let accepting = ConnectParameters { rnr_retry_count: 0, ..PARAMETERS };
    let (mut world, link) = World::connected_with(ends, [PARAMETERS, accepting]);
    let list = [send(1, 0, &[]), Request { is_signaled: false, ..send(2, 0, &[]) }, send(3, 0, &[])];
    world.post_all(CONNECTING, &link, &list);
    let failed = world.completion(CONNECTING);
    assert_eq!((failed.work, failed.status), (1, Status(13)), "{failed:?}");
    // The rest is flushed, and what fails has a completion in any case.
    for work in [2, 3] {
        let flushed = world.completion(CONNECTING);
        assert_eq!((flushed.work, flushed.status), (work, Status::FLUSHED));
    }
    world.assert_broken(CONNECTING, &link);
    world.assert_silent(ACCEPTING);
}

pub(super) fn a_send_that_is_too_long_breaks_both<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    let (source, target) = (world.part(CONNECTING, 0, 65), world.part(ACCEPTING, 0, 64));
    world.receive(ACCEPTING, 1, &[target]);
    let failed = world.done(CONNECTING, &link, Operation::Send { immediate: 0 }, &[source]);
    // An invalid request, or on soft-RoCE a failed operation.
    assert!([Status(9), Status(11)].contains(&failed.status), "{failed:?}");
    let received = world.completion(ACCEPTING);
    assert!(received.work == 1 && !received.status.is_success(), "{received:?}");
    assert_eq!(world.memory[ACCEPTING].read(64, 64), [0; 64]);
    world.assert_broken(CONNECTING, &link);
    world.assert_broken(ACCEPTING, &link);
}

pub(super) fn memory_that_is_not_registered_is_not_sent<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    let target = world.part(ACCEPTING, 0, 64);
    world.receive(ACCEPTING, 1, &[target]);
    let beyond = world.part(CONNECTING, MEMORY_BYTES - 8, 16);
    let failed = world.done(CONNECTING, &link, Operation::Send { immediate: 0 }, &[beyond]);
    assert!(!failed.status.is_success() && failed.status != Status::FLUSHED, "{failed:?}");
    world.assert_broken(CONNECTING, &link);
    world.assert_silent(ACCEPTING);
}

pub(super) fn disconnecting_flushes_and_is_told<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    world.verbs[CONNECTING].disconnect(link.identifiers[CONNECTING]).unwrap();
    world.assert_broken(CONNECTING, &link);
    let event = world.event(ACCEPTING);
    assert!(matches!(event, Event::Disconnected(of) if of == link.identifiers[ACCEPTING]), "{event:?}");
    // Until it has disconnected, too, its queue pair is as it was.
    world.verbs[ACCEPTING].disconnect(link.identifiers[ACCEPTING]).unwrap();
    world.assert_broken(ACCEPTING, &link);
    let event = world.event(CONNECTING);
    assert!(matches!(event, Event::Disconnected(of) if of == link.identifiers[CONNECTING]), "{event:?}");
}

pub(super) fn an_end_that_is_destroyed_has_disconnected<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    world.verbs[ACCEPTING].destroy(link.identifiers[ACCEPTING]);
    let event = world.event(CONNECTING);
    assert!(matches!(event, Event::Disconnected(of) if of == link.identifiers[CONNECTING]), "{event:?}");
    world.verbs[CONNECTING].destroy(link.identifiers[CONNECTING]);
    let posted = world.post(CONNECTING, &link, &[request(1, Operation::Flush, &[])]);
    assert!(posted.count == 0 && posted.error.is_some(), "{posted:?}");
    // The numbers are used again.
    let next = world.connect([PARAMETERS; 2]);
    assert_eq!(next.identifiers, link.identifiers);
}

pub(super) fn a_window_is_read_and_closed_and_opened_again<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    let window = world.verbs[ACCEPTING].allocate_window(world.devices[ACCEPTING]).unwrap();
    world.memory[ACCEPTING].write(0, &(0..=255).collect::<Vec<u8>>());
    // The same window a few times, each with another key: drivers must be told of the last one.
    let mut key = window.key;
    for offset in [0, 16, 32] {
        key = next_key(key);
        assert_eq!(world.open(&link, window, key, 0, 256).status, Status::SUCCESS);
        assert_eq!(world.read(&link, key, offset, 24).status, Status::SUCCESS);
        assert_eq!(world.memory[CONNECTING].read(0, 24), world.memory[ACCEPTING].read(offset, 24));
        let closed = world.done(ACCEPTING, &link, Operation::Invalidate { key }, &[]);
        assert_eq!(closed.status, Status::SUCCESS);
    }
    world.verbs[ACCEPTING].free_window(window).unwrap();
}

pub(super) fn a_key_that_was_closed_opens_nothing<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    let window = world.verbs[ACCEPTING].allocate_window(world.devices[ACCEPTING]).unwrap();
    let key = next_key(window.key);
    assert_eq!(world.open(&link, window, key, 0, 256).status, Status::SUCCESS);
    assert_eq!(world.done(ACCEPTING, &link, Operation::Invalidate { key }, &[]).status, Status::SUCCESS);
    world.memory[ACCEPTING].write(0, &[9; 8]);
    assert_eq!(world.read(&link, key, 0, 8).status, Status::REMOTE_ACCESS);
    assert_eq!(world.memory[CONNECTING].read(0, 8), [0; 8]);
    world.assert_broken(CONNECTING, &link);
    world.assert_broken(ACCEPTING, &link);
    world.verbs[ACCEPTING].free_window(window).unwrap();
}

/// Where the window ends with its region: `rxe` looks at no other end (`check_rkey` of `rxe_resp.c`).
pub(super) fn beyond_a_window_nothing_is_read<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    let window = world.verbs[ACCEPTING].allocate_window(world.devices[ACCEPTING]).unwrap();
    let key = next_key(window.key);
    assert_eq!(world.open(&link, window, key, 0, MEMORY_BYTES).status, Status::SUCCESS);
    assert_eq!(world.read(&link, key, MEMORY_BYTES - 8, 8).status, Status::SUCCESS);
    assert_eq!(world.read(&link, key, MEMORY_BYTES - 8, 9).status, Status::REMOTE_ACCESS);
    world.assert_broken(CONNECTING, &link);
    world.assert_broken(ACCEPTING, &link);
    // Before its queue pair goes.
    world.verbs[ACCEPTING].free_window(window).unwrap();
}

/// Where it does not say so, nothing is taken for granted: a window without bounds is as good as none there.
pub(super) fn a_window_has_bounds_where_its_device_says_so<V: Verbs>(ends: Ends<V>) {
    let (mut world, mut link) = World::connected(ends);
    let has_bounds = world.verbs[ACCEPTING].limits(link.identifiers[ACCEPTING]).unwrap().windows_have_bounds;
    for (offset, length) in [(1023, 2), (1535, 2), (0, 8), (MEMORY_BYTES - 8, 8)] {
        let window = world.verbs[ACCEPTING].allocate_window(world.devices[ACCEPTING]).unwrap();
        let key = next_key(window.key);
        assert_eq!(world.open(&link, window, key, 1024, 512).status, Status::SUCCESS);
        assert_eq!(world.read(&link, key, 1024, 512).status, Status::SUCCESS);
        let status = world.read(&link, key, offset, length).status;
        let is_allowed = status == Status::REMOTE_ACCESS || !has_bounds && status.is_success();
        assert!(is_allowed, "{offset}, {length}: {status:?}");
        // Freed while it is open, its queue pair has to have failed.
        world.verbs[ACCEPTING].disconnect(link.identifiers[ACCEPTING]).unwrap();
        world.assert_broken(ACCEPTING, &link);
        world.verbs[ACCEPTING].free_window(window).unwrap();
        world.verbs[ACCEPTING].destroy(link.identifiers[ACCEPTING]);
        let event = world.event(CONNECTING);
        assert!(matches!(event, Event::Disconnected(of) if of == link.identifiers[CONNECTING]), "{event:?}");
        world.verbs[CONNECTING].destroy(link.identifiers[CONNECTING]);
        link = world.connect([PARAMETERS; 2]);
    }
}

/// So a body can be opened alone, on soft-RoCE as well, though its slab is registered as a whole.
pub(super) fn a_region_within_a_region_bounds_its_window<V: Verbs>(ends: Ends<V>) {
    let (mut world, mut link) = World::connected(ends);
    // Neither end of it is on a page of its own.
    let (first, bytes) = (4100, 5000);
    world.memory[ACCEPTING].write(0, &[3; MEMORY_BYTES]);
    let address = world.memory[ACCEPTING].address(first);
    for (offset, length, status) in [
        (first, bytes, Status::SUCCESS),
        (first - 1, 2, Status::REMOTE_ACCESS),
        (first + bytes - 1, 2, Status::REMOTE_ACCESS),
        (0, 8, Status::REMOTE_ACCESS),
        (MEMORY_BYTES - 8, 8, Status::REMOTE_ACCESS),
    ] {
        let end = &mut world.verbs[ACCEPTING];
        // SAFETY: the world drops the memory after the ends.
        let region = unsafe { end.register(world.devices[ACCEPTING], address, bytes) }.unwrap();
        let window = end.allocate_window(world.devices[ACCEPTING]).unwrap();
        let key = next_key(window.key);
        let bind = Operation::Bind { window, key, region, address, bytes: bytes as u64 };
        assert_eq!(world.done(ACCEPTING, &link, bind, &[]).status, Status::SUCCESS);
        world.memory[CONNECTING].write(0, &vec![0; length]);
        assert_eq!(world.read(&link, key, offset, length).status, status, "{offset}, {length}");
        let read = if status.is_success() { 3 } else { 0 };
        assert_eq!(world.memory[CONNECTING].read(0, length), vec![read; length]);
        if status.is_success() {
            let closed = world.done(ACCEPTING, &link, Operation::Invalidate { key }, &[]);
            assert_eq!(closed.status, Status::SUCCESS);
        } else {
            world.assert_broken(ACCEPTING, &link);
        }
        world.verbs[ACCEPTING].free_window(window).unwrap();
        world.verbs[ACCEPTING].deregister(region).unwrap();
        if !status.is_success() {
            link = world.connect([PARAMETERS; 2]);
        }
    }
}

pub(super) fn a_window_that_is_bound_twice_in_one_list_opens_by_the_second_key<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    let window = world.verbs[ACCEPTING].allocate_window(world.devices[ACCEPTING]).unwrap();
    let (region, address) = (world.regions[ACCEPTING], world.memory[ACCEPTING].address(0));
    let (first, second) = (next_key(window.key), next_key(next_key(window.key)));
    let bind = |key| Operation::Bind { window, key, region, address, bytes: 256 };
    let operations = [bind(first), Operation::Invalidate { key: first }, bind(second)];
    let list: Vec<Request<'_>> =
        operations.iter().zip(1..).map(|(operation, work)| request(work, *operation, &[])).collect();
    world.post_all(ACCEPTING, &link, &list);
    for work in 1..=3 {
        let done = world.completion(ACCEPTING);
        assert_eq!((done.work, done.status), (work, Status::SUCCESS));
    }
    assert_eq!(world.read(&link, second, 0, 8).status, Status::SUCCESS);
    let closed = world.done(ACCEPTING, &link, Operation::Invalidate { key: second }, &[]);
    assert_eq!(closed.status, Status::SUCCESS);
    world.verbs[ACCEPTING].free_window(window).unwrap();
}

/// Nothing closes it any more, and its memory is free only when it has gone.
pub(super) fn an_open_window_is_freed_after_its_queue_pair_failed<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    let window = world.verbs[ACCEPTING].allocate_window(world.devices[ACCEPTING]).unwrap();
    let key = next_key(window.key);
    assert_eq!(world.open(&link, window, key, 0, 256).status, Status::SUCCESS);
    world.verbs[ACCEPTING].disconnect(link.identifiers[ACCEPTING]).unwrap();
    world.assert_broken(ACCEPTING, &link);
    let closed = world.done(ACCEPTING, &link, Operation::Invalidate { key }, &[]);
    assert_eq!(closed.status, Status::FLUSHED);
    let region = world.regions[ACCEPTING];
    world.verbs[ACCEPTING].deregister(region).unwrap_err();
    world.verbs[ACCEPTING].free_window(window).unwrap();
    world.verbs[ACCEPTING].deregister(region).unwrap();
    world.verbs[ACCEPTING].destroy(link.identifiers[ACCEPTING]);
}

pub(super) fn a_window_is_for_one_queue_pair<V: Verbs>(ends: Ends<V>) {
    let (mut world, first) = World::connected(ends);
    let second = world.connect([PARAMETERS; 2]);
    let window = world.verbs[ACCEPTING].allocate_window(world.devices[ACCEPTING]).unwrap();
    let key = next_key(window.key);
    assert_eq!(world.open(&first, window, key, 0, 256).status, Status::SUCCESS);
    assert_eq!(world.read(&second, key, 0, 8).status, Status::REMOTE_ACCESS);
    world.assert_broken(CONNECTING, &second);
    world.assert_broken(ACCEPTING, &second);
    // The other one is none the worse for it.
    assert_eq!(world.read(&first, key, 0, 8).status, Status::SUCCESS);
    assert_eq!(world.done(ACCEPTING, &first, Operation::Invalidate { key }, &[]).status, Status::SUCCESS);
}

pub(super) fn memory_below_a_window_stays_registered<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    let window = world.verbs[ACCEPTING].allocate_window(world.devices[ACCEPTING]).unwrap();
    let key = next_key(window.key);
    assert_eq!(world.open(&link, window, key, 0, 256).status, Status::SUCCESS);
    let region = world.regions[ACCEPTING];
    world.verbs[ACCEPTING].deregister(region).unwrap_err();
    assert_eq!(world.read(&link, key, 0, 8).status, Status::SUCCESS);
    assert_eq!(world.done(ACCEPTING, &link, Operation::Invalidate { key }, &[]).status, Status::SUCCESS);
    world.verbs[ACCEPTING].deregister(region).unwrap();
    assert!(is_invalid(world.verbs[ACCEPTING].deregister(region)));
}

pub(super) fn an_armed_queue_wakes_once<V: Verbs>(ends: Ends<V>) {
    let (mut world, link) = World::connected(ends);
    let device = world.devices[ACCEPTING];
    for work in 0..4 {
        let target = world.part(ACCEPTING, 0, 64);
        world.receive(ACCEPTING, work, &[target]);
    }
    assert!(world.verbs[ACCEPTING].take_event().unwrap().is_none());
    // Not armed: nobody is woken.
    world.done(CONNECTING, &link, Operation::Send { immediate: 0 }, &[]);
    world.completion(ACCEPTING);
    assert!(!world.is_readable(ACCEPTING));
    for _ in 0..2 {
        world.verbs[ACCEPTING].arm(device).unwrap();
        // Twice is as good as once.
        world.verbs[ACCEPTING].arm(device).unwrap();
        world.assert_silent(ACCEPTING);
        assert!(!world.is_readable(ACCEPTING));
        world.done(CONNECTING, &link, Operation::Send { immediate: 0 }, &[]);
        let _ = (0..TURNS_MAX).any(|_| world.is_readable(ACCEPTING) || !(world.pass)());
        assert!(world.is_readable(ACCEPTING));
        // Looking for events is not looking for completions.
        assert!(world.verbs[ACCEPTING].take_event().unwrap().is_none());
        assert!(world.is_readable(ACCEPTING));
        world.completion(ACCEPTING);
    }
}

/// Another low byte.
pub(super) fn next_key(key: u32) -> u32 {
    key & !0xFF | key.wrapping_add(1) & 0xFF
}
