//! Every value survives the wire; no bytes make a parser panic; what is parsed has one encoding.

use proptest::prelude::*;
use proptest::sample::Index;
use underlay::proto::control::{
    Address, Attach, Attached, Close, CloseCode, Control, Detach, DetachCode, Flow, Leave, LinkCredit,
    LinkRole, Outcome, RefusalCode, Settle,
};
use underlay::proto::extension::{Extension, ExtensionScope, Extensions, TraceContext, WireOffer};
use underlay::proto::frame::{FrameHeader, FrameKind};
use underlay::proto::handshake::{AwaitClientHello, AwaitServerHello, LocalEnd};
use underlay::proto::hello::{
    Capabilities, ClientHello, HelloBody, HelloExtensions, ProcessIdentity, Refusal, SecurityKind,
    ServerHello, SessionTerms, VersionRange,
};
use underlay::proto::record::{ChunkHead, HopChange, MessageHead, MessageKind, Record, padded_head_bytes};
use underlay::proto::text::{Name, ReasonText};
use underlay::proto::{
    CorrelationId, Incarnation, Lane, Limits, LinkId, MessageNumber, Origin, Parameters, ProcessId,
    ReplyAddress, ReplySecret, SessionId,
};
use underlay::proto::{SessionProof, SessionToken, Stream};

use crate::support::{Written, data_frame, extensions, limits, message, read, rewrite};
use crate::vector_file;

fn lanes() -> impl Strategy<Value = Lane> {
    prop::sample::select(&Lane::ALL[..])
}

fn links() -> impl Strategy<Value = LinkId> {
    (1..=u32::MAX).prop_map(|number| LinkId::new(number).expect("not zero"))
}

fn kinds() -> impl Strategy<Value = MessageKind> {
    prop::sample::select(vec![MessageKind::Message, MessageKind::Request, MessageKind::Reply])
}

fn numbers() -> impl Strategy<Value = (u64, Origin, MessageNumber, CorrelationId, Incarnation, u8, u8)> {
    any::<(u64, u64, u64, u64, u32, u8, u8)>().prop_map(
        |(sequence, origin, number, correlation, incarnation, hops, attempt)| {
            let ids = (Origin(origin), MessageNumber(number), CorrelationId(correlation));
            (sequence, ids.0, ids.1, ids.2, Incarnation(incarnation), hops, attempt)
        },
    )
}

/// Heads of any message within the default limits; the body's length is free of its bytes.
fn messages() -> impl Strategy<Value = MessageHead> {
    let body = prop_oneof![
        (0..=16_384u32).prop_map(|bytes| (bytes, u64::from(bytes), false)),
        (0..=32_768u32, 1..=(64u64 << 20) - 32_768).prop_map(|(bytes, more)| (
            bytes,
            u64::from(bytes) + more,
            false
        )),
        (1..=64u64 << 20).prop_map(|total| (0, total, true)),
    ];
    let options = (any::<Option<[u8; 16]>>(), any::<Option<u32>>(), any::<(bool, bool, bool, bool)>());
    (kinds(), lanes(), links(), body, numbers(), options).prop_map(
        |(kind, lane, link, (body_bytes, total_body_bytes, offered), numbers, options)| {
            let (lane_sequence, origin, message_number, correlation_id, incarnation, hop_count, attempt) =
                numbers;
            let (address, deadline_us, (redelivered, copies, failure, linked)) = options;
            let is_reply = kind == MessageKind::Reply;
            MessageHead {
                kind,
                lane,
                redelivered,
                copies,
                offered,
                failure: failure && is_reply,
                reply_address: address.map(ReplyAddress),
                hop_count,
                attempt,
                body_bytes,
                link: (linked || !is_reply).then_some(link),
                lane_sequence,
                origin,
                message_number,
                correlation_id,
                deadline_us,
                incarnation,
                total_body_bytes,
            }
        },
    )
}

fn chunks() -> impl Strategy<Value = ChunkHead> {
    (
        lanes(),
        any::<bool>(),
        1..=32_768u32,
        prop::option::of(links()),
        any::<u64>(),
        0..=(64u64 << 20) - 32_768,
    )
        .prop_map(|(lane, last, body_bytes, link, lane_sequence, body_offset)| ChunkHead {
            lane,
            last,
            body_bytes,
            link,
            lane_sequence,
            body_offset,
        })
}

