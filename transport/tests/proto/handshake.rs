//! Two ends shake hands, and every way in which they do not.

use underlay::proto::SessionToken;
use underlay::proto::control::RefusalCode;
use underlay::proto::extension::wire_kind;
use underlay::proto::handshake::{
    AwaitClientHello, AwaitServerHello, ConnectFailed, LocalEnd, LocalFault, Negotiated, RefusalReason,
    Refused,
};
use underlay::proto::hello::{
    Capabilities, ClientHello, HELLO_BYTES_MAX, ProcessIdentity, SecurityKind, ServerHello, SessionTerms,
    VersionRange,
};
use underlay::proto::{
    Incarnation, Origin, Parameter, ParameterFault, Parameters, PeerMisbehaved, ProcessId, SessionId,
};

use crate::support::vector_parameters;

fn end(number: u8, parameters: Parameters) -> LocalEnd {
    LocalEnd {
        capabilities: Capabilities::SETTLEMENT,
        process: ProcessIdentity {
            process: ProcessId([number; 16]),
            incarnation: Incarnation(number.into()),
            origin: Origin(number.into()),
        },
        parameters,
        securities: vec![],
        wires: vec![(wire_kind::SHM, vec![number])],
        name: Some(format!("end-{number}")),
    }
}

fn client() -> LocalEnd {
    end(1, vector_parameters())
}

fn server() -> LocalEnd {
    end(2, Parameters { packet_bytes: 1448, links_max: 10_000, ..vector_parameters() })
}

fn asking(number: u8) -> SessionTerms {
    let proof = Some(SessionToken([number; 32]).client_proof());
    let session = SessionId::new([number; 16]);
    SessionTerms { session, epoch: 1, expiry_ms: 60, resume: [1, 2, 3, 4], proof, token: None }
}

/// A server that has the session and shows that it knows the token.
fn answering(number: u8) -> SessionTerms {
    let proof = Some(SessionToken([number; 32]).server_proof());
    SessionTerms {
        expiry_ms: 90,
        resume: [7, 8, 9, 10],
        proof,
        token: Some(SessionToken([99; 32])),
        ..asking(number)
    }
}

/// Both ends' results for these proposals, the server answering with `session`.
fn shake(
    client: LocalEnd,
    server: LocalEnd,
    asked: SessionTerms,
    answered: SessionTerms,
) -> (Negotiated, Negotiated) {
    let (client, hello) = AwaitServerHello::start(client, asked).expect("a possible client");
    let server = AwaitClientHello::new(server).expect("a possible server");
    assert_eq!(server.hello_bytes(&hello[..16]), Ok(Some(hello.len())));
    let proposal = server.handle(&hello).expect("the hello is right");
    let (server, answer) = proposal.accept(answered);
    assert_eq!(client.answer_bytes(&answer[..16]), Ok(Some(answer.len())));
    (client.handle(&answer).expect("the answer is right"), server)
}

fn refused(local: LocalEnd, hello: &[u8]) -> Refused {
    AwaitClientHello::new(local).expect("possible").handle(hello).expect_err("it is refused")
}

/// What a client says of a server that answers as `change` makes it.
fn client_takes(change: impl FnOnce(&mut ServerHello)) -> Result<Negotiated, ConnectFailed> {
    let (awaiting, hello) = AwaitServerHello::start(client(), SessionTerms::default()).expect("possible");
    let proposal = AwaitClientHello::new(server()).expect("possible").handle(&hello).expect("right");
    let (_, answer) = proposal.accept(SessionTerms::default());
    let mut answer = ServerHello::parse(&answer).expect("right");
    change(&mut answer);
    awaiting.handle(&answer.encode())
}

#[test]
fn both_ends_settle_the_smaller_of_each() {
    let (client, server) = shake(client(), server(), SessionTerms::default(), SessionTerms::default());
    assert_eq!(client.parameters, Parameters { packet_bytes: 1448, ..vector_parameters() });
    assert_eq!(client.parameters, server.parameters);
    assert_eq!((client.version, server.version), (1, 1));
    assert_eq!((client.capabilities, server.capabilities), (Capabilities(1), Capabilities(1)));
    assert_eq!((client.security, server.security), (SecurityKind::NONE, SecurityKind::NONE));
    assert_eq!((client.peer.process, server.peer.process), (ProcessId([2; 16]), ProcessId([1; 16])));
    assert_eq!(client.peer_extensions.process_name(), Some("end-2"));
    assert_eq!(server.peer_extensions.wires().map(|offer| offer.data).collect::<Vec<_>>(), [[1]]);
}

