//! On a real ext4 with project quotas: made in a file, mounted through a loop device in a mount namespace of the test's own. Where that
//! cannot be (no root, no loop device, a kernel without the quota format), the test says `SKIPPED` and why.
#![expect(
    clippy::disallowed_methods,
    reason = "mke2fs, and mount for its loop devices, belong to the test"
)]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::mount::{Propagation, set_propagation, umount};

const MIB: u64 = 1 << 20;

fn run(program: &str, args: &[&str]) -> std::result::Result<(), String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let words = format!("{program} {}: {}", args.join(" "), said.trim());
    output.status.success().then_some(()).ok_or(words)
}

/// Mounts a fresh file system with these features; the thread has a mount namespace of its own.
fn mounted(dir: &Path, features: &[&str], options: &str) -> std::result::Result<PathBuf, String> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|e| format!("a mount namespace: {e}"))?;
    set_propagation("/", Propagation::Private, true).map_err(|e| e.to_string())?;
    let (image, top) = (dir.join("image"), dir.join("top"));
    let file = fs::File::create(&image).expect("image");
    file.set_len(64 * MIB).expect("size");
    fs::create_dir(&top).expect("mount point");
    let (image, target) = (image.display().to_string(), top.display().to_string());
    run(
        "mke2fs",
        &[&["-q", "-F", "-t", "ext4"], features, &[&image]].concat(),
    )?;
    run("mount", &["-t", "ext4", "-o", options, &image, &target])?;
    Ok(top)
}

