use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::codec::is_number;

fn written<T: 'static>(events: &[T]) -> Bytes {
    Columns::of(events).unwrap().payload(0, events.len())
}

fn read<T: 'static>(payload: &[u8], count: u64) -> Result<Vec<T>, ColumnsError> {
    let mut events = Vec::new();
    read_behind(&mut events, payload, count).map(|()| events)
}

#[track_caller]
fn comes_back<T: PartialEq + Debug + Clone + 'static>(events: &[T]) {
    let columns = Columns::of(events).unwrap();
    for (from, to) in [(0, events.len()), (0, 1), (events.len() - 1, events.len()), (events.len() / 3, events.len())] {
        let payload = columns.payload(from, to);
        assert_eq!(read::<T>(&payload, (to - from) as u64).unwrap(), events[from..to]);
        assert_eq!(columns.part(from, to).payload(0, to - from), payload);
    }
}

#[test]
fn the_bytes_are_those_of_the_page() {
    // 7 and then 10, 12, 17: differences of 3, 2 and 5, the least of which is 2; 1, 0 and 3 in two bits each.
    let expected = [&[7, 0, 0, 0, 0, 0, 0, 0][..], &[2, 0, 0, 0, 0, 0, 0, 0], &[2], &[0b11_00_01]].concat();
    assert_eq!(written(&[7_u64, 10, 12, 17]), expected);
    assert_eq!(read::<u64>(&expected, 4).unwrap(), [7, 10, 12, 17]);
    // A block of 128, and one of a single number.
    let bytes = written(&(0..130_u16).collect::<Vec<_>>());
    let head = [1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(bytes, [&[0; 8][..], &head, &head].concat());
}

#[test]
fn every_kind_of_number_comes_back_from_any_one_to_any_other() {
    macro_rules! extremes {
        ($($type:ty),*) => {$(
            comes_back::<$type>(&[<$type>::MIN, <$type>::MAX, 0 as $type, <$type>::MAX, <$type>::MIN, 1 as $type]);
            comes_back::<$type>(&vec![7 as $type; 1000]);
        )*};
    }
    extremes!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize, f32, f64);
    let parts: Vec<_> = (-2000..2000_i32).map(|n| f64::from(n) * 0.01).collect();
    comes_back(&parts);
    let nan = f64::from_bits(0x7ff8_0000_dead_beef);
    assert_eq!(read::<f64>(&written(&[nan]), 1).unwrap()[0].to_bits(), nan.to_bits());
}

#[test]
fn other_types_are_no_numbers() {
    assert!(
        Columns::of(&["text".to_owned()]).is_none()
            && Columns::of(&[(1, 2)]).is_none()
            && Columns::of(&[1_u128]).is_none()
    );
    assert!(Columns::of(&[Box::new(1_u64)]).is_none() && !is_number::<char>() && is_number::<u8>());
    assert_eq!(read::<String>(&written(&[1_u64]), 1), Err(ColumnsError::NotNumbers));
}

