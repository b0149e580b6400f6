use proptest::prelude::*;

use super::super::attr::Writer;
use super::super::encode::batch;
use super::super::{Op, Transaction, diff};
use super::*;

fn rule_with(write: impl FnOnce(&mut Writer)) -> Rule {
    let mut w = Writer::default();
    w.message(SUBSYSTEM << 8 | msg::NEWCHAIN, 0, 1, 2, 0);
    w.text(1, "t");
    w.text(3, "c");
    w.finish();
    w.message(SUBSYSTEM << 8 | msg::NEWRULE, 0, 1, 2, 0);
    w.text(1, "t");
    w.text(2, "c");
    let list = w.begin(4);
    let item = w.begin(1);
    write(&mut w);
    w.end(item);
    w.end(list);
    w.finish();
    let mut reader = Reader::new(Family::Ip, "t");
    reader.buffer(&w.into_bytes()).unwrap();
    reader.finish().chains["c"].rules[0].clone()
}

#[test]
fn an_expression_nobody_taught_us_is_kept_as_unknown() {
    let rule = rule_with(|w| w.text(1, "quota"));
    assert_eq!(rule.exprs, [Expr::Unknown("quota".to_owned())]);
}

#[test]
fn the_long_register_names_are_the_short_ones() {
    let rule = rule_with(|w| {
        w.text(1, "meta");
        let data = w.begin(2);
        w.be32(2, 16);
        w.be32(1, 2);
        w.end(data);
    });
    let expected = Expr::Meta {
        dreg: Reg(4),
        key: MetaKey::L4Proto,
    };
    assert_eq!(rule.exprs, [expected]);
}

#[test]
fn what_the_kernel_adds_to_a_translation_is_taken_off() {
    let rule = rule_with(|w| {
        w.text(1, "nat");
        let data = w.begin(2);
        for (kind, value) in [(1, 1), (2, 2), (3, 8), (4, 8), (5, 9), (6, 9), (7, 3)] {
            w.be32(kind, value);
        }
        w.end(data);
    });
    let expected = Expr::Nat {
        kind: NatKind::Dnat,
        family: Family::Ip,
        addr: Reg(0),
        port: Some(Reg(1)),
        flags: NatFlags::empty(),
    };
    assert_eq!(rule.exprs, [expected]);
}

#[test]
fn other_tables_are_passed_over() {
    let other = batch(&diff(None, &Table::new(Family::Ip, "other")), 1).unwrap();
    let mut tx = Transaction {
        family: Family::Ip,
        table: "other".to_owned(),
        ops: vec![],
    };
    tx.ops.push(Op::AddChain {
        name: "x".to_owned(),
        base: None,
    });
    let chain = batch(&tx, 9).unwrap();
    let mut reader = Reader::new(Family::Ip, "t");
    reader.buffer(&other.bytes).unwrap();
    reader.buffer(&chain.bytes).unwrap();
    assert_eq!(reader.finish(), Table::new(Family::Ip, "t"));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(kind in 0u16..17, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut w = Writer::default();
        w.message(SUBSYSTEM << 8 | kind, 0, 1, 2, 0);
        w.text(1, "t");
        w.finish();
        let mut bytes = w.into_bytes();
        bytes.extend(&body);
        let len = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        let mut reader = Reader::new(Family::Ip, "t");
        let _ = reader.buffer(&bytes);
    }

    /// Flipping bytes of a real batch reaches much deeper than random ones do.
    #[test]
    fn no_damaged_batch_makes_the_reader_panic(table in super::super::arbitrary::table(), at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = batch(&diff(None, &table), 1).unwrap().bytes;
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let mut reader = Reader::new(Family::Ip, "t");
        let _ = reader.buffer(&bytes);
    }
}