#[test]
fn a_session_is_resumed_where_both_name_it() {
    let answer = answering(5);
    let (client, server) = shake(client(), server(), asking(5), answer);
    assert_eq!((client.send_from, client.receive_from), ([7, 8, 9, 10], [1, 2, 3, 4]));
    assert_eq!((server.send_from, server.receive_from), ([1, 2, 3, 4], [7, 8, 9, 10]));
    assert_eq!(client.session, server.session);
    assert_eq!((client.session.proof, client.session.token), (answer.proof, answer.token));
    assert_eq!(client.session.expiry_ms, 60, "not longer than the client wants");
}

#[test]
fn another_session_begins_at_zero() {
    for (asked, answered) in [(asking(5), answering(6)), (SessionTerms::default(), answering(6))] {
        let (client, server) = shake(client(), server(), asked, answered);
        assert_eq!((client.send_from, client.receive_from), ([0; 4], [0; 4]));
        assert_eq!((server.send_from, server.receive_from), ([0; 4], [0; 4]));
        assert_eq!(server.session.resume, [0; 4]);
    }
}

#[test]
fn the_server_chooses_a_security_that_both_have() {
    let sealed = SecurityKind::SEALED_FRAMES;
    let both = || vec![SecurityKind::NONE, sealed];
    let client = LocalEnd { securities: both(), ..client() };
    let strict = LocalEnd { securities: vec![sealed], ..server() };
    let (chosen, _) = shake(client, strict.clone(), SessionTerms::default(), SessionTerms::default());
    assert_eq!(chosen.security, sealed);

    let (_, hello) = AwaitServerHello::start(self::client(), SessionTerms::default()).expect("possible");
    let refusal = refused(strict, &hello);
    assert_eq!(refusal.reason, RefusalReason::NoCommonSecurity { accepted: vec![sealed] });
}

#[test]
fn versions_without_overlap_are_refused_by_both_names() {
    let (awaiting, hello) = AwaitServerHello::start(client(), SessionTerms::default()).expect("possible");
    let mut newer = ClientHello::parse(&hello).expect("right");
    newer.versions = VersionRange::new(2, 3).expect("a range");
    let hello = newer.encode();
    let early = AwaitClientHello::new(server()).expect("possible").hello_bytes(&hello[..16]);
    let refusal = refused(server(), &hello);
    assert_eq!(early.as_ref(), Err(&refusal), "seen in the first 16 bytes");
    let Err(ConnectFailed::Refused(told)) = awaiting.handle(&refusal.reply) else { panic!("it is told") };
    assert_eq!(told.code, RefusalCode::UnsupportedVersion);
    assert_eq!(told.versions, VersionRange::SUPPORTED);
    assert_eq!(told.text(), "the client speaks version 2 to 3, this end version 1");
}

#[test]
fn a_version_that_only_the_future_shares_is_chosen_down() {
    let (_, hello) = AwaitServerHello::start(client(), SessionTerms::default()).expect("possible");
    let mut newer = ClientHello::parse(&hello).expect("right");
    newer.versions = VersionRange::new(1, 9).expect("a range");
    let proposal =
        AwaitClientHello::new(server()).expect("possible").handle(&newer.encode()).expect("common");
    assert_eq!(proposal.accept(SessionTerms::default()).0.version, 1);
}

#[test]
fn what_is_not_this_protocol_gets_no_answer() {
    let server = AwaitClientHello::new(server()).expect("possible");
    assert_eq!(server.hello_bytes(b"und"), Ok(None));
    let refusal = server.hello_bytes(b"unGET / HTTP/1.1").expect_err("not this protocol");
    let violation = PeerMisbehaved::NotUnderlay { offset: 2, found: b'G' };
    assert_eq!(refusal, Refused { reason: violation.into(), reply: vec![] });
}