/// What a test says in a record's extensions.
#[derive(Clone, Debug)]
struct Said {
    destination: Option<String>,
    trace: Option<TraceContext>,
    headers: Vec<(String, Vec<u8>)>,
    error: Option<(u32, String)>,
    unknown: Option<(u16, Vec<u8>)>,
}

fn said() -> impl Strategy<Value = Said> {
    let traces = (0..u8::MAX, any::<[u8; 16]>(), any::<[u8; 8]>(), any::<u8>())
        .prop_filter("ids are not zero", |(_, trace, span, _)| *trace != [0; 16] && *span != [0; 8])
        .prop_map(|(version, trace_id, span_id, flags)| TraceContext { version, trace_id, span_id, flags });
    (
        prop::option::of("\\PC{1,60}"),
        prop::option::of(traces),
        prop::collection::vec(("\\PC{1,40}", prop::collection::vec(any::<u8>(), 0..40)), 0..5),
        prop::option::of((any::<u32>(), any::<String>())),
        prop::option::of((5..0x7fffu16, prop::collection::vec(any::<u8>(), 0..40))),
    )
        .prop_map(|(destination, trace, headers, error, unknown)| Said {
            destination,
            trace,
            headers,
            error,
            unknown,
        })
}

impl Said {
    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    fn write(&self) -> Vec<u8> {
        extensions(|writer| {
            if let Some(name) = &self.destination {
                writer.destination(Name::new(name).expect("a right name")).expect("it fits");
            }
            if let Some(trace) = &self.trace {
                writer.trace_context(trace).expect("it fits");
            }
            if !self.headers.is_empty() {
                writer.application_headers(self.headers()).expect("they fit");
            }
            if let Some((code, text)) = &self.error {
                writer.error(*code, text).expect("it fits");
            }
            if let Some((kind, value)) = &self.unknown {
                writer.extension(&Extension { kind: *kind, must_understand: false, value }).expect("it fits");
            }
        })
    }

    fn check(&self, found: Extensions<'_>) -> Result<(), TestCaseError> {
        prop_assert_eq!(found.destination().map(Name::as_str), self.destination.as_deref());
        prop_assert_eq!(found.trace_context(), self.trace);
        prop_assert!(found.application_headers().eq(self.headers()));
        let error = found.error().map(|error| (error.code, error.text.to_owned()));
        prop_assert_eq!(error, self.error.clone());
        if let Some((kind, value)) = &self.unknown {
            prop_assert_eq!(found.value(*kind), Some(value.as_slice()));
        }
        Ok(())
    }
}

/// These extensions, and behind them where the body is.
fn with_offer(extensions: &[u8], descriptor: &[u8]) -> Vec<u8> {
    let mut offer = [0; 72];
    let mut writer = underlay::proto::extension::ExtensionWriter::of_offer(&mut offer);
    writer.offer(descriptor).expect("a right descriptor");
    let bytes = writer.written();
    [extensions, &offer[..bytes]].concat()
}

fn texts() -> impl Strategy<Value = String> {
    "\\PC{0,60}"
}

fn credits() -> impl Strategy<Value = LinkCredit> {
    any::<(u64, u64)>().prop_map(|(message_limit, byte_limit)| LinkCredit { message_limit, byte_limit })
}

