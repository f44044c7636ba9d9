//! The destinations there are, by name.

use crate::config::Settings;
use crate::nearest::suggestion;
use std::collections::BTreeMap;

/// Names and where they lead. It is looked into when links are attached, never for a message.
#[derive(Debug)]
pub(super) struct Catalog {
    names: BTreeMap<String, usize>,
    /// For each destination the queues that its messages go to. Those of the queues come first, in their order.
    routes: Vec<Box<[usize]>>,
    queues: usize,
}

impl Catalog {
    pub(super) fn new(settings: &Settings) -> Self {
        let queue_at = |name: &str| settings.queue.iter().position(|queue| queue.name == name);
        let queues = settings.queue.len();
        let mut names = BTreeMap::new();
        let mut routes: Vec<Vec<usize>> = Vec::new();
        for (index, queue) in settings.queue.iter().enumerate() {
            names.insert(queue.name.clone(), index);
            routes.push(vec![index]);
        }
        for exchange in &settings.exchange {
            for binding in &exchange.bindings {
                let name = format!("{}/{}", exchange.name, binding.key);
                let route = *names.entry(name).or_insert_with(|| {
                    routes.push(Vec::new());
                    routes.len() - 1
                });
                // The configuration was checked, so the queue is there.
                routes[route].extend(queue_at(&binding.queue));
            }
        }
        Self { names, routes: routes.into_iter().map(Vec::into_boxed_slice).collect(), queues }
    }

    /// The route of a destination.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// The queue that a route is, unless it is a key of an exchange.
    pub(super) fn queue_of(&self, route: usize) -> Option<usize> {
        (route < self.queues).then_some(route)
    }

    /// The queues that a route leads to.
    #[inline]
    pub(super) fn route(&self, route: usize) -> &[usize] {
        &self.routes[route]
    }

    /// Names that may have been meant, as the end of a sentence.
    pub(super) fn suggestion(&self, name: &str) -> String {
        suggestion(name, self.names.keys().map(String::as_str))
    }
}
