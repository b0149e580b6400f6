//! What a server granted, as a value that can be installed, remembered in `/run` and asked for again.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Error, Message, code};
use crate::net::Ipv4Net;

/// RFC 2131 has no lower bound; shorter leases would keep the client busy without use.
const MIN_LEASE: u32 = 10;
/// RFC 791: every link carries 68; Kubernetes does not work below 576.
const MIN_MTU: u16 = 576;

/// A route of option 121 or 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticRoute {
    /// Where to.
    pub destination: Ipv4Net,
    /// The router; unspecified means "on this link" (RFC 3442).
    pub via: Ipv4Addr,
}

/// A lease. Times are monotonic since boot: a lease is remembered in `/run`, which does not outlive the boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Address and prefix length.
    pub address: Ipv4Net,
    /// Who granted it.
    pub server: Ipv4Addr,
    /// When the request that was granted was sent.
    pub since: Duration,
    /// Seconds; `None` is forever.
    pub duration: Option<u32>,
    /// Seconds until renewal is tried.
    pub renew: u32,
    /// Seconds until any server will do.
    pub rebind: u32,
    /// The default route and others.
    pub routes: Vec<StaticRoute>,
    /// Option 6.
    pub nameservers: Vec<Ipv4Addr>,
    /// Options 119 and 15.
    pub search: Vec<String>,
    /// Option 12.
    pub hostname: Option<String>,
    /// Option 26.
    pub mtu: Option<u16>,
    /// Option 42.
    pub ntp: Vec<Ipv4Addr>,
    /// Optional options that were broken and left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<u8>,
}

impl Lease {
    /// Reads an OFFER or ACK. An optional option that is broken is left out and named in `ignored`.
    pub fn from_reply(message: &Message, since: Duration) -> Result<Self, Error> {
        let options = &message.options;
        let server = options
            .ip(code::SERVER_ID)?
            .ok_or(Error::OptionMissing(code::SERVER_ID))?;
        let mask = options
            .ip(code::SUBNET_MASK)?
            .unwrap_or_else(|| classful_mask(message.yours));
        let address =
            Ipv4Net::from_mask(message.yours, mask).ok_or(Error::OptionValue(code::SUBNET_MASK))?;
        if !assignable(message.yours) {
            return Err(Error::OptionValue(code::REQUESTED_ADDRESS));
        }
        let granted = options
            .u32(code::LEASE_TIME)?
            .ok_or(Error::OptionMissing(code::LEASE_TIME))?;
        let duration = (granted != u32::MAX).then_some(granted.max(MIN_LEASE));
        let mut ignored = Vec::new();
        let (renew, rebind) = times(duration, message, &mut ignored);
        Ok(Self {
            address,
            server,
            since,
            duration,
            renew,
            rebind,
            routes: routes(message, &mut ignored),
            nameservers: optional(
                options.ips(code::DNS_SERVERS),
                code::DNS_SERVERS,
                &mut ignored,
            ),
            search: search(message, &mut ignored),
            hostname: optional(options.text(code::HOST_NAME), code::HOST_NAME, &mut ignored),
            mtu: optional(
                options.u16(code::INTERFACE_MTU),
                code::INTERFACE_MTU,
                &mut ignored,
            )
            .filter(|mtu| *mtu >= MIN_MTU),
            ntp: optional(
                options.ips(code::NTP_SERVERS),
                code::NTP_SERVERS,
                &mut ignored,
            ),
            ignored,
        })
    }

    /// When the address must go.
    pub fn expires_at(&self) -> Option<Duration> {
        self.duration
            .map(|s| self.since + Duration::from_secs(s.into()))
    }

    /// T1.
    pub fn renew_at(&self) -> Option<Duration> {
        self.duration
            .map(|_| self.since + Duration::from_secs(self.renew.into()))
    }

    /// T2.
    pub fn rebind_at(&self) -> Option<Duration> {
        self.duration
            .map(|_| self.since + Duration::from_secs(self.rebind.into()))
    }

    /// Whether the address may be used at `now`.
    pub fn is_valid(&self, now: Duration) -> bool {
        self.expires_at().is_none_or(|end| now < end)
    }

    /// Seconds left at `now`; `None` is forever.
    pub fn remaining(&self, now: Duration) -> Option<u32> {
        self.expires_at()
            .map(|end| u32::try_from(end.saturating_sub(now).as_secs()).unwrap_or(u32::MAX - 1))
    }

    /// The router of the default route.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.routes
            .iter()
            .find(|r| r.destination.prefix() == 0 && !r.via.is_unspecified())
            .map(|r| r.via)
    }
}

