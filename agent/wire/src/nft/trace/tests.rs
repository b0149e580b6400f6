use super::super::fake::Kernel;
use super::super::{DynsetOp, Element, Family, Field, NatFlags, Reject, SetSpec, diff};
use super::*;

fn packet(destination: &str, dport: u16) -> Packet {
    Packet {
        source: "192.0.2.1".parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: 6,
        sport: 1000,
        dport,
        from: Origin::Interface,
    }
}

fn check(table: &Table, packet: Packet, expected: &str) {
    // A trace of a table the kernel would refuse says nothing.
    Kernel::default().apply(&diff(None, table)).unwrap();
    let mut tracer = Tracer::new(["192.0.2.9".parse().unwrap()]);
    assert_eq!(tracer.send(table, packet).to_string(), expected);
}

fn with(kind: ChainKind, hook: Hook, exprs: impl Into<Vec<Expr>>) -> Table {
    let mut table = Table::new(Family::Ip, "t");
    let chain = Chain::base(kind, hook, 0, vec![Rule::new(exprs)]);
    table.chains.insert("base".to_owned(), chain);
    table
}

#[test]
fn a_packet_no_rule_matches_stays_as_it_is() {
    let table = with(
        ChainKind::Filter,
        Hook::Forward,
        [
            Expr::payload(Reg(0), PayloadBase::Transport, 2, 2),
            Expr::cmp(Reg(0), CmpOp::Eq, 80u16.to_be_bytes()),
            Expr::Reject(Reject::IcmpUnreachable(3)),
        ],
    );
    check(&table, packet("10.0.0.1", 81), "untouched");
    check(&table, packet("10.0.0.1", 80), "rejected");
    // To the node itself it passes input, not forward.
    check(&table, packet("192.0.2.9", 80), "untouched");
}

#[test]
fn translation_decides_the_rest_of_the_way() {
    let mut table = with(
        ChainKind::Nat,
        Hook::Prerouting,
        [
            Expr::Immediate {
                dreg: Reg(0),
                data: Bytes::from([192, 0, 2, 9]),
            },
            Expr::Nat {
                kind: NatKind::Dnat,
                family: Family::Ip,
                addr: Reg(0),
                port: None,
                flags: NatFlags::empty(),
            },
        ],
    );
    check(&table, packet("10.0.0.1", 80), "reaches 192.0.2.9:80");
    let drop = Chain::base(
        ChainKind::Filter,
        Hook::Input,
        0,
        vec![Rule::new([Expr::Verdict(Verdict::Drop)])],
    );
    table.chains.insert("in".to_owned(), drop);
    check(&table, packet("10.0.0.1", 80), "dropped");
}

#[test]
fn an_interval_covers_each_field_for_itself() {
    let mut table = with(
        ChainKind::Filter,
        Hook::Forward,
        [
            Expr::payload(Reg(0), PayloadBase::Network, 16, 4),
            Expr::payload(Reg(1), PayloadBase::Transport, 2, 2),
            Expr::in_set("r", Reg(0)),
            Expr::Verdict(Verdict::Drop),
        ],
    );
    let spec = SetSpec {
        interval: true,
        ..SetSpec::set([Field::Ipv4Addr, Field::InetService])
    };
    let key = |last: u8, port: u8| Bytes::from([10, 0, 0, last, 0, port, 0, 0]);
    let elements = [(key(5, 80), Element::up_to(&key(9, 90)))].into();
    table
        .sets
        .insert("r".to_owned(), spec.with_elements(elements));
    check(&table, packet("10.0.0.7", 85), "dropped");
    check(&table, packet("10.0.0.7", 91), "untouched");
    check(&table, packet("10.0.0.4", 85), "untouched");
}

#[test]
fn a_learned_element_expires() {
    let mut table = with(
        ChainKind::Filter,
        Hook::Forward,
        [
            Expr::payload(Reg(0), PayloadBase::Network, 12, 4),
            Expr::in_set("seen", Reg(0)),
            Expr::Verdict(Verdict::Drop),
        ],
    );
    let spec = SetSpec {
        dynamic: true,
        timeout_ms: Some(1000),
        ..SetSpec::set([Field::Ipv4Addr])
    };
    table
        .sets
        .insert("seen".to_owned(), spec.with_elements(BTreeMap::new()));
    let learn = Rule::new([
        Expr::payload(Reg(0), PayloadBase::Network, 12, 4),
        Expr::Dynset {
            set: "seen".to_owned(),
            op: DynsetOp::Add,
            key: Reg(0),
            data: None,
            timeout_ms: None,
        },
    ]);
    table.chains.get_mut("base").unwrap().rules.push(learn);
    let mut tracer = Tracer::new([]);
    let fates: Vec<_> = [0, 999, 1500]
        .map(|now| {
            tracer.now_ms = now;
            tracer.send(&table, packet("10.0.0.1", 1)).to_string()
        })
        .into();
    assert_eq!(fates, ["untouched", "dropped", "untouched"]);
}
