//! Reads the few fields of a certificate (RFC 5280) that webpki does not show.

/// The object identifiers of a common name, and of the extension with the other names.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const OTHER_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// Tags of DER.
const INTEGER: u8 = 0x02;
const IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const LONG_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// The content of a certificate.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Certificate<'a> {
    /// In seconds since the epoch.
    pub(super) not_before: u64,
    /// In seconds since the epoch.
    pub(super) not_after: u64,
    /// The common name of its subject.
    pub(super) common_name: Option<&'a str>,
    /// Does it have the extension subjectAltName?
    pub(super) has_other_names: bool,
}

/// The tag and the length of the first value, and the bytes after them. The value itself may be cut off.
pub fn header(der: &[u8]) -> Option<(u8, usize, &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    match first {
        0..=0x7f => Some((tag, usize::from(first), rest)),
        // An indefinite length, or a value of over 4 GiB.
        0x80 | 0x85.. => None,
        // So many bytes of the length follow.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            Some((tag, bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest))
        }
    }
}

/// The rest of a list of values.
pub struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    /// The values of a list.
    #[cfg(feature = "daemon")]
    pub fn new(list: &'a [u8]) -> Values<'a> {
        Values(list)
    }

    /// The next value and its tag.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, length, rest) = header(self.0)?;
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    /// The next value, which must have this tag.
    pub fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, value)| value)
    }

    /// Skips the next value if it has this tag.
    fn skip(&mut self, tag: u8) -> Option<()> {
        if self.0.first() == Some(&tag) {
            self.next()?;
        }
        Some(())
    }
}

impl<'a> Certificate<'a> {
    /// Reads a certificate; `None` if it is malformed.
    pub(super) fn read(der: &'a [u8]) -> Option<Certificate<'a>> {
        let mut fields = Values(Values(Values(der).take(SEQUENCE)?).take(SEQUENCE)?);
        fields.skip(VERSION)?;
        fields.take(INTEGER)?;
        let (_signature, _issuer) = (fields.take(SEQUENCE)?, fields.take(SEQUENCE)?);
        let mut dates = Values(fields.take(SEQUENCE)?);
        let (not_before, not_after) = (time(dates.next()?)?, time(dates.next()?)?);
        let common_name = common_name(fields.take(SEQUENCE)?);
        let _key = fields.take(SEQUENCE)?;
        let mut has_other_names = false;
        while let Some((tag, value)) = fields.next() {
            has_other_names |= tag == EXTENSIONS && has_extension(value, OTHER_NAMES)?;
        }
        Some(Certificate { not_before, not_after, common_name, has_other_names })
    }
}

/// The last common name of a subject.
fn common_name(subject: &[u8]) -> Option<&str> {
    let (mut parts, mut found) = (Values(subject), None);
    while let Some(part) = parts.take(SET) {
        let mut part = Values(Values(part).take(SEQUENCE)?);
        if part.take(IDENTIFIER)? == COMMON_NAME {
            found = std::str::from_utf8(part.next()?.1).ok();
        }
    }
    found
}

fn has_extension(extensions: &[u8], wanted: &[u8]) -> Option<bool> {
    let mut extensions = Values(Values(extensions).take(SEQUENCE)?);
    while let Some(extension) = extensions.take(SEQUENCE) {
        if Values(extension).take(IDENTIFIER)? == wanted {
            return Some(true);
        }
    }
    Some(false)
}

/// A date in seconds since the epoch: `YYMMDDHHMMSSZ`, or with a year of four digits.
fn time((tag, text): (u8, &[u8])) -> Option<u64> {
    let digits = std::str::from_utf8(text.strip_suffix(b"Z")?).ok()?;
    let is_long = match (tag, digits.len()) {
        (UTC_TIME, 12) => false,
        (LONG_TIME, 14) => true,
        _ => return None,
    };
    let (year, rest) = digits.split_at_checked(if is_long { 4 } else { 2 })?;
    let year: u64 = year.parse().ok()?;
    let year = match (is_long, year) {
        (true, year) => year,
        (false, 50..) => 1900 + year,
        (false, _) => 2000 + year,
    };
    let part = |at: usize| rest.get(at..at + 2).and_then(|digits| digits.parse::<u64>().ok());
    let seconds = part(4)? * 3600 + part(6)? * 60 + part(8)?;
    Some(days(year, part(0)?, part(2)?)? * 86_400 + seconds)
}

/// Days since the epoch. Dates before it count as the epoch.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return (year < 1970).then_some(0);
    }
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize - 1];
    let is_leap = leaps(year) > leaps(year - 1);
    let leap_day = u64::from(is_leap && month > 2);
    Some((year - 1970) * 365 + leaps(year - 1) - leaps(1969) + before + leap_day + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_count_from_the_epoch() {
        for (tag, text, seconds) in [
            (UTC_TIME, "700101000000Z", 0),
            (UTC_TIME, "240229235959Z", 1_709_251_199),
            (UTC_TIME, "240301000000Z", 1_709_251_200),
            (UTC_TIME, "491231235959Z", 2_524_607_999),
            (LONG_TIME, "20500101000000Z", 2_524_608_000),
            (LONG_TIME, "21000301000000Z", 4_107_542_400),
            (LONG_TIME, "99991231235959Z", 253_402_300_799),
            (UTC_TIME, "500101000000Z", 0),
        ] {
            assert_eq!(time((tag, text.as_bytes())), Some(seconds), "{text}");
        }
        for bad in
            ["", "Z", "240229235959", "20240229235959Z", "241329235959Z", "24022923595éZ", "24022923595-Z"]
        {
            assert_eq!(time((UTC_TIME, bad.as_bytes())), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<usize>(), to in any::<u8>()) {
            Certificate::read(&bytes);
            let pair = rcgen::KeyPair::generate().unwrap();
            let mut der = rcgen::CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&pair).unwrap().der().to_vec();
            let at = at % der.len();
            der[at] = to;
            Certificate::read(&der);
            Certificate::read(&der[..at]);
        }
    }
}