/// Runs `check` with a control record of any kind that these values make.
fn with_control<T>(
    which: u8,
    (link, credit, code, text): (LinkId, LinkCredit, u16, &str),
    secret: Option<[u8; 32]>,
    check: impl FnOnce(Control<'_>) -> T,
) -> T {
    let name = format!("q{text}");
    let named = Address::Named(Name::new(&name).expect("a right name"));
    let reason = ReasonText::of(text);
    let LinkCredit { message_limit, byte_limit } = credit;
    check(match which {
        0 => Control::Attach(Attach {
            link,
            role: LinkRole::Producer,
            address: named,
            credit: LinkCredit::default(),
        }),
        1 => Control::Attach(Attach {
            link,
            role: if code % 2 == 0 { LinkRole::Consumer } else { LinkRole::SettlingConsumer },
            address: secret.map_or(named, |secret| Address::Reply(ReplySecret(secret))),
            credit,
        }),
        2 => Control::Attached(Attached { link, credit }),
        3 => Control::Detach(Detach { link, code: DetachCode::of(code), text: reason }),
        4 => Control::Flow(Flow { link, credit }),
        5 => Control::Close(Close { code: CloseCode::of(code), text: reason }),
        6 => Control::Leave(Leave { within_ms: message_limit as u32, text: reason }),
        _ => Control::Settle(Settle {
            link,
            lane: Lane::ALL[usize::from(code % 5 % 3)],
            outcome: [Outcome::Accepted, Outcome::Rejected, Outcome::Released][usize::from(code % 3)],
            from: message_limit.min(byte_limit).min(u64::MAX - 1),
            to: message_limit.max(byte_limit).max(message_limit.min(byte_limit).saturating_add(1)),
        }),
    })
}

fn parameters() -> impl Strategy<Value = Parameters> {
    let sizes = (16..=4096u32, 64..=512u16, 0..=100u32, 0..=100u32, 0..=100u32);
    (sizes, 1..=u64::MAX, 8..=1u32 << 20, 4..=u16::MAX, 1..=1u32 << 30, 0..=1u32 << 30, 1..=u32::MAX)
        .prop_map(|((lines, eighths, packet, eager, chunk), message, slots, control, keep, idle, links)| {
            let frame = lines * 64;
            // A share of what fits, in percent.
            let share = |percent: u32, of: u32| 256 + (of - 256) * percent / 100;
            let head = u32::from(eighths * 8).min((frame - 32 - 256) / 8 * 8);
            Parameters {
                packet_bytes: share(packet, frame),
                frame_bytes_max: frame,
                eager_bytes_max: share(eager, frame - 32 - head),
                chunk_bytes_max: share(chunk, frame - 32 - head),
                message_bytes_max: message,
                frame_slots: slots,
                control_slots: control.min((slots / 2).min(u16::MAX.into()) as u16),
                keep_alive_ms: keep,
                idle_timeout_ms: (keep * 2).saturating_add(idle),
                links_max: links,
                head_bytes_max: head as u16,
            }
        })
}

fn hello_bodies() -> impl Strategy<Value = HelloBody> {
    let process = any::<([u8; 16], u32, u64)>();
    let session = any::<([u8; 16], u32, u32, [u64; 4], Option<[u8; 32]>, Option<[u8; 32]>)>();
    let securities = prop::collection::vec(any::<u16>(), 0..5);
    let wires = prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..50)), 0..5);
    (any::<u64>(), process, session, parameters(), securities, wires, prop::option::of("\\PC{1,16}"))
        .prop_map(|(capabilities, process, session, parameters, securities, wires, name)| {
            let securities: Vec<_> = securities.into_iter().map(SecurityKind).collect();
            let wires: Vec<_> = wires.iter().map(|(wire, data)| WireOffer { wire: *wire, data }).collect();
            let session = SessionTerms {
                session: SessionId::new(session.0),
                epoch: session.1,
                expiry_ms: session.2,
                resume: session.3,
                proof: session.4.map(SessionProof),
                token: session.5.map(SessionToken),
            };
            let extensions = HelloExtensions::new(&securities, &wires, name.as_deref()).expect("they fit");
            HelloBody {
                capabilities: Capabilities(capabilities),
                process: ProcessIdentity {
                    process: ProcessId(process.0),
                    incarnation: Incarnation(process.1),
                    origin: Origin(process.2),
                },
                extensions: extensions.with_session(&session).expect("it fits"),
                session,
                parameters,
            }
        })
}

fn local(body: &HelloBody) -> LocalEnd {
    LocalEnd {
        capabilities: body.capabilities,
        process: body.process,
        parameters: body.parameters,
        securities: vec![],
        wires: vec![],
        name: None,
    }
}

