use expect_test::expect;
use proptest::prelude::*;

use super::super::arbitrary::table;
use super::super::attr::messages;
use super::super::decode::Reader;
use super::super::{
    CmpOp, CtKey, Direction, DynsetOp, FibResult, MetaKey, NatFlags, NatKind, PayloadBase, Table,
    diff,
};
use super::*;

proptest! {
    /// What a dump reports has the same attributes as what was sent, so our own bytes serve as a dump.
    #[test]
    fn what_is_written_reads_back_the_same(a in table()) {
        let batch = batch(&diff(None, &a), 1).unwrap();
        let mut reader = Reader::new(a.family, &a.name);
        reader.buffer(&batch.bytes).unwrap();
        prop_assert_eq!(reader.finish(), a);
    }
}

/// The bytes of one expression behind its name.
fn hex(expr: Expr) -> String {
    let mut w = Writer::default();
    expression(&mut w, &expr).unwrap();
    let bytes = w.into_bytes();
    bytes
        .chunks(4)
        .map(|c| c.iter().map(|b| format!("{b:02x}")).collect::<String>())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Golden bytes: registers and numbers big-endian, data as it lies in registers. Compared once with `nft --debug=netlink` and by
/// the kernel tests of `sys` with a real kernel's answer.
#[test]
fn every_expression_has_its_bytes() {
    let mut text = String::new();
    for expr in [
        Expr::payload(Reg(0), PayloadBase::Network, 16, 4),
        Expr::Meta {
            dreg: Reg(1),
            key: MetaKey::L4Proto,
        },
        Expr::Ct {
            dreg: Reg(0),
            key: CtKey::ProtoDst,
            direction: Some(Direction::Original),
        },
        Expr::Fib {
            dreg: Reg(0),
            result: FibResult::AddrType,
            flags: 1,
        },
        Expr::Numgen {
            dreg: Reg(3),
            modulus: 2,
            offset: 0,
        },
        Expr::cmp(Reg(0), CmpOp::Eq, [0x0a, 0x60, 0, 1]),
        Expr::vmap("v", Reg(3)),
        Expr::map("m", Reg(0), Reg(4)),
        Expr::jump("c"),
        Expr::Nat {
            kind: NatKind::Dnat,
            family: Family::Ip,
            addr: Reg(4),
            port: Some(Reg(5)),
            flags: NatFlags::empty(),
        },
        Expr::Masquerade(NatFlags::FULLY_RANDOM),
        Expr::Reject(Reject::IcmpUnreachable(3)),
        Expr::Dynset {
            set: "d".to_owned(),
            op: DynsetOp::Update,
            key: Reg(0),
            data: Some(Reg(4)),
            timeout_ms: Some(10_800_000),
        },
    ] {
        text.push_str(&hex(expr));
        text.push('\n');
    }
    expect![[r#"
        0c000100 7061796c 6f616400 24000280 08000100 00000008 08000200 00000001 08000300 00000010 08000400 00000004
        09000100 6d657461 00000000 14000280 08000200 00000010 08000100 00000009
        07000100 63740000 1c000280 08000200 0000000c 08000100 00000008 05000300 00000000
        08000100 66696200 1c000280 08000100 00000008 08000200 00000003 08000300 00000001
        0b000100 6e756d67 656e0000 24000280 08000100 0000000b 08000200 00000002 08000300 00000001 08000400 00000000
        08000100 636d7000 20000280 08000100 00000008 08000200 00000000 0c000380 08000100 0a600001
        0b000100 6c6f6f6b 75700000 1c000280 06000100 76000000 08000200 0000000b 08000300 00000000
        0b000100 6c6f6f6b 75700000 1c000280 06000100 6d000000 08000200 00000008 08000300 0000000c
        0e000100 696d6d65 64696174 65000000 24000280 08000100 00000000 18000280 14000280 08000100 fffffffd 06000200 63000000
        08000100 6e617400 24000280 08000100 00000001 08000200 00000002 08000300 0000000c 08000500 0000000d
        09000100 6d617371 00000000 0c000280 08000100 00000010
        0b000100 72656a65 63740000 14000280 08000100 00000000 05000200 03000000
        0b000100 64796e73 65740000 30000280 06000100 64000000 08000300 00000001 08000400 00000008 08000500 0000000c 0c000600 00000000 00a4cb80
    "#]].assert_eq(&text);
}

#[test]
fn only_the_last_real_message_asks_for_an_answer() {
    let table = Table::new(Family::Ip, "t");
    let tx = Transaction {
        ops: vec![
            Op::AddTable,
            Op::AddChain {
                name: "a".to_owned(),
                base: None,
            },
            Op::DeleteChain("a".to_owned()),
        ],
        ..diff(None, &table)
    };
    let batch = batch(&tx, 100).unwrap();
    let seen: Vec<_> = messages(&batch.bytes)
        .map(|m| m.unwrap())
        .map(|m| (m.kind, m.sequence, m.flags & NLM_F_ACK != 0))
        .collect();
    assert_eq!(
        seen,
        [
            (0x10, 100, false),
            (0x0a00, 101, false),
            (0x0a03, 102, false),
            (0x0a05, 103, true),
            (0x11, 104, false)
        ]
    );
    assert_eq!(
        (batch.op(100), batch.op(101), batch.op(103), batch.op(104)),
        (None, Some(0), Some(2), None)
    );
}

#[test]
fn a_long_element_list_is_split_below_the_attribute_limit() {
    let elements: std::collections::BTreeMap<_, _> = (0..5000u32)
        .map(|n| (Bytes::from(n), Element::member()))
        .collect();
    let tx = Transaction {
        family: Family::Ip,
        table: "t".to_owned(),
        ops: vec![Op::AddElements {
            set: "s".to_owned(),
            elements: elements.clone(),
        }],
    };
    let batch = batch(&tx, 1).unwrap();
    assert!(batch.ops.len() > 1);
    let mut count = 0;
    for message in messages(&batch.bytes)
        .map(Result::unwrap)
        .filter(|m| m.kind == 0x0a0c)
    {
        let list = message
            .attributes()
            .map(Result::unwrap)
            .find(|a| a.kind == 3)
            .unwrap();
        assert!(list.value.len() < 65_536);
        count += list.nested().map(Result::unwrap).count();
    }
    assert_eq!(count, elements.len());
}

#[test]
fn nothing_to_do_and_unknown_expressions_have_no_bytes() {
    let mut tx = diff(None, &Table::new(Family::Ip, "t"));
    tx.ops = vec![Op::AddRule {
        chain: "c".to_owned(),
        rule: Rule::new([Expr::Unknown("quota".to_owned())]),
    }];
    assert_eq!(
        batch(&tx, 1),
        Err(Unencodable::Expression("quota".to_owned()))
    );
    tx.ops.clear();
    assert_eq!(batch(&tx, 1), Err(Unencodable::Empty));
}
