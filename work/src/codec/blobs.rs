//! Events that are [`Bytes`]: short ones that come together share memory.
//!
//! To set memory aside for each event, and to give it back on another core, takes longer than everything else that is done
//! with a hundred bytes. So some events in a row are copied at once; but only few, as whoever keeps one of them keeps the
//! others as well.

use bytes::Bytes;

/// Reads events behind those that are there already, if all of them are written as bytes: `payload` is known to be whole
/// MessagePack values. `None` if one is not, and `events` is as it was then.
pub(super) fn read_behind(events: &mut Vec<Bytes>, payload: &[u8]) -> Option<()> {
    let before = events.len();
    let mut rest = payload;
    while !rest.is_empty() {
        let Some(read) = read_row(events, rest) else {
            events.truncate(before);
            return None;
        };
        rest = &rest[read..];
    }
    Some(())
}

/// Reads one event, and those behind it that are to share its memory. Returns how many bytes they take.
fn read_row(events: &mut Vec<Bytes>, payload: &[u8]) -> Option<usize> {
    let first = place(payload, 0)?;
    let (mut places, mut count, mut end) = ([first; SHARERS], 1, first.1);
    while count < SHARERS && end < payload.len() {
        let next = place(payload, end)?;
        if next.1 > SHARED_BYTES {
            break;
        }
        (places[count], end) = (next, next.1);
        count += 1;
    }
    if count == 1 {
        events.push(Bytes::copy_from_slice(&payload[first.0..first.1]));
    } else {
        let shared = Bytes::copy_from_slice(&payload[..end]);
        events.extend(places[..count].iter().map(|(from, to)| shared.slice(from..to)));
    }
    Some(end)
}

/// From where to where the bytes stand whose value begins at `at`; `None` if they are no bytes.
fn place(payload: &[u8], at: usize) -> Option<(usize, usize)> {
    let (from, length) = match payload[at..] {
        [0xc4, length, ..] => (at + 2, length.into()),
        [0xc5, a, b, ..] => (at + 3, u16::from_be_bytes([a, b]).into()),
        [0xc6, a, b, c, d, ..] => (at + 5, u32::from_be_bytes([a, b, c, d]) as usize),
        _ => return None,
    };
    let to = from.checked_add(length).filter(|to| *to <= payload.len())?;
    Some((from, to))
}

/// At most so many events share memory: whoever keeps one keeps that of 16, and the others are a sixteenth as dear.
const SHARERS: usize = 16;
/// And at most so many bytes: of longer events the copy is what takes time.
const SHARED_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::codec::{decode, encode};

    fn events(lengths: impl IntoIterator<Item = usize>) -> Vec<Bytes> {
        lengths.into_iter().enumerate().map(|(n, length)| Bytes::from(vec![n as u8; length])).collect()
    }

    fn come_back(events: &[Bytes]) -> Vec<Bytes> {
        let encoded = encode(events, &Limits::default()).unwrap();
        let decoded = decode::<Bytes>(encoded.bytes(), events.len() as u64, &Limits::default()).unwrap();
        assert_eq!(decoded, events);
        decoded
    }

    /// How many bytes lie from the first event's beginning to the last one's end; none if they do not share memory.
    fn share(events: &[Bytes]) -> bool {
        let pairs = events.windows(2).map(|pair| (pair[0].as_ptr_range().end as usize, pair[1].as_ptr() as usize));
        pairs.into_iter().all(|(end, next)| next.checked_sub(end).is_some_and(|between| between <= 5))
    }

    #[test]
    fn short_ones_share_memory_sixteen_at_a_time() {
        let mut first = come_back(&events([100; 40]));
        assert!(share(&first[..16]) && share(&first[16..32]) && share(&first[32..]));
        let others = first.split_off(16);
        first.truncate(1);
        assert!(first[0].is_unique() && others.len() == 24, "who keeps one keeps fifteen others at most");
    }

    #[test]
    fn long_ones_do_not_and_whatever_the_lengths_they_come_back() {
        let long = come_back(&events([5000, 3000, 3000, 70_000]));
        assert!(long.iter().all(Bytes::is_unique));
        come_back(&events((0..300).map(|n| n * n % 777)));
        come_back(&events([0, 0, 255, 256, 65_535, 65_536, 1, 4090, 4, 0]));
        come_back(&[]);
    }

    #[test]
    fn what_is_written_as_text_or_as_a_list_is_read_one_by_one() {
        let payload = [&[0xc4, 1, 7][..], &[0xa2, b'a', b'b'], &[0x92, 1, 2]].concat();
        let decoded = decode::<Bytes>(&payload, 3, &Limits::default()).unwrap();
        assert_eq!(decoded, [&[7][..], b"ab", &[1, 2]]);
        let mut events = vec![Bytes::from_static(b"x")];
        assert_eq!((read_behind(&mut events, &payload), events.len()), (None, 1));
        for cut in [&[0xc4][..], &[0xc4, 2, 1], &[0xc5, 0], &[0xc6, 0, 0, 0], &[0xc6, 0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(read_behind(&mut events, cut), None);
        }
    }
}
