//! Each way in which a peer can misbehave, shown once.
//!
//! Most are a vector with a few bytes changed: the offsets are those that the vector's file and the
//! document show. A test reads the list of variants from the source, so that none can be forgotten.

use std::collections::BTreeSet;

use underlay::proto::PeerMisbehaved as Bad;
use underlay::proto::credit::ReceiveWindow;
use underlay::proto::handshake::{AwaitServerHello, ConnectFailed, LocalEnd};
use underlay::proto::hello::{ClientHello, HelloExtensions, Prefix, Refusal, SecurityKind, ServerHello};
use underlay::proto::record::{BodyProgress, ChunkHead, Record};
use underlay::proto::serial::{FrameOrder, Received};
use underlay::proto::text::{Name, TextField};
use underlay::proto::{Lane, Parameter, ParameterFault};

use crate::support::{limits, link, read, rewrite};
use crate::vector_file;

/// Bytes to write at an offset of a vector.
type Patch<'a> = (usize, &'a [u8]);

fn patched(vector: &str, patches: &[Patch<'_>]) -> Vec<u8> {
    let mut bytes = vector_file::bytes(vector);
    for (at, patch) in patches {
        assert_ne!(&bytes[*at..at + patch.len()], *patch, "{vector}: the patch at {at} changes nothing");
        bytes[*at..at + patch.len()].copy_from_slice(patch);
    }
    bytes
}

/// What a reader says of a frame with these changes.
fn frame(vector: &str, patches: &[Patch<'_>]) -> Bad {
    read(&patched(vector, patches), &limits()).expect_err(vector)
}

fn request(at: usize, patch: &[u8]) -> Bad {
    frame("request-frame", &[(at, patch)])
}

fn bulk(at: usize, patch: &[u8]) -> Bad {
    frame("bulk-frame", &[(at, patch)])
}

fn control(at: usize, patch: &[u8]) -> Bad {
    frame("control-frame", &[(at, patch)])
}

fn client_hello(at: usize, patch: &[u8]) -> Bad {
    ClientHello::parse(&patched("client-hello", &[(at, patch)])).expect_err("client-hello")
}

/// What a client says of a server's answer with these changes.
fn answer(patches: &[Patch<'_>]) -> Bad {
    client_takes(&patched("server-hello", patches))
}

/// What the client of the vector, whose securities are none and sealed frames, says of an answer.
fn client_takes(answer: &[u8]) -> Bad {
    let hello = ClientHello::parse(&vector_file::bytes("client-hello")).expect("right");
    let local = LocalEnd {
        capabilities: hello.body.capabilities,
        process: hello.body.process,
        parameters: hello.body.parameters,
        securities: hello.body.extensions.securities().collect(),
        wires: vec![],
        name: None,
    };
    let (client, _) = AwaitServerHello::start(local, hello.body.session).expect("possible");
    match client.handle(answer) {
        Err(ConnectFailed::Misbehaved(violation)) => violation,
        other => panic!("{other:?}"),
    }
}

fn answer_with_securities(kinds: &[u16]) -> Bad {
    let mut hello = ServerHello::parse(&vector_file::bytes("server-hello")).expect("right");
    let kinds: Vec<_> = kinds.iter().copied().map(SecurityKind).collect();
    hello.body.extensions = HelloExtensions::new(&kinds, &[], None).expect("right");
    client_takes(&hello.encode())
}

fn chunk(body_offset: u64, body_bytes: u32, last: bool) -> Bad {
    let chunk = ChunkHead { lane: Lane::Bulk, last, body_bytes, link: None, lane_sequence: 0, body_offset };
    BodyProgress::new(10, 20).accept(&chunk).expect_err("the chunk is wrong")
}

/// Expected, and found.
type Case = (Bad, Bad);

fn hello_cases() -> Vec<Case> {
    let mut two_lines_more = vector_file::bytes("client-hello");
    two_lines_more.resize(448, 0);
    two_lines_more[14..16].copy_from_slice(&448_u16.to_le_bytes());
    let spare = ClientHello::parse(&two_lines_more).expect_err("two lines are spare");
    let whole = vector_file::bytes("client-hello");
    let cut = ClientHello::parse(&whole[..319]).expect_err("a byte is missing");
    let parameters = Bad::ImpossibleParameters(ParameterFault::NotAMultiple {
        parameter: Parameter::FrameBytesMax,
        value: 65_537,
        multiple: 64,
    });
    let exceeds =
        Bad::ParameterExceedsProposal { parameter: Parameter::LinksMax, value: 65_792, limit: 4096 };
    vec![
        (
            Bad::NotUnderlay { offset: 2, found: b'x' },
            Prefix::check(b"unx").expect_err("it shows at the third byte"),
        ),
        (Bad::HelloRole { role: 4 }, client_hello(12, &[4])),
        (Bad::HelloBytes { hello_bytes: 128, min: 192 }, client_hello(14, &[128, 0])),
        (Bad::HelloLinesSpare { hello_bytes: 448, needed: 320 }, spare),
        (Bad::HelloLength { hello_bytes: 320, found: 319 }, cut),
        (Bad::VersionRange { min: 2, max: 1 }, client_hello(8, &[2])),
        (Bad::VersionNotOffered { version: 2, min: 1, max: 1 }, answer(&[(8, &[2]), (10, &[2])])),
        (Bad::LaneCount { lanes: 4 }, client_hello(126, &[4])),
        (parameters, client_hello(100, &[1])),
        (exceeds, answer(&[(138, &[1])])),
        (Bad::CapabilitiesNotOffered { found: 2, offered: 1 }, answer(&[(16, &[2])])),
        (Bad::SecurityNotChosen { count: 2 }, answer_with_securities(&[0, 1])),
        (Bad::SecurityNotOffered { kind: 9 }, answer_with_securities(&[9])),
        (Bad::ReservedNotZero { offset: 13 }, client_hello(13, &[1])),
        (Bad::ReservedNotZero { offset: 44 }, client_hello(47, &[1])),
        (Bad::PaddingNotZero { offset: 319 }, client_hello(319, &[1])),
        (Bad::SessionEpoch { found: 4, expected: 3 }, answer(&[(64, &[4])])),
        (Bad::SessionTokenMissing, answer(&[(224, &[6])])),
    ]
}

fn frame_cases() -> Vec<Case> {
    let short = read(&vector_file::bytes("keep-alive")[..63], &limits()).expect_err("a byte is missing");
    vec![
        (Bad::FrameTooShort { frame_bytes: 0 }, request(0, &[0])),
        (Bad::FrameTooLong { frame_bytes: 65_728, limit: 65_536 }, request(2, &[1])),
        (Bad::FrameNotWholeLines { frame_bytes: 193 }, request(0, &[193])),
        (Bad::FrameLength { frame_bytes: 64, found: 63 }, short),
        (Bad::FrameKindUnknown { kind: 3 }, request(4, &[3])),
        (Bad::StreamUnknown { stream: 4 }, request(5, &[4])),
        (Bad::LaneUnknown { lane: 3 }, request(33, &[3])),
        (Bad::FrameEmpty, request(6, &[0])),
        (Bad::FrameRecordBytes { record_bytes: 416, frame_bytes: 192 }, request(21, &[1])),
        (Bad::RecordBytesUnaligned { record_bytes: 159 }, request(20, &[159])),
        (Bad::RecordCount { records: 21, record_bytes: 160 }, request(6, &[21])),
        (Bad::RecordPastFrame { bytes: 8, left: 0 }, request(6, &[2])),
        (
            Bad::RecordPastFrame { bytes: 408, left: 160 },
            frame("request-frame", &[(40, &[0, 1]), (88, &[0, 1])]),
        ),
        (Bad::RecordBytesLeft { left: 88 }, frame("reply-frame", &[(6, &[1])])),
        (Bad::RecordNotControl { kind: 2 }, request(4, &[2])),
        (
            Bad::FrameOutOfSequence { expected: 0, found: 5 },
            FrameOrder::default().accept(5).expect_err("a gap"),
        ),
        (Bad::PaddingNotZero { offset: 191 }, request(191, &[1])),
        (Bad::PaddingNotZero { offset: 63 }, frame("keep-alive", &[(63, &[1])])),
    ]
}

fn record_cases() -> Vec<Case> {
    let request_frame = vector_file::bytes("request-frame");
    let longer_than_it_says = Record::parse(&request_frame[32..192], &limits()).expect_err("8 bytes more");
    vec![
        (Bad::HeadBytes { kind: 2, head_bytes: 160, min: 152, max: 152 }, longer_than_it_says),
        (Bad::RecordKindUnknown { kind: 5 }, request(32, &[5])),
        (Bad::HeadBytes { kind: 2, head_bytes: 56, min: 64, max: 4096 }, request(36, &[56])),
        (Bad::HeadBytes { kind: 4, head_bytes: 104, min: 32, max: 96 }, bulk(212, &[104])),
        (Bad::HeadBytesUnaligned { head_bytes: 153 }, request(36, &[153])),
        (Bad::FlagsUnknown { kind: 2, flags: 0x80 }, request(34, &[0xb2])),
        (Bad::FlagsUnknown { kind: 4, flags: 2 }, bulk(210, &[2])),
        (Bad::FailureNotReply { kind: 2 }, request(34, &[0x1a])),
        (Bad::LinkMissing { kind: 2 }, request(44, &[0])),
        (Bad::LinkMissing { kind: 0x43 }, control(256, &[0])),
        (Bad::DeadlineUnannounced { deadline_us: 250_000 }, request(34, &[2])),
        (Bad::BodyTotal { body_bytes: 5, total_body_bytes: 4 }, request(88, &[4])),
        (Bad::BodyTotal { body_bytes: 5, total_body_bytes: 6 }, request(88, &[6])),
        (Bad::BodyTotal { body_bytes: 5, total_body_bytes: 5 }, request(34, &[0x16])),
        (
            Bad::BodyTooLong { body_bytes: 32_773, limit: 32_768 },
            frame("request-frame", &[(41, &[0x80]), (89, &[0x80])]),
        ),
        (Bad::BodyTooLong { body_bytes: 65_544, limit: 32_768 }, bulk(218, &[1])),
        (Bad::MessageTooLong { body_bytes: (1 << 32) + 25, limit: 64 << 20 }, bulk(92, &[1])),
        (Bad::MessageTooLong { body_bytes: (1 << 32) + 18, limit: 64 << 20 }, bulk(236, &[1])),
        (Bad::ChunkEmpty, bulk(216, &[0])),
        (Bad::ChunkOutOfPlace { expected: 10, found: 9 }, chunk(9, 10, true)),
        (Bad::ChunkPastEnd { end: 21, total_body_bytes: 20 }, chunk(10, 11, true)),
        (Bad::ChunkLastMark { end: 20, total_body_bytes: 20 }, chunk(10, 10, false)),
        (Bad::ChunkLastMark { end: 19, total_body_bytes: 20 }, chunk(10, 9, true)),
        (
            Bad::LaneOutOfSequence { lane: Lane::Bulk, expected: 0, found: 1 },
            Received::default().check(Lane::Bulk, 1).expect_err("a gap"),
        ),
    ]
}

fn offer_cases() -> Vec<Case> {
    let offer = |patches: &[Patch<'_>]| frame("offer-frame", patches);
    vec![
        (Bad::OfferWithBody { body_bytes: 5 }, request(34, &[0x72])),
        (Bad::OfferWithBody { body_bytes: 0 }, offer(&[(34, &[0x44])])),
        // An empty body cannot be offered.
        (Bad::BodyTotal { body_bytes: 0, total_body_bytes: 0 }, offer(&[(90, &[0])])),
        (Bad::MessageTooLong { body_bytes: (1 << 24) * 5, limit: 64 << 20 }, offer(&[(90, &[0, 5])])),
        // Without it, of another type, or one that need not be understood.
        (Bad::OfferWithoutDescriptor, offer(&[(104, &[0; 16])])),
        (Bad::OfferWithoutDescriptor, offer(&[(104, &[0xfe, 0x7f])])),
        (Bad::OfferWithoutDescriptor, offer(&[(105, &[0x7f])])),
        (Bad::OfferUnmarked, offer(&[(34, &[0x04])])),
        (Bad::ExtensionValue { kind: 0x7fff, bytes: 0 }, offer(&[(106, &[0]), (108, &[0; 12])])),
        (Bad::ExtensionValue { kind: 0x7fff, bytes: 65 }, too_long_a_descriptor()),
    ]
}

fn too_long_a_descriptor() -> Bad {
    let mut head = vec![0; 144];
    head[..64].copy_from_slice(&vector_file::bytes("offer-frame")[32..96]);
    head[4] = 144;
    head[64..68].copy_from_slice(&[0xff, 0xff, 65, 0]);
    Record::parse(&head, &limits()).expect_err("the longest has 64 bytes")
}

fn extension_cases() -> Vec<Case> {
    vec![
        (Bad::ExtensionPastEnd { bytes: 280, left: 24 }, request(163, &[1])),
        (Bad::ExtensionOrder { kind: 1, previous: 2 }, request(160, &[1])),
        (Bad::ExtensionOrder { kind: 2, previous: 2 }, request(160, &[2])),
        (Bad::ExtensionNotUnderstood { kind: 0x321 }, frame("must-understand", &[])),
        (Bad::ExtensionNotUnderstood { kind: 0x900 }, client_hello(249, &[0x89])),
        (Bad::ExtensionValue { kind: 2, bytes: 27 }, request(130, &[27])),
        (Bad::ExtensionValue { kind: 1, bytes: 3 }, client_hello(162, &[3])),
        (Bad::ExtensionList { kind: 3, offset: 13 }, request(179, &[1])),
        (Bad::ExtensionList { kind: 2, offset: 8 }, client_hello(182, &[1])),
        (Bad::TraceContextInvalid, request(132, &[255])),
        (Bad::TraceContextInvalid, request(149, &[0; 8])),
        (Bad::TextNotUtf8 { field: TextField::HeaderKey, offset: 3 }, request(168, &[0xff])),
        (Bad::TextEmpty { field: TextField::Destination }, request(114, &[0, 0, 0, 0, 0, 0, 0, 0])),
        (Bad::TextControlCharacter { field: TextField::ProcessName, offset: 6 }, client_hello(194, b"\n")),
        (
            Bad::TextTooLong { field: TextField::Destination, bytes: 256, limit: 255 },
            Name::new(&"x".repeat(256)).expect_err("it is too long"),
        ),
        (Bad::PaddingNotZero { offset: 122 - 32 }, request(122, &[1])),
    ]
}

fn control_cases() -> Vec<Case> {
    vec![
        (Bad::ControlNotUnderstood { kind: 0x50 }, control(338, &[1])),
        (Bad::ControlFlags { kind: 0x40, flags: 1 }, control(34, &[1])),
        (Bad::ControlBytes { kind: 0x40, head_bytes: 48, expected: 56 }, control(46, &[17])),
        (Bad::ControlBytes { kind: 0x43, head_bytes: 24, expected: 32 }, control(252, &[24])),
        (Bad::ReservedNotZero { offset: 12 }, control(196, &[1])),
        (Bad::RoleUnknown { role: 3 }, control(44, &[3])),
        (Bad::AddressKindUnknown { kind: 2 }, control(45, &[2])),
        (Bad::ReplyAddressProducer, control(92, &[0])),
        (Bad::SecretBytes { bytes: 31 }, frame("control-frame", &[(94, &[31]), (143, &[0])])),
        (Bad::ProducerGrants { messages: 7, bytes: 0 }, control(48, &[7])),
        (Bad::OutcomeUnknown { outcome: 3 }, control(292, &[3])),
        (Bad::SettleRange { from: 165, to: 164 }, control(296, &[165])),
        (Bad::SettleRange { from: 164, to: 164 }, control(296, &[164])),
        (Bad::LaneUnknown { lane: 3 }, control(294, &[3])),
        (Bad::ReservedNotZero { offset: 15 }, control(295, &[1])),
        (Bad::ReservedNotZero { offset: 14 }, control(326, &[1])),
        (Bad::ControlBytes { kind: 0x46, head_bytes: 24, expected: 32 }, control(324, &[9])),
        (Bad::TextControlCharacter { field: TextField::Reason, offset: 1 }, control(329, &[7])),
        // A producer that settles is none: what follows a changed role is a grant to itself.
        (Bad::ProducerGrants { messages: 64, bytes: 256 << 10 }, control(156, &[0])),
        (Bad::TextNotUtf8 { field: TextField::Destination, offset: 0 }, control(64, &[0xff])),
        (Bad::TextControlCharacter { field: TextField::Reason, offset: 3 }, control(367, &[0x1b])),
    ]
}

fn credit_cases() -> Vec<Case> {
    let overrun = || ReceiveWindow::new(4).receive(5).expect_err("4 are granted");
    let (position, limit, link) = (5, 4, link(9));
    vec![
        (Bad::FrameCreditOverrun { position, limit }, overrun().of_frames()),
        (Bad::ChunkCreditOverrun { position, limit }, overrun().of_chunks()),
        (Bad::MessageCreditOverrun { link, position, limit }, overrun().of_messages(link)),
        (Bad::ByteCreditOverrun { link, position, limit }, overrun().of_bytes(link)),
    ]
}

fn cases() -> Vec<Case> {
    let of_frames = [frame_cases(), record_cases(), offer_cases(), extension_cases(), control_cases()];
    [hello_cases(), of_frames.concat(), credit_cases()].concat()
}

#[test]
fn each_violation_has_its_name_its_value_and_its_limit() {
    for (expected, found) in cases() {
        assert_eq!(found, expected);
    }
}

#[test]
fn no_violation_is_without_a_case() {
    let source = include_str!("../../src/proto/error.rs");
    let (_, body) = source.split_once("pub enum PeerMisbehaved {").expect("the enumeration is there");
    let (body, _) = body.split_once("\n}").expect("it ends");
    let variants: BTreeSet<_> = body
        .lines()
        .map(|line| line.trim_start_matches("    "))
        .filter(|line| line.starts_with(|first: char| first.is_ascii_uppercase()))
        .map(|line| line.split(|end: char| !end.is_alphanumeric()).next().expect("a name").to_owned())
        .collect();
    assert!(variants.len() > 50, "only {} variants were found", variants.len());
    let shown: BTreeSet<_> = cases()
        .iter()
        .map(|(_, found)| {
            let printed = format!("{found:?}");
            printed.split(|end: char| !end.is_alphanumeric()).next().expect("a name").to_owned()
        })
        .collect();
    // These need more than one frame, or links: the tests of packing and of connections have their cases.
    let elsewhere = [
        "AcknowledgedUnsent",
        "ChunkOfAnother",
        "ChunkWithoutMessage",
        "GrantByProducer",
        "LinkInUse",
        "LinkNotSettled",
        "LinkUnknown",
        "MessageBetweenChunks",
        "OfferNotNegotiated",
        "OfferOverrun",
        "ResumePosition",
        "SessionParameter",
        "SessionUnproven",
        "SettledUndelivered",
        "SettlementNotNegotiated",
    ];
    assert_eq!(variants.difference(&shown).collect::<Vec<_>>(), elsewhere);
}

#[test]
fn each_violation_says_what_was_found() {
    for (_, violation) in cases() {
        let message = violation.to_string();
        assert!(message.len() > 10 && !message.contains('{'), "{message}");
    }
}

#[test]
fn a_refusal_has_bounds_too() {
    let parse = |at: usize, patch: &[u8]| Refusal::parse(&patched("refusal", &[(at, patch)]));
    assert_eq!(parse(12, &[2]), Err(Bad::HelloBytes { hello_bytes: 128, min: 192 }));
    assert_eq!(parse(18, &[200]), Err(Bad::HelloLength { hello_bytes: 128, found: 256 }));
    assert_eq!(parse(18, &[20]), Err(Bad::HelloLinesSpare { hello_bytes: 128, needed: 64 }));
    assert_eq!(parse(127, &[1]), Err(Bad::PaddingNotZero { offset: 127 }));
    assert_eq!(parse(20, &[7]), Err(Bad::TextControlCharacter { field: TextField::Reason, offset: 0 }));
}

#[test]
fn what_is_within_the_limits_is_no_violation() {
    let vectors =
        ["bulk-frame", "control-frame", "keep-alive", "offer-frame", "reply-frame", "request-frame"];
    for vector in vectors {
        let bytes = vector_file::bytes(vector);
        assert_eq!(rewrite(&bytes, &limits()), Ok(bytes), "{vector}");
    }
    // A control record of a later version that may be skipped, of the shortest and a longer head.
    assert_eq!(read(&patched("control-frame", &[(336, &[0xff])]), &limits()), Ok(()));
}