proptest! {
    #[test]
    fn messages_survive(
        head in messages(),
        said in said(),
        descriptor in prop::collection::vec(any::<u8>(), 1..=64),
        padding in 0..8usize,
    ) {
        let forwarded = said.write();
        let written = if head.offered { with_offer(&forwarded, &descriptor) } else { forwarded.clone() };
        let head_bytes = head.head_bytes_needed(written.len()) + padding * 8;
        let mut out = vec![0xff; 4096];
        prop_assert_eq!(head.encode_into(&written, head_bytes, &mut out), Ok(head_bytes));
        let (found, extensions) = MessageHead::parse(&out[..head_bytes], &limits())?;
        prop_assert_eq!(found, head);
        prop_assert_eq!(extensions.as_bytes(), &written[..]);
        prop_assert_eq!(extensions.offer(), head.offered.then_some(&descriptor[..]));
        prop_assert_eq!(extensions.without_offer().as_bytes(), &forwarded[..]);
        said.check(extensions)?;
    }

    #[test]
    fn chunks_survive(head in chunks(), padding in 0..=8usize) {
        let mut out = [0xff; 96];
        prop_assert_eq!(head.encode_into(32 + padding * 8, &mut out), Ok(32 + padding * 8));
        prop_assert_eq!(ChunkHead::parse(&out[..32 + padding * 8], &limits())?, head);
    }

    #[test]
    fn control_records_survive(
        which in 0..8u8,
        values in (links(), credits(), any::<u16>(), texts()),
        secret: Option<[u8; 32]>,
    ) {
        let (link, credit, code, text) = values;
        with_control(which, (link, credit, code, &text), secret, |control| {
            let mut out = [0xff; underlay::proto::control::CONTROL_BYTES_MAX];
            let bytes = control.encode_into(&mut out).expect("it fits");
            prop_assert_eq!(bytes, control.encoded_bytes());
            prop_assert_eq!(Control::parse(&out[..bytes], &limits())?, Some(control));
            Ok(())
        })?;
    }

    #[test]
    fn headers_survive(
        control: bool,
        stream in prop::sample::select(&Stream::ALL[..]),
        records in 0..2000u16,
        extra in 0..6000u32,
        numbers: (u32, u32, u32, u64),
    ) {
        let kind = if control { FrameKind::Control } else { FrameKind::Data };
        let records = if control { records } else { records.max(1) };
        let header = FrameHeader {
            kind,
            ack_stream: stream,
            records,
            frame_number_low: numbers.0,
            frame_limit_low: numbers.1,
            chunk_limit_low: numbers.2,
            record_bytes: if records == 0 { 0 } else { (u32::from(records) + extra) * 8 },
            ack_sequence: numbers.3,
        };
        prop_assume!(header.frame_bytes() <= limits().frame_bytes_max);
        prop_assert_eq!(FrameHeader::parse(&header.encode(), &limits())?, header);
        prop_assert!(header.padding_bytes() < 64);
    }

    #[test]
    fn hellos_survive(body in hello_bodies(), min in 1..=u16::MAX, more in 0..10u16) {
        let versions = VersionRange::new(min, min.saturating_add(more))?;
        let client = ClientHello { versions, body: body.clone() };
        prop_assert_eq!(ClientHello::parse(&client.encode())?, client);
        let server = ServerHello { version: min, body };
        prop_assert_eq!(ServerHello::parse(&server.encode())?, server);
    }

    #[test]
    fn refusals_survive(code: u16, text in any::<String>()) {
        let refusal = Refusal::new(VersionRange::SUPPORTED, RefusalCode::of(code), &text);
        prop_assert_eq!(Refusal::parse(&refusal.encode())?, refusal);
    }

    /// The smaller of two possible sets is possible, so every two ends can talk.
    #[test]
    fn any_two_possible_ends_shake_hands(client in hello_bodies(), server in hello_bodies()) {
        prop_assert_eq!(client.parameters.check(), Ok(()));
        let (awaiting, hello) = AwaitServerHello::start(local(&client), client.session).expect("possible");
        let proposal = AwaitClientHello::new(local(&server)).expect("possible").handle(&hello).expect("right");
        let token = Some(SessionToken([5; 32]));
        let (server, answer) = proposal.accept(SessionTerms { token, epoch: client.session.epoch, ..server.session });
        let client = awaiting.handle(&answer).expect("the answer keeps to the proposal");
        prop_assert_eq!(client.parameters, server.parameters);
        prop_assert_eq!(client.capabilities, server.capabilities);
        prop_assert_eq!((client.send_from, client.receive_from), (server.receive_from, server.send_from));
    }

    /// A hop's change is what encoding the changed head gives, extensions and all else untouched.
    #[test]
    fn a_patched_head_is_the_changed_head(
        head in messages(),
        said in said(),
        link in links(),
        change: (u64, u8, u32, bool),
    ) {
        let (lane_sequence, hop_count, deadline_us, redelivered) = change;
        let (mut patched, mut encoded) = (vec![0; 4096], vec![0; 4096]);
        let written = said.write();
        let bytes = head.head_bytes_needed(written.len());
        head.encode_into(&written, bytes, &mut patched).expect("it fits");
        HopChange { link: Some(link), lane_sequence, hop_count, deadline_us, redelivered }
            .apply(patched.first_chunk_mut().expect("long enough"));
        let changed = MessageHead {
            link: Some(link),
            lane_sequence,
            hop_count,
            deadline_us: head.deadline_us.map(|_| deadline_us),
            redelivered: head.redelivered || redelivered,
            ..head
        };
        changed.encode_into(&written, bytes, &mut encoded).expect("it fits");
        prop_assert_eq!(patched, encoded);
    }

    #[test]
    fn a_padded_head_aligns_a_long_body(offset in 4..1000usize, needed in 8..520usize, body in 0..5000usize) {
        let (offset, needed) = (offset * 8, needed * 8);
        let padded = padded_head_bytes(offset, needed, body, 4096);
        prop_assert!(padded.is_multiple_of(8) && padded >= needed && padded < needed + 64);
        if body >= 1024 && needed <= 4096 - 56 {
            prop_assert_eq!((offset + padded) % 64, 0);
        }
        if needed <= 4096 {
            prop_assert!(padded <= 4096);
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..600),
        begin in prop::sample::select(vec![0usize, 8, 16]),
        role in 1..4u8,
    ) {
        parse_all(&bytes);
        // The same behind a beginning that lets them get further.
        bytes.splice(..bytes.len().min(begin), vector_file::bytes("client-hello")[..begin].iter().copied());
        if bytes.len() > 13 {
            bytes[12] = role;
        }
        parse_all(&bytes);
    }

    /// A vector with a few changed bytes is refused by name, or has just this one encoding.
    #[test]
    fn a_changed_frame_is_refused_or_read_for_what_it_says(
        vector in prop::sample::select(vector_file::names()),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = vector_file::bytes(&vector);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(rewritten) = rewrite(&bytes, &limits()) {
            prop_assert_eq!(&rewritten, &bytes);
        }
        if let Ok(hello) = ClientHello::parse(&bytes) {
            prop_assert_eq!(&hello.encode(), &bytes);
        }
        if let Ok(hello) = ServerHello::parse(&bytes) {
            prop_assert_eq!(&hello.encode(), &bytes);
        }
        if let Ok(refusal) = Refusal::parse(&bytes) {
            prop_assert_eq!(&refusal.encode(), &bytes);
        }
    }
}