#[test]
fn a_length_that_cannot_be_is_refused_before_more_arrives() {
    let (_, hello) = AwaitServerHello::start(client(), SessionTerms::default()).expect("possible");
    for length in [0_u16, 64, 128, 191, 193, HELLO_BYTES_MAX as u16 + 64, u16::MAX] {
        let mut prefix = hello[..16].to_vec();
        prefix[14..16].copy_from_slice(&length.to_le_bytes());
        let refusal = AwaitClientHello::new(server()).expect("possible").hello_bytes(&prefix);
        let violation = PeerMisbehaved::HelloBytes { hello_bytes: length, min: 192 };
        assert_eq!(refusal.expect_err("impossible").reason, violation.into());
    }
}

#[test]
fn impossible_parameters_are_refused_with_what_is_wrong() {
    let (awaiting, hello) = AwaitServerHello::start(client(), SessionTerms::default()).expect("possible");
    let mut impossible = ClientHello::parse(&hello).expect("right");
    impossible.body.parameters.control_slots = 64;
    let refusal = refused(server(), &impossible.encode());
    let Err(ConnectFailed::Refused(told)) = awaiting.handle(&refusal.reply) else { panic!("it is told") };
    assert_eq!(told.code, RefusalCode::ImpossibleParameters);
    assert!(told.text().contains("control_slots is 64"), "{}", told.text());
}

#[test]
fn every_impossible_parameter_is_found() {
    let default = vector_parameters();
    let cases: [(Parameter, Parameters); 16] = [
        (Parameter::FrameBytesMax, Parameters { frame_bytes_max: 1023, ..default }),
        (Parameter::FrameBytesMax, Parameters { frame_bytes_max: 65_537, ..default }),
        (Parameter::FrameBytesMax, Parameters { frame_bytes_max: (1 << 24) + 64, ..default }),
        (Parameter::HeadBytesMax, Parameters { head_bytes_max: 504, ..default }),
        (Parameter::HeadBytesMax, Parameters { head_bytes_max: 1001, ..default }),
        (Parameter::PacketBytes, Parameters { packet_bytes: 255, ..default }),
        (Parameter::PacketBytes, Parameters { packet_bytes: 65_537, ..default }),
        (Parameter::EagerBytesMax, Parameters { eager_bytes_max: 65_536 - 32 - 4096 + 1, ..default }),
        (Parameter::ChunkBytesMax, Parameters { chunk_bytes_max: 65_536 - 32 - 4096 + 1, ..default }),
        (Parameter::MessageBytesMax, Parameters { message_bytes_max: 0, ..default }),
        (Parameter::ControlSlots, Parameters { control_slots: 3, ..default }),
        (Parameter::ControlSlots, Parameters { control_slots: 33, ..default }),
        (Parameter::FrameSlots, Parameters { frame_slots: (1 << 20) + 1, ..default }),
        (Parameter::KeepAliveMs, Parameters { keep_alive_ms: 0, ..default }),
        (Parameter::KeepAliveMs, Parameters { idle_timeout_ms: 9_999, ..default }),
        (Parameter::LinksMax, Parameters { links_max: 0, ..default }),
    ];
    assert_eq!(default.check(), Ok(()));
    for (expected, parameters) in cases {
        let fault = parameters.check().expect_err("impossible");
        let found = match fault {
            ParameterFault::OutOfRange { parameter, .. }
            | ParameterFault::NotAMultiple { parameter, .. }
            | ParameterFault::DoesNotFit { parameter, .. } => parameter,
            other => panic!("{other}"),
        };
        assert_eq!(found, expected, "{fault}");
        assert!(fault.to_string().starts_with(&expected.to_string()), "{fault}");
        let local = end(1, parameters);
        assert_eq!(AwaitClientHello::new(local).expect_err("impossible"), LocalFault::from(fault));
    }
}

