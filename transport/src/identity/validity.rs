//! Until when a certificate is valid. TLS checks that when a connection is made; a connection may live longer.

use std::time::Duration;

use super::der::Der;

/// The end of a certificate's validity, since 1970, from its DER (RFC 5280, section 4.1.2.5); `None` if it cannot be read.
/// TLS has read the certificate before.
pub(super) fn not_after(certificate: &[u8]) -> Option<Duration> {
    let mut certificate = Der(Der(certificate).of(SEQUENCE)?);
    let mut fields = Der(certificate.of(SEQUENCE)?);
    let (tag, _) = fields.clone().next()?;
    if tag == VERSION {
        fields.next()?;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        fields.next()?;
    }
    let mut validity = Der(fields.of(SEQUENCE)?);
    validity.next()?;
    match validity.next()? {
        (UTC_TIME, time) => {
            let (year, rest) = digits(time, 2)?;
            seconds(if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        (GENERALIZED_TIME, time) => {
            let (year, rest) = digits(time, 4)?;
            seconds(year, rest)
        }
        _ => None,
    }
}

/// `rest` is month, day, hour, minute and second, two digits each, and `Z`.
fn seconds(year: u64, rest: &[u8]) -> Option<Duration> {
    let (month, rest) = digits(rest, 2)?;
    let (day, rest) = digits(rest, 2)?;
    let (hour, rest) = digits(rest, 2)?;
    let (minute, rest) = digits(rest, 2)?;
    let (second, _) = digits(rest, 2)?;
    // Days from 1970 in a calendar whose years begin in March: a leap day is then the last of its year.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = (year * 365 + leap_days + (month * 153 + 2) / 5 + day).checked_sub(DAYS_TO_1970)?;
    Some(Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

/// A number of so many digits, and what follows it.
fn digits(text: &[u8], count: usize) -> Option<(u64, &[u8])> {
    let (number, rest) = text.split_at_checked(count)?;
    let digit = |number: u64, byte: &u8| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'));
    Some((number.iter().try_fold(0, digit)?, rest))
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The first of March of the year 0 is day 1, and the first of January 1970 this one.
const DAYS_TO_1970: u64 = 719_469;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(year, month, day);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_of_validity_is_read_in_both_forms() {
        for (year, month, day) in
            [(1999, 12, 31), (2000, 2, 29), (2024, 3, 1), (2049, 1, 1), (2050, 1, 1), (4000, 7, 9)]
        {
            let expected = date_time_ymd(year, month, day).unix_timestamp();
            let got = not_after(&certificate(year, month, day)).unwrap().as_secs();
            assert_eq!(got, u64::try_from(expected).unwrap(), "{year}-{month}-{day}");
        }
    }

    #[test]
    fn what_is_cut_off_is_no_certificate() {
        let whole = certificate(2030, 1, 1);
        for end in 0..whole.len() {
            assert_eq!(not_after(&whole[..end]), None);
        }
    }
}
