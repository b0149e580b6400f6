//! Whole builds with small stand-ins for kernel and programs.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::kernel::tests::package;
use crate::modules::{NEEDED, Stage};
use crate::programs::tests::all_programs;

fn fake_package() -> TempDir {
    let builtin = "kernel/fs/ext4/ext4.ko\n";
    let files: Vec<String> = NEEDED
        .iter()
        .filter(|needed| needed.name != "ext4")
        .map(|needed| format!("all/{}.ko", needed.name))
        .collect();
    let modules: Vec<(&str, &[&str])> = files
        .iter()
        .map(|file| (file.as_str(), &["depends="][..]))
        .collect();
    package(&modules, builtin)
}

fn inputs(out: &Path, kernel: &Path, bin: &Path) -> Inputs {
    Inputs {
        authorities: None,
        out: out.to_owned(),
        kernel_package: kernel.to_owned(),
        bin_dir: bin.to_owned(),
        upstream_dir: bin.to_owned(),
        data_size: 512 << 20,
        build_stamp: 1_700_000_000,
        version: "0.1.0".to_owned(),
        compression: Compression::Lz4hc,
        measure: false,
    }
}

/// Other paths and times of inputs and output, another directory order, inputs of other modes. (The umask belongs to the
/// process and is shared by all tests: the recipe in image/README.md checks it with the real inputs.)
#[test]
fn two_builds_of_equal_inputs_are_bit_identical() {
    let (here, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (kernel, other_kernel) = (fake_package(), fake_package());
    let (bin, other_bin) = (all_programs(), all_programs());
    for name in ["runc", "kedge"] {
        let path = other_bin.path().join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::File::open(&path)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
    }
    let first = inputs(&here.path().join("a"), kernel.path(), bin.path());
    let second = inputs(
        &there.path().join("deeper/b"),
        other_kernel.path(),
        other_bin.path(),
    );
    build(&first).unwrap();
    build(&second).unwrap();
    for name in [KERNEL, INITRAMFS, ROOT, DISK, MANIFEST] {
        let read = |inputs: &Inputs| fs::read(inputs.out.join(name)).unwrap();
        assert!(read(&first) == read(&second), "{name} differs");
    }
}

#[test]
fn a_changed_input_changes_the_disk_and_its_identity() {
    let work = TempDir::new().unwrap();
    let (kernel, bin) = (fake_package(), all_programs());
    let mut inputs = inputs(&work.path().join("a"), kernel.path(), bin.path());
    build(&inputs).unwrap();
    let first = fs::read(inputs.out.join(DISK)).unwrap();
    inputs.out = work.path().join("b");
    inputs.version = "0.2.0".to_owned();
    build(&inputs).unwrap();
    let second = fs::read(inputs.out.join(DISK)).unwrap();
    // The disk GUID in the primary header.
    assert_ne!(first[512 + 56..512 + 72], second[512 + 56..512 + 72]);
}

/// Volumes are where the table says, with the labels that init looks for.
#[test]
fn the_disk_holds_three_labelled_volumes() {
    let work = TempDir::new().unwrap();
    let (kernel, bin) = (fake_package(), all_programs());
    let inputs = inputs(&work.path().join("a"), kernel.path(), bin.path());
    let manifest = build(&inputs).unwrap();
    let disk = fs::read(inputs.out.join(DISK)).unwrap();
    let label = |slot: &disk::Slot| {
        let at = slot.offset as usize + 1024 + if slot.name == "KEDGE-ROOT-A" { 64 } else { 120 };
        let bytes = &disk[at..at + 16];
        String::from_utf8(bytes.to_vec())
            .unwrap()
            .trim_end_matches('\0')
            .to_owned()
    };
    for (index, slot) in manifest.disk.iter().enumerate() {
        assert_eq!(label(slot), slot.name);
        let entry = &disk[1024 + index * 128..][..128];
        let first = u64::from_le_bytes(entry[32..40].try_into().unwrap());
        assert_eq!(first * 512, slot.offset);
    }
    let early = NEEDED
        .iter()
        .filter(|needed| needed.stage == Stage::Initramfs)
        .count();
    assert_eq!(manifest.modules_initramfs.len(), early);
    assert!(
        manifest.to_string().contains("kedge.img, sparse"),
        "{manifest}"
    );
}

#[test]
fn bad_inputs_fail_before_the_long_work_and_name_the_file() {
    let work = TempDir::new().unwrap();
    let (kernel, bin) = (fake_package(), all_programs());
    let good = inputs(&work.path().join("a"), kernel.path(), bin.path());
    let check = |inputs: &Inputs, words: &str| {
        let text = build(inputs).unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
        assert!(!inputs.out.join(DISK).exists());
    };
    check(
        &Inputs {
            data_size: 1,
            ..good.clone()
        },
        "data size 1 is too small",
    );
    let missing = Path::new("/nonexistent").to_owned();
    check(
        &Inputs {
            kernel_package: missing.clone(),
            ..good.clone()
        },
        "kernel package /nonexistent",
    );
    check(
        &Inputs {
            bin_dir: missing,
            ..good
        },
        "read program /nonexistent/kedge",
    );
}
