//! Numbers of one to ten bytes: seven bits each, the lowest first, the eighth says that another follows (LEB128).

/// Appends `number`.
pub(crate) fn write(mut number: u64, to: &mut Vec<u8>) {
    while number >= MORE.into() {
        to.push(number as u8 | MORE);
        number >>= 7;
    }
    to.push(number as u8);
}

/// Takes a number from the front of `bytes`, or returns `None`: it is cut off, larger than a `u64`, or longer than it
/// need be, so that each number has one form only.
pub(crate) fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & !MORE);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & MORE == 0 {
            return (bits != 0 || shift == 0).then_some(number);
        }
    }
    None
}

const MORE: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_leave_the_rest() {
        for (number, length) in
            [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u64::MAX - 1, 10), (u64::MAX, 10)]
        {
            let mut bytes = Vec::new();
            write(number, &mut bytes);
            assert_eq!(bytes.len(), length, "{number}");
            bytes.push(99);
            let mut rest = &bytes[..];
            assert_eq!((read(&mut rest), rest), (Some(number), &[99][..]));
            assert_eq!(read(&mut &bytes[..length - 1]), None, "cut off");
        }
    }

    #[test]
    fn each_number_has_one_form() {
        assert_eq!(read(&mut &[0x80, 0x00][..]), None);
        assert_eq!(read(&mut &[0xff, 0x80, 0x00][..]), None);
    }

    #[test]
    fn numbers_beyond_64_bits_are_refused() {
        assert_eq!(read(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02][..]), None);
        assert_eq!(read(&mut &[0xff; 11][..]), None);
    }
}
