//! Which wire listens at which name.

use super::endpoint::Endpoint;
use crate::backend::Listener;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// The names that the `inproc` wires of a process can connect to.
///
/// Cheap to clone; all clones are one network. Its lock is taken to listen, to connect and to make a wire, never to
/// move data.
#[derive(Debug, Clone, Default)]
pub struct InprocNetwork {
    names: Arc<Mutex<Names>>,
}

#[derive(Debug, Default)]
struct Names {
    listeners: HashMap<Arc<str>, Place>,
    wires_made: u64,
}

/// Where a name leads to.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) listener: Listener,
}

impl InprocNetwork {
    /// A network of its own, apart from all others.
    pub fn new() -> Self {
        Self::default()
    }

    /// The one network that the whole process shares.
    pub fn global() -> Self {
        static GLOBAL: OnceLock<InprocNetwork> = OnceLock::new();
        GLOBAL.get_or_init(Self::new).clone()
    }

    /// A number that no other wire of this network has, for logs.
    pub(super) fn next_number(&self) -> u64 {
        let mut names = self.lock();
        names.wires_made += 1;
        names.wires_made
    }

    /// Gives `name` to a listener; false if another one has it.
    pub(super) fn enter(&self, name: Arc<str>, place: Place) -> bool {
        use std::collections::hash_map::Entry;
        match self.lock().listeners.entry(name) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(place);
                true
            }
        }
    }

    /// Takes back a name. Only for the wire that entered it.
    pub(super) fn leave(&self, name: &str) {
        self.lock().listeners.remove(name);
    }

    /// Where `name` leads to.
    pub(super) fn find(&self, name: &str) -> Option<Place> {
        self.lock().listeners.get(name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        // A thread that panicked here left the map whole: every change is one call of it.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