fn on_ext4(
    name: &str,
    features: &'static [&str],
    options: &'static str,
    test: impl FnOnce(&Path) + Send + 'static,
) {
    let dir = std::env::temp_dir().join(format!("kedge-project-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("directory");
    let own = dir.clone();
    let thread = std::thread::spawn(move || match mounted(&own, features, options) {
        Ok(top) => {
            test(&top);
            umount(&top).expect("unmount");
        }
        Err(why) => eprintln!("SKIPPED: no ext4 with project quotas on this machine: {why}"),
    });
    let result = thread.join();
    let _ = fs::remove_dir_all(&dir);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn volume(top: &Path, name: &str) -> (PathBuf, Directory) {
    let path = top.join(name);
    fs::create_dir(&path).expect("made");
    let directory = Directory::open(&path).expect("open");
    (path, directory)
}

const WITH: &[&str] = &["-O", "quota,project", "-E", "quotatype=prjquota"];

#[test]
fn a_project_counts_what_is_made_in_its_directory_and_lets_it_go() {
    on_ext4("count", WITH, "loop,prjquota", |top| {
        let (path, directory) = volume(top, "a");
        assert_eq!(directory.project().expect("project"), Project::default());
        assert!(directory.is_empty().expect("read"));
        directory.set_project(1000).expect("set");
        let expected = Project {
            id: 1000,
            inherits: true,
        };
        assert_eq!(directory.project().expect("project"), expected);
        // The directory itself.
        assert_eq!(directory.usage(1000).expect("usage").inodes, 1);
        fs::create_dir(path.join("d")).expect("made");
        fs::write(path.join("d/f"), vec![1; 5 << 20]).expect("written");
        assert!(!directory.is_empty().expect("read"));
        // Not written back yet: what is reserved counts at once.
        let used = directory.usage(1000).expect("usage");
        assert_eq!((used.inodes, used.limited), (3, false));
        assert!((5 * MIB..6 * MIB).contains(&used.bytes), "{used:?}");
        // A second name is no second file; outside the project it is refused.
        fs::hard_link(path.join("d/f"), path.join("g")).expect("link");
        let again = directory.usage(1000).expect("usage");
        assert_eq!(again.inodes, 3);
        let (other, second) = volume(top, "b");
        second.set_project(1001).expect("set");
        let crossed = fs::rename(path.join("g"), other.join("g")).expect_err("another project");
        assert_eq!(crossed.raw_os_error(), Some(libc::EXDEV));
        // Gone, but open: still charged.
        let open = fs::File::open(path.join("g")).expect("open");
        fs::remove_dir_all(&path).expect("removed");
        drop(directory);
        assert!(second.usage(1000).expect("usage").bytes >= 5 * MIB);
        drop(open);
        assert_eq!(second.usage(1000).expect("usage"), Usage::default());
    });
}

#[test]
fn records_are_listed_from_an_id_on() {
    on_ext4("list", WITH, "loop,prjquota", |top| {
        let held: Vec<_> = [700, 9000, 70_000]
            .into_iter()
            .map(|id| {
                let (_, directory) = volume(top, &id.to_string());
                directory.set_project(id).expect("set");
                directory
            })
            .collect();
        let mut found = Vec::new();
        let mut from = 1;
        while let Some((id, usage)) = held[0].next(from).expect("next") {
            found.push((id, usage.inodes));
            from = id + 1;
        }
        assert_eq!(found, [(700, 1), (9000, 1), (70_000, 1)]);
    });
}

/// Why a count is no evidence. Should a kernel refuse it one day, the walks of the kubelet's limits can go.
#[test]
fn a_files_owner_may_move_it_to_another_project_without_any_privilege() {
    on_ext4("owner", WITH, "loop,prjquota", |top| {
        let (path, directory) = volume(top, "a");
        directory.set_project(1000).expect("set");
        let file = path.join("f");
        fs::write(&file, vec![1; 1 << 20]).expect("written");
        std::os::unix::fs::chown(&file, Some(1234), Some(1234)).expect("owner");
        let before = directory.usage(1000).expect("usage");
        let chattr = Command::new("chattr")
            .args(["-p", "4321"])
            .arg(&file)
            .uid(1234)
            .gid(1234)
            .status();
        assert!(chattr.expect("chattr").success());
        let after = directory.usage(1000).expect("usage");
        assert!(before.bytes - after.bytes >= MIB, "{before:?} {after:?}");
        assert!(directory.usage(4321).expect("usage").bytes >= MIB);
    });
}

#[test]
fn an_ext4_without_the_features_says_that_they_are_absent() {
    on_ext4("without", &["-O", "^quota,^project"], "loop", |top| {
        let (path, directory) = volume(top, "a");
        for error in [
            directory.set_project(1000).expect_err("no projects"),
            directory.usage(1000).expect_err("no quotas"),
            directory.next(1).expect_err("no quotas"),
        ] {
            assert!(is_absent(&error), "{error}");
            assert!(error.to_string().contains(&*path.to_string_lossy()));
        }
    });
}

#[test]
fn neither_a_link_nor_a_mount_is_opened() {
    let dir = std::env::temp_dir().join(format!("kedge-project-{}-open", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("d")).expect("made");
    std::os::unix::fs::symlink("d", dir.join("link")).expect("link");
    let errno = |path: &Path| Directory::open(path).err().and_then(|e| e.errno());
    assert_eq!(errno(&dir.join("d")), None);
    assert_eq!(errno(&dir.join("link")), Some(libc::ENOTDIR));
    assert_eq!(errno(&dir.join("absent")), Some(libc::ENOENT));
    assert_eq!(errno(Path::new("/proc")), Some(libc::EXDEV));
    let error = Directory::open(dir.join("absent")).expect_err("absent");
    let words = error.to_string();
    assert!(words.starts_with("open directory /") && words.contains("absent: "));
    fs::remove_dir_all(dir).expect("removed");
}

#[test]
fn a_record_says_what_is_charged_and_whether_there_are_limits() {
    let mut record = Record {
        bytes: 4096,
        inodes: 1,
        ..Record::default()
    };
    let usage = record.usage();
    assert_eq!((usage.bytes, usage.inodes, usage.limited), (4096, 1, false));
    record.inodes_soft = 5;
    assert!(record.usage().limited);
}

#[test]
fn only_the_words_for_absence_mean_absence() {
    let error = |errno| Error::new("read project of", "/x", nix::Error::from_raw(errno));
    for errno in [libc::ENOTTY, libc::EOPNOTSUPP, libc::ENOSYS, libc::ESRCH] {
        assert!(is_absent(&error(errno)));
    }
    for errno in [libc::EIO, libc::EPERM, libc::EROFS, libc::EXDEV] {
        assert!(!is_absent(&error(errno)));
    }
}
