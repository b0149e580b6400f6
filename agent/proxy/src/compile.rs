//! Plans to elements, and every change to the smallest transaction.
//!
//! In: snapshots and node facts, one after the other. Out: the desired table, kept in place, and an [`Update`] per snapshot.
//! A changed Service takes its elements back and puts its new ones in; a journal remembers what was there before, so the
//! transaction is the difference of just the touched elements. Counts tell when a chain or map has its last user.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use kedge_wire::nft::{Bytes, Chain, Element, SetSpec, Table, Transaction, Verdict, diff};

use crate::layout::{Class, Layout, chains, front_bytes, octets, sets, target_bytes};
use crate::model::{Cidr, Family, Inputs, NodeFacts, Protocol, ServiceName};
use crate::service::{Affinity, Answer, Front, FrontKey, Kind, Plan, Source, plan};
use crate::topology::Target;
use crate::tracker::Tracker;

mod journal;

use journal::Journal;

/// Keeps the desired table of one family.
#[derive(Debug, Clone)]
pub struct Compiler {
    layout: Layout,
    node: NodeFacts,
    tracker: Tracker,
    plans: BTreeMap<ServiceName, Plan>,
    /// Who wants a front; the least claim has it.
    claims: BTreeMap<FrontKey, Vec<Claim>>,
    /// How many users something shared has.
    uses: BTreeMap<Shared, usize>,
    /// Some class got its first front or lost its last one: the pick chains are to be written anew.
    classes_changed: bool,
    table: Table,
    journal: Option<Journal>,
}

/// A Service's claim to a front.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    kind: Kind,
    service: ServiceName,
    /// Position in the Service's plan.
    index: usize,
}

/// What several Services may need at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Shared {
    ClusterIp(IpAddr),
    Hairpin(IpAddr),
    Class(Class),
    /// A front with any endpoints, for outsiders or insiders.
    Front(FrontKey),
    AffineChain(String),
    ClientSet(String),
}

/// What one snapshot changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// From the table before to the table now.
    pub transaction: Transaction,
    /// Services planned again.
    pub services: usize,
    /// A UDP front changed its endpoints, came or went: the connection table may hold stale flows.
    pub udp: bool,
    /// UDP fronts that went.
    pub gone: Vec<FrontKey>,
}

/// What a health-check node port answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthAnswer {
    pub service: ServiceName,
    pub node_port: u16,
    /// 200 with some, 503 with none.
    pub local_endpoints: usize,
}

impl Compiler {
    /// A table without Services.
    pub fn new(family: Family, node: NodeFacts) -> Self {
        let layout = Layout { family };
        let table = layout.skeleton(&node.pod_ranges);
        Self {
            layout,
            node,
            tracker: Tracker::default(),
            plans: BTreeMap::new(),
            claims: BTreeMap::new(),
            uses: BTreeMap::new(),
            classes_changed: false,
            table,
            journal: None,
        }
    }

    pub fn family(&self) -> Family {
        self.layout.family
    }

    /// The desired table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Plans of Services, for the stale-flow index and for people.
    pub fn plans(&self) -> impl Iterator<Item = (&ServiceName, &Plan)> {
        self.plans.iter()
    }

    /// How many fronts have endpoints, and how many elements the table holds.
    pub fn size(&self) -> (usize, usize) {
        let elements = self.table.sets.values().map(|s| s.elements.len()).sum();
        let fronts = self.table.sets.get(sets::FRONTS);
        (fronts.map_or(0, |s| s.elements.len()), elements)
    }

    /// Answers of health-check node ports.
    pub fn health(&self) -> Vec<HealthAnswer> {
        let answer = |(service, plan): (&ServiceName, &Plan)| {
            plan.health
                .map(|(node_port, local_endpoints)| HealthAnswer {
                    service: service.clone(),
                    node_port,
                    local_endpoints,
                })
        };
        self.plans.iter().filter_map(answer).collect()
    }

