//! Things by small numbers, which are used again.

/// The table of one kind of thing. A number without a thing is nobody's, and finds nothing.
pub(super) struct Table<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Table<T> {
    pub(super) const fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    /// Puts a thing that may want to know its number at one that is free, and says which.
    pub(super) fn insert_with(&mut self, make: impl FnOnce(u32) -> T) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() as u32 - 1
        });
        self.entries[number as usize] = Some(make(number));
        number
    }

    #[inline]
    pub(super) fn at(&self, number: u32) -> Option<&T> {
        self.entries.get(number as usize)?.as_ref()
    }

    pub(super) fn at_mut(&mut self, number: u32) -> Option<&mut T> {
        self.entries.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let thing = self.entries.get_mut(number as usize)?.take()?;
        self.free.push(number);
        Some(thing)
    }

    /// Gives a thing to `consume`, which may give it back with the reason why; then it is where it was.
    pub(super) fn try_remove<E>(
        &mut self,
        number: u32,
        consume: impl FnOnce(T) -> Result<(), (T, E)>,
    ) -> Option<Result<(), E>> {
        let entry = self.entries.get_mut(number as usize)?;
        match consume(entry.take()?) {
            Ok(()) => {
                self.free.push(number);
                Some(Ok(()))
            }
            Err((thing, error)) => {
                *entry = Some(thing);
                Some(Err(error))
            }
        }
    }

    pub(super) fn things(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().flatten()
    }

    /// Drops those that are so.
    pub(super) fn drop_if(&mut self, is_so: impl Fn(&T) -> bool) {
        for (number, entry) in (0..).zip(&mut self.entries) {
            if entry.as_ref().is_some_and(&is_so) {
                *entry = None;
                self.free.push(number);
            }
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.free.clear();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_used_again_and_finds_nothing_meanwhile() {
        let mut table = Table::new();
        assert_eq!((table.insert_with(|_| 'a'), table.insert_with(|_| 'b')), (0, 1));
        assert_eq!((table.remove(0), table.remove(0), table.at(0)), (Some('a'), None, None));
        assert_eq!(table.things().collect::<String>(), "b");
        assert_eq!(table.insert_with(|_| 'c'), 0);
        assert_eq!((table.at(0), table.at(9)), (Some(&'c'), None));
        assert_eq!(table.try_remove(0, |thing| Err((thing, "busy"))), Some(Err("busy")));
        assert_eq!(table.try_remove(0, |_| Ok::<(), (char, ())>(())), Some(Ok(())));
        assert_eq!(table.try_remove(0, |_| Ok::<(), (char, ())>(())), None);
        table.insert_with(|_| 'e');
        table.drop_if(|&thing| thing == 'e');
        assert_eq!((table.things().collect::<String>().as_str(), table.insert_with(|_| 'f')), ("b", 0));
        table.clear();
        assert_eq!(table.at(1), None);
        assert_eq!(table.insert_with(|_| 'd'), 0);
    }
}
