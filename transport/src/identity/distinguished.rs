//! The names of subjects and issuers in certificates, for messages.

use super::der::Der;

/// A distinguished name as people write it, `"CN=shop, O=Shop Ltd"`, from its DER without the outermost header. It comes
/// from strangers: it is quoted, cut off, and what is not understood is left out.
pub(super) fn describe(name: &[u8]) -> String {
    let mut parts = Vec::new();
    let mut sets = Der(name);
    while let Some((_, set)) = sets.next() {
        let mut pairs = Der(set);
        while let Some((_, pair)) = pairs.next() {
            let mut pair = Der(pair);
            if let (Some((OBJECT_ID, id)), Some((_, value))) = (pair.next(), pair.next())
                && let Some((_, short)) = SHORT.iter().find(|(known, _)| *known == id)
            {
                parts.push(format!("{short}={}", String::from_utf8_lossy(value)));
            }
        }
    }
    match &*parts.join(", ") {
        "" => "an authority without a name".into(),
        text => format!("{:?}", text.chars().take(MAX_CHARS).collect::<String>()),
    }
}

const OBJECT_ID: u8 = 6;
const SHORT: [(&[u8], &str); 4] =
    [(&[0x55, 4, 3], "CN"), (&[0x55, 4, 10], "O"), (&[0x55, 4, 11], "OU"), (&[0x55, 4, 6], "C")];
/// Longer names are cut off.
const MAX_CHARS: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_as_people_write_it_and_nothing_in_it_breaks_a_line() {
        let pair = |id: u8, text: &str| {
            let mut pair = vec![6, 3, 0x55, 4, id, 0x0c, text.len() as u8];
            pair.extend(text.as_bytes());
            let mut set = vec![0x31, pair.len() as u8 + 2, 0x30, pair.len() as u8];
            set.extend(pair);
            set
        };
        let name = [pair(3, "shop"), pair(9, "a street"), pair(10, "Shop\nLtd")].concat();
        assert_eq!(describe(&name), r#""CN=shop, O=Shop\nLtd""#);
        for end in 0..name.len() {
            describe(&name[..end]);
        }
        assert_eq!(describe(&[]), "an authority without a name");
        assert!(describe(&pair(3, &"x".repeat(110))).len() < 130);
    }
}
