//! The vectors, against the document and against the code.

use std::collections::BTreeSet;

use underlay::proto::SessionToken;
use underlay::proto::control::{
    Address, Attach, Attached, Close, CloseCode, Control, Detach, DetachCode, Flow, Leave, LinkCredit,
    LinkRole, Outcome, RefusalCode, Settle,
};
use underlay::proto::extension::{Extension, ServiceError, TraceContext, WireOffer, wire_kind};
use underlay::proto::frame::{FrameHeader, FrameKind, Records};
use underlay::proto::hello::{
    Capabilities, ClientHello, HelloBody, HelloExtensions, ProcessIdentity, Refusal, SecurityKind,
    ServerHello, SessionTerms, VersionRange,
};
use underlay::proto::record::{ChunkHead, MessageHead, MessageKind, Record};
use underlay::proto::text::{Name, ReasonText};
use underlay::proto::{
    CorrelationId, Incarnation, Lane, LinkId, MessageNumber, Origin, Parameters, PeerMisbehaved, ProcessId,
    ReplyAddress, ReplySecret, SessionId,
};

use crate::support::{Written, extensions, frame, header, limits, link, message, rewrite, vector_parameters};
use crate::vector_file;

/// 16 bytes that count up.
fn counting<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|index| from + index as u8)
}

fn name(name: &str) -> Name<'_> {
    Name::new(name).expect("a right name")
}

#[test]
fn the_document_shows_exactly_the_vectors() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let document = std::fs::read_to_string(path).expect("docs/protocol.md is there");
    let mut shown = BTreeSet::new();
    for block in document.split("\n```hex ").skip(1) {
        let (name, rest) = block.split_once('\n').expect("a block has lines");
        let (text, _) = rest.split_once("```").expect("a block ends");
        assert_eq!(text, vector_file::text(name), "the example {name} differs from its vector");
        assert!(shown.insert(name.to_owned()), "the document shows {name} twice");
    }
    assert_eq!(shown, vector_file::names().into_iter().collect());
}

#[test]
fn every_vector_is_checked_against_the_code() {
    let checked = [
        "bulk-frame",
        "client-hello",
        "control-frame",
        "keep-alive",
        "must-understand",
        "offer-frame",
        "optional-extension",
        "refusal",
        "reply-frame",
        "request-frame",
        "server-hello",
    ];
    assert_eq!(vector_file::names(), checked);
}

