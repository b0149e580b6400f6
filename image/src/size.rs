//! Sizes as operators write them: `64M`, `4G`, plain bytes. Powers of 1024, as `truncate` and `qemu-img` read them.

use crate::error::{Error, Result};

const UNITS: &[(char, u32)] = &[('K', 10), ('M', 20), ('G', 30), ('T', 40)];

pub fn parse(text: &str) -> Result<u64> {
    let bad = |problem: &str| Error::Size {
        text: text.to_owned(),
        problem: problem.to_owned(),
    };
    let plain = text.trim().trim_end_matches("iB").to_ascii_uppercase();
    let unit = UNITS.iter().find(|(letter, _)| plain.ends_with(*letter));
    let (digits, shift) = match unit {
        Some((letter, shift)) => (plain.trim_end_matches(*letter), *shift),
        None => (plain.as_str(), 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| bad("not a size: write for example 4G, 512M or a number of bytes"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| bad("larger than any disk"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [
            ("4G", 4 << 30),
            ("512MiB", 512 << 20),
            ("1k", 1024),
            ("77", 77),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "G", "-1", "4X", "99999999T"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
