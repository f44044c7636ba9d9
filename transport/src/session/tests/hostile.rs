//! Peers that want what is not theirs, or say what cannot be.

use super::rig::*;
use crate::connection::{CloseReason, Identity};
use crate::proto::control::{CloseCode, RefusalCode};
use crate::proto::frame::{FrameHeader, FrameKind};
use crate::proto::handshake::{AwaitServerHello, ConnectFailed, Negotiated};
use crate::proto::hello::SessionTerms;
use crate::proto::{Lane, PeerMisbehaved, SessionId, SessionToken, Stream};
use crate::session::SessionConfig;

impl Rig {
    /// Somebody opens a channel to the server, and says this hello; what it is answered.
    fn knock(&mut self, who: &Identity, terms: SessionTerms) -> Result<Negotiated, ConnectFailed> {
        let parameters = self.ends[SERVER].common.connection.parameters;
        let (state, hello) = AwaitServerHello::start(local_end(who, parameters), terms).unwrap();
        let (slot, path) = self.speak(&hello);
        let answer = self.heard(slot, path);
        let whole = state.answer_bytes(&answer).unwrap().expect("an answer");
        state.handle(&answer[..whole])
    }

    /// Whose path it is on which this is said.
    fn speak(&mut self, bytes: &[u8]) -> (usize, usize) {
        let now = self.now;
        let common = self.ends[SERVER].common.clone();
        self.server().sessions.push(Some(crate::session::Session::server(common, 1 << 20, now).unwrap()));
        let slot = self.server().sessions.len() - 1;
        self.say(slot, 0, bytes);
        let user = self.decide(slot, 0, false).unwrap();
        self.server().pull(user.0, now);
        user
    }

    fn say(&mut self, slot: usize, path: usize, bytes: &[u8]) {
        let now = self.now;
        let end = self.server();
        let mut buffer = end.pool.buffer(bytes.len()).unwrap();
        buffer.put_slice(bytes);
        end.sessions[slot].as_mut().unwrap().handle_segment(path, buffer.split(), now);
    }

    fn heard(&mut self, slot: usize, path: usize) -> Vec<u8> {
        let now = self.now;
        let end = self.server();
        let mut gather = crate::pool::GatherList::new();
        let session = end.sessions[slot].as_mut().unwrap();
        session.poll_transmit(path, now, &mut end.pool, &mut gather).unwrap();
        gather.segments().iter().flat_map(|part| part.iter().copied()).collect()
    }

    /// What the client would say now, with the token that holds.
    fn terms(&mut self) -> SessionTerms {
        let session = self.server().session().id();
        let proof = Some(self.token.client_proof());
        SessionTerms { session, epoch: 1_000, expiry_ms: 10_000, resume: [0; 4], proof, token: None }
    }
}

fn refusal(answer: Result<Negotiated, ConnectFailed>) -> (RefusalCode, String) {
    match answer {
        Err(ConnectFailed::Refused(refusal)) => (refusal.code, refusal.text().to_owned()),
        other => panic!("{other:?}"),
    }
}

/// Two sessions of the client's process, of which one is the rig's; a third message each way is on its way.
fn rig() -> Rig {
    let mut rig = Rig::small().opened();
    (0..2).for_each(|_| rig.client().send(Lane::Normal, 10));
    rig.rest();
    rig.server().send(Lane::Normal, 10);
    rig.rest();
    rig
}

#[test]
fn who_cannot_prove_that_a_session_is_his_is_told_nothing_and_changes_nothing() {
    let mut rig = rig();
    let right = SessionTerms { resume: [0, 1, 0, 0], ..rig.terms() };
    let stale = rig.token;
    // A token is void once the client has spoken on the connection on which it was given the next.
    rig.cut();
    rig.run_for(SECOND);
    rig.client().send(Lane::Normal, 10);
    rig.rest();
    assert_ne!(stale, rig.token);
    let right = SessionTerms { proof: Some(rig.token.client_proof()), ..right };
    let another =
        rig.knock(&identity(1), SessionTerms { expiry_ms: 10_000, ..SessionTerms::default() }).unwrap();
    let cases = [
        ("no proof", SessionTerms { proof: None, ..right }, 1),
        ("a stale token", SessionTerms { proof: Some(stale.client_proof()), ..right }, 1),
        ("a wrong token", SessionTerms { proof: Some(SessionToken([1; 32]).client_proof()), ..right }, 1),
        ("the server's own proof", SessionTerms { proof: Some(rig.token.server_proof()), ..right }, 1),
        (
            "another session's token",
            SessionTerms { proof: another.session.token.map(|it| it.client_proof()), ..right },
            1,
        ),
        ("another session's name", SessionTerms { session: another.session.session, ..right }, 1),
        ("nobody's name", SessionTerms { session: SessionId::new([200; 16]), ..right }, 1),
        ("another process", right, 3),
    ];
    for (name, terms, who) in cases {
        let (code, text) = refusal(rig.knock(&identity(who), terms));
        assert_eq!(
            (code, &text[..]),
            (RefusalCode::SessionUnknown, crate::session::SESSION_UNKNOWN),
            "{name}"
        );
    }
    let reborn = {
        let mut reborn = identity(1);
        reborn.process.incarnation = crate::proto::Incarnation(2);
        reborn
    };
    assert_eq!(refusal(rig.knock(&reborn, right)).0, RefusalCode::SessionUnknown);
    assert_eq!(rig.server().refused.len(), 9);
    // The session that it was about has not noticed.
    rig.client().send(Lane::Normal, 10);
    rig.rest();
    assert_eq!(rig.server().session().counts().moved + rig.server().session().counts().resumed, 1);
    rig.knock(&identity(1), right).expect("the right one");
}

