//! The table `kedge-pods`: pods that talk to the world outside the cluster borrow the node's address.
//!
//! In: this node's pod ranges, and what must see pods' own addresses (all pod ranges, all node addresses). Out: a table.
//! Ranges are grouped by prefix length into plain hash sets: one masked lookup for each length instead of an interval set, which
//! the kernel would clone at every change.

use std::collections::{BTreeMap, BTreeSet};

use kedge_wire::net::Ipv4Net;
use kedge_wire::nft::{
    Bytes, Chain, ChainKind, Element, Expr, Family, Field, Hook, NatFlags, Reg, Rule, SetSpec,
    Table, Verdict,
};

use crate::tables::{destination, masked, source};

/// The table's name.
pub const TABLE: &str = "kedge-pods";
/// `srcnat`
const SRCNAT: i32 = 100;
const LEAVING: &str = "leaving";

/// The table for pods of `own`; `cluster` keeps their addresses.
pub fn table(own: &[Ipv4Net], cluster: &BTreeSet<Ipv4Net>) -> Table {
    let mut table = Table::new(Family::Ip, TABLE);
    let by_prefix = grouped(cluster);
    table.chains.insert(
        "postrouting".into(),
        Chain::base(
            ChainKind::Nat,
            Hook::Postrouting,
            SRCNAT,
            own.iter().map(from_pods).collect(),
        ),
    );
    let mut leaving: Vec<Rule> = by_prefix.keys().map(|prefix| stays(*prefix)).collect();
    leaving.push(Rule::new([Expr::Masquerade(NatFlags::FULLY_RANDOM)]));
    table.chains.insert(LEAVING.into(), Chain::regular(leaving));
    for (prefix, members) in by_prefix {
        table.sets.insert(
            set_name(prefix),
            SetSpec::set([Field::Ipv4Addr]).with_elements(members),
        );
    }
    table
}

fn grouped(cluster: &BTreeSet<Ipv4Net>) -> BTreeMap<u8, BTreeMap<Bytes, Element>> {
    let mut by_prefix: BTreeMap<u8, BTreeMap<Bytes, Element>> = BTreeMap::new();
    for net in cluster {
        by_prefix
            .entry(net.prefix())
            .or_default()
            .insert(net.network().octets().into(), Element::member());
    }
    by_prefix
}

fn set_name(prefix: u8) -> String {
    format!("no-masq-{prefix}")
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn from_pods(range: &Ipv4Net) -> Rule {
    use kedge_wire::nft::CmpOp;
    Rule::new([
        source(Reg(0)),
        masked(Reg(0), range.mask_bits()),
        Expr::cmp(Reg(0), CmpOp::Eq, range.network().octets()),
        Expr::jump(LEAVING),
    ])
}

fn stays(prefix: u8) -> Rule {
    Rule::new([
        destination(Reg(0)),
        masked(Reg(0), mask(prefix)),
        Expr::in_set(&set_name(prefix), Reg(0)),
        Expr::Verdict(Verdict::Return),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_like_this() {
        let cluster = [
            "10.244.1.0/24",
            "10.244.2.0/24",
            "192.168.50.11/32",
            "192.168.50.12/32",
        ];
        let table = table(
            &["10.244.1.0/24".parse().unwrap()],
            &cluster.iter().map(|n| n.parse().unwrap()).collect(),
        );
        expect_test::expect_file!["../golden/kedge-pods.nft"]
            .assert_eq(&kedge_wire::nft::text::table(&table));
    }
}
