//! The kernel as the proxy sees it. Two implementations: netlink, and the strict fake of `wire` with faults to order.

use kedge_sys::nfnetlink::{Error, Netfilter};
use kedge_wire::conntrack::Flow;
use kedge_wire::nft::{Family, Table, Transaction};

/// What the syncer asks of a kernel.
pub trait Kernel {
    /// All or nothing.
    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error>;
    /// Reads a table back.
    fn table(&mut self, family: Family, name: &str) -> Result<Option<Table>, Error>;
    /// A number that changes when a table is recreated.
    fn handle(&mut self, family: Family, name: &str) -> Result<Option<u64>, Error>;
    fn flows(&mut self, family: Family) -> Result<Vec<Flow>, Error>;
    fn delete_flows(&mut self, flows: &[&Flow]) -> Result<usize, Error>;
    /// Bytes sent so far, questions included.
    fn sent_bytes(&self) -> u64;
}

impl Kernel for Netfilter {
    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        Netfilter::commit(self, transaction)
    }

    fn table(&mut self, family: Family, name: &str) -> Result<Option<Table>, Error> {
        Netfilter::table(self, family, name)
    }

    fn handle(&mut self, family: Family, name: &str) -> Result<Option<u64>, Error> {
        Netfilter::handle(self, family, name)
    }

    fn flows(&mut self, family: Family) -> Result<Vec<Flow>, Error> {
        Netfilter::flows(self, family)
    }

    fn delete_flows(&mut self, flows: &[&Flow]) -> Result<usize, Error> {
        Netfilter::delete_flows(self, flows.iter().copied())
    }

    fn sent_bytes(&self) -> u64 {
        Netfilter::sent_bytes(self)
    }
}

/// An error with its causes in one line.
pub fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
