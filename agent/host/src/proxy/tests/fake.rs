use std::io;

use kedge_sys::nfnetlink::Error;
use kedge_wire::conntrack::{Flow, Tuple};
use kedge_wire::nft::fake;
use kedge_wire::nft::{self, Table, Transaction};

use super::super::kernel::{Kernel, words};
use super::super::syncer::{Check, Outcome, Syncer};
use super::*;

/// `wire`'s strict fake with handles, flows, and errors to order.
#[derive(Default)]
struct Fake {
    kernel: fake::Kernel,
    recreated: u64,
    commits: Vec<Transaction>,
    /// Errno of the next commits.
    refuse: Vec<i32>,
    flows: Vec<Flow>,
    no_conntrack: bool,
}

const EOPNOTSUPP: i32 = 95;

impl Kernel for Fake {
    fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let refused = |operation: String, errno: i32| Error::Refused {
            operation,
            hint: None,
            source: io::Error::from_raw_os_error(errno),
        };
        if let Some(errno) = self.refuse.pop() {
            return Err(refused("add table kedge-proxy".to_owned(), errno));
        }
        self.kernel
            .apply(transaction)
            .map_err(|e| refused(e.what, 2))?;
        self.commits.push(transaction.clone());
        Ok(())
    }

    fn table(&mut self, family: nft::Family, name: &str) -> Result<Option<Table>, Error> {
        Ok(self.kernel.table(family, name).cloned())
    }

    fn handle(&mut self, family: nft::Family, name: &str) -> Result<Option<u64>, Error> {
        Ok(self.kernel.table(family, name).map(|_| self.recreated))
    }

    fn flows(&mut self, _: nft::Family) -> Result<Vec<Flow>, Error> {
        match self.no_conntrack {
            true => Err(Error::Overrun("reading")),
            false => Ok(self.flows.clone()),
        }
    }

    fn delete_flows(&mut self, flows: &[&Flow]) -> Result<usize, Error> {
        self.flows.retain(|flow| !flows.contains(&flow));
        Ok(flows.len())
    }

    fn sent_bytes(&self) -> u64 {
        let operations = self.commits.iter().map(|t| t.ops.len() as u64);
        operations.sum::<u64>() * 100
    }
}

fn web(endpoints: &[&str]) -> Arc<Inputs> {
    inputs([(service("web", "10.96.0.10", Protocol::Tcp), endpoints)])
}

fn sync(
    syncer: &mut Syncer,
    kernel: &mut Fake,
    inputs: &Arc<Inputs>,
    check: Check,
) -> Result<Outcome, String> {
    let outcome = syncer
        .sync(kernel, inputs, &node(), check)
        .map_err(|e| words(&e))?;
    let table = syncer.compiler().table();
    assert_eq!(kernel.kernel.table(table.family, &table.name), Some(table));
    Ok(outcome)
}

#[test]
fn the_first_sync_reads_back_and_the_next_sends_only_differences() {
    let (mut syncer, mut kernel) = (Syncer::new(Family::V4), Fake::default());
    let first = sync(
        &mut syncer,
        &mut kernel,
        &web(&["10.244.1.5"]),
        Check::Nothing,
    )
    .unwrap();
    assert!(first.full && !first.repaired);
    let second = sync(
        &mut syncer,
        &mut kernel,
        &web(&["10.244.1.6"]),
        Check::Nothing,
    )
    .unwrap();
    assert!(!second.full);
    // The endpoint's element goes and comes, and its hairpin pair.
    assert_eq!(second.element_changes, 4);
}

#[test]
fn a_new_agent_takes_over_the_table_of_the_old_one_without_touching_it() {
    let mut kernel = Fake::default();
    sync(
        &mut Syncer::new(Family::V4),
        &mut kernel,
        &web(&["10.244.1.5"]),
        Check::Nothing,
    )
    .unwrap();
    kernel.commits.clear();
    let outcome = sync(
        &mut Syncer::new(Family::V4),
        &mut kernel,
        &web(&["10.244.1.5"]),
        Check::Nothing,
    );
    assert_eq!(outcome.unwrap().element_changes, 0);
    assert!(kernel.commits.iter().all(Transaction::is_empty));
}

#[test]
fn a_table_deleted_behind_our_back_is_restored() {
    let (mut syncer, mut kernel) = (Syncer::new(Family::V4), Fake::default());
    sync(
        &mut syncer,
        &mut kernel,
        &web(&["10.244.1.5"]),
        Check::Nothing,
    )
    .unwrap();
    kernel.kernel.tables.clear();
    let outcome = sync(
        &mut syncer,
        &mut kernel,
        &web(&["10.244.1.5"]),
        Check::Identity,
    )
    .unwrap();
    assert!(outcome.repaired);
    // Recreated by somebody else, empty: only the number tells.
    let table = syncer.compiler().table().clone();
    kernel.kernel.tables.clear();
    kernel
        .kernel
        .apply(&nft::diff(None, &Table::new(table.family, &table.name)))
        .unwrap();
    kernel.recreated += 1;
    assert!(
        sync(
            &mut syncer,
            &mut kernel,
            &web(&["10.244.1.5"]),
            Check::Identity
        )
        .unwrap()
        .repaired
    );
}

#[test]
fn a_changed_element_is_found_by_the_full_check_or_by_the_next_refusal() {
    let (mut syncer, mut kernel) = (Syncer::new(Family::V4), Fake::default());
    sync(
        &mut syncer,
        &mut kernel,
        &web(&["10.244.1.5"]),
        Check::Nothing,
    )
    .unwrap();
    let clear = |kernel: &mut Fake| {
        let table = kernel.kernel.tables.values_mut().next().unwrap();
        table.sets.get_mut("endpoints-1").unwrap().elements.clear();
    };
    clear(&mut kernel);
    assert!(
        sync(
            &mut syncer,
            &mut kernel,
            &web(&["10.244.1.5"]),
            Check::Everything
        )
        .unwrap()
        .repaired
    );
    clear(&mut kernel);
    // The difference deletes an element that is gone: refused, read back, put right.
    assert!(
        sync(
            &mut syncer,
            &mut kernel,
            &web(&["10.244.1.6"]),
            Check::Nothing
        )
        .unwrap()
        .repaired
    );
}

