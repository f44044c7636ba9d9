//! A conversation with everything in it that a session carries.

use super::rig::{CLIENT, Rig, SECOND, SERVER, Wire, common, least};
use crate::connection::{LinkRoom, SendError};
use crate::proto::control::{Address, DetachCode, LinkRole};
use crate::proto::text::Name;
use crate::proto::{Lane, LinkId};
use crate::session::SessionConfig;

/// What is sent one behind the other: the lane, which of the links, and how much. Bodies above 256 bytes are bulk.
type Line = (Lane, Option<usize>, usize);

const BY_CLIENT: [Line; 12] = [
    (Lane::Normal, Some(0), 20),
    (Lane::Urgent, Some(0), 10),
    (Lane::Bulk, Some(0), 600),
    (Lane::Normal, Some(1), 30),
    (Lane::Bulk, Some(1), 300),
    (Lane::Normal, Some(0), 0),
    (Lane::Urgent, None, 15),
    (Lane::Normal, Some(1), 270),
    (Lane::Urgent, Some(1), 1),
    (Lane::Normal, Some(1), 2),
    (Lane::Bulk, Some(0), 5),
    (Lane::Normal, Some(0), 200),
];

const BY_SERVER: [Line; 7] = [
    (Lane::Normal, Some(2), 40),
    (Lane::Bulk, Some(2), 520),
    (Lane::Urgent, None, 10),
    (Lane::Normal, Some(2), 3),
    (Lane::Bulk, Some(2), 260),
    (Lane::Urgent, Some(2), 8),
    (Lane::Normal, None, 100),
];

/// How far it has come.
#[derive(Default)]
pub(super) struct Script {
    links: Vec<LinkId>,
    said: [usize; 2],
    is_detached: bool,
}

impl Script {
    /// The ends of a conversation, with links of little credit, over a wire.
    pub(super) fn rig(wire: Wire) -> Rig {
        Self::rig_of(SessionConfig::default(), vec![wire])
    }

    pub(super) fn rig_of(config: SessionConfig, wires: Vec<Wire>) -> Rig {
        let mut rig = Rig::new(common(1, least(), config.clone()), common(2, least(), config), wires);
        rig.server().grants = Some(LinkRoom { messages: 3, bytes: 1 << 20 });
        rig.client().grants = Some(LinkRoom { messages: 2, bytes: 1 << 20 });
        rig
    }

    /// Has both ends say what they can say now; whether all has been said.
    pub(super) fn drive(&mut self, rig: &mut Rig) -> bool {
        if self.links.is_empty() {
            if rig.client().opened == 0 {
                return false;
            }
            let room = rig.client().grants.unwrap();
            for role in [LinkRole::Producer, LinkRole::Producer, LinkRole::SettlingConsumer] {
                let queue = Address::Named(Name::new("queue").unwrap());
                self.links.push(rig.client().session().attach(role, queue, room).unwrap());
            }
        }
        self.say(rig, CLIENT, &BY_CLIENT);
        self.say(rig, SERVER, &BY_SERVER);
        if self.said[CLIENT] == BY_CLIENT.len() && !self.is_detached {
            self.is_detached = true;
            let link = self.links[0];
            rig.client().session().detach_link(link, DetachCode::Normal, "said all");
        }
        self.said == [BY_CLIENT.len(), BY_SERVER.len()] && self.is_detached
    }

    fn say(&mut self, rig: &mut Rig, who: usize, lines: &[Line]) {
        let end = &mut rig.ends[who];
        while let Some(&(lane, link, bytes)) = lines.get(self.said[who]).filter(|_| end.opened > 0) {
            let link = link.map(|index| self.links[index]);
            match end.try_send(lane, link, bytes) {
                Ok(()) => self.said[who] += 1,
                Err(SendError::Link(_)) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Runs to the end of the conversation; `meanwhile` is called at each moment.
    pub(super) fn run(&mut self, rig: &mut Rig, mut meanwhile: impl FnMut(&mut Rig)) {
        let until = rig.now + 60 * SECOND;
        rig.run_until(until, |rig| {
            meanwhile(rig);
            self.drive(rig)
        });
        assert_eq!(
            self.said,
            [BY_CLIENT.len(), BY_SERVER.len()],
            "{:?}",
            rig.ends.each_ref().map(|end| &end.closed)
        );
        rig.rest();
        self.check(rig);
    }

    /// What of it is not a message: links, settlement, and the credit that is left, to the last message.
    fn check(&self, rig: &mut Rig) {
        rig.run_for(5 * SECOND);
        assert_eq!((rig.client().attached.len(), rig.server().requested.len()), (3, 3));
        assert_eq!(rig.server().detached, [self.links[0]]);
        let settled: u64 =
            rig.server().settled.iter().map(|(it, _)| it.positions.end - it.positions.start).sum();
        assert_eq!(settled, BY_SERVER.iter().filter(|line| line.1.is_some()).count() as u64, "each once");
        for (from, link) in [(CLIENT, self.links[1]), (SERVER, self.links[2])] {
            let to = 1 - from;
            rig.ends[to].grants = None;
            let room = LinkRoom { messages: 20, bytes: 1 << 20 };
            rig.ends[to].session().set_link_room(link, room).unwrap();
            rig.run_for(5 * SECOND);
            for _ in 0..20 {
                rig.ends[from].try_send(Lane::Normal, Some(link), 1).unwrap();
            }
            let more = rig.ends[from].try_send(Lane::Normal, Some(link), 1);
            assert!(matches!(more, Err(SendError::Link(_))), "{more:?}");
        }
        rig.rest();
        assert_eq!((rig.client().closed.len(), rig.server().closed.len()), (0, 0));
    }
}