#[test]
fn a_server_must_keep_to_the_proposal() {
    assert!(client_takes(|_| ()).is_ok());
    type Change = fn(&mut ServerHello);
    let cases: [(PeerMisbehaved, Change); 6] = [
        (PeerMisbehaved::VersionNotOffered { version: 2, min: 1, max: 1 }, |answer| answer.version = 2),
        (PeerMisbehaved::CapabilitiesNotOffered { found: 3, offered: 1 }, |answer| {
            answer.body.capabilities = Capabilities(3);
        }),
        (
            PeerMisbehaved::ParameterExceedsProposal {
                parameter: Parameter::LinksMax,
                value: 4097,
                limit: 4096,
            },
            |answer| answer.body.parameters.links_max = 4097,
        ),
        (
            PeerMisbehaved::ParameterExceedsProposal { parameter: Parameter::ExpiryMs, value: 1, limit: 0 },
            |answer| answer.body.session.expiry_ms = 1,
        ),
        (PeerMisbehaved::SecurityNotChosen { count: 2 }, |answer| {
            answer.body.extensions = securities(&[0, 1])
        }),
        (PeerMisbehaved::SecurityNotOffered { kind: 1 }, |answer| answer.body.extensions = securities(&[1])),
    ];
    for (expected, change) in cases {
        assert_eq!(client_takes(change), Err(ConnectFailed::Misbehaved(expected)));
    }
}

#[test]
fn a_resumed_session_keeps_its_epoch_and_gets_a_token() {
    let missing = SessionTerms { token: None, ..answering(5) };
    let late = SessionTerms { epoch: 2, ..answering(5) };
    for (answer, expected) in [
        (missing, PeerMisbehaved::SessionTokenMissing),
        (late, PeerMisbehaved::SessionEpoch { found: 2, expected: 1 }),
    ] {
        let (awaiting, hello) = AwaitServerHello::start(client(), asking(5)).expect("possible");
        let proposal = AwaitClientHello::new(server()).expect("possible").handle(&hello).expect("right");
        let (_, answer) = proposal.accept(answer);
        assert_eq!(awaiting.handle(&answer), Err(ConnectFailed::Misbehaved(expected)));
    }
}

#[test]
fn proofs_tell_the_ends_apart_and_the_token_is_not_shown() {
    let token = SessionToken([7; 32]);
    assert_ne!(token.client_proof(), token.server_proof());
    assert_ne!(token.client_proof(), SessionToken([8; 32]).client_proof());
    let (_, hello) = AwaitServerHello::start(client(), asking(7)).expect("possible");
    assert!(
        !hello.windows(32).any(|window| window == token.0),
        "the token itself travels once, to the client"
    );
    assert_eq!(format!("{token:?}"), "SessionToken(hidden)");
}

fn securities(kinds: &[u16]) -> underlay::proto::hello::HelloExtensions {
    let kinds: Vec<_> = kinds.iter().copied().map(SecurityKind).collect();
    underlay::proto::hello::HelloExtensions::new(&kinds, &[], None).expect("right")
}

#[test]
fn a_client_does_not_take_a_clients_hello_for_an_answer() {
    let (awaiting, hello) = AwaitServerHello::start(client(), SessionTerms::default()).expect("possible");
    let violation = PeerMisbehaved::HelloRole { role: 1 };
    assert_eq!(awaiting.answer_bytes(&hello), Err(violation));
    assert_eq!(awaiting.handle(&hello), Err(ConnectFailed::Misbehaved(violation)));
}

#[test]
fn a_server_may_refuse_whom_it_likes() {
    let (awaiting, hello) = AwaitServerHello::start(client(), SessionTerms::default()).expect("possible");
    let proposal = AwaitClientHello::new(server()).expect("possible").handle(&hello).expect("right");
    assert_eq!(proposal.client().body.process.process, ProcessId([1; 16]));
    let refusal = proposal.refuse(RefusalCode::ResourceLimit, "connections_max = 8 are open");
    let Err(ConnectFailed::Refused(told)) = awaiting.handle(&refusal.reply) else { panic!("it is told") };
    assert_eq!((told.code, told.text()), (RefusalCode::ResourceLimit, "connections_max = 8 are open"));
}

#[test]
fn offers_that_no_hello_holds_are_found_at_once() {
    let too_much = LocalEnd { wires: vec![(1, vec![0; 2000]), (2, vec![0; 2000])], ..client() };
    assert!(matches!(AwaitClientHello::new(too_much), Err(LocalFault::Hello(_))));
    let nameless = LocalEnd { name: Some(String::new()), ..client() };
    assert!(matches!(AwaitClientHello::new(nameless), Err(LocalFault::Hello(_))));
}
