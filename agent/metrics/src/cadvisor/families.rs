//! The table of families, and what several of them share. One file per kernel interface.

mod cpu;
mod disk;
mod memory;
mod network;
mod pressure;
mod process;
mod spec;

use std::sync::LazyLock;

use super::At;
use crate::expo::{Kind, Value};

/// A family of rows.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) write: fn(&mut At<'_>),
}

const fn counter(name: &'static str, help: &'static str, write: fn(&mut At<'_>)) -> Family {
    Family {
        name,
        kind: Kind::Counter,
        help,
        write,
    }
}

const fn gauge(name: &'static str, help: &'static str, write: fn(&mut At<'_>)) -> Family {
    Family {
        name,
        kind: Kind::Gauge,
        help,
        write,
    }
}

/// All of them by name, the order of the page.
pub(super) static FAMILIES: LazyLock<Vec<&'static Family>> = LazyLock::new(|| {
    let parts = [
        cpu::FAMILIES,
        disk::FAMILIES,
        memory::FAMILIES,
        network::FAMILIES,
        pressure::FAMILIES,
        process::FAMILIES,
        spec::FAMILIES,
    ];
    let mut all: Vec<&'static Family> = parts.into_iter().flatten().collect();
    all.sort_by_key(|family| family.name);
    all
});

impl At<'_> {
    /// A count or bytes, where the kernel has it.
    fn maybe(&mut self, value: Option<u64>) {
        if let Some(value) = value {
            self.value(Value::Int(value));
        }
    }
}
