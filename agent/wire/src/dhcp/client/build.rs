//! The client's messages: which fields and options each carries (RFC 2131 tables 4 and 5).

use std::net::Ipv4Addr;

use super::{Client, Effect, Exchange, Transport};
use crate::dhcp::{Lease, Message, MessageType, Op, code};

/// What we ask for. RFC 3442: classless routes before the router.
const WANTED: [u8; 11] = [
    code::SUBNET_MASK,
    code::CLASSLESS_ROUTES,
    code::ROUTER,
    code::DNS_SERVERS,
    code::HOST_NAME,
    code::DOMAIN_NAME,
    code::INTERFACE_MTU,
    code::NTP_SERVERS,
    code::RENEWAL_TIME,
    code::REBINDING_TIME,
    code::DOMAIN_SEARCH,
];
/// The largest message we take: an Ethernet frame's worth.
const MAX_SIZE: u16 = 1472;

impl Client {
    pub(super) fn send_discover(&self, exchange: &Exchange) -> Effect {
        let mut message = self.message(MessageType::Discover, exchange);
        if let Some(held) = &self.held {
            message
                .options
                .set_ip(code::REQUESTED_ADDRESS, held.address.addr());
        }
        Effect::Send(Transport::Broadcast, message.emit())
    }

    /// SELECTING: names the server and the address.
    pub(super) fn send_request(&self, exchange: &Exchange, offer: &Lease) -> Effect {
        let mut message = self.message(MessageType::Request, exchange);
        message
            .options
            .set_ip(code::SERVER_ID, offer.server)
            .set_ip(code::REQUESTED_ADDRESS, offer.address.addr());
        Effect::Send(Transport::Broadcast, message.emit())
    }

    /// INIT-REBOOT: names the address, no server.
    pub(super) fn send_reboot(&self, exchange: &Exchange) -> Effect {
        let mut message = self.message(MessageType::Request, exchange);
        let address = self
            .held
            .as_ref()
            .map_or(Ipv4Addr::UNSPECIFIED, |held| held.address.addr());
        message.options.set_ip(code::REQUESTED_ADDRESS, address);
        Effect::Send(Transport::Broadcast, message.emit())
    }

    /// RENEWING and REBINDING: the address in `ciaddr`, neither server nor requested address.
    pub(super) fn send_extension(
        &self,
        exchange: &Exchange,
        held: &Lease,
        to: Transport,
    ) -> Effect {
        let mut message = self.message(MessageType::Request, exchange);
        message.client = held.address.addr();
        Effect::Send(to, message.emit())
    }

    pub(super) fn send_decline(&mut self, lease: &Lease) -> Effect {
        let mut message = Message::new(
            Op::Request,
            MessageType::Decline,
            self.rng.next_u32(),
            self.settings.mac,
        );
        message
            .options
            .set(code::CLIENT_ID, self.client_id())
            .set_ip(code::SERVER_ID, lease.server)
            .set_ip(code::REQUESTED_ADDRESS, lease.address.addr())
            .set(code::MESSAGE, *b"address is in use on this link");
        Effect::Send(Transport::Broadcast, message.emit())
    }

    fn message(&self, kind: MessageType, exchange: &Exchange) -> Message {
        let mut message = Message::new(Op::Request, kind, exchange.xid, self.settings.mac);
        message.secs =
            u16::try_from(exchange.sent.saturating_sub(self.started).as_secs()).unwrap_or(u16::MAX);
        message
            .options
            .set(code::CLIENT_ID, self.client_id())
            .set(code::MAX_SIZE, MAX_SIZE.to_be_bytes())
            .set(code::PARAMETER_LIST, WANTED);
        if let Some(hostname) = &self.settings.hostname {
            message.options.set(code::HOST_NAME, hostname.as_bytes());
        }
        message
    }

    /// RFC 2132 9.14: hardware type and address. Stable across boots, so the node keeps its address.
    fn client_id(&self) -> Vec<u8> {
        [&[1], &self.settings.mac.0[..]].concat()
    }
}
