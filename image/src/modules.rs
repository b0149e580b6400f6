//! Which modules the image holds, in which order they load, and what loaders in pods find about them.
//!
//! In: the table of needed modules and a [`Kernel`]. Out: [`ModuleSet`]: two ordered load lists and the
//! `modules.dep`, `modules.alias` and `modules.softdep` texts (the kernel package ships none: they are made by `depmod` at installation).
//! Dependencies come from each module's own `.modinfo` section.

mod index;
mod needed;

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::elf::Elf;
use crate::error::{Error, Result};
use crate::kernel::Kernel;

use index::Index;
pub use needed::{NEEDED, Needed, Stage};

#[derive(Debug)]
pub struct Module {
    /// Below the release directory: `kernel/fs/erofs/erofs.ko`.
    pub path: String,
    pub bytes: Vec<u8>,
    depends: Vec<String>,
    aliases: Vec<String>,
}

#[derive(Debug, Default)]
pub struct ModuleSet {
    pub modules: BTreeMap<String, Module>,
    /// Names in load order.
    pub initramfs: Vec<String>,
    pub root: Vec<String>,
    /// Wanted, optional and absent from this kernel.
    pub absent: Vec<&'static str>,
}

pub fn select(kernel: &Kernel, needed: &[Needed]) -> Result<ModuleSet> {
    let mut set = ModuleSet::default();
    for want in needed {
        if kernel.is_builtin(want.name) {
            continue;
        }
        if kernel.module_path(want.name).is_none() {
            if want.required {
                return Err(Error::Module {
                    module: want.name.to_owned(),
                    problem: format!(
                        "kernel {} has it neither as a file nor built in, but it is needed: {}",
                        kernel.release, want.reason
                    ),
                });
            }
            set.absent.push(want.name);
            continue;
        }
        let mut order = Vec::new();
        closure(
            kernel,
            want.name,
            &mut set.modules,
            &mut order,
            &mut Vec::new(),
        )?;
        let list = match want.stage {
            Stage::Initramfs => &mut set.initramfs,
            Stage::Root => &mut set.root,
            Stage::OnDemand => continue,
        };
        for name in order {
            if !list.contains(&name) {
                list.push(name);
            }
        }
    }
    let early = set.initramfs.clone();
    set.root.retain(|name| !early.contains(name));
    Ok(set)
}

/// Depth first, dependencies before dependents.
fn closure(
    kernel: &Kernel,
    name: &str,
    modules: &mut BTreeMap<String, Module>,
    order: &mut Vec<String>,
    path: &mut Vec<String>,
) -> Result<()> {
    if kernel.is_builtin(name) || order.iter().any(|done| done == name) {
        return Ok(());
    }
    if path.iter().any(|open| open == name) {
        return Err(Error::Module {
            module: name.to_owned(),
            problem: format!("depends on itself through {}", path.join(" -> ")),
        });
    }
    if !modules.contains_key(name) {
        let module = load(kernel, name, path.last())?;
        modules.insert(name.to_owned(), module);
    }
    path.push(name.to_owned());
    for dependency in modules[name].depends.clone() {
        closure(kernel, &dependency, modules, order, path)?;
    }
    path.pop();
    order.push(name.to_owned());
    Ok(())
}

fn load(kernel: &Kernel, name: &str, wanted_by: Option<&String>) -> Result<Module> {
    let Some(path) = kernel.module_path(name) else {
        let by = wanted_by.map_or(String::new(), |by| format!(", which {by} depends on"));
        return Err(Error::Module {
            module: name.to_owned(),
            problem: format!("kernel {} does not have it{by}", kernel.release),
        });
    };
    let mut bytes = kernel.read_module(name)?;
    strip_signature(&mut bytes);
    let Some(info) = Elf::parse(&bytes).and_then(|elf| elf.section(".modinfo")) else {
        return Err(Error::Module {
            module: name.to_owned(),
            problem: format!("{path} is not an ELF object with a .modinfo section"),
        });
    };
    let fields = fields(info);
    let mut depends = values(&fields, "depends", &[',']);
    for soft in fields.iter().filter(|(key, _)| *key == "softdep") {
        // "pre: a b post: c": only what must come before matters for the order; absent ones are fine.
        let before = soft.1.split("post:").next().unwrap_or_default();
        let wanted = before.trim_start_matches("pre:").split_whitespace();
        depends.extend(
            wanted
                .map(|word| word.replace('-', "_"))
                .filter(|word| kernel.module_path(word).is_some()),
        );
    }
    Ok(Module {
        aliases: fields
            .iter()
            .filter(|(key, _)| *key == "alias")
            .map(|(_, value)| value.clone())
            .collect(),
        path,
        depends,
        bytes,
    })
}