/// The code writes exactly the vector, and reads it back to the same values.
#[track_caller]
fn check_frame(vector: &str, expected: FrameHeader, records: &[Written<'_>]) {
    let bytes = vector_file::bytes(vector);
    assert_eq!(frame(expected, records), bytes, "{vector} is encoded differently");
    let (parsed, found) = Records::parse(&bytes, &limits()).expect("the vector is right");
    let counted = FrameHeader { records: parsed.records, record_bytes: parsed.record_bytes, ..expected };
    assert_eq!((parsed, usize::from(parsed.records)), (counted, records.len()));
    let found: Vec<_> = found.map(|record| record.expect("the vector is right")).collect();
    assert_eq!(found.len(), records.len());
    for ((found, found_body), written) in found.iter().zip(records) {
        match (found, written) {
            (Record::Message(head, found), Written::Message(expected, extensions, _, body)) => {
                assert_eq!((head, found.as_bytes(), *found_body), (expected, &extensions[..], &body[..]));
            }
            (Record::Chunk(head), Written::Chunk(expected, _, body)) => {
                assert_eq!((head, *found_body), (expected, &body[..]));
            }
            (Record::Control(found), Written::Control(expected)) => assert_eq!(found, expected),
            (Record::Unknown(kind), Written::Raw(raw)) => assert_eq!(*kind, raw[0]),
            other => panic!("{vector}: {other:?}"),
        }
    }
    assert_eq!(rewrite(&bytes, &limits()), Ok(bytes));
}

const CLIENT_ORIGIN: Origin = Origin(0x0102_0304_0506_0708);
const SERVER_ORIGIN: Origin = Origin(0x1112_1314_1516_1718);

fn trace() -> TraceContext {
    TraceContext {
        version: 0,
        trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes(),
        span_id: 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes(),
        flags: 1,
    }
}

#[test]
fn request_frame() {
    let head = MessageHead {
        kind: MessageKind::Request,
        copies: true,
        reply_address: Some(ReplyAddress::of(&ReplySecret(counting(0x60)))),
        hop_count: 1,
        body_bytes: 5,
        link: LinkId::new(3),
        lane_sequence: 41,
        origin: CLIENT_ORIGIN,
        message_number: MessageNumber(1000),
        correlation_id: CorrelationId(0x7_0000_0005),
        deadline_us: Some(250_000),
        incarnation: Incarnation(7),
        total_body_bytes: 5,
        ..message()
    };
    let headers = [("tenant", b"acme".as_slice()), ("n", b"")];
    let extensions = extensions(|writer| {
        writer
            .destination(name("orders"))
            .and_then(|writer| writer.trace_context(&trace()))
            .and_then(|writer| writer.application_headers(headers))
            .expect("right extensions");
    });
    let head_bytes = head.head_bytes_needed(extensions.len());
    let record = Written::Message(head, extensions, head_bytes, b"hello".to_vec());
    check_frame("request-frame", header(FrameKind::Data, Lane::Normal, 17, 64, 9), &[record]);

    let bytes = vector_file::bytes("request-frame");
    let (_, mut records) = Records::parse(&bytes, &limits()).expect("right");
    let Some(Ok((Record::Message(_, found), b"hello"))) = records.next() else { panic!("no request") };
    assert_eq!(found.destination(), Some(name("orders")));
    assert_eq!(found.trace_context(), Some(trace()));
    assert_eq!(found.application_headers().collect::<Vec<_>>(), headers);
    assert_eq!(found.error(), None);
}

#[test]
fn reply_frame() {
    let common = MessageHead {
        kind: MessageKind::Reply,
        hop_count: 2,
        origin: SERVER_ORIGIN,
        incarnation: Incarnation(7),
        ..message()
    };
    let success = MessageHead {
        body_bytes: 6,
        link: None,
        lane_sequence: 12,
        message_number: MessageNumber(55),
        correlation_id: CorrelationId(0x7_0000_0005),
        total_body_bytes: 6,
        ..common
    };
    let failure = MessageHead {
        lane: Lane::Urgent,
        redelivered: true,
        failure: true,
        attempt: 1,
        link: LinkId::new(5),
        lane_sequence: 13,
        message_number: MessageNumber(56),
        correlation_id: CorrelationId(0x7_0000_0006),
        ..common
    };
    let error = extensions(|writer| {
        writer.error(404, "no such order").expect("a right error");
    });
    let records = [
        Written::Message(success, vec![], 64, b"world!".to_vec()),
        Written::Message(failure, error, 88, vec![]),
    ];
    check_frame("reply-frame", header(FrameKind::Data, Lane::Normal, u32::MAX, 80, 42), &records);

    let bytes = vector_file::bytes("reply-frame");
    let (_, records) = Records::parse(&bytes, &limits()).expect("right");
    let Some(Ok((Record::Message(_, found), _))) = records.last() else { panic!("no reply") };
    assert_eq!(found.error(), Some(ServiceError { code: 404, text: "no such order" }));
}

#[test]
fn bulk_frame() {
    let head = MessageHead {
        lane: Lane::Bulk,
        body_bytes: 10,
        link: LinkId::new(4),
        lane_sequence: 70,
        origin: CLIENT_ORIGIN,
        message_number: MessageNumber(1001),
        incarnation: Incarnation(7),
        total_body_bytes: 25,
        ..message()
    };
    let destination = extensions(|writer| {
        writer.destination(name("logs")).expect("a right name");
    });
    let chunk = ChunkHead {
        lane: Lane::Bulk,
        last: false,
        body_bytes: 8,
        link: LinkId::new(4),
        lane_sequence: 70,
        body_offset: 10,
    };
    let last = ChunkHead { last: true, body_bytes: 7, body_offset: 18, ..chunk };
    let records = [
        Written::Message(head, destination, 160, b"ABCDEFGHIJ".to_vec()),
        Written::Chunk(chunk, 32, b"KLMNOPQR".to_vec()),
        Written::Chunk(last, 72, b"STUVWXY".to_vec()),
    ];
    let header = FrameHeader { chunk_limit_low: 4, ..header(FrameKind::Data, Lane::Bulk, 18, 65, 70) };
    check_frame("bulk-frame", header, &records);
}

#[test]
fn offer_frame() {
    let head = MessageHead {
        lane: Lane::Bulk,
        offered: true,
        link: LinkId::new(4),
        lane_sequence: 71,
        origin: CLIENT_ORIGIN,
        message_number: MessageNumber(1004),
        incarnation: Incarnation(7),
        total_body_bytes: 1 << 20,
        ..message()
    };
    let mut written = extensions(|writer| {
        writer.destination(name("logs")).expect("a right name");
    });
    let mut offer = [0; 16];
    underlay::proto::extension::ExtensionWriter::of_offer(&mut offer)
        .offer(&counting::<12>(0xc0))
        .expect("a right descriptor");
    written.extend(offer);
    let record = Written::Message(head, written, 88, vec![]);
    check_frame("offer-frame", header(FrameKind::Data, Lane::Bulk, 23, 66, 72), &[record]);

    let bytes = vector_file::bytes("offer-frame");
    let (_, mut records) = Records::parse(&bytes, &limits()).expect("right");
    let Some(Ok((Record::Message(_, found), b""))) = records.next() else { panic!("no message") };
    assert_eq!(found.offer(), Some(&counting::<12>(0xc0)[..]));
    assert_eq!(found.destination(), Some(name("logs")));
}

#[test]
fn control_frame() {
    let credit = |message_limit, byte_limit| LinkCredit { message_limit, byte_limit };
    let mut unknown = vec![0x50, 0, 0, 0, 16, 0, 0, 0];
    unknown.extend(counting::<8>(0xe0));
    let records = [
        Written::Control(Control::Attach(Attach {
            link: link(1),
            role: LinkRole::Producer,
            address: Address::Named(name("orders.eu")),
            credit: credit(0, 0),
        })),
        Written::Control(Control::Attach(Attach {
            link: link(2),
            role: LinkRole::Consumer,
            address: Address::Reply(ReplySecret(counting(0x60))),
            credit: credit(256, 1 << 20),
        })),
        Written::Control(Control::Attach(Attach {
            link: link(3),
            role: LinkRole::SettlingConsumer,
            address: Address::Named(name("orders")),
            credit: credit(64, 256 << 10),
        })),
        Written::Control(Control::Attached(Attached { link: link(1), credit: credit(128, 512 << 10) })),
        Written::Control(Control::Detach(Detach {
            link: link(9),
            code: DetachCode::NoSuchDestination,
            text: ReasonText::of("no such q"),
        })),
        Written::Control(Control::Flow(Flow { link: link(1), credit: credit(192, 768 << 10) })),
        Written::Control(Control::Settle(Settle {
            link: link(3),
            lane: Lane::Normal,
            outcome: Outcome::Released,
            from: 100,
            to: 164,
        })),
        Written::Control(Control::Leave(Leave { within_ms: 5000, text: ReasonText::of("update") })),
        Written::Raw(unknown),
        Written::Control(Control::Close(Close {
            code: CloseCode::ShuttingDown,
            text: ReasonText::of("maintenance"),
        })),
    ];
    check_frame("control-frame", header(FrameKind::Control, Lane::Urgent, 19, 66, 3), &records);
}

#[test]
fn a_settlement_has_one_record() {
    let settle =
        Settle { link: link(3), lane: Lane::Bulk, outcome: Outcome::Rejected, from: 1 << 40, to: 1 << 41 };
    let mut record = [0xff; Settle::BYTES];
    assert_eq!(Control::Settle(settle).encode_into(&mut record), Ok(Settle::BYTES));
    assert_eq!(settle.record(), record);
}

#[test]
fn keep_alive() {
    let header = FrameHeader { chunk_limit_low: 6, ..header(FrameKind::Control, Lane::Bulk, 20, 66, 71) };
    check_frame("keep-alive", header, &[]);
    assert!(header.is_keep_alive());
}

fn with_unknown_extension(sequence: u64, number: u64, must_understand: bool) -> Written<'static> {
    let head = MessageHead {
        link: LinkId::new(3),
        lane_sequence: sequence,
        origin: CLIENT_ORIGIN,
        message_number: MessageNumber(number),
        incarnation: Incarnation(7),
        ..message()
    };
    let extensions = extensions(|writer| {
        let unknown = Extension { kind: 0x321, must_understand, value: &[1, 2, 3] };
        writer
            .destination(name("orders"))
            .and_then(|writer| writer.extension(&unknown))
            .expect("right extensions");
    });
    Written::Message(head, extensions, 88, vec![])
}