#[test]
fn a_kernel_without_nf_tables_is_named_and_a_later_try_succeeds() {
    let (mut syncer, mut kernel) = (Syncer::new(Family::V4), Fake::default());
    kernel.refuse = vec![EOPNOTSUPP];
    let error = sync(
        &mut syncer,
        &mut kernel,
        &web(&["10.244.1.5"]),
        Check::Nothing,
    )
    .unwrap_err();
    assert_eq!(
        error,
        "nf_tables refused \"add table kedge-proxy\": Operation not supported (os error 95)"
    );
    sync(
        &mut syncer,
        &mut kernel,
        &web(&["10.244.1.5"]),
        Check::Nothing,
    )
    .unwrap();
}

#[test]
fn a_change_that_failed_twice_is_not_forgotten() {
    let (mut syncer, mut kernel) = (Syncer::new(Family::V4), Fake::default());
    sync(
        &mut syncer,
        &mut kernel,
        &web(&["10.244.1.5"]),
        Check::Nothing,
    )
    .unwrap();
    kernel.refuse = vec![12, 12];
    sync(
        &mut syncer,
        &mut kernel,
        &web(&["10.244.1.6"]),
        Check::Nothing,
    )
    .unwrap_err();
    sync(
        &mut syncer,
        &mut kernel,
        &web(&["10.244.1.6"]),
        Check::Nothing,
    )
    .unwrap();
}

#[test]
fn stale_udp_flows_go_and_a_conntrack_failure_does_not_stop_the_rules() {
    let (mut syncer, mut kernel) = (Syncer::new(Family::V4), Fake::default());
    let dns =
        |endpoints: &[&str]| inputs([(service("dns", "10.96.0.53", Protocol::Udp), endpoints)]);
    let tuple = |source, destination, sport, dport| Tuple {
        source,
        destination,
        protocol: 17,
        sport,
        dport,
    };
    let client = ip("10.244.1.9");
    let flow = Flow {
        original: tuple(client, ip("10.96.0.53"), 4000, 80),
        reply: tuple(ip("10.244.1.5"), client, 8080, 4000),
        id: Some(1),
        zone: 0,
    };
    kernel.flows = vec![flow];
    assert_eq!(
        sync(
            &mut syncer,
            &mut kernel,
            &dns(&["10.244.1.5"]),
            Check::Nothing
        )
        .unwrap()
        .stale_flows,
        0
    );
    kernel.no_conntrack = true;
    let outcome = sync(
        &mut syncer,
        &mut kernel,
        &dns(&["10.244.1.6"]),
        Check::Nothing,
    )
    .unwrap();
    assert!(outcome.conntrack_error.is_some());
    kernel.no_conntrack = false;
    // Nothing changed since, but the flow is still owed.
    let outcome = sync(
        &mut syncer,
        &mut kernel,
        &dns(&["10.244.1.6"]),
        Check::Nothing,
    )
    .unwrap();
    assert_eq!(outcome.stale_flows, 1);
    assert!(kernel.flows.is_empty());
}

#[test]
fn removing_takes_our_table_and_no_other() {
    let (mut syncer, mut kernel) = (Syncer::new(Family::V4), Fake::default());
    let other = Table::new(nft::Family::Ip, "filter");
    kernel.kernel.apply(&nft::diff(None, &other)).unwrap();
    sync(
        &mut syncer,
        &mut kernel,
        &web(&["10.244.1.5"]),
        Check::Nothing,
    )
    .unwrap();
    syncer.remove(&mut kernel).unwrap();
    syncer.remove(&mut kernel).unwrap();
    assert_eq!(kernel.kernel.tables.len(), 1);
}

#[test]
fn transactions_are_counted_with_what_they_hold_and_their_failures() {
    use super::super::metered::{
        BYTES, DURATION, FAILURES, Metered, OPERATIONS, PROXY, TRANSACTIONS,
    };
    use kedge_tasks::Meters;
    use kedge_tasks::meter::Reading;
    let meters = Meters::default();
    let fake = Fake {
        refuse: vec![EOPNOTSUPP],
        ..Fake::default()
    };
    let mut kernel = Metered::new(fake, meters.clone());
    let mut syncer = Syncer::new(Family::V4);
    let inputs = web(&["10.244.1.5"]);
    let mut sync = || syncer.sync(&mut kernel, &inputs, &node(), Check::Nothing);
    sync().unwrap_err();
    let count = |family| match meters.reading(family, PROXY) {
        Some(Reading::Count(n)) => n,
        other => panic!("{other:?}"),
    };
    assert_eq!((count(&TRANSACTIONS), count(&FAILURES)), (1, 1));
    assert_eq!(count(&BYTES), 0, "the fake counts what was accepted");
    sync().unwrap();
    assert_eq!((count(&TRANSACTIONS), count(&FAILURES)), (2, 1));
    let operations = count(&OPERATIONS);
    assert!(operations > 2 && count(&BYTES) == operations / 2 * 100);
    let Some(Reading::Spread(buckets, _)) = meters.reading(&DURATION, PROXY) else {
        panic!("not timed");
    };
    assert_eq!(buckets.iter().sum::<u64>(), 2);
    sync().unwrap();
    assert_eq!(count(&TRANSACTIONS), 2, "nothing to send is no transaction");
}
