//! The DHCP message: fixed BOOTP part and options (RFC 2131 figure 1).

use std::net::Ipv4Addr;

use super::options::{Options, code};
use crate::net::Mac;

const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
const OPTIONS: usize = 240;
/// RFC 1542 2.1: relays drop shorter messages.
const MIN_LEN: usize = 300;
const FLAG_BROADCAST: u16 = 0x8000;

/// Bytes that are not a DHCP message, or an option whose value is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Shorter than the fixed part.
    #[error("DHCP message of {0} octets ends before its options")]
    Short(usize),
    /// The four octets before the options are wrong: plain BOOTP.
    #[error("DHCP magic cookie is missing")]
    Cookie,
    /// Neither request nor reply.
    #[error("DHCP op {0} is neither request nor reply")]
    Op(u8),
    /// Not Ethernet.
    #[error("DHCP hardware type {0} with address length {1} is not Ethernet")]
    Hardware(u8, u8),
    /// An option runs past the end.
    #[error("DHCP option {0} runs past the end of the message")]
    OptionCut(u8),
    /// A value of the wrong length.
    #[error("DHCP option {0} has {1} octets")]
    OptionLength(u8, usize),
    /// Text that is not printable.
    #[error("DHCP option {0} is not printable text")]
    OptionText(u8),
    /// Missing where it must be.
    #[error("DHCP option {0} is missing")]
    OptionMissing(u8),
    /// A value that makes no sense.
    #[error("DHCP option {0} has an impossible value")]
    OptionValue(u8),
}

/// Direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// From a client.
    Request,
    /// From a server.
    Reply,
}

/// Option 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of RFC 2131")]
pub enum MessageType {
    Discover,
    Offer,
    Request,
    Decline,
    Ack,
    Nak,
    Release,
    Inform,
    /// Newer types that this client does not speak.
    Other(u8),
}

/// A DHCP message. `sname` and `file` are read only as option areas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Direction.
    pub op: Op,
    /// Ties replies to requests.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// The client cannot receive unicast before it is configured.
    pub broadcast: bool,
    /// The client's address, when it has one.
    pub client: Ipv4Addr,
    /// The address given.
    pub yours: Ipv4Addr,
    /// The next boot server; not the DHCP server.
    pub next_server: Ipv4Addr,
    /// The relay.
    pub relay: Ipv4Addr,
    /// The client's hardware address.
    pub mac: Mac,
    /// Everything else.
    pub options: Options,
}

impl MessageType {
    fn from_octet(octet: u8) -> Self {
        match octet {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            4 => Self::Decline,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            8 => Self::Inform,
            other => Self::Other(other),
        }
    }

    fn octet(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Offer => 2,
            Self::Request => 3,
            Self::Decline => 4,
            Self::Ack => 5,
            Self::Nak => 6,
            Self::Release => 7,
            Self::Inform => 8,
            Self::Other(octet) => octet,
        }
    }
}

impl Message {
    /// An empty message of `kind`.
    pub fn new(op: Op, kind: MessageType, xid: u32, mac: Mac) -> Self {
        let mut options = Options::default();
        options.set(code::MESSAGE_TYPE, [kind.octet()]);
        Self {
            op,
            xid,
            secs: 0,
            broadcast: false,
            client: Ipv4Addr::UNSPECIFIED,
            yours: Ipv4Addr::UNSPECIFIED,
            next_server: Ipv4Addr::UNSPECIFIED,
            relay: Ipv4Addr::UNSPECIFIED,
            mac,
            options,
        }
    }

    /// Option 53.
    pub fn kind(&self) -> Result<MessageType, Error> {
        let octet = self.options.u8(code::MESSAGE_TYPE)?;
        octet
            .map(MessageType::from_octet)
            .ok_or(Error::OptionMissing(code::MESSAGE_TYPE))
    }