#[test]
fn an_unknown_extension_is_kept() {
    let record = with_unknown_extension(42, 1002, false);
    check_frame("optional-extension", header(FrameKind::Data, Lane::Normal, 21, 66, 43), &[record]);

    let bytes = vector_file::bytes("optional-extension");
    let (_, mut records) = Records::parse(&bytes, &limits()).expect("right");
    let Some(Ok((Record::Message(_, found), _))) = records.next() else { panic!("no message") };
    assert_eq!(found.iter().map(|extension| extension.kind).collect::<Vec<_>>(), [1, 0x321]);
    assert_eq!(found.value(0x321), Some([1, 2, 3].as_slice()));
}

#[test]
fn an_unknown_extension_that_must_be_understood_is_refused() {
    let bytes = vector_file::bytes("must-understand");
    let header = header(FrameKind::Data, Lane::Normal, 22, 66, 43);
    assert_eq!(frame(header, &[with_unknown_extension(43, 1003, true)]), bytes);
    assert_eq!(rewrite(&bytes, &limits()), Err(PeerMisbehaved::ExtensionNotUnderstood { kind: 0x321 }));
}

#[test]
fn client_hello() {
    let bytes = vector_file::bytes("client-hello");
    let wires =
        [WireOffer { wire: wire_kind::SHM, data: b"host" }, WireOffer { wire: wire_kind::RDMA, data: b"" }];
    let later = Extension { kind: 0x900, must_understand: false, value: b"later" };
    let securities = [SecurityKind::NONE, SecurityKind::SEALED_FRAMES];
    let extensions = HelloExtensions::new(&securities, &wires, Some("orders-client"))
        .and_then(|extensions| {
            extensions.with_session(&SessionTerms {
                proof: Some(token().client_proof()),
                ..SessionTerms::default()
            })
        })
        .and_then(|extensions| extensions.with(&later))
        .expect("right extensions");
    let hello = ClientHello {
        versions: VersionRange::SUPPORTED,
        body: HelloBody {
            capabilities: Capabilities::SETTLEMENT,
            process: ProcessIdentity {
                process: ProcessId(counting(0x10)),
                incarnation: Incarnation(7),
                origin: CLIENT_ORIGIN,
            },
            session: SessionTerms {
                session: SessionId::new(counting(0xa0)),
                epoch: 3,
                expiry_ms: 30_000,
                resume: [5, 600, 70, 8],
                proof: Some(token().client_proof()),
                token: None,
            },
            parameters: vector_parameters(),
            extensions,
        },
    };
    assert_eq!(hello.encode(), bytes);
    let parsed = ClientHello::parse(&bytes).expect("right");
    assert_eq!(parsed, hello);
    let found = &parsed.body.extensions;
    assert_eq!(found.securities().collect::<Vec<_>>(), securities);
    assert_eq!(found.wires().collect::<Vec<_>>(), wires);
    assert_eq!(found.process_name(), Some("orders-client"));
    assert_eq!(found.all().value(0x900), Some(b"later".as_slice()));
}

