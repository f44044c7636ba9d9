//! Messages from one connection to another, through a handler.

use super::stage::*;
use crate::message::Message;
use crate::pool::{BUFFER_BYTES_MAX, Body};
use crate::proto::record::MessageKind;

/// Where the bytes of a body lie; neighbours count as one place, since chunks cut segments anywhere.
fn places(body: &Body) -> Vec<(usize, usize)> {
    let mut places: Vec<(usize, usize)> = Vec::new();
    for segment in body.segments() {
        let (at, bytes) = (segment.as_ptr() as usize, segment.len());
        match places.last_mut() {
            Some((start, before)) if *start + *before == at => *before += bytes,
            _ => places.push((at, bytes)),
        }
    }
    places
}

/// Drivers 0, 1 and 2; what 1 gets on its first connection it passes on to 2.
fn stage() -> Stage {
    let mut stage = Stage::with([config(), config(), config()]);
    let onward = stage.connect(1, 2);
    stage.recorder(1).react = Box::new(move |core, _, mut message| {
        message.head.kind = MessageKind::Reply;
        message.head.link = None;
        core.send(onward, message).map_err(|(error, _)| error).unwrap();
        None
    });
    stage
}

#[test]
fn a_handler_may_send_to_another_connection_while_a_message_comes_in() {
    let mut stage = stage();
    let id = stage.connect(0, 1);
    for tag in 0..500 {
        stage.send(0, id, None, &content(tag, tag * 37 % 9000)).unwrap();
    }
    stage.until(|stage| stage.recorder(2).messages.len() == 500);
    for (tag, (_, message)) in std::mem::take(&mut stage.recorder(2).messages).into_iter().enumerate() {
        assert!(message.body == content(tag, tag * 37 % 9000)[..], "message {tag}");
    }
}

/// Over `inproc` the receiver gets the sender's very segments, so addresses tell whether anybody copied a byte on the
/// way: from the buffer in which the body was made, through the relay's packing, to the last receiver.
#[test]
fn a_body_leaves_a_relay_from_the_very_segments_in_which_it_came() {
    let mut stage = stage();
    let id = stage.connect(0, 1);
    for bytes in [2048, 4096, 16_384, BUFFER_BYTES_MAX, 3 * BUFFER_BYTES_MAX] {
        let body = stage.core(0).pool().copy_body(&content(1, bytes)).unwrap();
        let made = body.share(stage.core(0).pool()).unwrap();
        let before = [1, 2].map(|number| stage.drivers[number].stats().pool.body_copies);
        let message = Message::new(MessageKind::Reply, body);
        stage.core(0).send(id, message).map_err(|(error, _)| error).unwrap();
        stage.until(|stage| stage.recorder(2).messages.len() == 1);
        let (_, message) = stage.recorder(2).messages.pop_back().unwrap();
        assert!(message.body == content(1, bytes)[..]);
        assert_eq!(places(&message.body), places(&made), "{bytes} bytes");
        let after = [1, 2].map(|number| stage.drivers[number].stats().pool.body_copies);
        assert_eq!(before, after, "{bytes} bytes");
    }
    assert!(stage.drivers[1].stats().packing.bodies_by_reference >= 5);
}