/// Follows a signature at the end of a module (include/linux/module_signature.h).
const SIGNATURE_MARKER: &[u8] = b"~Module signature appended~\n";
/// The struct before the marker; its last four bytes are the signature's length, big endian.
const SIGNATURE_INFO: usize = 12;

/// Cuts the signature off. Without lockdown the kernel loads unsigned modules all the same, so the check protects nothing
/// here, and it costs 42 million instructions a module: 3.4 of the 6 thousand million from kernel entry to a running
/// containerd (counted by QEMU's icount). The kernel says once that it is tainted. Whoever adds Secure Boot, and with
/// it lockdown, keeps the signatures.
fn strip_signature(bytes: &mut Vec<u8>) {
    let Some(rest) = bytes.strip_suffix(SIGNATURE_MARKER) else {
        return;
    };
    let Some(length) = rest
        .last_chunk::<4>()
        .map(|length| u32::from_be_bytes(*length))
    else {
        return;
    };
    let tail = SIGNATURE_INFO + length as usize;
    if let Some(end) = rest.len().checked_sub(tail) {
        bytes.truncate(end);
    }
}

/// kmod compares names with every dash outside of brackets turned into an underscore.
fn underscores(pattern: &str) -> String {
    let mut bracket = false;
    let turn = |c: char| {
        match c {
            '[' => bracket = true,
            ']' => bracket = false,
            _ => {}
        }
        if c == '-' && !bracket { '_' } else { c }
    };
    pattern.chars().map(turn).collect()
}

fn fields(info: &[u8]) -> Vec<(&str, String)> {
    info.split(|byte| *byte == 0)
        .filter_map(|field| std::str::from_utf8(field).ok()?.split_once('='))
        .map(|(key, value)| (key, value.to_owned()))
        .collect()
}

fn values(fields: &[(&str, String)], key: &str, separators: &[char]) -> Vec<String> {
    fields
        .iter()
        .filter(|(name, _)| *name == key)
        .flat_map(|(_, value)| value.split(separators))
        .filter(|word| !word.is_empty())
        .map(|word| word.replace('-', "_"))
        .collect()
}

impl ModuleSet {
    /// A load list: one absolute path per line.
    pub fn load_list(&self, release: &str, names: &[String]) -> String {
        names.iter().fold(String::new(), |mut text, name| {
            let _ = writeln!(text, "/lib/modules/{release}/{}", self.modules[name].path);
            text
        })
    }

    /// The lists that module loaders in pods read, text and binary: name and bytes.
    pub fn loader_lists(&self, kernel: &Kernel) -> Vec<(&'static str, Vec<u8>)> {
        let mut dep = Index::default();
        let mut alias = Index::default();
        for (priority, (name, module)) in (0..).zip(&self.modules) {
            dep.insert(name, &self.dep_line(name), priority);
            for pattern in &module.aliases {
                alias.insert(&underscores(pattern), name, priority);
            }
        }
        let mut builtin = Index::default();
        for name in kernel.builtin() {
            builtin.insert(name, "", 0);
        }
        let mut builtin_alias = Index::default();
        for (name, pattern) in kernel.builtin_aliases() {
            builtin_alias.insert(&underscores(pattern), name, 0);
        }
        vec![
            ("modules.dep", self.dep_file().into_bytes()),
            ("modules.dep.bin", dep.bytes()),
            ("modules.alias", self.alias_file().into_bytes()),
            ("modules.alias.bin", alias.bytes()),
            // No module asks for another by symbol: `depends` in modules.dep says it all. kmod wants the file.
            ("modules.symbols.bin", Index::default().bytes()),
            ("modules.builtin.bin", builtin.bytes()),
            ("modules.builtin.alias.bin", builtin_alias.bytes()),
        ]
    }

    fn dep_file(&self) -> String {
        let lines = self.modules.keys().map(|name| self.dep_line(name) + "\n");
        lines.collect()
    }

    /// A module, then all it needs, nearest first, as depmod writes it.
    fn dep_line(&self, name: &str) -> String {
        let mut needs = Vec::new();
        self.transitive(name, &mut needs);
        let needs = needs
            .iter()
            .rev()
            .map(|need| format!(" {}", self.modules[need.as_str()].path));
        format!("{}:{}", self.modules[name].path, needs.collect::<String>())
    }

    fn alias_file(&self) -> String {
        let lines = self.modules.iter().flat_map(|(name, module)| {
            module
                .aliases
                .iter()
                .map(move |alias| format!("alias {alias} {name}\n"))
        });
        lines.collect()
    }

