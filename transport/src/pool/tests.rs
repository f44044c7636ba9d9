use super::*;
use bytes::Buf;

fn pool(bytes_max: usize) -> Pool {
    Pool::new(PoolConfig { bytes_max, slab_bytes: BUFFER_BYTES_MAX, huge_pages: false }).unwrap()
}

fn numbered(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| ((index * 31) >> 3) as u8).collect()
}

#[test]
fn a_buffer_is_reused_only_after_its_last_segment_is_gone() {
    let mut pool = pool(BUFFER_BYTES_MAX);
    let mut buffer = pool.buffer(BUFFER_BYTES_MAX).unwrap();
    buffer.put_slice(b"abcdef");
    let segment = buffer.split();
    let part = segment.slice(2..4);
    drop((buffer, segment));
    assert!(matches!(
        pool.buffer(BUFFER_BYTES_MAX),
        Err(PoolError::BudgetExceeded { mapped_bytes: 65_536, .. })
    ));
    assert_eq!(&*part, b"cd");
    drop(part);
    assert_eq!(pool.buffer(BUFFER_BYTES_MAX).unwrap().spare(), BUFFER_BYTES_MAX);
}

#[test]
fn buffers_come_back_from_other_threads_and_outlive_their_pool() {
    let mut pool = pool(4 * BUFFER_BYTES_MAX);
    let body = pool.copy_body(&numbered(100_000)).unwrap();
    assert_eq!(pool.stats().buffers_out, 2);
    std::thread::spawn(move || assert!(body == *numbered(100_000))).join().unwrap();
    pool.reclaim();
    assert_eq!(pool.stats().buffers_out, 0);
    let body = pool.copy_body(&numbered(5_000)).unwrap();
    drop(pool);
    assert!(body == *numbered(5_000));
}

#[test]
fn a_buffer_fits_what_was_asked_for_and_is_aligned_to_its_size() {
    let mut pool = pool(64 * BUFFER_BYTES_MAX);
    for bytes in [0, 1, 256, 257, 1024, 4097, 65_536] {
        let buffer = pool.buffer(bytes).unwrap();
        assert!(buffer.spare() >= bytes && buffer.capacity() <= (4 * bytes).max(256));
        assert_eq!(buffer.written().as_ptr() as usize % buffer.capacity().min(4096), 0);
    }
    let refused = pool.buffer(65_537).unwrap_err();
    assert_eq!(refused, PoolError::TooLarge { asked_bytes: 65_537, largest_bytes: 65_536 });
}

#[test]
fn writing_goes_on_behind_what_was_split_off() {
    let mut pool = pool(BUFFER_BYTES_MAX);
    let mut buffer = pool.buffer(256).unwrap();
    buffer.put_slice(b"first");
    let first = buffer.split();
    buffer.put_slice(b"second");
    buffer.written_mut()[0] = b'S';
    let second = buffer.split();
    assert_eq!((&*first, &*second), (&b"first"[..], &b"Second"[..]));
    assert!(first.is_followed_by(&second));
    assert!(!buffer.restart(), "segments are left");
    drop((first, second));
    assert!(buffer.restart());
    assert_eq!(buffer.put_slice(&[7; 300]), 256, "no more than there is room for");
}

#[test]
fn a_body_keeps_its_bytes_whatever_its_pieces() {
    let mut pool = pool(64 * BUFFER_BYTES_MAX);
    let bytes = numbered(3_000);
    for piece_bytes in [1, 7, 100, 999, 3_000] {
        let mut body = Body::new();
        for piece in bytes.chunks(piece_bytes) {
            // A buffer for each piece, so that neighbours cannot be joined and the list has to grow.
            let mut buffer = pool.buffer(piece.len()).unwrap();
            buffer.put_slice(piece);
            body.push(buffer.split(), &mut pool).unwrap();
        }
        assert_eq!(body.segments().count(), bytes.len().div_ceil(piece_bytes));
        assert!(body == *bytes);
        assert_eq!(body.to_bytes(), bytes);
        let mut reader = body.reader();
        reader.advance(1_234);
        assert_eq!(reader.copy_to_bytes(reader.remaining()), bytes[1_234..]);
        let shared = body.share(&mut pool).unwrap();
        drop(body);
        assert!(shared == *bytes);
    }
    pool.reclaim();
    assert_eq!(pool.stats().buffers_out, 0, "lists and segments all came back");
}

#[test]
fn segments_that_continue_each_other_are_one() {
    let mut pool = pool(BUFFER_BYTES_MAX);
    let mut buffer = pool.buffer(1024).unwrap();
    let mut body = Body::new();
    for byte in b"joined" {
        buffer.put_slice(&[*byte]);
        body.push(buffer.split(), &mut pool).unwrap();
    }
    assert_eq!(body.segments().count(), 1);
    assert_eq!(pool.stats().body_copies, 0);
    assert_eq!(body.to_bytes(), &b"joined"[..]);
    assert_eq!(pool.stats().body_copies, 0, "one piece needs no joining");
}

