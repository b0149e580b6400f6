//! The client against a scripted server, in numbers instead of time.

use super::*;
use proptest::prelude::*;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const RIVAL: Mac = Mac([0x52, 0x54, 0, 0, 0, 9]);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 1);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn settings() -> Settings {
    Settings {
        mac: MAC,
        hostname: Some("node-1".into()),
        probe: Timing::QUICK,
    }
}

fn client(lease: Option<Lease>) -> Client {
    Client::new(settings(), 42, lease, s(0))
}

/// The one message among the effects.
fn sent(effects: &[Effect]) -> (Transport, Message) {
    let mut all = effects.iter().filter_map(|e| match e {
        Effect::Send(to, bytes) => Some((*to, Message::parse(bytes).unwrap())),
        _ => None,
    });
    let one = all
        .next()
        .unwrap_or_else(|| panic!("nothing sent in {effects:?}"));
    assert!(all.next().is_none(), "two messages in {effects:?}");
    one
}

fn reply(to: &Message, kind: MessageType, last: u8, lease: u32) -> Vec<u8> {
    let mut message = Message::new(Op::Reply, kind, to.xid, MAC);
    message.options.set_ip(code::SERVER_ID, SERVER);
    if kind != MessageType::Nak {
        message.yours = Ipv4Addr::new(192, 168, 50, last);
        message
            .options
            .set_ip(code::SUBNET_MASK, Ipv4Addr::new(255, 255, 255, 0))
            .set_ip(code::ROUTER, SERVER)
            .set_u32(code::LEASE_TIME, lease);
    }
    message.emit()
}

/// Polls at every deadline until `stop` or `limit`.
fn run(
    client: &mut Client,
    limit: Duration,
    mut stop: impl FnMut(&Effect) -> bool,
) -> (Duration, Vec<Effect>) {
    let mut all = Vec::new();
    loop {
        let Some(at) = client.poll_at().filter(|at| *at <= limit) else {
            return (limit, all);
        };
        let effects = client.poll(at);
        let done = effects.iter().any(&mut stop);
        all.extend(effects);
        if done {
            return (at, all);
        }
    }
}

/// A client bound to .11 for `lease` seconds; says when.
fn bound(lease: u32) -> (Client, Duration) {
    let mut client = client(None);
    let (_, discover) = sent(&client.link_up(s(0)));
    let (_, request) =
        sent(&client.receive(s(0), &reply(&discover, MessageType::Offer, 11, lease)));
    let effects = client.receive(s(0), &reply(&request, MessageType::Ack, 11, lease));
    assert_eq!(
        effects,
        [Effect::Arp(arp::Packet::probe(
            MAC,
            Ipv4Addr::new(192, 168, 50, 11)
        ))]
    );
    let (at, effects) = run(&mut client, s(5), |e| matches!(e, Effect::Configure(_)));
    assert!(effects.contains(&Effect::Arp(arp::Packet::announcement(
        MAC,
        Ipv4Addr::new(192, 168, 50, 11)
    ))));
    assert_eq!(client.state(), "BOUND");
    (client, at)
}

#[test]
fn four_messages_and_a_probe_make_a_lease() {
    let mut client = client(None);
    let (to, discover) = sent(&client.link_up(s(0)));
    assert_eq!(
        (to, discover.kind()),
        (Transport::Broadcast, Ok(MessageType::Discover))
    );
    assert_eq!(
        discover.options.get(code::CLIENT_ID),
        Some(&[1, 2, 0, 0, 0, 0, 1][..])
    );
    assert_eq!(
        discover.options.text(code::HOST_NAME),
        Ok(Some("node-1".into()))
    );
    let (_, request) = sent(&client.receive(s(1), &reply(&discover, MessageType::Offer, 11, 3600)));
    assert_eq!(request.kind(), Ok(MessageType::Request));
    assert_eq!(request.options.ip(code::SERVER_ID), Ok(Some(SERVER)));
    assert_eq!(
        request.options.ip(code::REQUESTED_ADDRESS),
        Ok(Some(Ipv4Addr::new(192, 168, 50, 11)))
    );
    assert_eq!(request.client, Ipv4Addr::UNSPECIFIED);
    let (client, at) = bound(3600);
    assert_eq!(
        (client.lease().unwrap().address.to_string(), at),
        ("192.168.50.11/24".into(), Duration::from_millis(700))
    );
}

#[test]
fn silence_is_asked_again_with_growing_pauses_forever() {
    let mut client = client(None);
    client.link_up(s(0));
    let (_, effects) = run(&mut client, s(120), |_| false);
    let count = effects.len();
    assert!(
        (7..=14).contains(&count),
        "{count} discovers in two minutes"
    );
}

