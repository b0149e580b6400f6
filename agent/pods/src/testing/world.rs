//! A node that does what a plan says at once: the worker's loop without tokio and without a runtime.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::{at, node, pod};
use crate::action::{Action, ActionKey, Event, Outcome};
use crate::memory::PodMemory;
use crate::observed::{Leftovers, ObservedContainer, ObservedPod, ObservedSandbox, State};
use crate::plan::{Plan, plan};
use crate::pod::{Fate, Inputs, member, spec};
use crate::resize::Pending;
use crate::resolve::NodeFacts;
use crate::status;

pub struct World {
    pub pod: Pod,
    pub fate: Fate,
    pub observed: ObservedPod,
    pub memory: PodMemory,
    pub node: NodeFacts,
    pub published: Option<PodStatus>,
    pub pending: Option<Pending>,
    /// Seconds since boot.
    pub now: u64,
    /// Actions whose key's name starts so are begun and do not end.
    pub hold: BTreeSet<&'static str>,
    /// Actions whose key's name starts so fail: (prefix, reason).
    pub fail: Vec<(&'static str, &'static str)>,
    pub events: Vec<Event>,
    ids: u32,
}

impl World {
    /// A pod with this spec (JSON without the outer braces).
    pub fn new(fields: &str) -> World {
        let mut pod = pod(&format!(r#"{{"spec": {{{fields}}}}}"#));
        pod.metadata.generation = Some(1);
        World {
            pod,
            fate: Fate::Run,
            observed: ObservedPod::default(),
            memory: PodMemory::default(),
            node: node(),
            published: None,
            pending: None,
            now: 100,
            hold: BTreeSet::new(),
            fail: Vec::new(),
            events: Vec::new(),
            ids: 0,
        }
    }

    /// Observes and plans, without acting.
    pub fn look(&mut self) -> Plan {
        let (memory, now) = (&mut self.memory, at(self.now));
        let inputs = Inputs {
            pod: &self.pod,
            fate: &self.fate,
            observed: &self.observed,
            published: self.published.as_ref(),
            node: &self.node,
            pending: self.pending.as_ref(),
        };
        self.events.extend(memory.observe(&inputs, now));
        let planned = plan(&inputs, memory, now);
        let status = status::generate(&inputs, memory, now);
        self.published = Some(status);
        planned
    }

    /// One round: the plan's actions are begun, and ended unless held. What was begun, as text.
    pub fn step(&mut self) -> Vec<String> {
        let plan = self.look();
        for key in &plan.cancel {
            self.memory.cancelled(key);
        }
        let mut said: Vec<String> = plan
            .cancel
            .iter()
            .map(|k| format!("cancel {k:?}"))
            .collect();
        for action in plan.actions {
            said.push(action.to_string());
            let now = at(self.now);
            let begun = self.with(|memory, inputs| memory.started(inputs, &action, now));
            self.events.extend(begun);
            let name = format!("{:?}", action.key());
            if !self.hold.iter().any(|h| name.starts_with(h)) {
                self.end(&action);
            }
        }
        said
    }

    /// Rounds until nothing is planned.
    pub fn settle(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        for _ in 0..100 {
            let round = self.step();
            if round.is_empty() {
                return said;
            }
            said.extend(round);
        }
        panic!("the pod never settles: {said:#?}");
    }

    pub fn check(&mut self, expected: expect_test::Expect) {
        let said = self.settle();
        expected.assert_eq(&(said.join("\n") + "\n"));
    }

    pub fn status(&mut self) -> PodStatus {
        self.look();
        self.published.clone().unwrap()
    }

    /// The agent dies and comes back: it knows what the runtime and the API know.
    pub fn restart_agent(&mut self) {
        self.look();
        self.memory = PodMemory::default();
    }

    /// The newest instance of a container ends.
    pub fn exit(&mut self, name: &str, code: i32) {
        let finished = at(self.now).wall;
        let c = self.latest(name);
        c.state = State::Exited;
        c.exit_code = code;
        c.finished_at = finished;
    }

    pub fn latest(&mut self, name: &str) -> &mut ObservedContainer {
        let found = self
            .observed
            .containers
            .iter_mut()
            .filter(|c| c.name == name);
        found.max_by_key(|c| (c.attempt, c.created_at)).unwrap()
    }

    /// The pod is being deleted with this grace, since now.
    pub fn delete(&mut self, grace: i64) {
        let meta = &mut self.pod.metadata;
        meta.deletion_grace_period_seconds = Some(grace);
        let end = at(self.now).wall + grace * super::SECOND;
        meta.deletion_timestamp = Some(crate::time::to_time(end));
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut PodMemory, &Inputs<'_>) -> T) -> T {
        let inputs = Inputs {
            pod: &self.pod,
            fate: &self.fate,
            observed: &self.observed,
            published: self.published.as_ref(),
            node: &self.node,
            pending: self.pending.as_ref(),
        };
        act(&mut self.memory, &inputs)
    }

    /// Ends an action that was begun: the runtime changes, the memory hears of it.
    pub fn end(&mut self, action: &Action) {
        let name = format!("{:?}", action.key());
        let failure = self
            .fail
            .iter()
            .find(|(prefix, _)| name.starts_with(prefix));
        let outcome = match failure {
            Some((_, reason)) => Outcome::failed(reason, "no luck"),
            None => self.apply(action),
        };
        self.finish(&action.key(), outcome);
    }

    pub fn finish(&mut self, key: &ActionKey, outcome: Outcome) {
        let now = at(self.now);
        let told = self.with(|memory, inputs| memory.finished(inputs, key, outcome, now));
        self.events.extend(told);
    }

    fn apply(&mut self, action: &Action) -> Outcome {
        match action {
            Action::Prepare => {
                self.observed.leftovers = Leftovers {
                    volumes: true,
                    cgroup: true,
                }
            }
            Action::CleanUp => self.observed.leftovers = Leftovers::default(),
            Action::CreateSandbox { attempt } => self.create_sandbox(*attempt),
            Action::StopSandbox { id } => {
                for s in self.observed.sandboxes.iter_mut().filter(|s| s.id == *id) {
                    s.ready = false;
                }
            }
            Action::RemoveSandbox { id } => {
                self.observed.sandboxes.retain(|s| s.id != *id);
                self.observed.containers.retain(|c| c.sandbox_id != *id);
            }
            Action::PullImage { image, .. } => {
                return Outcome::Image {
                    reference: format!("sha256:{image}"),
                    pulled: true,
                    took: std::time::Duration::from_millis(1500),
                    size: 42,
                };
            }
            Action::StartContainer {
                container,
                attempt,
                sandbox,
                ..
            } => {
                return self.start(container, *attempt, sandbox);
            }
            Action::KillContainer { container, .. } => self.exit(&container.clone(), 137),
            Action::Resize { container, id } => {
                let wanted = member(spec(&self.pod), container).unwrap();
                let resources = wanted.spec.resources.clone().unwrap_or_default();
                let applied = crate::qos::container_resources(&self.pod, &wanted, &self.node);
                for c in self.observed.containers.iter_mut().filter(|c| c.id == *id) {
                    c.resources = Some(applied.clone());
                }
                return Outcome::Resized(Box::new(resources));
            }
            Action::RemoveContainer { id, .. } => self.observed.containers.retain(|c| c.id != *id),
            Action::RunHook { .. } | Action::Finish | Action::Forget => {}
        }
        Outcome::Done
    }

    fn create_sandbox(&mut self, attempt: u32) {
        let host_network = spec(&self.pod).host_network == Some(true);
        self.observed.sandboxes.push(ObservedSandbox {
            id: format!("s{attempt}"),
            attempt,
            ready: true,
            created_at: at(self.now).wall,
            ips: if host_network {
                Vec::new()
            } else {
                vec!["10.0.0.7".parse().unwrap()]
            },
            host_network,
            ..Default::default()
        });
    }

    fn start(&mut self, name: &str, attempt: u32, sandbox: &str) -> Outcome {
        self.ids += 1;
        let container = member(spec(&self.pod), name).unwrap();
        let image = container.spec.image.clone().unwrap_or_default();
        let wall = at(self.now).wall;
        let id = format!("{name}-{attempt}");
        self.observed.containers.push(ObservedContainer {
            id: id.clone(),
            sandbox_id: sandbox.to_owned(),
            name: name.to_owned(),
            attempt,
            state: State::Running,
            created_at: wall + i64::from(self.ids),
            started_at: wall,
            image_id: format!("sha256:{image}"),
            image,
            annotations: crate::spec::labels::container_annotations(
                &self.pod,
                &container.spec,
                attempt,
                "",
            ),
            ..Default::default()
        });
        Outcome::Started { id }
    }
}
