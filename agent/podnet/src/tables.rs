//! Rule fragments that both tables use.

use kedge_wire::nft::{CmpOp, Expr, FIB_DADDR, FibResult, MetaKey, PayloadBase, RTN_LOCAL, Reg};

/// `ip saddr` into a register.
pub fn source(reg: Reg) -> Expr {
    Expr::payload(reg, PayloadBase::Network, 12, 4)
}

/// `ip daddr` into a register.
pub fn destination(reg: Reg) -> Expr {
    Expr::payload(reg, PayloadBase::Network, 16, 4)
}

/// `meta l4proto` and `th dport` into two registers.
pub fn port(proto: Reg, port: Reg) -> [Expr; 2] {
    [
        Expr::Meta {
            dreg: proto,
            key: MetaKey::L4Proto,
        },
        Expr::payload(port, PayloadBase::Transport, 2, 2),
    ]
}

/// Keeps the first `prefix` bits of an address in a register.
pub fn masked(reg: Reg, mask: u32) -> Expr {
    Expr::Bitwise {
        sreg: reg,
        dreg: reg,
        mask: mask.to_be_bytes().into(),
        xor: [0; 4].into(),
    }
}

/// `fib daddr type local`
pub fn to_this_node() -> [Expr; 2] {
    [
        Expr::Fib {
            dreg: Reg(0),
            result: FibResult::AddrType,
            flags: FIB_DADDR,
        },
        Expr::cmp(Reg(0), CmpOp::Eq, RTN_LOCAL),
    ]
}
