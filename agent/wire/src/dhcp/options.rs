//! DHCP options: a bag of raw values by code, with typed accessors that keep "absent" apart from "broken".

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::Error;

/// Option codes this node speaks (RFC 2132; 121 is RFC 3442).
#[allow(missing_docs, reason = "the names are those of the RFC")]
pub mod code {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS_SERVERS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const INTERFACE_MTU: u8 = 26;
    pub const NTP_SERVERS: u8 = 42;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETER_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_SIZE: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const CLIENT_ID: u8 = 61;
    pub const DOMAIN_SEARCH: u8 = 119;
    pub const CLASSLESS_ROUTES: u8 = 121;
    pub const END: u8 = 255;
}

/// Option values by code. Repeated options are joined (RFC 3396).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// Reads one option area into the bag; stops quietly at `END` or at the end of the area.
    pub(super) fn read(&mut self, mut area: &[u8]) -> Result<(), Error> {
        loop {
            match area {
                [] | [code::END, ..] => return Ok(()),
                [code::PAD, rest @ ..] => area = rest,
                [code, len, rest @ ..] => {
                    let (value, rest) = rest
                        .split_at_checked(usize::from(*len))
                        .ok_or(Error::OptionCut(*code))?;
                    self.0.entry(*code).or_default().extend_from_slice(value);
                    area = rest;
                }
                [code] => return Err(Error::OptionCut(*code)),
            }
        }
    }

    /// Appends every option and `END`, splitting values longer than 255 octets (RFC 3396). The message type goes first, as old servers expect.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let first = self.0.get_key_value(&code::MESSAGE_TYPE);
        let rest = self.0.iter().filter(|(k, _)| **k != code::MESSAGE_TYPE);
        for (code, value) in first.into_iter().chain(rest) {
            if value.is_empty() {
                out.extend([*code, 0]);
            }
            for chunk in value.chunks(255) {
                // A chunk has at most 255 octets.
                out.extend([*code, chunk.len() as u8]);
                out.extend(chunk);
            }
        }
        out.push(code::END);
    }

    /// Sets a raw value.
    pub fn set(&mut self, code: u8, value: impl Into<Vec<u8>>) -> &mut Self {
        self.0.insert(code, value.into());
        self
    }

    /// Sets one address.
    pub fn set_ip(&mut self, code: u8, address: Ipv4Addr) -> &mut Self {
        self.set(code, address.octets())
    }

    /// Sets seconds.
    pub fn set_u32(&mut self, code: u8, value: u32) -> &mut Self {
        self.set(code, value.to_be_bytes())
    }

    /// The raw value.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    fn fixed<const N: usize>(&self, code: u8) -> Result<Option<[u8; N]>, Error> {
        self.get(code)
            .map(|value| {
                value
                    .try_into()
                    .map_err(|_| Error::OptionLength(code, value.len()))
            })
            .transpose()
    }

    /// One octet.
    pub fn u8(&self, code: u8) -> Result<Option<u8>, Error> {
        Ok(self.fixed::<1>(code)?.map(|[b]| b))
    }

    /// Two octets.
    pub fn u16(&self, code: u8) -> Result<Option<u16>, Error> {
        Ok(self.fixed(code)?.map(u16::from_be_bytes))
    }

    /// Four octets.
    pub fn u32(&self, code: u8) -> Result<Option<u32>, Error> {
        Ok(self.fixed(code)?.map(u32::from_be_bytes))
    }

    /// One address.
    pub fn ip(&self, code: u8) -> Result<Option<Ipv4Addr>, Error> {
        Ok(self.fixed::<4>(code)?.map(Ipv4Addr::from))
    }

    /// A list of addresses; empty when absent.
    pub fn ips(&self, code: u8) -> Result<Vec<Ipv4Addr>, Error> {
        let value = self.get(code).unwrap_or_default();
        let (quads, rest) = value.as_chunks::<4>();
        if rest.is_empty() {
            Ok(quads.iter().map(|q| Ipv4Addr::from(*q)).collect())
        } else {
            Err(Error::OptionLength(code, value.len()))
        }
    }

    /// Text, without the final zero that some servers send. Control characters mean a broken value: this text reaches /etc/resolv.conf.
    pub fn text(&self, code: u8) -> Result<Option<String>, Error> {
        let Some(value) = self.get(code) else {
            return Ok(None);
        };
        let end = value.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        match std::str::from_utf8(&value[..end]) {
            Ok(text) if !text.chars().any(|c| c.is_control()) => {
                Ok(Some(text.to_owned()).filter(|t| !t.is_empty()))
            }
            _ => Err(Error::OptionText(code)),
        }
    }
}