/// The token that the handshake before has given.
fn token() -> SessionToken {
    SessionToken(std::array::from_fn(|at| 0xb0 + at as u8))
}

#[test]
fn server_hello() {
    let bytes = vector_file::bytes("server-hello");
    let mut hello = ServerHello {
        version: 1,
        body: HelloBody {
            capabilities: Capabilities(0),
            process: ProcessIdentity {
                process: ProcessId(counting(0x30)),
                incarnation: Incarnation(2),
                origin: SERVER_ORIGIN,
            },
            session: SessionTerms {
                session: SessionId::new(counting(0xa0)),
                epoch: 3,
                expiry_ms: 20_000,
                resume: [6, 601, 71, 9],
                proof: Some(token().server_proof()),
                token: Some(SessionToken(std::array::from_fn(|at| 0xd0 + at as u8))),
            },
            parameters: Parameters {
                packet_bytes: 1448,
                frame_bytes_max: 32 << 10,
                eager_bytes_max: 8 << 10,
                chunk_bytes_max: 16 << 10,
                message_bytes_max: 1 << 20,
                frame_slots: 32,
                control_slots: 4,
                keep_alive_ms: 2000,
                idle_timeout_ms: 10_000,
                links_max: 256,
                head_bytes_max: 1024,
            },
            extensions: HelloExtensions::new(&[SecurityKind::NONE], &[], Some("broker")).expect("right"),
        },
    };
    hello.body.extensions = hello.body.extensions.with_session(&hello.body.session).expect("right");
    assert_eq!(hello.encode(), bytes);
    assert_eq!(ServerHello::parse(&bytes), Ok(hello));
}

#[test]
fn refusal() {
    let bytes = vector_file::bytes("refusal");
    let text = "the client speaks version 2 to 3, this end version 1";
    let refusal = Refusal::new(VersionRange::SUPPORTED, RefusalCode::UnsupportedVersion, text);
    assert_eq!(refusal.encode(), bytes);
    assert_eq!(Refusal::parse(&bytes), Ok(refusal));
}