fn optional<T: Default>(value: Result<T, Error>, code: u8, ignored: &mut Vec<u8>) -> T {
    value.unwrap_or_else(|_| {
        ignored.push(code);
        T::default()
    })
}

fn assignable(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_broadcast())
}

/// RFC 950 defaults, for servers that send no mask.
fn classful_mask(address: Ipv4Addr) -> Ipv4Addr {
    match address.octets()[0] {
        0..=127 => Ipv4Addr::new(255, 0, 0, 0),
        128..=191 => Ipv4Addr::new(255, 255, 0, 0),
        _ => Ipv4Addr::new(255, 255, 255, 0),
    }
}

/// T1 and T2: the server's, if they are in order; else half and seven eighths (RFC 2131 4.4.5).
fn times(duration: Option<u32>, message: &Message, ignored: &mut Vec<u8>) -> (u32, u32) {
    let Some(duration) = duration else {
        return (u32::MAX, u32::MAX);
    };
    let rebind = optional(
        message.options.u32(code::REBINDING_TIME),
        code::REBINDING_TIME,
        ignored,
    )
    .filter(|t2| *t2 < duration)
    .unwrap_or((u64::from(duration) * 7 / 8) as u32);
    let renew = optional(
        message.options.u32(code::RENEWAL_TIME),
        code::RENEWAL_TIME,
        ignored,
    )
    .filter(|t1| *t1 < rebind)
    .unwrap_or((duration / 2).min(rebind));
    (renew, rebind)
}

/// Option 121 replaces option 3 when present (RFC 3442).
fn routes(message: &Message, ignored: &mut Vec<u8>) -> Vec<StaticRoute> {
    if let Some(value) = message.options.get(code::CLASSLESS_ROUTES) {
        match classless(value) {
            Some(routes) => return routes,
            None => ignored.push(code::CLASSLESS_ROUTES),
        }
    }
    optional(message.options.ips(code::ROUTER), code::ROUTER, ignored)
        .first()
        .filter(|via| assignable(**via))
        .map(|via| StaticRoute {
            destination: default_destination(),
            via: *via,
        })
        .into_iter()
        .collect()
}

fn default_destination() -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).expect("0 is at most 32")
}

/// Prefix length, as many octets of the destination as it covers, router; repeated.
fn classless(mut value: &[u8]) -> Option<Vec<StaticRoute>> {
    let mut routes = Vec::new();
    while let [prefix, rest @ ..] = value {
        let (significant, rest) = rest.split_at_checked(usize::from(*prefix).div_ceil(8))?;
        let (via, rest) = rest.split_at_checked(4)?;
        let mut octets = [0; 4];
        octets
            .get_mut(..significant.len())?
            .copy_from_slice(significant);
        let via: [u8; 4] = via.try_into().ok()?;
        routes.push(StaticRoute {
            destination: Ipv4Net::new(octets.into(), *prefix)?.trunc(),
            via: via.into(),
        });
        value = rest;
    }
    Some(routes)
}

/// Option 119 (RFC 3397) if present, else the one name of option 15.
fn search(message: &Message, ignored: &mut Vec<u8>) -> Vec<String> {
    if let Some(value) = message.options.get(code::DOMAIN_SEARCH) {
        match domain_list(value) {
            Some(list) => return list,
            None => ignored.push(code::DOMAIN_SEARCH),
        }
    }
    let name = optional(
        message.options.text(code::DOMAIN_NAME),
        code::DOMAIN_NAME,
        ignored,
    );
    // Some servers put several names into option 15.
    name.iter()
        .flat_map(|n| n.split_whitespace())
        .map(str::to_owned)
        .collect()
}

/// DNS names with compression pointers into the same option.
fn domain_list(value: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < value.len() {
        let (name, next) = domain_name(value, at)?;
        names.push(name);
        at = next;
    }
    Some(names)
}

