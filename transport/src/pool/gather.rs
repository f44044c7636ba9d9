//! What leaves in one operation: a bounded list of segments.

use super::Segment;

/// The most segments of one gather list. The kernel takes 1,024 (`IOV_MAX`); a few hundred already make the cost of
/// the system call vanish, and bound what one connection puts in front of the others.
pub const GATHER_SEGMENTS_MAX: usize = 256;

/// Segments that go out one behind the other in one send; neighbours in memory are joined as they are pushed.
///
/// Its memory is allocated once, when it is made.
#[derive(Debug)]
pub struct GatherList {
    segments: Vec<Segment>,
    bytes: usize,
}

impl GatherList {
    /// An empty list with room for [`GATHER_SEGMENTS_MAX`] segments.
    pub fn new() -> Self {
        Self { segments: Vec::with_capacity(GATHER_SEGMENTS_MAX), bytes: 0 }
    }

    /// Appends a segment.
    ///
    /// # Panics
    /// If the list is full: whoever fills it asks [`GatherList::room`] first.
    #[inline]
    pub fn push(&mut self, segment: Segment) {
        self.bytes += segment.len();
        if segment.is_empty() || self.segments.last_mut().is_some_and(|last| last.try_join(&segment)) {
            return;
        }
        assert!(self.room() > 0, "a gather list holds {GATHER_SEGMENTS_MAX} segments");
        self.segments.push(segment);
    }

    /// How many more segments there is room for.
    #[inline]
    pub fn room(&self) -> usize {
        GATHER_SEGMENTS_MAX - self.segments.len()
    }

    /// The segments in order.
    #[inline]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The bytes of all segments.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// True without a byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Takes all segments out, in order; the memory of the list stays. What is not taken from the iterator is let go.
    #[inline]
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = Segment> {
        self.bytes = 0;
        self.segments.drain(..)
    }

    /// Lets go of all segments; the memory of the list stays.
    #[inline]
    pub fn clear(&mut self) {
        self.segments.clear();
        self.bytes = 0;
    }
}

impl Default for GatherList {
    fn default() -> Self {
        Self::new()
    }
}