    /// Dependencies in load order, without the module itself; what is built in has no file and no line.
    fn transitive(&self, name: &str, out: &mut Vec<String>) {
        for dependency in &self.modules[name].depends {
            if self.modules.contains_key(dependency) && !out.contains(dependency) {
                self.transitive(dependency, out);
                out.push(dependency.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::kernel::tests::package;

    const fn want(name: &'static str, stage: Stage) -> Needed {
        Needed {
            name,
            stage,
            required: true,
            reason: "test",
        }
    }

    fn check(modules: &[(&str, &[&str])], builtin: &str, needed: &[Needed]) -> Result<ModuleSet> {
        let root = package(modules, builtin);
        select(&Kernel::open(root.path()).unwrap(), needed)
    }

    #[test]
    fn dependencies_load_first_and_early_ones_once() {
        let set = check(
            &[
                ("fs/erofs.ko", &["depends=libcrc32c", "alias=fs-erofs"]),
                ("lib/libcrc32c.ko", &["depends="]),
                (
                    "net/nft_nat.ko",
                    &["depends=nf_tables,nf-nat", "alias=nft-expr-nat"],
                ),
                ("net/nf_tables.ko", &["depends=libcrc32c"]),
                (
                    "net/nf_nat.ko",
                    &["depends=libcrc32c", "softdep=pre: nf_log post: gone"],
                ),
                ("net/nf_log.ko", &["depends="]),
            ],
            "kernel/fs/ext4/ext4.ko\n",
            &[
                want("erofs", Stage::Initramfs),
                want("nft_nat", Stage::Root),
                want("ext4", Stage::Root),
            ],
        )
        .unwrap();
        expect![[r#"
            /lib/modules/r/kernel/lib/libcrc32c.ko
            /lib/modules/r/kernel/fs/erofs.ko
        "#]]
        .assert_eq(&set.load_list("r", &set.initramfs));
        expect![[r#"
            /lib/modules/r/kernel/net/nf_tables.ko
            /lib/modules/r/kernel/net/nf_log.ko
            /lib/modules/r/kernel/net/nf_nat.ko
            /lib/modules/r/kernel/net/nft_nat.ko
        "#]]
        .assert_eq(&set.load_list("r", &set.root));
        expect![[r#"
            kernel/fs/erofs.ko: kernel/lib/libcrc32c.ko
            kernel/lib/libcrc32c.ko:
            kernel/net/nf_log.ko:
            kernel/net/nf_nat.ko: kernel/net/nf_log.ko kernel/lib/libcrc32c.ko
            kernel/net/nf_tables.ko: kernel/lib/libcrc32c.ko
            kernel/net/nft_nat.ko: kernel/net/nf_nat.ko kernel/net/nf_log.ko kernel/net/nf_tables.ko kernel/lib/libcrc32c.ko
        "#]]
        .assert_eq(&set.dep_file());
        expect![[r#"
            alias fs-erofs erofs
            alias nft-expr-nat nft_nat
        "#]]
        .assert_eq(&set.alias_file());
    }

    #[test]
    fn missing_required_modules_and_dependencies_are_named() {
        let error = check(&[("a.ko", &[])], "", &[want("erofs", Stage::Initramfs)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "module erofs: kernel 6.12.0-test has it neither as a file nor built in, but it is needed: test"
        );
        let error = check(&[("a.ko", &["depends=b"])], "", &[want("a", Stage::Root)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "module b: kernel 6.12.0-test does not have it, which a depends on"
        );
    }

    #[test]
    fn a_cycle_is_an_error_and_not_a_hang() {
        let error = check(
            &[("a.ko", &["depends=b"]), ("b.ko", &["depends=a"])],
            "",
            &[want("a", Stage::Root)],
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "module a: depends on itself through a -> b"
        );
    }

    #[test]
    fn signatures_are_cut_and_broken_ones_left() {
        let check = |tail: &[u8], expected: &[u8]| {
            let mut bytes = [b"module", tail].concat();
            strip_signature(&mut bytes);
            assert_eq!(bytes, expected);
        };
        let signed = |length: u32| {
            let info = [&[0; 8][..], &length.to_be_bytes()].concat();
            [b"sig", info.as_slice(), SIGNATURE_MARKER].concat()
        };
        check(&signed(3), b"module");
        check(b"", b"module");
        let broken = signed(1000);
        check(&broken, &[b"module", broken.as_slice()].concat());
    }

    #[test]
    fn every_needed_module_is_named_once() {
        let mut names: Vec<_> = NEEDED.iter().map(|needed| needed.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
