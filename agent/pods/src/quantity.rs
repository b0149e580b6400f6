//! Resource quantities as numbers: parsing (`100m`, `1Gi`, `2e3`, `.5`), rounding up as Kubernetes does, canonical text.
//!
//! In: the API's strings. Out: [`Amount`], exact to 10⁻⁹ as the API promises, or `None` for what is no quantity.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A resource list of the API.
pub type List = BTreeMap<String, Quantity>;

/// Billionths of one unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(pub i128);

const NANO: i128 = 1_000_000_000;

impl Amount {
    pub fn parse(text: &str) -> Option<Amount> {
        let text = text.trim();
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let nano = scale(number, multiplier(suffix)?)?;
        Some(Amount(if negative { -nano } else { nano }))
    }

    pub fn of(q: &Quantity) -> Option<Amount> {
        Amount::parse(&q.0)
    }

    /// Whole units, rounded up.
    pub fn units(self) -> i64 {
        ceil(self.0, NANO)
    }

    /// Thousandths, rounded up.
    pub fn milli(self) -> i64 {
        ceil(self.0, NANO / 1000)
    }

    /// `self / divisor`, rounded up: what `resourceFieldRef` shows.
    pub fn divide(self, divisor: Amount) -> i64 {
        if divisor.0 <= 0 {
            return self.units();
        }
        ceil(self.0, divisor.0)
    }
}

fn ceil(value: i128, unit: i128) -> i64 {
    let whole = value.div_euclid(unit);
    let up = i128::from(value.rem_euclid(unit) != 0);
    i64::try_from(whole + up).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// (numerator, denominator) in units.
fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "n" => (1, NANO),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "" => (1, 1),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (NANO, 1),
        "T" => (NANO * 1000, 1),
        "P" => (NANO * 1_000_000, 1),
        "E" => (NANO * NANO, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let power: i32 = digits.parse().ok()?;
            let value = 10i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, value) } else { (value, 1) }
        }
    })
}

/// Digits with at most one point, times the multiplier, in billionths, rounded up and capped at 2⁶³−1 units.
fn scale(number: &str, (mul, div): (i128, i128)) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    // More digits than this cannot change a value that is capped at 2^63 and exact to 10^-9.
    let fraction = &fraction[..fraction.len().min(15)];
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let places = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let cap = i128::from(i64::MAX) * NANO;
    let Some(value) = digits.checked_mul(mul).and_then(|v| v.checked_mul(NANO)) else {
        return Some(cap);
    };
    let unit = places.checked_mul(div)?;
    Some((value / unit + i128::from(value % unit != 0)).min(cap))
}

/// Thousandths of a CPU, as text: `250m`, `2`.
pub fn cpu(milli: u64) -> Quantity {
    Quantity(if milli.is_multiple_of(1000) {
        (milli / 1000).to_string()
    } else {
        format!("{milli}m")
    })
}

/// Bytes as text, in the largest binary unit that is exact (the canonical form).
pub fn bytes(value: u64) -> Quantity {
    for (shift, unit) in [
        (60, "Ei"),
        (50, "Pi"),
        (40, "Ti"),
        (30, "Gi"),
        (20, "Mi"),
        (10, "Ki"),
    ] {
        if value >= 1 << shift && value.is_multiple_of(1 << shift) {
            return Quantity(format!("{}{unit}", value >> shift));
        }
    }
    Quantity(value.to_string())
}

/// A plain count.
pub fn count(value: u64) -> Quantity {
    Quantity(value.to_string())
}

/// Thousandths of a named resource in a list; zero when absent.
pub fn milli(list: Option<&List>, name: &str) -> u64 {
    amount(list, name).map_or(0, |a| u64::try_from(a.milli()).unwrap_or(0))
}

/// Whole units of a named resource in a list; zero when absent.
pub fn units(list: Option<&List>, name: &str) -> u64 {
    amount(list, name).map_or(0, |a| u64::try_from(a.units()).unwrap_or(0))
}

/// A named resource in a list.
pub fn amount(list: Option<&List>, name: &str) -> Option<Amount> {
    Amount::of(list?.get(name)?)
}

/// Do two quantities mean the same, however they are written?
pub fn same(a: &Quantity, b: &Quantity) -> bool {
    a.0 == b.0 || (Amount::of(a).is_some() && Amount::of(a) == Amount::of(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_parse_as_upstream_does() {
        let check = |text: &str, milli: Option<i64>| {
            assert_eq!(Amount::parse(text).map(Amount::milli), milli, "{text}");
        };
        check("1", Some(1000));
        check("100m", Some(100));
        check(".5", Some(500));
        check("1.5", Some(1500));
        check("1.", Some(1000));
        check("0.1m", Some(1));
        check("1n", Some(1));
        check("2k", Some(2_000_000));
        check("1Ki", Some(1_024_000));
        check("1e3", Some(1_000_000));
        check("5E-1", Some(500));
        check("-1", Some(-1000));
        check("", None);
        check(".", None);
        check("1.2.3", None);
        check("1x", None);
        check("e3", None);
        check("1e999", None);
        assert_eq!(Amount::parse("1Gi").unwrap().units(), 1 << 30);
        assert_eq!(Amount::parse("8Ei").unwrap().units(), i64::MAX);
        assert_eq!(Amount::parse("99999E").unwrap().units(), i64::MAX);
    }

    #[test]
    fn division_rounds_up() {
        let a = |t| Amount::parse(t).unwrap();
        assert_eq!(a("250m").divide(a("1")), 1);
        assert_eq!(a("250m").divide(a("1m")), 250);
        assert_eq!(a("64Mi").divide(a("1Mi")), 64);
        assert_eq!(a("65M").divide(a("1Mi")), 62);
        assert_eq!(a("3").divide(a("0")), 3);
    }

    #[test]
    fn text_is_canonical() {
        assert_eq!(cpu(2000).0, "2");
        assert_eq!(cpu(1800).0, "1800m");
        assert_eq!(bytes(4096).0, "4Ki");
        assert_eq!(bytes(3 << 30).0, "3Gi");
        assert_eq!(bytes(1025 << 10).0, "1025Ki");
        assert_eq!(bytes(1000).0, "1000");
        assert!(same(&Quantity("1024Ki".into()), &Quantity("1Mi".into())));
        assert!(!same(&Quantity("1".into()), &Quantity("1Mi".into())));
    }
}
