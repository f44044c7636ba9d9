//! A session that ends with its one connection: the way in which these tests drive a connection.

use crate::connection::{ConnectionConfig, Identity};
use crate::pool::{GatherList, Pool, PoolError, Segment};
use crate::proto::handshake::LocalFault;
use crate::proto::{SessionId, SessionToken};
use crate::session::{Common, Session, SessionConfig};
use crate::time::Timestamp;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// The only path.
const PATH: usize = 0;

#[derive(Debug)]
pub(super) struct Single(Session);

impl Single {
    pub(super) fn client(
        connection: ConnectionConfig,
        identity: &Identity,
        packet_bytes: u32,
        now: Timestamp,
    ) -> Result<Self, LocalFault> {
        let mut session = Session::client(common(connection, identity), 1, 1, now);
        assert_eq!(session.channel_open(packet_bytes, now)?, Some(PATH));
        Ok(Self(session))
    }

    pub(super) fn server(
        connection: ConnectionConfig,
        identity: &Identity,
        packet_bytes: u32,
        now: Timestamp,
    ) -> Result<Self, LocalFault> {
        Session::server(common(connection, identity), packet_bytes, now).map(Self)
    }

    /// Accepts a client as soon as it has said what it wants.
    pub(super) fn handle_segment(&mut self, segment: Segment, now: Timestamp) {
        self.0.handle_segment(PATH, segment, now);
        if self.0.proposal(PATH).is_some() {
            self.0.accept(PATH, SessionId::new([9; 16]).unwrap(), SessionToken([9; 32]));
        }
    }

    pub(super) fn handle_sent(&mut self) {
        self.0.handle_sent(PATH);
    }

    pub(super) fn handle_channel_end(&mut self, reason: &str, now: Timestamp) {
        self.0.handle_channel_end(PATH, reason, now);
    }

    pub(super) fn refuse(&mut self, code: crate::proto::control::RefusalCode, text: &str, now: Timestamp) {
        self.0.refuse(PATH, code, text, now);
    }

    pub(super) fn poll_transmit(
        &mut self,
        now: Timestamp,
        pool: &mut Pool,
        gather: &mut GatherList,
    ) -> Result<bool, PoolError> {
        self.0.poll_transmit(PATH, now, pool, gather)
    }

    pub(super) fn wants_transmit(&self) -> bool {
        self.0.wants_transmit(PATH)
    }

    pub(super) fn is_finished(&self) -> bool {
        self.0.is_path_finished(PATH)
    }
}

impl Deref for Single {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl DerefMut for Single {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.0
    }
}

fn common(connection: ConnectionConfig, identity: &Identity) -> Arc<Common> {
    Arc::new(Common { connection, session: SessionConfig::none(), identity: identity.clone() })
}