/// The first use is answered, and the answer may be lost: so the token holds until the client has spoken.
#[test]
fn a_token_holds_until_its_successor_was_used() {
    let mut rig = rig();
    let first = rig.terms();
    let terms = SessionTerms { resume: [0, 1, 0, 0], ..first };
    let answer = rig.knock(&identity(1), terms).unwrap();
    assert_eq!(answer.session.proof, first.proof.map(|_| answer_proof(&rig, terms)));
    // What still arrives on the connection before is no sign that the answer has arrived.
    rig.client().send(Lane::Normal, 10);
    rig.run_for(MILLISECOND);
    let again = rig.knock(&identity(1), SessionTerms { epoch: 1_001, ..terms }).expect("the answer was lost");
    // So does the one that was given with the first answer no more: there is a newer one.
    let given = answer.session.token.unwrap().client_proof();
    let (code, _) =
        refusal(rig.knock(&identity(1), SessionTerms { epoch: 1_002, proof: Some(given), ..terms }));
    assert_eq!(code, RefusalCode::SessionUnknown);
    let given = again.session.token.unwrap().client_proof();
    rig.knock(&identity(1), SessionTerms { epoch: 1_003, proof: Some(given), ..terms }).unwrap();
}

fn answer_proof(rig: &Rig, terms: SessionTerms) -> crate::proto::SessionProof {
    // The token that was drawn before the last one.
    let mut secrets = crate::session::Random::new([7; 32]);
    let drawn: Vec<_> = (0..4).map(|_| secrets.token()).collect();
    assert!(drawn.contains(&rig.token));
    let shown = drawn.iter().find(|token| Some(token.client_proof()) == terms.proof).unwrap();
    shown.server_proof()
}

