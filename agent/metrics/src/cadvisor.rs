//! `/metrics/cadvisor`: one generation as cAdvisor's families.
//!
//! In: a full [`Generation`], the [`Machine`]. Out: a [`Source`] that writes family after family, a bounded number of rows a piece.
//! Names, labels, types and units are cAdvisor's; help texts and the sources of the values are ours. Rows: the root group, the hierarchy, per
//! pod its group (no container, no name), its sandbox (a name and the pause image, no container; it carries the network) and its containers.

mod families;
mod machine;

use std::sync::Arc;

use crate::Machine;
use crate::expo::{Source, Value, Writer};
use crate::sample::{Generation, Row};
use families::FAMILIES;

/// Rows written at a time.
const PIECE: usize = 32;

/// One row being written.
struct At<'a> {
    to: &'a mut Writer,
    row: &'a Row,
    of: &'a Generation,
}

impl At<'_> {
    /// A value with the row's time.
    fn value(&mut self, value: Value) {
        self.timed(&[], value, self.row.at.wall_ms);
    }

    /// A setting: it has no time.
    fn setting(&mut self, value: Value) {
        self.to.sample(&self.row.subject.labels, &[], value, None);
    }

    /// A value with more labels.
    fn with(&mut self, more: &[(&str, &str)], value: Value) {
        self.timed(more, value, self.row.at.wall_ms);
    }

    fn timed(&mut self, more: &[(&str, &str)], value: Value, at: i64) {
        self.to
            .sample(&self.row.subject.labels, more, value, Some(at));
    }
}

/// Writes the page.
pub struct Cadvisor {
    generation: Arc<Generation>,
    machine: Arc<Machine>,
    family: usize,
    row: usize,
    begun: bool,
    ended: bool,
}

impl Cadvisor {
    /// A page of `generation`.
    pub fn new(generation: Arc<Generation>, machine: Arc<Machine>) -> Self {
        Self {
            generation,
            machine,
            family: 0,
            row: 0,
            begun: false,
            ended: false,
        }
    }
}

impl Source for Cadvisor {
    fn write(&mut self, to: &mut Writer) -> bool {
        if !self.begun {
            self.begun = true;
            machine::version(to, &self.machine);
            return true;
        }
        let Some(family) = FAMILIES.get(self.family) else {
            if self.ended {
                return false;
            }
            self.ended = true;
            machine::write(to, &self.machine, &self.generation);
            return true;
        };
        if self.row == 0 {
            to.family(family.name, family.kind, family.help);
        }
        let rows = self.generation.rows.iter().skip(self.row).take(PIECE);
        for row in rows {
            (family.write)(&mut At {
                to,
                row,
                of: &self.generation,
            });
        }
        self.row += PIECE;
        if self.row >= self.generation.rows.len() {
            (self.family, self.row) = (self.family + 1, 0);
        }
        true
    }
}

#[cfg(test)]
mod tests;