    /// Reads a UDP payload.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let (fixed, area) = bytes
            .split_at_checked(OPTIONS)
            .ok_or(Error::Short(bytes.len()))?;
        if fixed[236..] != COOKIE {
            return Err(Error::Cookie);
        }
        if (fixed[1], fixed[2]) != (1, 6) {
            return Err(Error::Hardware(fixed[1], fixed[2]));
        }
        let ip = |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]);
        let mut options = Options::default();
        options.read(area)?;
        // RFC 2131 4.1: options may go on in `file` (bit 0), then in `sname` (bit 1).
        let overload = options.u8(code::OVERLOAD)?.unwrap_or(0);
        if overload & 1 != 0 {
            options.read(&fixed[FILE])?;
        }
        if overload & 2 != 0 {
            options.read(&fixed[SNAME])?;
        }
        Ok(Self {
            op: match fixed[0] {
                1 => Op::Request,
                2 => Op::Reply,
                other => return Err(Error::Op(other)),
            },
            xid: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            secs: u16::from_be_bytes([fixed[8], fixed[9]]),
            broadcast: u16::from_be_bytes([fixed[10], fixed[11]]) & FLAG_BROADCAST != 0,
            client: ip(12),
            yours: ip(16),
            next_server: ip(20),
            relay: ip(24),
            mac: Mac([
                fixed[28], fixed[29], fixed[30], fixed[31], fixed[32], fixed[33],
            ]),
            options,
        })
    }

    /// The UDP payload.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = vec![0; 236];
        out[0] = match self.op {
            Op::Request => 1,
            Op::Reply => 2,
        };
        out[1] = 1;
        out[2] = 6;
        out[4..8].copy_from_slice(&self.xid.to_be_bytes());
        out[8..10].copy_from_slice(&self.secs.to_be_bytes());
        if self.broadcast {
            out[10..12].copy_from_slice(&FLAG_BROADCAST.to_be_bytes());
        }
        out[12..16].copy_from_slice(&self.client.octets());
        out[16..20].copy_from_slice(&self.yours.octets());
        out[20..24].copy_from_slice(&self.next_server.octets());
        out[24..28].copy_from_slice(&self.relay.octets());
        out[28..34].copy_from_slice(&self.mac.0);
        out.extend(COOKIE);
        self.options.write(&mut out);
        out.resize(out.len().max(MIN_LEN), 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Message {
        let mut message = Message::new(
            Op::Reply,
            MessageType::Ack,
            0x1234_5678,
            Mac([2, 0, 0, 0, 0, 1]),
        );
        message.yours = Ipv4Addr::new(192, 168, 50, 11);
        message
            .options
            .set_ip(code::SERVER_ID, Ipv4Addr::new(192, 168, 50, 1))
            .set_u32(code::LEASE_TIME, 3600);
        message
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample().emit();
        assert_eq!(bytes.len(), MIN_LEN);
        assert_eq!(Message::parse(&bytes), Ok(sample()));
    }

    #[test]
    fn long_options_are_split_and_joined() {
        let mut message = sample();
        message.options.set(code::CLASSLESS_ROUTES, vec![7; 600]);
        assert_eq!(Message::parse(&message.emit()), Ok(message));
    }

    #[test]
    fn options_go_on_in_file_and_sname() {
        let mut message = sample();
        message.options.set(code::OVERLOAD, [3]);
        let mut bytes = message.emit();
        bytes[FILE][..5].copy_from_slice(&[code::HOST_NAME, 2, b'n', b'1', code::END]);
        bytes[SNAME][..7].copy_from_slice(&[
            code::PAD,
            code::DOMAIN_NAME,
            3,
            b'l',
            b'a',
            b'n',
            code::END,
        ]);
        let read = Message::parse(&bytes).unwrap();
        assert_eq!(read.options.text(code::HOST_NAME), Ok(Some("n1".into())));
        assert_eq!(read.options.text(code::DOMAIN_NAME), Ok(Some("lan".into())));
    }

    #[test]
    fn broken_is_not_absent() {
        let mut options = Options::default();
        assert_eq!(options.u32(code::LEASE_TIME), Ok(None));
        options.set(code::LEASE_TIME, [1, 2]);
        assert_eq!(
            options.u32(code::LEASE_TIME),
            Err(Error::OptionLength(code::LEASE_TIME, 2))
        );
        options.set(code::DOMAIN_NAME, *b"evil\nnameserver 6.6.6.6");
        assert_eq!(
            options.text(code::DOMAIN_NAME),
            Err(Error::OptionText(code::DOMAIN_NAME))
        );
    }

    #[test]
    fn cut_messages_are_refused_with_a_reason() {
        let bytes = sample().emit();
        assert_eq!(Message::parse(&bytes[..100]), Err(Error::Short(100)));
        assert_eq!(
            Message::parse(&bytes[..242]),
            Err(Error::OptionCut(code::MESSAGE_TYPE))
        );
        let mut bootp = bytes.clone();
        bootp[236] = 0;
        assert_eq!(Message::parse(&bootp), Err(Error::Cookie));
    }

    proptest! {
        #[test]
        fn parsing_any_bytes_never_panics(head in proptest::collection::vec(any::<u8>(), 0..320), valid in any::<bool>()) {
            let mut bytes = head;
            if valid {
                // Reach the options: a valid fixed part before random options.
                let mut fixed = sample().emit();
                fixed.truncate(OPTIONS);
                fixed.extend(&bytes);
                bytes = fixed;
            }
            if let Ok(message) = Message::parse(&bytes) {
                let _ = super::super::Lease::from_reply(&message, std::time::Duration::ZERO);
                prop_assert_eq!(Message::parse(&message.emit()).map(|m| m.xid), Ok(message.xid));
            }
        }
    }
}
