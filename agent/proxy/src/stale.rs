//! Which conntrack flows no longer match the rules.
//!
//! In: the flows of the connection table, the Services. Out: flows to delete. Only UDP: a TCP client notices a dead endpoint by
//! itself, while a UDP client that keeps sending keeps its entry, and with it the dead endpoint, alive for ever.
//! A flow to a front is stale when its replies come from no endpoint that still serves it: its endpoint went, or it was opened
//! while the front had none.

use std::collections::BTreeMap;

use kedge_wire::conntrack::Flow;

use crate::compile::Compiler;
use crate::model::Protocol;
use crate::service::{Answer, FrontKey, Kind};
use crate::topology::Target;

impl Compiler {
    /// The stale ones of `flows`; `gone` are fronts that were removed since the last look.
    pub fn stale<'a>(&self, flows: &'a [Flow], gone: &[FrontKey]) -> Vec<&'a Flow> {
        let mut fronts: BTreeMap<FrontKey, &[Target]> =
            gone.iter().map(|key| (*key, [].as_slice())).collect();
        for front in self.plans().flat_map(|(_, plan)| &plan.fronts) {
            // A node port without endpoints may be another program's port by now; upstream spares those too.
            let spare = matches!(front.kind, Kind::NodePort(_)) && front.answer == Answer::Reject;
            if front.key.protocol == Protocol::Udp && !spare {
                fronts.insert(front.key, &front.serving);
            }
        }
        let is_stale = |flow: &&Flow| {
            let serving = front_of(flow).and_then(|key| fronts.get(&key));
            let answers = Target {
                address: flow.reply.source,
                port: flow.reply.sport,
            };
            serving.is_some_and(|targets| targets.binary_search(&answers).is_err())
        };
        flows.iter().filter(is_stale).collect()
    }
}

fn front_of(flow: &Flow) -> Option<FrontKey> {
    let udp = flow.original.protocol == Protocol::Udp.number();
    udp.then_some(FrontKey {
        address: flow.original.destination,
        protocol: Protocol::Udp,
        port: flow.original.dport,
    })
}
