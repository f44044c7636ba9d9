//! A message's body: a short list of segments.

use super::segment::{BufferMut, Segment};
use super::{BUFFER_BYTES_MAX, BUFFER_CLASSES, Pool, PoolError};
use arrayvec::ArrayVec;
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt;
use std::mem::size_of;

/// Segments that a body names without a list of its own.
const INLINE: usize = 4;

/// The most segments of one body: what a list in the largest buffer can name.
pub const SEGMENTS_MAX: usize = INLINE + BUFFER_BYTES_MAX / size_of::<Segment>();

/// The bytes of a message, as a list of segments in order.
///
/// Up to four segments lie in the body itself, more in a list that is a buffer of the pool, so no operation allocates
/// from the heap unless its documentation says so. A body that arrived in pieces stays in pieces;
/// [`Body::to_bytes`] joins them for the application.
#[derive(Default)]
pub struct Body {
    bytes: usize,
    inline: ArrayVec<Segment, INLINE>,
    more: Option<SegmentList>,
}

impl Body {
    /// A body without bytes.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// True without a byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a segment; one that continues the last one is joined to it, an empty one is dropped.
    ///
    /// # Errors
    /// As [`Pool::buffer`], when the list has to grow, and [`PoolError::TooManySegments`]. The body stays as it was.
    #[inline]
    pub fn push(&mut self, segment: Segment, pool: &mut Pool) -> Result<(), PoolError> {
        let bytes = segment.len();
        if bytes == 0 {
            return Ok(());
        }
        let listed = self.more.as_mut().and_then(|more| more.as_mut_slice().last_mut());
        let last = listed.or(self.inline.last_mut());
        if !last.is_some_and(|last| last.try_join(&segment)) {
            match &mut self.more {
                _ if !self.inline.is_full() => self.inline.push(segment),
                Some(more) => more.push(segment, pool)?,
                None => self.more.insert(SegmentList::new(1, pool)?).push(segment, pool)?,
            }
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Appends the segments of another body.
    ///
    /// # Errors
    /// As [`Body::push`]. The body stays as it was.
    pub fn append(&mut self, other: &Body, pool: &mut Pool) -> Result<(), PoolError> {
        let count = self.segment_count() + other.segment_count();
        if let Some(listed) = count.checked_sub(INLINE).filter(|&listed| listed > 0) {
            match &mut self.more {
                Some(more) => more.reserve(listed, pool)?,
                None => self.more = Some(SegmentList::new(listed, pool)?),
            }
        }
        for segment in other.segments() {
            self.push(segment.clone(), pool)?;
        }
        Ok(())
    }

    /// The segments in order.
    #[inline]
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.inline.iter().chain(self.more.iter().flat_map(|more| more.as_slice()))
    }

    /// The number of segments.
    #[inline]
    pub fn segment_count(&self) -> usize {
        self.inline.len() + self.more.as_ref().map_or(0, |more| more.count)
    }

    /// How many bytes from `from` on can be named with at most `segments_max` segments: `bytes_max`, or less.
    pub fn bytes_in(&self, from: usize, bytes_max: usize, segments_max: usize) -> usize {
        let bytes_max = bytes_max.min(self.bytes.saturating_sub(from));
        self.slices(from, bytes_max).take(segments_max).map(|segment| segment.len()).sum()
    }

    /// The segments that make up `bytes` bytes from `from` on; fewer if the body ends before.
    pub fn slices(&self, from: usize, bytes: usize) -> impl Iterator<Item = Segment> {
        let end = from.saturating_add(bytes);
        let mut next = 0;
        // What lies before `from` is stepped over without touching its counter: a long body is sliced once a chunk.
        self.segments()
            .map(move |segment| {
                let at = next;
                next += segment.len();
                (at, segment)
            })
            .skip_while(move |&(at, segment)| at + segment.len() <= from)
            .take_while(move |&(at, _)| at < end)
            .map(move |(at, segment)| segment.slice(from.saturating_sub(at)..segment.len().min(end - at)))
            .filter(|segment| !segment.is_empty())
    }

    /// Another body of the same segments. It copies no bytes.
    ///
    /// # Errors
    /// As [`Body::push`].
    pub fn share(&self, pool: &mut Pool) -> Result<Body, PoolError> {
        if self.more.is_none() {
            return Ok(Body { bytes: self.bytes, inline: self.inline.clone(), more: None });
        }
        let mut body = Body::new();
        for segment in self.segments() {
            body.push(segment.clone(), pool)?;
        }
        Ok(body)
    }

    /// The bytes in one piece, for the application.
    ///
    /// Allocates from the heap: the owner of one piece, or the joined copy of several, which is counted at the pool.
    pub fn to_bytes(&self) -> Bytes {
        let mut segments = self.segments();
        match (segments.next(), segments.next()) {
            (None, _) => Bytes::new(),
            (Some(only), None) => Bytes::from_owner(only.clone()),
            (Some(first), Some(_)) => {
                first.count_copy(self.bytes);
                Bytes::from(self.to_vec())
            }
        }
    }

    /// A copy of the bytes on the heap, not counted.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut joined = Vec::with_capacity(self.bytes);
        self.segments().for_each(|segment| joined.extend_from_slice(segment));
        joined
    }