/// Gives the bytes to everything that parses.
fn parse_all(bytes: &[u8]) {
    let tight = Limits { frame_bytes_max: 1024, head_bytes_max: 512, ..limits() };
    for limits in [limits(), tight] {
        let _ = read(bytes, &limits);
        let _ = Record::parse(bytes, &limits);
        let _ = MessageHead::parse(bytes, &limits);
        let _ = ChunkHead::parse(bytes, &limits);
        let _ = Control::parse(bytes, &limits);
    }
    for scope in [ExtensionScope::Record, ExtensionScope::Hello] {
        let _ = Extensions::parse(bytes, 0, scope);
    }
    let unchecked = Extensions::already_checked(bytes);
    let _ = (unchecked.iter().count(), unchecked.destination(), unchecked.application_headers().count());
    let _ = ClientHello::parse(bytes);
    let _ = ServerHello::parse(bytes);
    let _ = Refusal::parse(bytes);
}

#[test]
fn a_head_that_does_not_fit_is_not_written() {
    let head = message();
    for head_bytes in [56, 65, 4104] {
        assert!(head.encode_into(&[], head_bytes, &mut [0; 8192]).is_err());
    }
    assert!(head.encode_into(&[0; 8], 64, &mut [0; 8192]).is_err(), "no place for the extensions");
    assert!(head.encode_into(&[], 64, &mut [0; 63]).is_err());
    assert_eq!(read(&data_frame(Written::Message(head, vec![], 64, vec![])), &limits()), Ok(()));
}