    /// Takes the next snapshot, and tells the way from the table before to the table now.
    pub fn update(&mut self, inputs: &Arc<Inputs>, node: &NodeFacts) -> Update {
        if *node != self.node {
            let (before, mut update) = self.rebuild(inputs, node);
            update.transaction = diff(Some(&before), &self.table);
            return update;
        }
        self.journal = Some(Journal::new(&self.table));
        let mut update = self.take(inputs);
        if let Some(journal) = self.journal.take() {
            update.transaction = journal.transaction(&self.table);
        }
        update
    }

    /// Takes the next snapshot when the kernel's table is not known and will be compared as a whole anyway: the transaction is left
    /// empty, which at the start spares a copy of everything.
    pub fn load(&mut self, inputs: &Arc<Inputs>, node: &NodeFacts) -> Update {
        match *node != self.node {
            true => self.rebuild(inputs, node).1,
            false => self.take(inputs),
        }
    }

    /// The node's own facts are part of rules and of most fronts: starts anew. Gives the table before.
    fn rebuild(&mut self, inputs: &Arc<Inputs>, node: &NodeFacts) -> (Table, Update) {
        let mut before = std::mem::replace(self, Self::new(self.layout.family, node.clone()));
        let mut update = self.take(inputs);
        let udp_fronts = |c: &Self| -> Vec<FrontKey> {
            let keys = c.claims.keys().copied();
            keys.filter(|k| k.protocol == Protocol::Udp).collect()
        };
        let kept = udp_fronts(self);
        update.gone = udp_fronts(&before);
        update.gone.retain(|key| kept.binary_search(key).is_err());
        update.udp = true;
        let empty = Table::new(before.table.family, &before.table.name);
        (std::mem::replace(&mut before.table, empty), update)
    }

    /// Plans what changed again and puts it into the table.
    fn take(&mut self, inputs: &Arc<Inputs>) -> Update {
        let changed = self.tracker.next(inputs);
        let (mut udp, mut gone) = (false, Vec::new());
        for name in &changed {
            let next = self.tracker.service(name).map(|service| {
                let slices = self.tracker.slices(name);
                plan(service, &slices, self.layout.family, &self.node)
            });
            let before = self.plans.get(name);
            if before == next.as_ref() {
                continue;
            }
            udp |= !udp_part(before).eq(udp_part(next.as_ref()));
            gone.extend(udp_part(before).map(|f| f.key));
            self.replace(name, next);
        }
        if std::mem::take(&mut self.classes_changed) {
            self.write_pick_chains();
        }
        gone.sort_unstable();
        gone.dedup();
        gone.retain(|key| !self.claims.contains_key(key));
        Update {
            transaction: Transaction {
                family: self.table.family,
                table: self.table.name.clone(),
                ops: Vec::new(),
            },
            services: changed.len(),
            udp,
            gone,
        }
    }

    /// Exchanges one Service's plan: the fronts it touches are taken back, then given to whoever has them now.
    fn replace(&mut self, name: &ServiceName, next: Option<Plan>) {
        let before = self.plans.get(name);
        let fronts = before.into_iter().chain(&next).flat_map(|p| &p.fronts);
        let mut keys: Vec<FrontKey> = fronts.map(|f| f.key).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in &keys {
            if let Some(front) = self.holder(key).cloned() {
                self.put_front(&front, false);
            }
        }
        if let Some(plan) = self.plans.remove(name) {
            self.put_plan(&plan, false);
            for front in &plan.fronts {
                self.unclaim(name, &front.key);
            }
        }
        if let Some(plan) = next {
            self.put_plan(&plan, true);
            for (index, front) in plan.fronts.iter().enumerate() {
                self.claim(name, index, front);
            }
            self.plans.insert(name.clone(), plan);
        }
        for key in &keys {
            if let Some(front) = self.holder(key).cloned() {
                self.put_front(&front, true);
            }
        }
    }

