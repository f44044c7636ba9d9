//! The bodies of requests and replies: who asked what, and enough bytes to tell a damaged one.

use std::sync::OnceLock;

/// The number of a client, and of a request among its own.
pub(crate) type Request = (u32, u32);

const HEAD_BYTES: usize = 8;

/// One in fifty travels in chunks, so that connections break in the middle of one.
fn filler_bytes(number: u32) -> usize {
    match number {
        n if n.is_multiple_of(50) => 40_000,
        n if n.is_multiple_of(10) => 3_000,
        _ => 24,
    }
}

fn filler((client, number): Request) -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| (0..50_000_u32).map(|at| (at * 7 + at / 251) as u8).collect());
    let from = ((client * 1_009 + number * 31) % 10_000) as usize;
    &pattern[from..from + filler_bytes(number)]
}

/// The body of a request.
pub(crate) fn of_request(request: Request) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEAD_BYTES + filler_bytes(request.1));
    body.extend_from_slice(&request.0.to_le_bytes());
    body.extend_from_slice(&request.1.to_le_bytes());
    body.extend_from_slice(filler(request));
    body
}

/// Which request this is the body of.
///
/// # Panics
/// If it is that of none, byte for byte.
pub(crate) fn request_of(body: &[u8]) -> Request {
    let number = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
    let request = (number(0), number(4));
    assert!(body[HEAD_BYTES..] == *filler(request), "the body of {request:?} is damaged");
    request
}

/// A reply: the service that made it, and the request.
pub(crate) fn of_reply(service: u32, request: &[u8]) -> Vec<u8> {
    [&service.to_le_bytes(), request].concat()
}

/// The service that made this reply to a request.
///
/// # Panics
/// If it is a reply to another one, or damaged.
pub(crate) fn check_reply(reply: &[u8], request: Request) -> u32 {
    let (service, body) = reply.split_first_chunk().expect("a reply names its service");
    assert_eq!(request_of(body), request, "a reply to another request");
    u32::from_le_bytes(*service)
}

/// Whether the service fails this request, with an error of its own.
pub(crate) fn fails((_, number): Request) -> bool {
    number.is_multiple_of(97)
}
