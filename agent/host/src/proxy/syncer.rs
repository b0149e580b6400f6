//! Keeps one family's table equal to the compiler's, whatever happened to it.
//!
//! In: snapshots, a [`Kernel`], the demand to check. Out: what was done. What the kernel holds is either known (then only
//! differences are sent) or not (then it is read back first); every error makes it unknown.

use std::sync::Arc;

use kedge_proxy::model::{Family, Inputs, NodeFacts};
use kedge_proxy::service::FrontKey;
use kedge_proxy::{Compiler, TABLE};
use kedge_sys::nfnetlink::Error;
use kedge_wire::nft::{self, Transaction, diff, remove};

use super::kernel::{Kernel, words};

/// How thoroughly to look at the kernel's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// Trust what we applied.
    Nothing,
    /// Is it still the table we made?
    Identity,
    /// Read everything back.
    Everything,
}

/// What a sync did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub element_changes: usize,
    /// The table was read back.
    pub full: bool,
    /// It had been changed by somebody else, and is put right.
    pub repaired: bool,
    pub stale_flows: usize,
    pub conntrack_error: Option<String>,
}

/// One family.
#[derive(Debug)]
pub struct Syncer {
    compiler: Compiler,
    family: nft::Family,
    /// The kernel's number of the table we know to be as compiled.
    known: Option<u64>,
    /// We applied it at least once: differences found later are somebody else's doing.
    applied: bool,
    /// The connection table may hold stale flows. True at the start: endpoints may have gone while no agent ran.
    udp: bool,
    gone: Vec<FrontKey>,
}

impl Syncer {
    pub fn new(family: Family) -> Self {
        Self {
            compiler: Compiler::new(family, NodeFacts::default()),
            family: match family {
                Family::V4 => nft::Family::Ip,
                Family::V6 => nft::Family::Ip6,
            },
            known: None,
            applied: false,
            udp: true,
            gone: Vec::new(),
        }
    }

    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// Takes a snapshot and makes the kernel's table equal.
    pub fn sync(
        &mut self,
        kernel: &mut impl Kernel,
        inputs: &Arc<Inputs>,
        node: &NodeFacts,
        check: Check,
    ) -> Result<Outcome, Error> {
        let update = match self.known {
            Some(_) => self.compiler.update(inputs, node),
            None => self.compiler.load(inputs, node),
        };
        self.udp |= update.udp;
        self.gone.extend(update.gone);
        let applied = self.apply(kernel, &update.transaction, check);
        // The compiler has moved on: whatever was not applied is found again only by reading back.
        let mut outcome = applied.inspect_err(|_| self.known = None)?;
        self.clean_connections(kernel, &mut outcome);
        Ok(outcome)
    }

    fn apply(
        &mut self,
        kernel: &mut impl Kernel,
        transaction: &Transaction,
        check: Check,
    ) -> Result<Outcome, Error> {
        if !self.still_known(kernel, check)? {
            return self.read_back(kernel);
        }
        match kernel.commit(transaction) {
            Ok(()) => Ok(Outcome {
                element_changes: transaction.element_changes(),
                ..Outcome::default()
            }),
            Err(error) => {
                // Somebody may have changed the table under us: look at it once before calling it a failure.
                tracing::warn!(error = words(&error), "proxy: reading the table back");
                self.read_back(kernel)
            }
        }
    }

    fn still_known(&mut self, kernel: &mut impl Kernel, check: Check) -> Result<bool, Error> {
        if self.known.is_some() && check == Check::Identity {
            let handle = kernel.handle(self.family, TABLE)?;
            if handle != self.known {
                self.known = None;
            }
        }
        Ok(self.known.is_some() && check != Check::Everything)
    }

    fn read_back(&mut self, kernel: &mut impl Kernel) -> Result<Outcome, Error> {
        self.known = None;
        let found = kernel.table(self.family, TABLE)?;
        let transaction = diff(found.as_ref(), self.compiler.table());
        drop(found);
        kernel.commit(&transaction)?;
        self.known = kernel.handle(self.family, TABLE)?;
        let again = std::mem::replace(&mut self.applied, true);
        Ok(Outcome {
            element_changes: transaction.element_changes(),
            full: true,
            repaired: again && !transaction.is_empty(),
            ..Outcome::default()
        })
    }

    /// Stale UDP flows are a nuisance, missing rules an outage: a failure here is reported and tried again at the next sync.
    fn clean_connections(&mut self, kernel: &mut impl Kernel, outcome: &mut Outcome) {
        if !self.udp {
            return;
        }
        let cleaned = kernel.flows(self.family).and_then(|flows| {
            let stale = self.compiler.stale(&flows, &self.gone);
            kernel.delete_flows(&stale)
        });
        match cleaned {
            Ok(deleted) => {
                outcome.stale_flows = deleted;
                self.udp = false;
                self.gone.clear();
            }
            Err(error) => outcome.conntrack_error = Some(words(&error)),
        }
    }

    /// Removes the table if there is one.
    pub fn remove(&mut self, kernel: &mut impl Kernel) -> Result<(), Error> {
        self.known = None;
        if kernel.handle(self.family, TABLE)?.is_some() {
            kernel.commit(&remove(self.family, TABLE))?;
        }
        self.applied = false;
        Ok(())
    }
}
