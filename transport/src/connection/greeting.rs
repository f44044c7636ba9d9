//! The hellos: from the first byte to what was settled.

use super::CloseReason;
use crate::pool::Segment;
use crate::proto::control::RefusalCode;
use crate::proto::handshake::{
    AwaitClientHello, AwaitServerHello, ConnectFailed, Negotiated, Proposal, Refused,
};

/// Collects the peer's hello, whatever pieces it comes in.
#[derive(Debug)]
pub(super) struct Greeting {
    end: End,
    received: Vec<u8>,
}

#[derive(Debug)]
enum End {
    Client(AwaitServerHello),
    Server(AwaitClientHello),
}

/// How a handshake ended.
#[derive(Debug)]
pub(super) enum Greeted {
    /// Settled, at the end that connected; frames may have come with the hello.
    Done { negotiated: Box<Negotiated>, rest: Segment },
    /// At the end that was connected to: what the client proposes, to be decided.
    Proposed { proposal: Box<Proposal>, rest: Segment },
    /// Not settled; a server may have a refusal to send.
    Failed { reason: CloseReason, answer: Option<Vec<u8>> },
}

impl Greeting {
    pub(super) fn client(state: AwaitServerHello) -> Self {
        Self { end: End::Client(state), received: Vec::new() }
    }

    pub(super) fn server(state: AwaitClientHello) -> Self {
        Self { end: End::Server(state), received: Vec::new() }
    }

    /// Takes the next bytes; hands itself back while more are needed.
    pub(super) fn take(mut self, mut segment: Segment) -> Result<Self, Greeted> {
        loop {
            let whole = self.whole_bytes()?;
            // Before the length shows, byte by byte up to the prefix; at most 16 times.
            let missing = whole.map_or(1, |whole| whole - self.received.len());
            if missing == 0 {
                return Err(self.settle(segment));
            }
            if segment.is_empty() {
                return Ok(self);
            }
            let part = segment.split_to(missing.min(segment.len()));
            self.received.extend_from_slice(&part);
        }
    }

    /// Refuses, at the end that was connected to.
    pub(super) fn refuse(self, code: RefusalCode, text: &str) -> Option<Greeted> {
        match self.end {
            End::Server(state) => Some(refused(state.refuse(code, text))),
            End::Client(_) => None,
        }
    }

    fn whole_bytes(&self) -> Result<Option<usize>, Greeted> {
        match &self.end {
            End::Client(state) => state.answer_bytes(&self.received).map_err(|violation| Greeted::Failed {
                reason: CloseReason::Misbehaved(violation),
                answer: None,
            }),
            End::Server(state) => state.hello_bytes(&self.received).map_err(refused),
        }
    }

    fn settle(self, rest: Segment) -> Greeted {
        match self.end {
            End::Client(state) => match state.handle(&self.received) {
                Ok(negotiated) => Greeted::Done { negotiated: Box::new(negotiated), rest },
                Err(ConnectFailed::Refused(refusal)) => {
                    Greeted::Failed { reason: CloseReason::Refused(refusal), answer: None }
                }
                Err(ConnectFailed::Misbehaved(violation)) => {
                    Greeted::Failed { reason: CloseReason::Misbehaved(violation), answer: None }
                }
            },
            End::Server(state) => match state.handle(&self.received) {
                Ok(proposal) => Greeted::Proposed { proposal: Box::new(proposal), rest },
                Err(failed) => refused(failed),
            },
        }
    }
}

pub(super) fn refused(refused: Refused) -> Greeted {
    let answer = (!refused.reply.is_empty()).then_some(refused.reply);
    Greeted::Failed { reason: CloseReason::HandshakeRefused(refused.reason), answer }
}