#[test]
fn an_epoch_that_is_over_or_a_position_that_cannot_be_is_refused_by_name() {
    let mut rig = rig();
    let right = SessionTerms { resume: [0, 1, 0, 0], ..rig.terms() };
    let wrong = |rig: &mut Rig, terms, expected| {
        let (code, text) = refusal(rig.knock(&identity(1), terms));
        assert_eq!(code, expected, "{text}");
        text
    };
    let text = wrong(&mut rig, SessionTerms { epoch: 0, ..right }, RefusalCode::Overtaken);
    assert!(text.contains("epoch 0 is over"), "{text}");
    let text = wrong(&mut rig, SessionTerms { resume: [0, 2, 0, 0], ..right }, RefusalCode::MalformedHello);
    assert!(text.contains("2 of lane Normal, which has been sent up to 1"), "ahead: {text}");
    let text = wrong(&mut rig, SessionTerms { resume: [0, 0, 0, 0], ..right }, RefusalCode::Overtaken);
    assert!(text.contains("was acknowledged up to 1"), "behind: {text}");
    let text = wrong(&mut rig, SessionTerms { resume: [0, 1, 0, 1], ..right }, RefusalCode::MalformedHello);
    assert!(text.contains("control records"), "{text}");
    // A smaller limit than what was settled when it began.
    rig.knock(&identity(1), right).expect("nothing of it has changed anything");
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_ends_a_resumed_session() {
    let mut rig = rig();
    let terms = SessionTerms { resume: [0, 1, 0, 0], ..rig.terms() };
    rig.knock(&identity(1), terms).unwrap();
    let path = rig.server().session().current().unwrap();
    let header = FrameHeader {
        kind: FrameKind::Control,
        ack_stream: Stream::Lane(Lane::Normal),
        records: 0,
        frame_number_low: 0,
        frame_limit_low: 8,
        chunk_limit_low: 2,
        record_bytes: 0,
        ack_sequence: 2,
    };
    let mut frame = header.encode().to_vec();
    frame.resize(64, 0);
    rig.say(0, path, &frame);
    let now = rig.now;
    rig.server().pull(0, now);
    let stream = Stream::Lane(Lane::Normal);
    let expected = PeerMisbehaved::AcknowledgedUnsent { stream, found: 2, limit: 1 };
    assert_eq!(rig.server().closed, [CloseReason::Misbehaved(expected)]);
}

/// What answers in the place of the server, and cannot prove that it is, is no server: the session goes on where it
/// was, or waits for the right one.
#[test]
fn a_server_that_proves_nothing_is_not_believed() {
    let crafted: [(&str, Craft); 6] = [
        ("no proof", |asked, _| SessionTerms { proof: None, token: Some(SessionToken([3; 32])), ..asked }),
        ("a wrong proof", |asked, _| SessionTerms {
            proof: Some(SessionToken([9; 32]).server_proof()),
            token: Some(SessionToken([3; 32])),
            ..asked
        }),
        ("the client's proof", |asked, _| SessionTerms { token: Some(SessionToken([3; 32])), ..asked }),
        ("another epoch", |asked, token| SessionTerms {
            epoch: asked.epoch + 1,
            proof: Some(token.server_proof()),
            token: Some(SessionToken([3; 32])),
            ..asked
        }),
        ("another session", |asked, token| SessionTerms {
            session: SessionId::new([66; 16]),
            proof: Some(token.server_proof()),
            token: Some(SessionToken([3; 32])),
            ..asked
        }),
        ("a position ahead", |asked, token| SessionTerms {
            resume: [0, 9, 0, 0],
            proof: Some(token.server_proof()),
            token: Some(SessionToken([3; 32])),
            ..asked
        }),
    ];
    for (name, craft) in crafted {
        let false_one = Wire { answer: Answer::Crafted(craft), ..Wire::default() };
        let mut rig = Rig::of(least(), SessionConfig::default(), vec![Wire::default(), false_one]).opened();
        rig.client().send(Lane::Normal, 10);
        rig.rest();
        assert!(rig.begin_move(1), "{name}");
        rig.client().send(Lane::Normal, 10);
        rig.rest();
        let counts = rig.client().session().counts();
        assert_eq!((counts.moved, counts.interrupted), (0, 0), "{name}");
        // Without a connection it is tried, and left for the next one.
        rig.wires[0].up = Up::Fails;
        rig.cut();
        rig.run_for(SECOND);
        rig.wires[0].up = Up::After(MILLISECOND);
        rig.client().send(Lane::Normal, 10);
        rig.rest();
        let counts = rig.client().session().counts();
        assert_eq!((counts.resumed, rig.client().closed.len()), (1, 0), "{name}");
        assert!(rig.channels.iter().filter(|channel| channel.address == 1).count() >= 2, "{name}");
    }
}

#[test]
fn a_server_that_does_not_know_the_session_any_more_ends_it() {
    let stranger = Wire { answer: Answer::Stranger, ..Wire::default() };
    let mut rig = rig();
    rig.wires[0] = stranger;
    rig.cut();
    rig.run_for(SECOND);
    assert!(
        matches!(&rig.client().closed[..], [CloseReason::SessionUnknown(text)] if text == crate::session::SESSION_UNKNOWN),
        "{:?}",
        rig.client().closed
    );
}

/// It resumes, hears what waits for it, takes nothing, and comes again.
#[test]
fn a_peer_that_resumes_for_ever_and_takes_nothing_is_given_up() {
    for waits in [true, false] {
        let mut rig = rig();
        if waits {
            rig.server().send(Lane::Normal, 10);
        }
        let mut terms = SessionTerms { resume: [0, 1, 0, 0], ..rig.terms() };
        rig.cut();
        rig.run_for(std::time::Duration::from_micros(1));
        rig.wires[0].up = Up::Never;
        let mut times = 0;
        while rig.server().closed.is_empty() && times < 100 {
            let Ok(answer) = rig.knock(&identity(1), terms) else { break };
            terms.epoch += 1;
            terms.proof = answer.session.token.map(|token| token.client_proof());
            let (now, path) = (rig.now, rig.server().session().current());
            if let Some(path) = path {
                rig.server().session().handle_channel_end(path, "and off", now);
                rig.server().pull(0, now);
                rig.server().session().remove_path(path);
            }
            times += 1;
        }
        if waits {
            assert!(
                matches!(rig.server().closed[..], [CloseReason::ResumedInVain(17)]),
                "{:?}",
                rig.server().closed
            );
            assert_eq!(rig.server().closed[0].code(), CloseCode::PeerNotReading);
        } else {
            assert_eq!((times, rig.server().closed.len()), (100, 0), "nothing waits for it");
        }
    }
}
