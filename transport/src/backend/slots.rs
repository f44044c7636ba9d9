//! The table of channels: dense places that are used again, with generations that tell an old name from a new one.

use super::Channel;

/// Things by [`Channel`].
#[derive(Debug)]
pub(in crate::backend) struct Slots<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slots<T> {
    pub(in crate::backend) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    /// Puts a value into the lowest free place that is known, and names it.
    pub(in crate::backend) fn insert(&mut self, value: T) -> Channel {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, value: None });
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[slot as usize];
        entry.value = Some(value);
        Channel { slot, generation: entry.generation }
    }

    #[inline]
    pub(in crate::backend) fn at(&mut self, channel: Channel) -> Option<&mut T> {
        let entry = self.entries.get_mut(channel.slot as usize)?;
        if entry.generation == channel.generation { entry.value.as_mut() } else { None }
    }

    pub(in crate::backend) fn remove(&mut self, channel: Channel) -> Option<T> {
        self.at(channel)?;
        let entry = &mut self.entries[channel.slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(channel.slot);
        entry.value.take()
    }

    /// How many places are taken.
    #[inline]
    pub(in crate::backend) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// How many places there are; every slot is below.
    #[inline]
    pub(in crate::backend) fn places(&self) -> usize {
        self.entries.len()
    }

    /// Who is at a place, if anybody.
    #[inline]
    pub(in crate::backend) fn name_at(&self, place: usize) -> Option<Channel> {
        let entry = &self.entries[place];
        entry.value.as_ref().map(|_| Channel { slot: place as u32, generation: entry.generation })
    }

    /// Everybody's name.
    pub(in crate::backend) fn names(&self) -> Vec<Channel> {
        (0..self.places()).filter_map(|place| self.name_at(place)).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_old_name_does_not_mean_a_new_channel() {
        let mut slots = Slots::new();
        let first = slots.insert('a');
        let second = slots.insert('b');
        assert_eq!(slots.remove(first), Some('a'));
        assert_eq!(slots.at(first), None);
        assert_eq!(slots.remove(first), None);
        let third = slots.insert('c');
        assert_eq!(third, Channel { slot: first.slot, generation: first.generation + 1 });
        assert_eq!(slots.at(first), None);
        assert_eq!(slots.at(third), Some(&mut 'c'));
        assert_eq!((slots.len(), slots.names()), (2, vec![third, second]));
        assert_eq!(slots.at(Channel { slot: 9, generation: 0 }), None);
    }
}