#[test]
fn replies_for_others_are_not_heard() {
    let mut client = client(None);
    let (_, discover) = sent(&client.link_up(s(0)));
    let mut other = discover.clone();
    other.xid ^= 1;
    assert!(
        client
            .receive(s(0), &reply(&other, MessageType::Offer, 11, 3600))
            .is_empty()
    );
    let mut neighbour = Message::parse(&reply(&discover, MessageType::Offer, 11, 3600)).unwrap();
    neighbour.mac = RIVAL;
    assert!(client.receive(s(0), &neighbour.emit()).is_empty());
    assert_eq!(client.state(), "SELECTING");
}

#[test]
fn taken_address_is_declined_and_asked_again_after_ten_seconds() {
    let mut client = client(None);
    let (_, discover) = sent(&client.link_up(s(0)));
    let (_, request) = sent(&client.receive(s(0), &reply(&discover, MessageType::Offer, 11, 3600)));
    client.receive(s(0), &reply(&request, MessageType::Ack, 11, 3600));
    let address = Ipv4Addr::new(192, 168, 50, 11);
    let effects = client.hear_arp(s(0), &arp::Packet::announcement(RIVAL, address));
    assert_eq!(
        effects[0],
        Effect::Duplicate {
            address: "192.168.50.11/24".parse().unwrap(),
            mac: RIVAL
        }
    );
    let (_, decline) = sent(&effects);
    assert_eq!(
        (decline.kind(), decline.options.ip(code::REQUESTED_ADDRESS)),
        (Ok(MessageType::Decline), Ok(Some(address)))
    );
    assert_eq!((client.lease(), client.poll_at()), (None, Some(s(10))));
    let (_, discover) = sent(&client.poll(s(10)));
    assert_eq!(discover.kind(), Ok(MessageType::Discover));
}

#[test]
fn renewal_goes_to_the_granting_server_from_the_address() {
    let (mut client, _) = bound(3600);
    assert_eq!(client.poll_at(), Some(s(1800)));
    let (to, request) = sent(&client.poll(s(1800)));
    let address = Ipv4Addr::new(192, 168, 50, 11);
    assert_eq!(
        to,
        Transport::Unicast {
            from: address,
            to: SERVER
        }
    );
    assert_eq!(
        (
            request.client,
            request.options.ip(code::SERVER_ID),
            request.options.ip(code::REQUESTED_ADDRESS)
        ),
        (address, Ok(None), Ok(None))
    );
    let effects = client.receive(s(1801), &reply(&request, MessageType::Ack, 11, 3600));
    assert!(
        matches!(&effects[..], [Effect::Configure(lease)] if lease.since == s(1800)),
        "{effects:?}"
    );
    assert_eq!(client.poll_at(), Some(s(3600)));
}

#[test]
fn silent_server_leads_to_rebinding_and_then_to_the_end_of_the_lease() {
    let (mut client, _) = bound(3600);
    let (at, effects) = run(&mut client, s(3599), |e| {
        matches!(e, Effect::Send(Transport::Rebind { .. }, _))
    });
    assert_eq!(at, s(3150));
    assert!(effects.len() > 3, "renewal was tried several times");
    let (at, effects) = run(&mut client, s(3700), |e| {
        matches!(e, Effect::Deconfigure(_))
    });
    assert_eq!((at, client.state()), (s(3600), "SELECTING"), "{effects:?}");
}

#[test]
fn another_server_extends_the_lease_while_rebinding() {
    let (mut client, _) = bound(3600);
    client.poll(s(1800));
    let (_, request) = sent(&client.poll(s(3150)));
    let mut ack = Message::parse(&reply(&request, MessageType::Ack, 11, 3600)).unwrap();
    ack.options
        .set_ip(code::SERVER_ID, Ipv4Addr::new(192, 168, 50, 2));
    let effects = client.receive(s(3151), &ack.emit());
    assert!(
        matches!(&effects[..], [Effect::Configure(_)]),
        "{effects:?}"
    );
}

#[test]
fn cable_back_on_the_same_network_keeps_the_address_without_a_gap() {
    let (mut client, _) = bound(3600);
    client.link_down();
    assert_eq!(client.poll_at(), None);
    let (_, request) = sent(&client.link_up(s(120)));
    assert_eq!(
        request.options.ip(code::REQUESTED_ADDRESS),
        Ok(Some(Ipv4Addr::new(192, 168, 50, 11)))
    );
    assert_eq!(
        (request.options.ip(code::SERVER_ID), request.client),
        (Ok(None), Ipv4Addr::UNSPECIFIED)
    );
    let effects = client.receive(s(121), &reply(&request, MessageType::Ack, 11, 3600));
    assert!(
        matches!(&effects[..], [Effect::Configure(_)]),
        "{effects:?}"
    );
}

#[test]
fn cable_back_on_another_network_is_refused_and_gets_a_new_lease_at_once() {
    let (mut client, _) = bound(3600);
    client.link_down();
    let (_, request) = sent(&client.link_up(s(120)));
    let effects = client.receive(s(120), &reply(&request, MessageType::Nak, 0, 0));
    assert!(matches!(&effects[0], Effect::Deconfigure(_)));
    let (_, discover) = sent(&effects);
    let (_, request) =
        sent(&client.receive(s(120), &reply(&discover, MessageType::Offer, 77, 3600)));
    client.receive(s(120), &reply(&request, MessageType::Ack, 77, 3600));
    let (at, _) = run(&mut client, s(130), |e| matches!(e, Effect::Configure(_)));
    assert!(at < s(122), "{at:?}");
    assert_eq!(
        client.lease().unwrap().address.to_string(),
        "192.168.50.77/24"
    );
}