#[test]
fn a_body_has_a_bounded_number_of_segments() {
    let mut pool = pool(1024 * BUFFER_BYTES_MAX);
    let mut buffers: Vec<_> = (0..2).map(|_| pool.buffer(65_536).unwrap()).collect();
    let mut body = Body::new();
    let refused = loop {
        let buffer = &mut buffers[body.len() % 2];
        buffer.put_slice(b"x");
        if let Err(refused) = body.push(buffer.split(), &mut pool) {
            break refused;
        }
    };
    assert_eq!(refused, PoolError::TooManySegments { segments_max: SEGMENTS_MAX });
    assert_eq!(body.len(), SEGMENTS_MAX);
    assert_eq!(body.to_vec(), vec![b'x'; SEGMENTS_MAX]);
}

#[test]
fn a_body_that_holds_little_of_its_buffers_is_compacted_and_counted() {
    let mut pool = pool(16 * BUFFER_BYTES_MAX);
    let whole = pool.copy_body(&numbered(65_536)).unwrap();
    let copies = pool.stats().body_copies;
    let mut body = Body::new();
    body.push(whole.segments().next().unwrap().slice(100..16_484), &mut pool).unwrap();
    assert!(!body.compact(&mut pool).unwrap(), "a quarter may stay");
    let mut body = Body::new();
    body.push(whole.segments().next().unwrap().slice(100..400), &mut pool).unwrap();
    assert_eq!(body.held_bytes(), 65_536);
    assert!(body.compact(&mut pool).unwrap());
    assert_eq!(body.held_bytes(), 1024);
    assert!(body == numbered(65_536)[100..400]);
    assert_eq!((pool.stats().compactions, pool.stats().body_copies), (1, copies + 1));
}

#[test]
fn slabs_that_cannot_hold_whole_buffers_are_refused() {
    for slab_bytes in [0, 4096, 65_537] {
        let refused = Pool::new(PoolConfig { slab_bytes, ..PoolConfig::default() }).unwrap_err();
        assert_eq!(refused, PoolError::SlabBytes { slab_bytes });
    }
}

#[test]
fn a_few_bytes_are_not_compacted_again_and_again() {
    let mut pool = pool(16 * BUFFER_BYTES_MAX);
    let whole = pool.copy_body(&numbered(65_536)).unwrap();
    for (bytes, held_bytes) in [(1, 256), (63, 256), (257, 1024), (1025, 4096)] {
        let mut body = Body::new();
        body.push(whole.segments().next().unwrap().slice(0..bytes), &mut pool).unwrap();
        assert!(body.compact(&mut pool).unwrap());
        assert_eq!(body.held_bytes(), held_bytes);
        assert!(!body.compact(&mut pool).unwrap(), "{bytes} bytes need {held_bytes}");
    }
}

#[test]
fn slices_are_what_lies_between_two_places_whatever_the_pieces() {
    let mut pool = pool(16 * BUFFER_BYTES_MAX);
    let bytes = numbered(100);
    for piece_bytes in [1, 7, 30, 100] {
        let mut body = Body::new();
        for piece in bytes.chunks(piece_bytes) {
            body.append(&pool.copy_body(piece).unwrap(), &mut pool).unwrap();
        }
        for from in 0..=110_usize {
            for count in [0, 1, 6, 50, 100, usize::MAX] {
                let end = from.saturating_add(count).min(100);
                let expected = bytes.get(from..end).unwrap_or_default();
                let slices: Vec<_> = body.slices(from, count).collect();
                assert_eq!(slices.iter().map(|slice| &**slice).collect::<Vec<_>>().concat(), expected);
                assert!(slices.iter().all(|slice| !slice.is_empty()));
                let named = body.bytes_in(from, count, 3);
                assert_eq!(named, slices.iter().take(3).map(|slice| slice.len()).sum::<usize>());
            }
        }
    }
}

#[test]
fn short_segments_are_joined_in_order_as_far_as_the_pool_has_room() {
    let mut pool = pool(3 * BUFFER_BYTES_MAX);
    let bytes = numbered(9_000);
    let mut body = Body::new();
    // Runs of five short ones between long ones, and a short one that has no neighbour.
    let mut rest = &*bytes;
    for piece_bytes in [3, 4, 5, 6, 7, 4_000, 1, 4_000, 8, 9, 10] {
        let (piece, behind) = rest.split_at(piece_bytes);
        let mut buffer = pool.buffer(piece_bytes).unwrap();
        buffer.put_slice(piece);
        body.push(buffer.split(), &mut pool).unwrap();
        rest = behind;
    }
    let expected = &bytes[..body.len()];
    let copied = pool.stats().body_copied_bytes;
    let held: Vec<_> = std::iter::from_fn(|| pool.buffer(256).ok()).collect();
    assert!(body.join_short(4_000, &mut pool).is_err(), "no buffer for the list");
    assert!(body == *expected && body.segment_count() == 11, "it stays as it was");
    let mut segments = body.segments().cloned().collect();
    join_short_segments(&mut segments, 4_000, &mut pool);
    assert_eq!(segments.len(), 11, "no buffer to join into");
    assert_eq!(segments.iter().map(|segment| &**segment).collect::<Vec<_>>().concat(), expected);
    drop(segments);
    drop(held);
    body.join_short(4_000, &mut pool).unwrap();
    assert!(body == *expected);
    let lengths: Vec<_> = body.segments().map(|segment| segment.len()).collect();
    assert_eq!(lengths, [25, 4_000, 1, 4_000, 27]);
    assert_eq!(pool.stats().body_copied_bytes - copied, 25 + 27);
}