    /// Reads the bytes in order without joining them.
    #[inline]
    pub fn reader(&self) -> BodyReader<'_> {
        BodyReader { body: self, segment: 0, offset: 0, remaining: self.bytes }
    }

    /// The bytes of the buffers that this body keeps alive; a buffer that several neighbouring segments share
    /// counts once.
    pub fn held_bytes(&self) -> usize {
        let mut held_bytes = 0;
        let mut previous: Option<&Segment> = None;
        for segment in self.segments() {
            if !previous.is_some_and(|previous| previous.shares_buffer_with(segment)) {
                held_bytes += segment.held_bytes();
            }
            previous = Some(segment);
        }
        held_bytes
    }

    /// Copies the bytes into buffers that fit if they keep less than a quarter of theirs alive; true if it did.
    ///
    /// Call it for a body that is going to be held for long. The copy is counted, and as a compaction too. Nothing is
    /// copied where that would free nothing, as with a few bytes in a buffer of the smallest size.
    ///
    /// # Errors
    /// As [`Pool::copy_body`]; the body stays as it was.
    pub fn compact(&mut self, pool: &mut Pool) -> Result<bool, PoolError> {
        let held_bytes = self.held_bytes();
        if self.bytes * 4 >= held_bytes || held_bytes <= buffer_bytes_for(self.bytes) {
            return Ok(false);
        }
        self.join(pool)?;
        pool.count_compaction();
        Ok(true)
    }

    /// Copies the bytes into as few segments as possible. The copy is counted.
    ///
    /// # Errors
    /// As [`Pool::copy_body`]; the body stays as it was.
    pub fn join(&mut self, pool: &mut Pool) -> Result<(), PoolError> {
        let mut joined = Body::new();
        let mut rest = self.bytes;
        let mut reader = self.reader();
        while rest > 0 {
            let part = rest.min(BUFFER_BYTES_MAX);
            let mut buffer = pool.buffer(part)?;
            reader.read_into(&mut buffer, part);
            joined.push(buffer.split(), pool)?;
            rest -= part;
        }
        pool.count_copy(self.bytes);
        *self = joined;
        Ok(())
    }

    /// Joins its short segments, as [`join_short_segments`] does. Allocates from the heap meanwhile.
    ///
    /// # Errors
    /// As [`Body::push`]; the body stays as it was.
    pub(crate) fn join_short(&mut self, short_below_bytes: usize, pool: &mut Pool) -> Result<(), PoolError> {
        let mut segments: VecDeque<Segment> = self.segments().cloned().collect();
        join_short_segments(&mut segments, short_below_bytes, pool);
        let mut joined = Body::new();
        for segment in segments {
            joined.push(segment, pool)?;
        }
        *self = joined;
        Ok(())
    }
}

impl From<Segment> for Body {
    /// The bytes of one segment.
    #[inline]
    fn from(segment: Segment) -> Self {
        let mut body = Self { bytes: segment.len(), ..Self::default() };
        if body.bytes > 0 {
            body.inline.push(segment);
        }
        body
    }
}

/// What the buffers of a joined body hold.
fn buffer_bytes_for(bytes: usize) -> usize {
    let rest = bytes % BUFFER_BYTES_MAX;
    let last =
        BUFFER_CLASSES.into_iter().find(|&class_bytes| rest <= class_bytes).unwrap_or(BUFFER_BYTES_MAX);
    bytes - rest + if rest == 0 { 0 } else { last }
}

/// Copies neighbours that are shorter than `short_below_bytes` into common buffers, so that few short segments are
/// left; the copies are counted. Longer ones, and ones without a short neighbour, stay as they are, and so do those for
/// which the pool has no buffer now.
///
/// For what somebody else has cut up, and what would otherwise name too many segments or keep too much memory alive.
pub(crate) fn join_short_segments(
    segments: &mut VecDeque<Segment>,
    short_below_bytes: usize,
    pool: &mut Pool,
) {
    let is_short = |segment: &&Segment| segment.len() < short_below_bytes.min(BUFFER_BYTES_MAX);
    let mut left = segments.len();
    while left > 0 {
        let run = segments.iter().take(left).take_while(is_short).count();
        if run > 1 {
            join_front(segments, run, pool);
        } else {
            segments.rotate_left(1);
        }
        left -= run.max(1);
    }
}