    fn holder(&self, key: &FrontKey) -> Option<&Front> {
        let claim = self.claims.get(key)?.first()?;
        self.plans.get(&claim.service)?.fronts.get(claim.index)
    }

    fn claim(&mut self, name: &ServiceName, index: usize, front: &Front) {
        let claims = self.claims.entry(front.key).or_default();
        // Almost every front has one claim; a vector would make room for four.
        claims.reserve_exact(1);
        claims.push(Claim {
            kind: front.kind,
            service: name.clone(),
            index,
        });
        claims.sort_unstable();
    }

    fn unclaim(&mut self, name: &ServiceName, key: &FrontKey) {
        if let Some(claims) = self.claims.get_mut(key) {
            claims.retain(|c| c.service != *name);
            if claims.is_empty() {
                self.claims.remove(key);
            }
        }
    }

    fn put_plan(&mut self, plan: &Plan, add: bool) {
        for address in &plan.cluster_ips {
            if self.count(Shared::ClusterIp(*address), add) {
                let key = octets(*address);
                self.put(sets::CLUSTER_IPS, key, Element::member(), add);
            }
        }
        for address in &plan.here {
            if self.count(Shared::Hairpin(*address), add) {
                let key = octets(*address).repeat(2);
                self.put(sets::HAIRPIN, key, Element::member(), add);
            }
        }
    }

    /// Adds or removes all elements of a front.
    fn put_front(&mut self, front: &Front, add: bool) {
        let key = front_bytes(&front.key);
        let member = |this: &mut Self, set: &str| {
            this.put(set, key.clone(), Element::member(), add);
        };
        match &front.answer {
            Answer::Endpoints { targets, local } => {
                self.put_endpoints(front, targets, *local, add);
                self.put_affinity(front, sets::AFFINE, targets, *local, add);
                if front.inside.is_none() {
                    self.put_affinity(front, sets::AFFINE_INSIDE, targets, *local, add);
                }
            }
            // An unknown or dead port of a cluster address is rejected by the address alone.
            Answer::Reject if front.kind == Kind::Cluster => {}
            Answer::Reject => member(self, sets::NO_ENDPOINTS),
            Answer::Drop => member(self, sets::NO_LOCAL),
        }
        if let Some(targets) = &front.inside {
            self.put_endpoints(front, targets, false, add);
            self.put_affinity(front, sets::AFFINE_INSIDE, targets, false, add);
        }
        match front.kind {
            Kind::Cluster => {}
            Kind::External(Source::Masqueraded) | Kind::NodePort(Source::Masqueraded) => {
                member(self, sets::MASQUERADE);
            }
            Kind::External(Source::Kept) | Kind::NodePort(Source::Kept) => {
                member(self, sets::MASQUERADE_NODE);
            }
        }
        if !front.sources.is_empty() {
            member(self, sets::RESTRICTED);
            for range in &front.sources {
                let (first, last) = ends(range);
                let start = [&key[..], &first].concat();
                let end = [&key[..], &last].concat();
                self.put(sets::SOURCES, start, Element::up_to(&end), add);
            }
        }
    }

    fn put_endpoints(&mut self, front: &Front, targets: &[Target], local: bool, add: bool) {
        let class = Class {
            local,
            endpoints: u32::try_from(targets.len()).unwrap_or(u32::MAX),
        };
        let key = front_bytes(&front.key);
        if self.count(Shared::Front(front.key), add) {
            self.put(sets::FRONTS, key.clone(), Element::member(), add);
        }
        let edge = self.count(Shared::Class(class), add);
        self.classes_changed |= edge;
        let map = class.map();
        if edge && add {
            self.put_set(&map, Some(self.layout.endpoint_map()));
        }
        for (number, target) in (0u32..).zip(targets) {
            let numbered = [&key[..], &number.to_ne_bytes()].concat();
            self.put(&map, numbered, Element::data(target_bytes(target)), add);
        }
        if edge && !add {
            self.put_set(&map, None);
        }
    }

