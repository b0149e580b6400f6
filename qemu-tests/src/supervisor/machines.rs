//! The VMs as processes: power on, pull the plug, press buttons, unplug the cable.
//!
//! In: [`Vm`] descriptions and actions. Out: QEMU processes. A machine stays listed when it is off; its disks stay too.
//! Absent: judging why one went off; its console has the words.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::ns;
use super::protocol::Action;
use crate::qemu::Vm;
use crate::qmp;

#[derive(Default)]
pub struct Machines(Vec<Machine>);

pub struct Machine {
    pub vm: Vm,
    child: Option<Child>,
}

impl Machines {
    pub fn launch(&mut self, vm: Vm) -> Result<()> {
        if self
            .0
            .iter()
            .any(|machine| machine.vm.name == vm.name || machine.vm.index == vm.index)
        {
            bail!("launch {}: a machine of that name or index exists", vm.name);
        }
        let mut machine = Machine { vm, child: None };
        machine.power_on()?;
        self.0.push(machine);
        Ok(())
    }

    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.find(name)?.power_cut()?;
        self.0.retain(|machine| machine.vm.name != name);
        Ok(())
    }

    pub fn act(&mut self, name: &str, action: Action) -> Result<()> {
        let machine = self.find(name)?;
        match action {
            Action::PowerCut => machine.power_cut(),
            Action::PowerOn => machine.power_on(),
            Action::PowerButton => machine.qmp("system_powerdown", &json!({})),
            Action::Reset => machine.qmp("system_reset", &json!({})),
            Action::CableOut => machine.qmp("set_link", &json!({"name": "nic0", "up": false})),
            Action::CableIn => machine.qmp("set_link", &json!({"name": "nic0", "up": true})),
        }
        .with_context(|| format!("{action:?} {name}"))
    }

    /// Every machine with whether it runs.
    pub fn list(&mut self) -> Vec<(&Vm, bool)> {
        self.0
            .iter_mut()
            .map(|machine| {
                let running = machine.is_running();
                (&machine.vm, running)
            })
            .collect()
    }

    fn find(&mut self, name: &str) -> Result<&mut Machine> {
        let known: Vec<String> = self
            .0
            .iter()
            .map(|machine| machine.vm.name.clone())
            .collect();
        let found = self.0.iter_mut().find(|machine| machine.vm.name == name);
        found.with_context(|| format!("no machine {name:?} (there are: {})", known.join(", ")))
    }
}

impl Machine {
    fn power_on(&mut self) -> Result<()> {
        let name = self.vm.name.clone();
        if self.is_running() {
            bail!("{name} is on already");
        }
        ns::add_tap(&self.vm.tap()).with_context(|| format!("make the tap of {name}"))?;
        let log_path = self.vm.directory().join("qemu.log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("open {}", log_path.display()))?;
        remove_stale(&self.vm.qmp)?;
        let child = Command::new("qemu-system-x86_64")
            .args(self.vm.arguments())
            .stdin(Stdio::null())
            .stdout(
                log.try_clone()
                    .with_context(|| format!("open {}", log_path.display()))?,
            )
            .stderr(log)
            .spawn()
            .with_context(|| format!("start QEMU for {name}"))?;
        self.child = Some(child);
        Ok(())
    }

    fn power_cut(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("kill QEMU")?;
            child.wait().context("wait for QEMU")?;
        }
        Ok(())
    }

    fn qmp(&mut self, command: &str, arguments: &serde_json::Value) -> Result<()> {
        if !self.is_running() {
            bail!("it is off");
        }
        qmp::execute(&self.vm.qmp, command, arguments).map(drop)
    }

    fn is_running(&mut self) -> bool {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => true,
            Some(_) => {
                self.child = None;
                false
            }
            None => false,
        }
    }
}

fn remove_stale(socket: &Path) -> Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("delete {}", socket.display()))
        }
        _ => Ok(()),
    }
}
