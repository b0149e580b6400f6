//! The objects of one table: chains with rules, sets and maps with elements.

use std::collections::BTreeMap;

use super::{Bytes, Expr};

/// One table of one family. Chains and sets are named apart from each other, as in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    pub name: String,
    pub chains: BTreeMap<String, Chain>,
    pub sets: BTreeMap<String, Set>,
}

/// A table's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Inet,
    Ip,
    Ip6,
}

/// A chain: base chains are called by a hook, the others by rules and map elements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

/// Where a base chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    pub kind: ChainKind,
    pub hook: Hook,
    pub priority: i32,
    pub policy: Policy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
    Route,
}

/// The five hooks of the IP families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Drop,
    Accept,
}

/// Expressions from left to right; the first that does not match ends the rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub exprs: Vec<Expr>,
    pub comment: Option<String>,
}

/// A set or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub spec: SetSpec,
    /// By key. Always empty in the model of a `dynamic` set: its elements belong to the packets.
    pub elements: BTreeMap<Bytes, Element>,
}

/// What cannot change in a set once it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSpec {
    /// The fields of the (concatenated) key.
    pub key: Vec<Field>,
    pub value: ValueKind,
    /// Keys are ranges: `key` to `Element::key_end`, both included, field by field. Only for concatenated keys, and only for
    /// small sets: the kernel clones such a set at every change.
    pub interval: bool,
    /// Rules add elements.
    pub dynamic: bool,
    /// Elements expire after this many milliseconds unless the rule that adds them says otherwise.
    pub timeout_ms: Option<u64>,
    /// An upper bound of the number of elements.
    pub size: Option<u32>,
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueKind {
    /// Membership only: a set.
    Nothing,
    /// A map to data.
    Data(Vec<Field>),
    /// A verdict map.
    Verdict,
}

/// One element besides its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The last key of the range, in an `interval` set.
    pub key_end: Option<Box<[u8]>>,
    pub value: Value,
}

/// What an element holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Nothing,
    Data(Bytes),
    Verdict(Box<Verdict>),
}

/// How evaluation goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// One field of a key or a value. The numbers are those of nft's own types, which it uses to print a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    Ipv4Addr,
    Ipv6Addr,
    InetProto,
    InetService,
    /// A 32-bit number in host order.
    Mark,
}

/// The width of concatenated fields in registers.
pub fn widths(fields: &[Field]) -> usize {
    fields.iter().map(|f| f.padded()).sum()
}

impl Field {
    /// Bytes in a register: padded to a multiple of four.
    pub fn padded(self) -> usize {
        if self == Self::Ipv6Addr { 16 } else { 4 }
    }

    /// Bytes of information.
    pub fn width(self) -> usize {
        match self {
            Self::Ipv6Addr => 16,
            Self::Ipv4Addr | Self::Mark => 4,
            Self::InetService => 2,
            Self::InetProto => 1,
        }
    }

    /// The type number nft knows it by.
    pub fn number(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::InetProto => 12,
            Self::InetService => 13,
            Self::Mark => 19,
        }
    }

    /// The field with this type number.
    pub fn from_number(number: u32) -> Option<Self> {
        [
            Self::Ipv4Addr,
            Self::Ipv6Addr,
            Self::InetProto,
            Self::InetService,
            Self::Mark,
        ]
        .into_iter()
        .find(|f| f.number() == number)
    }
}

impl Family {
    /// `NFPROTO_*`.
    pub fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }
}

impl Table {
    pub fn new(family: Family, name: &str) -> Self {
        Self {
            family,
            name: name.to_owned(),
            chains: BTreeMap::new(),
            sets: BTreeMap::new(),
        }
    }
}

impl SetSpec {
    /// A plain set of these keys.
    pub fn set(key: impl Into<Vec<Field>>) -> Self {
        Self {
            key: key.into(),
            value: ValueKind::Nothing,
            interval: false,
            dynamic: false,
            timeout_ms: None,
            size: None,
        }
    }

    /// A map to data.
    pub fn map(key: impl Into<Vec<Field>>, value: impl Into<Vec<Field>>) -> Self {
        Self {
            value: ValueKind::Data(value.into()),
            ..Self::set(key)
        }
    }

    /// A verdict map.
    pub fn vmap(key: impl Into<Vec<Field>>) -> Self {
        Self {
            value: ValueKind::Verdict,
            ..Self::set(key)
        }
    }

    pub fn with_elements(self, elements: BTreeMap<Bytes, Element>) -> Set {
        Set {
            spec: self,
            elements,
        }
    }
}

impl Element {
    /// A member of a set.
    pub fn member() -> Self {
        Self::of(Value::Nothing)
    }

    pub fn data(data: impl Into<Bytes>) -> Self {
        Self::of(Value::Data(data.into()))
    }

    pub fn verdict(verdict: Verdict) -> Self {
        Self::of(Value::Verdict(Box::new(verdict)))
    }

    /// A member of an interval set, up to and including `end`.
    pub fn up_to(end: &[u8]) -> Self {
        Self {
            key_end: Some(end.into()),
            value: Value::Nothing,
        }
    }

    fn of(value: Value) -> Self {
        Self {
            key_end: None,
            value,
        }
    }
}

impl Verdict {
    /// The chain it leads to.
    pub fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }
}

impl Rule {
    pub fn new(exprs: impl Into<Vec<Expr>>) -> Self {
        Self {
            exprs: exprs.into(),
            comment: None,
        }
    }

    pub fn comment(mut self, text: &str) -> Self {
        self.comment = Some(text.to_owned());
        self
    }
}

impl Chain {
    pub fn base(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Self {
        Self {
            base: Some(Base {
                kind,
                hook,
                priority,
                policy: Policy::Accept,
            }),
            rules,
        }
    }

    pub fn regular(rules: Vec<Rule>) -> Self {
        Self { base: None, rules }
    }
}