#[test]
fn cable_back_where_the_server_ignores_us_discovers_while_the_old_address_stays() {
    let (mut client, _) = bound(3600);
    client.link_down();
    client.link_up(s(120));
    let (at, effects) = run(
        &mut client,
        s(180),
        |e| matches!(e, Effect::Send(_, bytes) if Message::parse(bytes).unwrap().kind() == Ok(MessageType::Discover)),
    );
    assert!(at < s(135), "{at:?}");
    assert!(!effects.iter().any(|e| matches!(e, Effect::Deconfigure(_))));
    assert!(client.lease().is_some());
}

#[test]
fn lease_that_ended_while_the_cable_was_out_goes_when_it_is_back() {
    let (mut client, _) = bound(60);
    client.link_down();
    assert!(
        client.poll(s(100)).is_empty(),
        "nobody to disturb without a cable"
    );
    let effects = client.link_up(s(120));
    assert!(matches!(&effects[0], Effect::Deconfigure(_)));
    assert_eq!(sent(&effects).1.kind(), Ok(MessageType::Discover));
}

#[test]
fn restarted_agent_asks_for_its_remembered_lease_and_never_drops_it() {
    let (first, _) = bound(3600);
    let mut client = client(first.lease().cloned());
    let (_, request) = sent(&client.link_up(s(50)));
    assert_eq!(request.kind(), Ok(MessageType::Request));
    let effects = client.receive(s(50), &reply(&request, MessageType::Ack, 11, 3600));
    assert!(
        matches!(&effects[..], [Effect::Configure(_)]),
        "no probe against ourselves: {effects:?}"
    );
}

#[test]
fn rival_is_answered_once_and_then_given_way() {
    let (mut client, at) = bound(3600);
    let claim = arp::Packet::announcement(RIVAL, Ipv4Addr::new(192, 168, 50, 11));
    assert!(matches!(&client.hear_arp(at, &claim)[..], [Effect::Arp(_)]));
    let effects = client.hear_arp(at + s(1), &claim);
    assert!(
        matches!(
            &effects[..],
            [
                Effect::Deconfigure(_),
                Effect::Duplicate { .. },
                Effect::Send(..)
            ]
        ),
        "{effects:?}"
    );
}

#[test]
fn server_that_refuses_everything_is_not_flooded() {
    let mut client = client(None);
    let (mut now, mut sent_count) = (s(0), 0);
    let mut effects = client.link_up(now);
    while now < s(60) {
        for effect in std::mem::take(&mut effects) {
            if let Effect::Send(_, bytes) = effect {
                sent_count += 1;
                let message = Message::parse(&bytes).unwrap();
                let kind = match message.kind() {
                    Ok(MessageType::Discover) => MessageType::Offer,
                    _ => MessageType::Nak,
                };
                effects.extend(client.receive(now, &reply(&message, kind, 11, 3600)));
            }
        }
        if effects.is_empty() {
            now = client.poll_at().unwrap();
            effects = client.poll(now);
        }
    }
    assert!(sent_count < 40, "{sent_count} messages in a minute");
}

proptest! {
    #[test]
    fn any_order_of_events_keeps_the_clock_moving(events in proptest::collection::vec((0u8..8, 0u64..100), 1..60)) {
        let mut client = client(None);
        let mut now = s(0);
        let mut last: Option<Message> = None;
        for (event, pause) in events {
            now += s(pause);
            let effects = match (event, last.clone()) {
                (0, _) => client.link_up(now),
                (1, _) => { client.link_down(); Vec::new() }
                (2, Some(m)) => client.receive(now, &reply(&m, MessageType::Offer, 11, 120)),
                (3, Some(m)) => client.receive(now, &reply(&m, MessageType::Ack, 11, 120)),
                (4, Some(m)) => client.receive(now, &reply(&m, MessageType::Nak, 11, 120)),
                (5, _) => client.hear_arp(now, &arp::Packet::announcement(RIVAL, Ipv4Addr::new(192, 168, 50, 11))),
                _ => client.poll(now),
            };
            for effect in &effects {
                if let Effect::Send(_, bytes) = effect {
                    last = Some(Message::parse(bytes).unwrap());
                }
            }
            // A lease may be due for renewal the moment it is bound; after a few polls nothing is overdue, or the shell would spin.
            for _ in 0..3 {
                client.poll(now);
            }
            prop_assert!(client.poll_at().is_none_or(|at| at > now), "{} is overdue", client.state());
            prop_assert!(client.lease().is_none_or(|l| l.is_valid(now)) || client.state() == "no cable");
        }
    }
}
