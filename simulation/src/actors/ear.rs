//! What a client or a service says of its sessions, for the oracle.

use crate::coverage::Transition;
use crate::oracle::{ActorId, Ledger};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use underlay::driver::Address;
use underlay::rpc::{Event, EventListener};

/// Hears the events of a client or a service, and keeps them until they are reported.
///
/// A listener must be able to move to another thread, and an oracle cannot; hence a list between them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ear(Arc<Mutex<Vec<Told>>>);

/// Something, and of whom, if its address is a process's.
type Told = (Heard, Option<ActorId>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Lost,
    Interrupted,
    Resumed,
    Leaving,
}

impl Ear {
    /// What is to be given to a client or a service.
    pub(crate) fn listener(&self) -> EventListener {
        let ear = self.clone();
        EventListener::new(move |event| {
            let heard = match event {
                // What comes to a service that leaves goes back, and its session ends only when it is quiet.
                Event::Lost { .. } | Event::Left { .. } => Heard::Lost,
                Event::Interrupted { .. } => Heard::Interrupted,
                Event::Resumed { .. } | Event::Moved { .. } => Heard::Resumed,
                Event::Leaving { .. } => Heard::Leaving,
                _ => return,
            };
            ear.heard().push((heard, named_by(event.address())));
        })
    }

    /// Tells what was heard since the last time.
    pub(crate) fn report(&self, me: ActorId, ledger: &mut Ledger) {
        for (heard, peer) in self.heard().drain(..) {
            match heard {
                Heard::Lost => ledger.lost_session(me, peer.into_iter()),
                Heard::Interrupted => {
                    ledger.transition(me, Transition::Interrupted);
                    peer.into_iter().for_each(|peer| ledger.interrupted(me, peer));
                }
                Heard::Resumed => ledger.transition(me, Transition::Resumed),
                Heard::Leaving => ledger.transition(me, Transition::Leaving),
            }
        }
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.heard().is_empty()
    }

    fn heard(&self) -> MutexGuard<'_, Vec<Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose address it is; see [`super::addresses_of`].
fn named_by(address: &Address) -> Option<ActorId> {
    address.place().strip_prefix("actor-")?.parse().ok().map(ActorId)
}