/// One name and where the next begins. Pointers must go backwards, so this ends.
fn domain_name(value: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut at, mut end, mut name) = (start, None, String::new());
    loop {
        let len = *value.get(at)?;
        match len {
            0 => return (!name.is_empty()).then(|| (name, end.unwrap_or(at + 1))),
            1..=63 => {
                let label =
                    std::str::from_utf8(value.get(at + 1..at + 1 + usize::from(len))?).ok()?;
                if !label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                    || name.len() > 253
                {
                    return None;
                }
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(label);
                at += 1 + usize::from(len);
            }
            0xc0.. => {
                let target = usize::from(len & 0x3f) << 8 | usize::from(*value.get(at + 1)?);
                end = end.or(Some(at + 2));
                if target >= at {
                    return None;
                }
                at = target;
                if name.len() > 253 {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MessageType, Op};
    use super::*;
    use crate::net::Mac;

    fn ack(fill: impl FnOnce(&mut super::super::Options)) -> Result<Lease, Error> {
        let mut message = Message::new(Op::Reply, MessageType::Ack, 1, Mac([2, 0, 0, 0, 0, 1]));
        message.yours = Ipv4Addr::new(192, 168, 50, 11);
        message
            .options
            .set_ip(code::SERVER_ID, Ipv4Addr::new(192, 168, 50, 1))
            .set_ip(code::SUBNET_MASK, Ipv4Addr::new(255, 255, 255, 0))
            .set_u32(code::LEASE_TIME, 3600);
        fill(&mut message.options);
        Lease::from_reply(&message, Duration::from_secs(100))
    }

    #[test]
    fn times_default_to_half_and_seven_eighths() {
        let lease = ack(|_| {}).unwrap();
        assert_eq!((lease.renew, lease.rebind), (1800, 3150));
        assert_eq!(lease.expires_at(), Some(Duration::from_secs(3700)));
    }

    #[test]
    fn times_out_of_order_are_not_believed() {
        let lease = ack(|o| {
            o.set_u32(code::RENEWAL_TIME, 5000)
                .set_u32(code::REBINDING_TIME, 9999);
        })
        .unwrap();
        assert_eq!((lease.renew, lease.rebind), (1800, 3150));
    }

    #[test]
    fn lease_forever_never_renews() {
        let lease = ack(|o| {
            o.set_u32(code::LEASE_TIME, u32::MAX);
        })
        .unwrap();
        assert_eq!(
            (
                lease.duration,
                lease.renew_at(),
                lease.remaining(Duration::ZERO)
            ),
            (None, None, None)
        );
    }

    #[test]
    fn classless_routes_replace_the_router_option() {
        let lease = ack(|o| {
            o.set_ip(code::ROUTER, Ipv4Addr::new(192, 168, 50, 1));
            o.set(
                code::CLASSLESS_ROUTES,
                [0, 192, 168, 50, 254, 12, 172, 16, 0, 0, 0, 0],
            );
        })
        .unwrap();
        assert_eq!(lease.gateway(), Some(Ipv4Addr::new(192, 168, 50, 254)));
        assert_eq!(lease.routes[1].destination.to_string(), "172.16.0.0/12");
        assert!(lease.routes[1].via.is_unspecified());
    }

    #[test]
    fn broken_optional_option_is_named_and_the_rest_used() {
        let lease = ack(|o| {
            o.set(code::CLASSLESS_ROUTES, [33, 1, 2, 3]);
            o.set_ip(code::ROUTER, Ipv4Addr::new(192, 168, 50, 1));
            o.set(code::DNS_SERVERS, [1, 2, 3]);
        })
        .unwrap();
        assert_eq!(lease.ignored, [code::CLASSLESS_ROUTES, code::DNS_SERVERS]);
        assert_eq!(lease.gateway(), Some(Ipv4Addr::new(192, 168, 50, 1)));
    }

    #[test]
    fn essential_option_missing_refuses_the_lease() {
        assert_eq!(
            ack(|o| {
                o.set(code::LEASE_TIME, []);
            }),
            Err(Error::OptionLength(code::LEASE_TIME, 0))
        );
        assert_eq!(
            ack(|o| {
                o.set_ip(code::SUBNET_MASK, Ipv4Addr::new(255, 0, 255, 0));
            }),
            Err(Error::OptionValue(code::SUBNET_MASK))
        );
    }

    #[test]
    fn search_list_follows_backward_pointers_only() {
        let mut list = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04".to_vec();
        let lease = ack(|o| {
            o.set(code::DOMAIN_SEARCH, list.clone());
        })
        .unwrap();
        assert_eq!(lease.search, ["eng.apple.com", "marketing.apple.com"]);
        list.extend([0xc0, 40]);
        let lease = ack(|o| {
            o.set(code::DOMAIN_SEARCH, list);
            o.set(code::DOMAIN_NAME, *b"lan");
        })
        .unwrap();
        assert_eq!(
            (lease.search, lease.ignored),
            (vec!["lan".to_owned()], vec![code::DOMAIN_SEARCH])
        );
    }

    #[test]
    fn remembered_lease_round_trips() {
        let lease = ack(|_| {}).unwrap();
        let text = serde_json::to_string(&lease).unwrap();
        assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), lease);
    }
}