/// Moves the first `count` segments to the back, joined.
fn join_front(segments: &mut VecDeque<Segment>, count: usize, pool: &mut Pool) {
    let mut unread: usize = segments.iter().take(count).map(|segment| segment.len()).sum();
    let mut target: Option<BufferMut> = None;
    let mut copied_bytes = 0;
    let mut pool_gives = true;
    for _ in 0..count {
        let Some(segment) = segments.pop_front() else { break };
        if pool_gives && target.as_ref().is_none_or(|buffer| buffer.spare() < segment.len()) {
            segments.extend(target.as_mut().map(BufferMut::split));
            target = pool.buffer(unread.min(BUFFER_BYTES_MAX)).ok();
            pool_gives = target.is_some();
        }
        unread -= segment.len();
        match &mut target {
            Some(buffer) => copied_bytes += buffer.put_slice(&segment),
            None => segments.push_back(segment),
        }
    }
    segments.extend(target.as_mut().map(BufferMut::split));
    if copied_bytes > 0 {
        pool.count_copy(copied_bytes);
        pool.count_compaction();
    }
}

impl PartialEq<[u8]> for Body {
    fn eq(&self, other: &[u8]) -> bool {
        let mut rest = other;
        self.bytes == other.len()
            && self.segments().all(|segment| {
                let (front, back) = rest.split_at(segment.len());
                rest = back;
                **segment == *front
            })
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes in {} segments)", self.bytes, self.segment_count())
    }
}

/// Reads a body from front to back; a [`bytes::Buf`].
#[derive(Debug)]
pub struct BodyReader<'a> {
    body: &'a Body,
    segment: usize,
    offset: usize,
    remaining: usize,
}

impl BodyReader<'_> {
    /// Appends the next `count` bytes to `buffer`, as far as both have them.
    fn read_into(&mut self, buffer: &mut BufferMut, count: usize) {
        use bytes::Buf;
        let mut rest = count.min(buffer.spare()).min(self.remaining);
        while rest > 0 {
            let chunk = self.chunk();
            let part = buffer.put_slice(&chunk[..chunk.len().min(rest)]);
            self.advance(part);
            rest -= part;
        }
    }

    fn current(&self) -> Option<&Segment> {
        let inline = &self.body.inline;
        inline
            .get(self.segment)
            .or_else(|| self.body.more.as_ref()?.as_slice().get(self.segment - inline.len()))
    }
}

impl bytes::Buf for BodyReader<'_> {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.current().map_or(&[], |segment| &segment[self.offset..])
    }

    /// # Panics
    /// If fewer bytes remain, as the trait asks.
    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining, "{count} of {} remaining bytes", self.remaining);
        self.remaining -= count;
        self.offset += count;
        while let Some(segment) = self.current() {
            if self.offset < segment.len() {
                break;
            }
            self.offset -= segment.len();
            self.segment += 1;
        }
    }
}

/// A list of segments that lies in a buffer of the pool.
struct SegmentList {
    memory: BufferMut,
    count: usize,
}

impl SegmentList {
    /// An empty list with room for at least `count` segments.
    fn new(count: usize, pool: &mut Pool) -> Result<Self, PoolError> {
        let memory = pool.buffer(count * size_of::<Segment>()).map_err(|error| match error {
            PoolError::TooLarge { .. } => PoolError::TooManySegments { segments_max: SEGMENTS_MAX },
            other => other,
        })?;
        Ok(Self { memory, count: 0 })
    }

    fn push(&mut self, segment: Segment, pool: &mut Pool) -> Result<(), PoolError> {
        self.reserve(self.count + 1, pool)?;
        let free = self.memory.spare_mut().as_mut_ptr().cast::<Segment>();
        // SAFETY: there is room for one more; buffers are aligned to 256 bytes at least, and nothing is ever declared
        // written in this one, so its spare part starts at its front.
        unsafe { free.add(self.count).write(segment) };
        self.count += 1;
        Ok(())
    }

    /// Makes room for `count` segments in all.
    fn reserve(&mut self, count: usize, pool: &mut Pool) -> Result<(), PoolError> {
        if count <= self.memory.capacity() / size_of::<Segment>() {
            return Ok(());
        }
        let mut larger = Self::new(count, pool)?;
        let target = larger.memory.spare_mut().as_mut_ptr();
        let bytes = self.count * size_of::<Segment>();
        // SAFETY: a move of `count` segments into a larger buffer; the old list counts none from here on.
        unsafe { std::ptr::copy_nonoverlapping(self.memory.spare_mut().as_ptr(), target, bytes) };
        larger.count = std::mem::take(&mut self.count);
        *self = larger;
        Ok(())
    }

    fn as_slice(&self) -> &[Segment] {
        // SAFETY: the first `count` segments were written by `push`. They lie at its front.
        unsafe { std::slice::from_raw_parts(self.memory.front().cast(), self.count) }
    }

    fn as_mut_slice(&mut self) -> &mut [Segment] {
        let front = self.memory.spare_mut().as_mut_ptr().cast();
        // SAFETY: as above, and this list is the buffer's only user.
        unsafe { std::slice::from_raw_parts_mut(front, self.count) }
    }
}

impl Drop for SegmentList {
    fn drop(&mut self) {
        // SAFETY: the segments are this list's own, and not used afterwards.
        unsafe { std::ptr::drop_in_place(self.as_mut_slice()) };
    }
}
