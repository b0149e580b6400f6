//! Addresses as they stand in configuration, frames and documents: [`Mac`] and [`Ipv4Net`].
//!
//! In: text or octets. Out: values that are valid by construction (a prefix length never exceeds 32).
//! Absent: IPv6, which the pod network does not speak yet, and anything that reads an interface.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An Ethernet address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// An IPv4 address with a prefix length: an interface address or, when [`Ipv4Net::is_network`], a range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Net {
    addr: Ipv4Addr,
    prefix: u8,
}

/// Text that is not an address of the wanted kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    /// Not six hexadecimal octets separated by colons.
    #[error("{0:?} is not a MAC address such as 52:54:00:12:34:56")]
    Mac(String),
    /// Not `address/prefix`.
    #[error("{0:?} is not an IPv4 address with prefix such as 192.168.1.10/24")]
    Net(String),
}

impl Mac {
    /// All ones: every station of the link.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// From a slice that a kernel or a frame gave; `None` unless it has six octets.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::Mac(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(bad)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self(octets))
    }
}

impl Ipv4Net {
    /// `None` when `prefix` exceeds 32.
    pub fn new(addr: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32).then_some(Self { addr, prefix })
    }

    /// A single address, `/32`.
    pub fn host(addr: Ipv4Addr) -> Self {
        Self { addr, prefix: 32 }
    }

    /// From a DHCP subnet mask; `None` when the ones are not contiguous.
    pub fn from_mask(addr: Ipv4Addr, mask: Ipv4Addr) -> Option<Self> {
        let bits = u32::from(mask);
        (bits.leading_ones() == bits.count_ones()).then(|| Self {
            addr,
            // A u32 has at most 32 ones.
            prefix: bits.count_ones() as u8,
        })
    }

    /// The address as written, host bits included.
    pub fn addr(&self) -> Ipv4Addr {
        self.addr
    }

    /// 0 to 32.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The netmask as bits.
    pub fn mask_bits(&self) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(self.prefix))
            .unwrap_or(0)
    }

    /// The lowest address of the range.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.addr) & self.mask_bits())
    }

    /// The highest address of the range: the broadcast address of a subnet.
    pub fn last(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.addr) | !self.mask_bits())
    }

    /// The same range with host bits cleared.
    pub fn trunc(&self) -> Self {
        Self {
            addr: self.network(),
            prefix: self.prefix,
        }
    }

    /// Whether host bits are clear.
    pub fn is_network(&self) -> bool {
        self.addr == self.network()
    }

    /// Whether `addr` lies in the range.
    pub fn contains(&self, addr: Ipv4Addr) -> bool {
        u32::from(addr) & self.mask_bits() == u32::from(self.network())
    }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

impl fmt::Debug for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Ipv4Net {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::Net(text.to_owned());
        let (addr, prefix) = text.split_once('/').ok_or_else(bad)?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        Self::new(
            addr.parse().map_err(|_| bad())?,
            prefix.parse().map_err(|_| bad())?,
        )
        .ok_or_else(bad)
    }
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_text!(Mac);
serde_as_text!(Ipv4Net);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text_round_trips_and_rejects_near_misses() {
        let mac: Mac = "52:54:00:ab:Cd:ef".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
        for bad in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:ef:00",
            "5:54:00:ab:cd:ef",
            "+2:54:00:ab:cd:ef",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn net_knows_its_range() {
        let net: Ipv4Net = "192.168.50.11/24".parse().unwrap();
        assert_eq!(net.network(), Ipv4Addr::new(192, 168, 50, 0));
        assert_eq!(net.last(), Ipv4Addr::new(192, 168, 50, 255));
        assert!(net.contains(Ipv4Addr::new(192, 168, 50, 200)));
        assert!(!net.contains(Ipv4Addr::new(192, 168, 51, 1)));
        assert!(!net.is_network() && net.trunc().is_network());
    }

    #[test]
    fn net_of_length_zero_and_32_do_not_overflow() {
        let all: Ipv4Net = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST));
        let one: Ipv4Net = "10.0.0.1/32".parse().unwrap();
        assert!(one.contains(one.addr()) && one.is_network());
        for bad in ["10.0.0.1/33", "10.0.0.1", "10.0.0.1/", "10.0.0.1/+4", "x/8"] {
            assert!(bad.parse::<Ipv4Net>().is_err(), "{bad}");
        }
    }

    #[test]
    fn mask_with_a_hole_is_refused() {
        let at = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(
            Ipv4Net::from_mask(at, Ipv4Addr::new(255, 255, 252, 0))
                .unwrap()
                .prefix(),
            22
        );
        assert_eq!(Ipv4Net::from_mask(at, Ipv4Addr::new(255, 0, 255, 0)), None);
    }
}