#[test]
fn what_follows_each_other_takes_next_to_nothing_and_nothing_takes_much_more_than_itself() {
    let numbers: Vec<u64> = (1 << 40..).take(8192).collect();
    assert_eq!(written(&numbers).len(), 8 + 64 * 9);
    let most = |count: usize| 8 + (count - 1).div_ceil(BLOCK) * 9 + (count - 1) * 8;
    for count in [1, 2, 100, 1000] {
        let random: Vec<_> = (1..=count).map(|n| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        assert!(written(&random).len() <= most(count));
    }
}

#[test]
fn a_number_that_does_not_fit_into_the_type_is_named_and_nothing_is_delivered() {
    let payload = written(&[255_u16, 254, 256]);
    let mut events = vec![9_u8];
    assert_eq!(read_behind(&mut events, &payload, 3), Err(ColumnsError::Range { index: 2, bits: 256 }));
    assert_eq!(events, [9]);
    assert!(read::<u8>(&written(&[-1_i64]), 1).is_err() && read::<i8>(&written(&[-129_i64]), 1).is_err());
    assert!(read::<f32>(&written(&[u64::MAX]), 1).is_err());
    assert_eq!(read::<i8>(&written(&[-128_i64, 127]), 2).unwrap(), [-128, 127]);
}

#[test]
fn there_are_exactly_as_many_numbers_as_announced() {
    let numbers: Vec<u64> = (0..300).map(|n| n * n).collect();
    let payload = written(&numbers);
    for count in 0..=600 {
        let read = read::<u64>(&payload, count);
        assert_eq!(read.is_ok(), count == 300, "{count} numbers");
    }
    for end in 0..payload.len() {
        assert_eq!(read::<u64>(&payload[..end], 300), Err(ColumnsError::Truncated), "{end} bytes");
    }
    let longer = [&payload[..], &[0]].concat();
    assert_eq!(read::<u64>(&longer, 300), Err(ColumnsError::Trailing { bytes: 1 }));
    assert_eq!(read::<u64>(&payload, 0), Err(ColumnsError::None));
}

#[test]
fn no_more_is_claimed_than_bytes_can_hold() {
    // Blocks in which all numbers are equal are the shortest there are.
    let blocks = [&[0; 8][..], &[0; 9]].concat();
    assert_eq!(read::<u64>(&blocks, 129).unwrap(), [0; 129]);
    for count in [130, 1 << 20, 1 << 40, u64::MAX] {
        assert_eq!(read::<u64>(&blocks, count), Err(ColumnsError::Truncated), "{count}");
    }
}

#[test]
fn a_block_has_a_width_that_there_is_and_is_filled_up_with_zeros() {
    let block = |width, bits: &[u8]| [&[0; 16][..], &[width], bits].concat();
    assert_eq!(read::<u64>(&block(64, &[0xff; 8]), 2).unwrap(), [0, u64::MAX]);
    assert_eq!(read::<u64>(&block(65, &[0; 9]), 2), Err(ColumnsError::Width { got: 65 }));
    assert_eq!(read::<u64>(&block(255, &[0; 40]), 2), Err(ColumnsError::Width { got: 255 }));
    assert_eq!(read::<u64>(&block(3, &[0b111]), 2).unwrap(), [0, 7]);
    assert_eq!(read::<u64>(&block(3, &[0b1000]), 2), Err(ColumnsError::Filling));
    assert_eq!(read::<u64>(&block(3, &[0xff, 0b1000_0001]), 4), Err(ColumnsError::Filling));
    assert_eq!(read::<u64>(&block(3, &[0xff, 0b1]), 4).unwrap(), [0, 7, 14, 21]);
}

proptest! {
    #[test]
    fn any_numbers_come_back_whatever_their_width(
        numbers in (0..64_u32).prop_flat_map(|width| vec((0..=u64::MAX).prop_map(move |bits| bits >> width), 1..400)),
        cut in any::<prop::sample::Index>(),
    ) {
        comes_back(&numbers);
        let (cut, columns) = (cut.index(numbers.len()), Columns::of(&numbers).unwrap());
        if cut > 0 {
            let mut both = Vec::<u64>::new();
            read_behind(&mut both, &columns.payload(0, cut), cut as u64).unwrap();
            read_behind(&mut both, &columns.payload(cut, numbers.len()), (numbers.len() - cut) as u64).unwrap();
            prop_assert_eq!(both, numbers);
        }
    }

    #[test]
    fn arbitrary_bytes_are_numbers_or_an_error(payload in vec(prop_oneof![Just(0_u8), any::<u8>()], 0..200), count in 0..300_u64) {
        if let Ok(numbers) = read::<u64>(&payload, count) {
            prop_assert_eq!(numbers.len() as u64, count);
            prop_assert_eq!(read::<u64>(&written(&numbers), count).unwrap(), numbers);
        }
        let _ = read::<i8>(&payload, count);
        let _ = read::<u8>(&payload, u64::MAX - count);
    }
}
