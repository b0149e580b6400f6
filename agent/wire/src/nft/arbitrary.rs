//! Random tables that a kernel would accept, for properties.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

const SETS: [&str; 4] = ["members", "values", "ranges", "verdicts"];
const CHAINS: [&str; 4] = ["c0", "c1", "c2", "c3"];

fn spec(index: usize, variant: bool) -> SetSpec {
    let key = vec![Field::Ipv4Addr, Field::InetProto, Field::InetService];
    match index {
        0 => SetSpec {
            size: variant.then_some(100),
            ..SetSpec::set([Field::Ipv4Addr])
        },
        1 => SetSpec::map(key, [Field::Ipv4Addr, Field::InetService]),
        2 => SetSpec {
            interval: true,
            ..SetSpec::set([Field::Ipv4Addr, Field::InetService])
        },
        _ => SetSpec::vmap([Field::Mark]),
    }
}

fn key(spec: &SetSpec, n: u8) -> Vec<u8> {
    let mut key = vec![0; widths(&spec.key)];
    key[0] = n;
    key
}

fn set(index: usize, variant: bool, numbers: Vec<(u8, u8)>) -> Set {
    let spec = spec(index, variant);
    let element = |value: u8| match index {
        0 => Element::member(),
        1 => Element::data(vec![value, 1, 2, 3, 0, value, 0, 0]),
        2 => unreachable!("needs its key"),
        _ => Element::verdict(match value % 4 {
            0 => Verdict::Drop,
            1 => Verdict::Goto("c2".to_owned()),
            2 => Verdict::Jump("c3".to_owned()),
            _ => Verdict::Accept,
        }),
    };
    let pairs = numbers.into_iter().map(|(n, value)| {
        let start = key(&spec, n);
        let element = match index {
            2 => {
                let mut end = start.clone();
                end[3] = value;
                Element::up_to(&end)
            }
            _ => element(value),
        };
        (Bytes::from(start), element)
    });
    let elements = pairs.collect();
    Set { spec, elements }
}

fn rule() -> impl Strategy<Value = Rule> {
    let load = Expr::payload(Reg(0), PayloadBase::Network, 16, 4);
    let pick = prop_oneof![
        Just(vec![load.clone(), Expr::in_set("members", Reg(0))]),
        Just(vec![
            load.clone(),
            Expr::cmp(Reg(0), CmpOp::Eq, [10, 0, 0, 1])
        ]),
        Just(vec![
            load.clone(),
            Expr::Bitwise {
                sreg: Reg(0),
                dreg: Reg(0),
                mask: Bytes::from([255, 255, 0, 0]),
                xor: Bytes::from([0; 4]),
            },
            Expr::cmp(Reg(0), CmpOp::Neq, [10, 0, 0, 0]),
        ]),
        Just(vec![
            Expr::Ct {
                dreg: Reg(4),
                key: CtKey::State,
                direction: None
            },
            Expr::Fib {
                dreg: Reg(5),
                result: FibResult::AddrType,
                flags: FIB_SADDR
            },
            Expr::Counter,
        ]),
        Just(vec![Expr::Limit {
            rate: 10,
            unit: LimitUnit::Minute,
            burst: 5,
            over: true
        }]),
        Just(vec![
            Expr::Immediate {
                dreg: Reg(1),
                data: Bytes::from(7u32)
            },
            Expr::MetaSet {
                key: MetaKey::Mark,
                sreg: Reg(1)
            },
        ]),
    ];
    (pick, any::<bool>(), proptest::option::of("[a-z ]{1,20}")).prop_map(
        |(mut exprs, drop, comment)| {
            if drop {
                exprs.push(Expr::Verdict(Verdict::Drop));
            }
            Rule { exprs, comment }
        },
    )
}

/// A table; those drawn from the same strategy differ in sets, chains, rules, elements, and now and then in what cannot be
/// changed in place.
pub fn table() -> impl Strategy<Value = Table> {
    let sets = vec((any::<bool>(), btree_map(0u8..6, 0u8..6, 0..5)), SETS.len());
    let present = vec(any::<bool>(), SETS.len() - 1);
    let rules = vec(vec(rule(), 0..3), CHAINS.len());
    let odd = proptest::bool::weighted(0.1);
    (sets, present, rules, odd).prop_map(|(sets, present, rules, odd)| {
        let mut table = Table::new(Family::Ip, "t");
        for (index, (name, (_, numbers))) in SETS.iter().zip(sets).enumerate() {
            let kept = index == 0 || present[index - 1];
            if kept {
                let numbers = numbers.into_iter().collect();
                table
                    .sets
                    .insert((*name).to_owned(), set(index, odd, numbers));
            }
        }
        for (index, (name, rules)) in CHAINS.iter().zip(rules).enumerate() {
            let chain = match index {
                0 => Chain::base(ChainKind::Filter, Hook::Input, i32::from(odd), rules),
                _ => Chain::regular(rules),
            };
            table.chains.insert((*name).to_owned(), chain);
        }
        if table.sets.contains_key("verdicts") {
            let jump = Rule::new([
                Expr::Numgen {
                    dreg: Reg(0),
                    modulus: 3,
                    offset: 0,
                },
                Expr::vmap("verdicts", Reg(0)),
            ]);
            let chain = table.chains.get_mut("c1").unwrap();
            chain.rules.push(jump);
        }
        let chain = table.chains.get_mut("c0").unwrap();
        chain.rules.push(Rule::new([Expr::jump("c1")]));
        table
    })
}
