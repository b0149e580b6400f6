//! A VM as QEMU arguments. Pure: a [`Vm`] in, an argument list out.
//!
//! `-cx16` is not optional under TCG: with it the 6.12 kernel's slab allocator double-faults in one boot of eight (`boot.md` 0).
//! Absent: starting anything (`supervisor::machines`), and choosing the accelerator (`accel`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dhcp::Mac;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    Kvm,
    Tcg,
}

/// One machine, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    pub name: String,
    /// 1..=99; MAC, tap and default lease follow from it.
    pub index: u8,
    pub accel: Accel,
    pub memory_mib: u32,
    pub cpus: u8,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub append: String,
    /// In order: the node's disk, its seed. Raw images, but for those called `.qcow2`.
    pub disks: Vec<PathBuf>,
    /// Raw images after those, which several machines may share.
    pub read_only_disks: Vec<PathBuf>,
    pub console: PathBuf,
    pub qmp: PathBuf,
    /// A start date of the hardware clock (`1970-01-01T00:00:00`), or the host's time.
    pub rtc: Option<String>,
}

impl Vm {
    pub fn mac(&self) -> Mac {
        mac(self.index)
    }

    pub fn tap(&self) -> String {
        format!("tap{}", self.index)
    }

    /// The directory of this machine's files.
    pub fn directory(&self) -> &Path {
        self.console.parent().unwrap_or(Path::new("."))
    }

    pub fn arguments(&self) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let mut add = |flag: &str, value: String| out.extend([flag.to_owned(), value]);
        add("-name", self.name.clone());
        for (flag, value) in accelerator(self.accel) {
            add(flag, value.into());
        }
        add("-M", "q35".into());
        add("-m", self.memory_mib.to_string());
        add("-smp", self.cpus.to_string());
        add("-kernel", self.kernel.display().to_string());
        add("-initrd", self.initrd.display().to_string());
        add("-append", self.append.clone());
        let disks = self.disks.iter().map(|disk| (disk, ""));
        let shared = self
            .read_only_disks
            .iter()
            .map(|disk| (disk, ",readonly=on"));
        for (number, (disk, flag)) in disks.chain(shared).enumerate() {
            // cache=unsafe: a power cut by SIGKILL keeps what the guest wrote, flushed or not; torn writes have their own test elsewhere.
            add(
                "-drive",
                format!(
                    "file={},format={},if=virtio,cache=unsafe,id=disk{number}{flag}",
                    escape(disk),
                    format_of(disk)
                ),
            );
        }
        add(
            "-netdev",
            format!("tap,id=net0,ifname={},script=no,downscript=no", self.tap()),
        );
        add(
            "-device",
            format!(
                "virtio-net-pci,netdev=net0,id=nic0,mac={},romfile=",
                mac_text(self.mac())
            ),
        );
        add("-device", "virtio-rng-pci".into());
        add(
            "-chardev",
            format!("file,id=console0,path={},append=on", escape(&self.console)),
        );
        add("-serial", "chardev:console0".into());
        add(
            "-qmp",
            format!("unix:{},server=on,wait=off", escape(&self.qmp)),
        );
        if let Some(date) = &self.rtc {
            add("-rtc", format!("base={date}"));
        }
        out.extend(["-nodefaults", "-display", "none"].map(str::to_owned));
        out
    }
}

fn format_of(disk: &Path) -> &'static str {
    match disk.extension() {
        Some(extension) if extension == "qcow2" => "qcow2",
        _ => "raw",
    }
}

/// The CPU model and accelerator. Also what the probe guest uses.
pub fn accelerator(accel: Accel) -> [(&'static str, &'static str); 2] {
    match accel {
        Accel::Kvm => [("-accel", "kvm"), ("-cpu", "host")],
        // Five-level page walks cost TCG time for nothing.
        Accel::Tcg => [
            ("-accel", "tcg,thread=multi,tb-size=512"),
            ("-cpu", "max,-cx16,-la57"),
        ],
    }
}

pub fn mac(index: u8) -> Mac {
    [0x52, 0x54, 0x00, 0x4b, 0x45, index]
}

pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// QEMU's option values end at a comma; a doubled comma is one comma.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn vm() -> Vm {
        Vm {
            name: "node2".into(),
            index: 2,
            accel: Accel::Tcg,
            memory_mib: 512,
            cpus: 1,
            kernel: "/img/vmlinuz".into(),
            initrd: "/img/initramfs".into(),
            append: "console=ttyS0 panic=10".into(),
            disks: vec!["/run/node2/disk.img".into(), "/run/node2/seed.img".into()],
            read_only_disks: vec!["/run/probe.img".into()],
            console: "/run/node2/console.log".into(),
            qmp: "/run/node2/qmp".into(),
            rtc: None,
        }
    }

    fn check(vm: &Vm, expected: Expect) {
        let arguments = vm.arguments();
        let lines: Vec<String> = arguments
            .chunk_by(|_, next| !next.starts_with('-'))
            .map(|group| group.join(" "))
            .collect();
        expected.assert_eq(&(lines.join("\n") + "\n"));
    }

    #[test]
    fn a_node_under_tcg() {
        check(
            &vm(),
            expect![[r#"
                -name node2
                -accel tcg,thread=multi,tb-size=512
                -cpu max,-cx16,-la57
                -M q35
                -m 512
                -smp 1
                -kernel /img/vmlinuz
                -initrd /img/initramfs
                -append console=ttyS0 panic=10
                -drive file=/run/node2/disk.img,format=raw,if=virtio,cache=unsafe,id=disk0
                -drive file=/run/node2/seed.img,format=raw,if=virtio,cache=unsafe,id=disk1
                -drive file=/run/probe.img,format=raw,if=virtio,cache=unsafe,id=disk2,readonly=on
                -netdev tap,id=net0,ifname=tap2,script=no,downscript=no
                -device virtio-net-pci,netdev=net0,id=nic0,mac=52:54:00:4b:45:02,romfile=
                -device virtio-rng-pci
                -chardev file,id=console0,path=/run/node2/console.log,append=on
                -serial chardev:console0
                -qmp unix:/run/node2/qmp,server=on,wait=off
                -nodefaults
                -display none
            "#]],
        );
    }

    #[test]
    fn a_machine_with_kvm_an_old_clock_and_a_comma_in_its_path() {
        let vm = Vm {
            accel: Accel::Kvm,
            rtc: Some("1970-01-01T00:00:00".into()),
            disks: vec!["/a,b/disk.img".into()],
            ..vm()
        };
        check(
            &vm,
            expect![[r#"
                -name node2
                -accel kvm
                -cpu host
                -M q35
                -m 512
                -smp 1
                -kernel /img/vmlinuz
                -initrd /img/initramfs
                -append console=ttyS0 panic=10
                -drive file=/a,,b/disk.img,format=raw,if=virtio,cache=unsafe,id=disk0
                -drive file=/run/probe.img,format=raw,if=virtio,cache=unsafe,id=disk1,readonly=on
                -netdev tap,id=net0,ifname=tap2,script=no,downscript=no
                -device virtio-net-pci,netdev=net0,id=nic0,mac=52:54:00:4b:45:02,romfile=
                -device virtio-rng-pci
                -chardev file,id=console0,path=/run/node2/console.log,append=on
                -serial chardev:console0
                -qmp unix:/run/node2/qmp,server=on,wait=off
                -rtc base=1970-01-01T00:00:00
                -nodefaults
                -display none
            "#]],
        );
    }
}
