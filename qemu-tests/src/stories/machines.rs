//! Extra machines for stories that need one of their own: a bad config, an old clock, a broken disk.
//!
//! A [`Guest`] is taken away when the story leaves it, on whichever way, with its Node object.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::kit::Stage;
use crate::api;
use crate::qemu::Vm;
use crate::seed::{self, NodeConfig};
use crate::supervisor::protocol::{Action, Request};
use crate::wait::{self, Look, check, seen};

/// Boot, join, Ready of one machine beside three others.
pub const BOOT: Duration = Duration::from_secs(180);

pub struct Guest<'a> {
    pub stage: &'a Stage,
    pub vm: Vm,
}

impl<'a> Guest<'a> {
    /// Files of a machine with a good config; `index` is at least 20 and nobody else's.
    pub fn prepare(stage: &'a Stage, name: &str, index: u8, config: &NodeConfig) -> Result<Self> {
        Self::with_seed(stage, name, index, &config.yaml())
    }

    pub fn with_seed(stage: &'a Stage, name: &str, index: u8, text: &str) -> Result<Self> {
        let console = stage.cluster.dirs.console(name);
        if console.exists() {
            std::fs::remove_file(&console)
                .with_context(|| format!("delete {}", console.display()))?;
        }
        // Left over from a story that was cut off.
        let _ = stage
            .cluster
            .client
            .request(&Request::Remove { name: name.into() });
        Ok(Self {
            stage,
            vm: stage.cluster.prepare(name, index, text)?,
        })
    }

    pub fn boot(self) -> Result<Self> {
        self.stage.cluster.launch(&self.vm)?;
        Ok(self)
    }

    pub fn name(&self) -> &str {
        &self.vm.name
    }

    pub fn act(&self, action: Action) -> Result<()> {
        self.stage.machine(&self.vm.name, action)
    }

    /// Writes another document to the seed volume of the running machine, as an operator would swap the stick.
    pub fn reseed(&self, text: &str) -> Result<()> {
        let path = self.vm.directory().join("seed.img");
        let fresh = self.vm.directory().join("seed.new");
        seed::write(&fresh, text)?;
        // In place: QEMU holds the file open.
        let bytes = std::fs::read(&fresh).with_context(|| format!("read {}", fresh.display()))?;
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &bytes))
            .with_context(|| format!("write {}", path.display()))
    }

    pub fn says(&self, parts: &[&str], timeout: Duration) -> Result<String> {
        self.stage.console_says(self.name(), 0, parts, timeout)
    }

    pub fn says_after(&self, mark: usize, parts: &[&str], timeout: Duration) -> Result<String> {
        self.stage.console_says(self.name(), mark, parts, timeout)
    }

    pub fn mark(&self) -> usize {
        self.stage.cluster.console(self.name()).len()
    }

    pub fn until_node(
        &self,
        what: &str,
        timeout: Duration,
        look: impl Fn(&Value) -> Look<()>,
    ) -> Result<Value> {
        wait::until(&format!("node {} {what}", self.name()), timeout, || {
            let node = seen(self.stage.cluster.node(self.name()))?;
            look(&node).map(|()| node)
        })
    }

    pub fn ready(&self) -> Result<Value> {
        self.until_node("Ready", BOOT, |node| {
            check(api::condition(node, "Ready") == "True", || {
                "not Ready".into()
            })
        })
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        // Neither may exist, and a story that failed has already said why.
        let _ = self.stage.cluster.client.request(&Request::Remove {
            name: self.vm.name.clone(),
        });
        let _ = self
            .stage
            .api()
            .delete(&format!("/api/v1/nodes/{}", self.vm.name), None);
    }
}
