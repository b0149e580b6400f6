use expect_test::expect;

use super::*;
use crate::nft::{Chain, Hook};

#[test]
fn a_table_reads_like_nft() {
    let key = [Field::Ipv4Addr, Field::InetProto, Field::InetService];
    let mut t = Table::new(Family::Ip, "demo");
    let elements = [(
        [&[10, 96, 0, 1][..], &[6, 0, 0, 0], &[1, 187, 0, 0]]
            .concat()
            .into(),
        Element::data([&[10, 244, 1, 5][..], &[31, 144, 0, 0]].concat()),
    )];
    let map = SetSpec::map(key, [Field::Ipv4Addr, Field::InetService]);
    t.sets
        .insert("ep".to_owned(), map.with_elements(elements.into()));
    let rule = Rule::new([
        Expr::payload(Reg(0), PayloadBase::Network, 16, 4),
        Expr::Meta {
            dreg: Reg(1),
            key: MetaKey::L4Proto,
        },
        Expr::payload(Reg(2), PayloadBase::Transport, 2, 2),
        Expr::map("ep", Reg(0), Reg(3)),
        Expr::Nat {
            kind: NatKind::Dnat,
            family: Family::Ip,
            addr: Reg(3),
            port: Some(Reg(4)),
            flags: NatFlags::empty(),
        },
    ]);
    let chain = Chain::base(
        ChainKind::Nat,
        Hook::Prerouting,
        -100,
        vec![rule.comment("services")],
    );
    t.chains.insert("pre".to_owned(), chain);
    expect![[r#"
        table ip demo {
          map ep type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; {
            10.96.0.1 . tcp . 443 : 10.244.1.5 . 8080
          }
          chain pre { type nat hook prerouting priority -100; policy accept;
            dnat to ip daddr . meta l4proto . th dport map @ep comment "services"
          }
        }
    "#]]
    .assert_eq(&table(&t));
}
