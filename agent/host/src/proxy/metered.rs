//! A kernel whose transactions are counted: `kedge_netlink_*{component="proxy"}` of `/metrics`.
//!
//! In: any [`Kernel`]. Out: the same answers. An empty transaction is none: nothing is sent for it.

use kedge_sys::nfnetlink::Error;
use kedge_tasks::Meters;
use kedge_tasks::meter::{BUCKETS, Family};
use kedge_wire::conntrack::Flow;
use kedge_wire::nft::{self, Table, Transaction};
use tokio::time::Instant;

use super::kernel::Kernel;

const LABELS: &[&str] = &["component"];
pub(super) const PROXY: &[&str] = &["proxy"];

pub(super) static TRANSACTIONS: Family = Family::counter(
    "kedge_netlink_transactions_total",
    LABELS,
    "Transactions sent to nf_tables.",
);
pub(super) static FAILURES: Family = Family::counter(
    "kedge_netlink_transaction_failures_total",
    LABELS,
    "Transactions that nf_tables refused, or whose answer was lost.",
);
pub(super) static OPERATIONS: Family = Family::counter(
    "kedge_netlink_operations_total",
    LABELS,
    "Operations in transactions sent to nf_tables.",
);
pub(super) static BYTES: Family = Family::counter(
    "kedge_netlink_sent_bytes_total",
    LABELS,
    "Bytes of transactions and questions sent to netfilter.",
);
pub(super) static DURATION: Family = Family::histogram(
    "kedge_netlink_transaction_duration_seconds",
    LABELS,
    BUCKETS,
    "Time of transactions of nf_tables, their encoding included.",
);

/// See the module.
#[derive(Debug)]
pub struct Metered<K> {
    kernel: K,
    meters: Meters,
    /// Bytes counted so far.
    sent: u64,
}

impl<K: Kernel> Metered<K> {
    /// Counts what `kernel` is asked.
    pub fn new(kernel: K, meters: Meters) -> Self {
        Self {
            kernel,
            meters,
            sent: 0,
        }
    }

    fn counted<T>(&mut self, ask: impl FnOnce(&mut K) -> T) -> T {
        let answer = ask(&mut self.kernel);
        let sent = self.kernel.sent_bytes();
        self.meters
            .add(&BYTES, PROXY, sent.saturating_sub(self.sent));
        self.sent = sent;
        answer
    }
}

impl<K: Kernel> Kernel for Metered<K> {
    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        if transaction.is_empty() {
            return self.kernel.commit(transaction);
        }
        let began = Instant::now();
        let answer = self.counted(|kernel| kernel.commit(transaction));
        let meters = &self.meters;
        meters.observe(&DURATION, PROXY, began.elapsed());
        meters.count(&TRANSACTIONS, PROXY);
        let operations = u64::try_from(transaction.ops.len()).unwrap_or(u64::MAX);
        meters.add(&OPERATIONS, PROXY, operations);
        // Shown from the first transaction on, so that the first failure is a step.
        meters.add(&FAILURES, PROXY, u64::from(answer.is_err()));
        answer
    }

    fn table(&mut self, family: nft::Family, name: &str) -> Result<Option<Table>, Error> {
        self.counted(|kernel| kernel.table(family, name))
    }

    fn handle(&mut self, family: nft::Family, name: &str) -> Result<Option<u64>, Error> {
        self.counted(|kernel| kernel.handle(family, name))
    }

    fn flows(&mut self, family: nft::Family) -> Result<Vec<Flow>, Error> {
        self.counted(|kernel| kernel.flows(family))
    }

    fn delete_flows(&mut self, flows: &[&Flow]) -> Result<usize, Error> {
        self.counted(|kernel| kernel.delete_flows(flows))
    }

    fn sent_bytes(&self) -> u64 {
        self.kernel.sent_bytes()
    }
}
