//! Queue pairs beside those of connections: each is a connection of its own that the connection manager does not know.

use super::super::{Beside, QueuePairName, QueuePairSizes, Region};
use super::connecting::Stage;
use super::faults::Fault;
use super::state::{Connection, Key, QueuePairStage, RegionState, State, errno};
use std::io;

/// What the number of the first packet has to do with that of the queue pair: whoever mistakes one for the other is found
/// out.
const FIRST_PACKET: u32 = 0xA5_A5A5;

impl State {
    pub(super) fn create_beside(
        &mut self,
        of: Key,
        beside: Beside,
        sizes: &QueuePairSizes,
    ) -> io::Result<QueuePairName> {
        self.live_port(of)?;
        let parent = &self.connections[&of];
        let (end, identifier, port) = (parent.end, parent.identifier, parent.port);
        let (local, remote) = (parent.local, parent.remote);
        let fault = self.take_fault(end, |fault| match fault {
            Fault::CreateBesideFails(kind, error) if *kind == beside => Some(*error),
            _ => None,
        });
        let is_fresh = self.connections[&of].queue_pair.is_some() && self.beside(of, beside).is_err();
        if let Some(error) = fault.or((!is_fresh).then_some(libc::EINVAL)) {
            return Err(errno(error));
        }
        let key = Key::from(self.draw_name());
        let connection = Connection {
            end,
            identifier,
            port,
            local,
            remote,
            backlog: 0,
            stage: Stage::Connected,
            peer: None,
            parameters: None,
            queue_pair: None,
            acknowledgement_doublings: None,
            of: Some((of, beside)),
        };
        self.connections.insert(key, connection);
        match self.create_queue_pair(key, sizes) {
            Ok(made) => Ok(QueuePairName { number: made.number, first_packet: made.number ^ FIRST_PACKET }),
            Err(error) => {
                self.connections.remove(&key);
                Err(error)
            }
        }
    }

    pub(super) fn connect_beside(
        &mut self,
        of: Key,
        beside: Beside,
        peer: QueuePairName,
        reads: u8,
    ) -> io::Result<()> {
        let key = self.beside(of, beside)?;
        let parent = &self.connections[&of];
        let is_up = parent.queue_pair.as_ref().is_some_and(|own| own.stage == QueuePairStage::Ready);
        let mut parameters = parent.parameters.filter(|_| is_up).ok_or_else(|| errno(libc::EINVAL))?;
        let fault = self.take_fault(parent.end, |fault| match fault {
            Fault::ConnectBesideFails(error) => Some(*error),
            _ => None,
        });
        fault.map_or(Ok(()), |error| Err(errno(error)))?;
        let is_it = |other: &Connection| {
            other.of.is_some_and(|(_, kind)| kind != beside)
                && other.queue_pair.as_ref().is_some_and(|it| it.number == peer.number)
        };
        // A peer that says nonsense is connected to all the same: nobody answers.
        let found = self.connections.iter().find(|(_, other)| is_it(other)).map(|(key, _)| *key);
        parameters.reads_answered = if beside == Beside::Answering { reads } else { 0 };
        let is_known = peer.first_packet == peer.number ^ FIRST_PACKET;
        let connection = self.connections.get_mut(&key).expect("it was found");
        (connection.peer, connection.parameters) = (found.filter(|_| is_known), Some(parameters));
        connection.queue_pair.as_mut().expect("it has one").stage = QueuePairStage::Ready;
        Ok(())
    }

    pub(super) fn register_for_peer(&mut self, of: Key, address: u64, bytes: u64) -> io::Result<Region> {
        let domain = self.beside(of, Beside::Answering)?;
        let connection = &self.connections[&domain];
        let device = connection.queue_pair.as_ref().expect("it has one").device;
        let end = connection.end;
        let region = self.register(end, device, address, bytes)?;
        let state: &mut RegionState = self.ends[end].regions.get_mut(&region.number).expect("just made");
        state.domain = Some(domain);
        Ok(region)
    }

    /// The queue pair of a kind beside that of a connection.
    pub(super) fn beside(&self, of: Key, beside: Beside) -> io::Result<Key> {
        let is_it = |connection: &Connection| connection.of == Some((of, beside));
        let found = self.connections.iter().find(|(_, connection)| is_it(connection));
        found.map(|(key, _)| *key).ok_or_else(|| errno(libc::EINVAL))
    }

    pub(super) fn besides(&self, of: Key) -> Vec<Key> {
        [Beside::Reading, Beside::Answering]
            .iter()
            .filter_map(|&beside| self.beside(of, beside).ok())
            .collect()
    }

    /// They go with the connection that they are beside of.
    pub(super) fn destroy_besides(&mut self, of: Key) {
        for key in self.besides(of) {
            let connection = self.connections.remove(&key).expect("it was found");
            let queue_pair = connection.queue_pair.as_ref().expect("it has one");
            let (end, device) = (connection.end, queue_pair.device as usize);
            if self.ends[end].regions.values().any(|region| region.domain == Some(key)) {
                // `ibv_dealloc_pd(3)` fails, and what the peer could read stays registered.
                self.misuses.push(format!("end {end} destroyed a protection domain with memory in it"));
            }
            if self.port(&connection).is_some_and(|port| port.kind.forgets_completions) {
                self.ends[end].contexts[device].forget_completions(queue_pair.number);
            }
        }
    }
}
