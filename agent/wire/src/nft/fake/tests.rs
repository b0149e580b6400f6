use super::*;
use crate::nft::{Base, Field, Policy};

/// Applies operations to a table with a base chain `in`, a regular chain `c`, a map `m` and a dynamic set `d`.
fn attempt(ops: impl Into<Vec<Op>>) -> Result<(), Reason> {
    let name = |n: &str| n.to_owned();
    let base = Base {
        kind: ChainKind::Filter,
        hook: Hook::Input,
        priority: 0,
        policy: Policy::Accept,
    };
    let mut all = vec![
        Op::AddTable,
        Op::AddSet {
            name: name("m"),
            spec: SetSpec::map([Field::Mark], [Field::Mark]),
        },
        Op::AddSet {
            name: name("v"),
            spec: SetSpec::vmap([Field::Mark]),
        },
        Op::AddChain {
            name: name("in"),
            base: Some(base),
        },
        Op::AddChain {
            name: name("c"),
            base: None,
        },
        rule("in", [Expr::jump("c")]),
    ];
    all.extend(ops.into());
    let tx = Transaction {
        family: Family::Ip,
        table: name("t"),
        ops: all,
    };
    Kernel::default().apply(&tx).map_err(|e| e.reason)
}

fn rule(chain: &str, exprs: impl Into<Vec<Expr>>) -> Op {
    Op::AddRule {
        chain: chain.to_owned(),
        rule: Rule::new(exprs),
    }
}

fn add(set: &str, key: &[u8], element: Element) -> Op {
    Op::AddElements {
        set: set.to_owned(),
        elements: [(Bytes::from(key), element)].into(),
    }
}

#[test]
fn refuses_what_does_not_exist() {
    let gone = Err(Reason::Missing);
    assert_eq!(attempt([Op::DeleteChain("x".to_owned())]), gone);
    assert_eq!(attempt([Op::DeleteSet("x".to_owned())]), gone);
    assert_eq!(attempt([rule("x", [])]), gone);
    assert_eq!(attempt([rule("c", [Expr::jump("x")])]), gone);
    let load = Expr::Numgen {
        dreg: Reg(0),
        modulus: 2,
        offset: 0,
    };
    assert_eq!(
        attempt([rule("c", [load, Expr::in_set("x", Reg(0))])]),
        gone
    );
    let target = Element::verdict(Verdict::Goto("x".to_owned()));
    assert_eq!(attempt([add("v", &[0; 4], target)]), gone);
    let elements = [(Bytes::from(1u32), Element::member())].into();
    let delete = Op::DeleteElements {
        set: "m".to_owned(),
        elements,
    };
    assert_eq!(attempt([delete]), gone);
}

#[test]
fn refuses_what_exists_already() {
    let twice = Err(Reason::Exists);
    assert_eq!(attempt([Op::AddTable]), twice);
    assert_eq!(
        attempt([Op::AddChain {
            name: "c".to_owned(),
            base: None
        }]),
        twice
    );
    let one = || add("m", &[1, 0, 0, 0], Element::data(2u32));
    assert_eq!(attempt([one()]), Ok(()));
    assert_eq!(attempt([one(), one()]), twice);
}

#[test]
fn refuses_to_delete_what_is_in_use() {
    assert_eq!(
        attempt([Op::DeleteChain("c".to_owned())]),
        Err(Reason::Busy)
    );
    let freed = [
        Op::FlushChain("in".to_owned()),
        Op::DeleteChain("c".to_owned()),
    ];
    assert_eq!(attempt(freed), Ok(()));
    let load = Expr::Numgen {
        dreg: Reg(0),
        modulus: 2,
        offset: 0,
    };
    let user = rule("c", [load, Expr::in_set("m", Reg(0))]);
    assert_eq!(
        attempt([user, Op::DeleteSet("m".to_owned())]),
        Err(Reason::Busy)
    );
}

#[test]
fn refuses_elements_of_another_shape() {
    let bad = Err(Reason::Invalid);
    assert_eq!(attempt([add("m", &[0; 8], Element::data(1u32))]), bad);
    assert_eq!(attempt([add("m", &[0; 4], Element::member())]), bad);
    assert_eq!(attempt([add("m", &[0; 4], Element::data([0; 8]))]), bad);
}

#[test]
fn refuses_to_read_a_register_nothing_wrote() {
    let read = rule("c", [Expr::in_set("m", Reg(3))]);
    assert_eq!(attempt([read]), Err(Reason::Invalid));
}

#[test]
fn refuses_translation_in_a_filter_chain_and_circles() {
    let masquerade = rule("c", [Expr::Masquerade(super::super::NatFlags::empty())]);
    assert_eq!(attempt([masquerade]), Err(Reason::Unsupported));
    assert_eq!(attempt([rule("c", [Expr::jump("c")])]), Err(Reason::Loop));
    assert_eq!(
        attempt([rule("c", [Expr::jump("in")])]),
        Err(Reason::Unsupported)
    );
}

#[test]
fn a_refused_batch_changes_nothing() {
    let mut kernel = Kernel::default();
    let tx = Transaction {
        family: Family::Ip,
        table: "t".to_owned(),
        ops: vec![Op::AddTable, Op::DeleteSet("x".to_owned())],
    };
    let error = kernel.apply(&tx).unwrap_err();
    assert_eq!(
        error.to_string(),
        "operation 1 (delete set x): no such object (ENOENT)"
    );
    assert!(kernel.tables.is_empty());
}