    /// The chain of a Service port that remembers clients, and its sets, exist while a front uses them.
    fn put_affinity(
        &mut self,
        front: &Front,
        vmap: &str,
        targets: &[Target],
        local: bool,
        add: bool,
    ) {
        let Some(affinity) = &front.affinity else {
            return;
        };
        let chain = affinity.chain(local);
        if self.count(Shared::AffineChain(chain.clone()), add) {
            self.put_affine_chain(affinity, &chain, targets, add);
        }
        let jump = Element::verdict(Verdict::Jump(chain));
        self.put(vmap, front_bytes(&front.key), jump, add);
    }

    fn put_affine_chain(
        &mut self,
        affinity: &Affinity,
        chain: &str,
        targets: &[Target],
        add: bool,
    ) {
        let with_sets: Vec<_> = targets.iter().map(|t| (*t, affinity.set(t))).collect();
        for (_, set) in &with_sets {
            // The chains for outsiders and insiders remember in the same sets.
            if self.count(Shared::ClientSet(set.clone()), add) {
                self.put_set(set, add.then(|| self.layout.client_set()));
            }
        }
        let rules = add.then(|| self.layout.affine(affinity.seconds, &with_sets));
        self.put_chain(chain, rules);
    }

    fn write_pick_chains(&mut self) {
        for (name, local) in [(chains::PICK_CLUSTER, false), (chains::PICK_LOCAL, true)] {
            let classes = self.uses.keys().filter_map(|shared| match shared {
                Shared::Class(class) if class.local == local => Some(*class),
                _ => None,
            });
            let chain = self.layout.pick(classes);
            self.put_chain(name, Some(chain));
        }
    }

    fn put_chain(&mut self, name: &str, chain: Option<Chain>) {
        if let Some(journal) = &mut self.journal {
            journal.chain(&self.table, name);
        }
        match chain {
            Some(chain) => self.table.chains.insert(name.to_owned(), chain),
            None => self.table.chains.remove(name),
        };
    }

    fn put_set(&mut self, name: &str, spec: Option<SetSpec>) {
        if let Some(journal) = &mut self.journal {
            journal.set(&self.table, name);
        }
        match spec {
            Some(spec) => {
                let set = spec.with_elements(BTreeMap::new());
                self.table.sets.insert(name.to_owned(), set);
            }
            None => {
                self.table.sets.remove(name);
            }
        }
    }

    /// Counts a use; true for the first and after the last one.
    fn count(&mut self, shared: Shared, add: bool) -> bool {
        let uses = self.uses.entry(shared.clone()).or_default();
        *uses = if add {
            *uses + 1
        } else {
            uses.saturating_sub(1)
        };
        let now = *uses;
        if now == 0 {
            self.uses.remove(&shared);
        }
        now == usize::from(add)
    }

    fn put(&mut self, set: &str, key: impl Into<Bytes>, element: Element, add: bool) {
        let key = key.into();
        if let Some(journal) = &mut self.journal {
            journal.element(&self.table, set, &key);
        }
        let Some(set) = self.table.sets.get_mut(set) else {
            return;
        };
        if add {
            set.elements.insert(key, element);
        } else {
            set.elements.remove(&key);
        }
    }
}

fn udp_part(plan: Option<&Plan>) -> impl Iterator<Item = &Front> {
    let fronts = plan.into_iter().flat_map(|p| &p.fronts);
    fronts.filter(|f| f.key.protocol == Protocol::Udp)
}

/// First and last address of a range.
fn ends(range: &Cidr) -> (Vec<u8>, Vec<u8>) {
    let first = octets(range.address());
    let bits = usize::from(range.prefix());
    let last = first.iter().enumerate().map(|(at, byte)| {
        let host = 8 - bits.saturating_sub(at * 8).min(8);
        byte | u8::try_from((1u16 << host) - 1).unwrap_or(u8::MAX)
    });
    let last = last.collect();
    (first, last)
}
