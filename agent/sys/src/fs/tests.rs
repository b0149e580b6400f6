//! On a real filesystem, in a directory of the test's own.

use super::*;
use std::os::unix::fs::{MetadataExt, symlink};

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("kedge-fs-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn an_atomic_write_leaves_mode_and_content_and_no_other_file() {
    let dir = directory("atomic");
    let path = dir.join("f");
    write_atomic(&path, b"one", 0o600).unwrap();
    write_atomic(&path, b"two", 0o644).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

#[test]
fn a_failed_write_names_the_file() {
    let error = write_atomic("/nonexistent/f", b"", 0o600).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/f"), "{error}");
}

#[test]
fn a_path_below_cannot_leave_through_dots_or_symlinks() {
    let dir = directory("below");
    fs::create_dir(dir.join("in")).unwrap();
    symlink("/etc", dir.join("absolute")).unwrap();
    symlink("../..", dir.join("in/up")).unwrap();
    symlink("in", dir.join("within")).unwrap();
    let errno = |sub: &str| open_below(&dir, sub).err().and_then(|e| e.errno());
    assert_eq!(errno("within"), None);
    assert_eq!(errno("in/.."), None);
    assert_eq!(errno("absolute/passwd"), Some(libc::EXDEV));
    assert_eq!(errno("in/up"), Some(libc::EXDEV));
    assert_eq!(errno(".."), Some(libc::EXDEV));
    assert_eq!(errno("absent"), Some(libc::ENOENT));
}

#[test]
fn missing_directories_are_made_below_and_only_there() {
    let dir = directory("create");
    create_below(&dir, "a/b", 0o750).unwrap();
    assert_eq!(fs::metadata(dir.join("a/b")).unwrap().mode() & 0o777, 0o750);
    let elsewhere = directory("elsewhere");
    symlink(&elsewhere, dir.join("out")).unwrap();
    create_below(&dir, "out/x", 0o755).unwrap_err();
    assert!(!elsewhere.join("x").exists());
}

#[test]
fn a_tree_is_removed_without_following_symlinks() {
    let dir = directory("remove");
    let keep = directory("keep");
    fs::write(keep.join("f"), "x").unwrap();
    fs::create_dir_all(dir.join("a/b")).unwrap();
    fs::write(dir.join("a/b/f"), "x").unwrap();
    symlink(&keep, dir.join("a/link")).unwrap();
    remove_tree(&dir).unwrap();
    assert!(!dir.exists());
    assert!(keep.join("f").exists());
    remove_tree(&dir).unwrap();
}

#[test]
fn a_group_gets_files_and_new_files_inherit_it() {
    let dir = directory("group");
    fs::create_dir(dir.join("d")).unwrap();
    fs::write(dir.join("d/f"), "x").unwrap();
    fs::set_permissions(dir.join("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
    let gid = nix::unistd::getegid().as_raw();
    set_group(&dir, gid, false).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&dir.join("d/f")), 0o660);
    assert_eq!(mode(&dir.join("d")) & 0o2070, 0o2070);
    assert_eq!(mode(&dir) & 0o2070, 0o2070);
}

#[test]
fn a_lock_is_held_by_one() {
    let path = directory("lock").join("l");
    let held = lock(&path).unwrap();
    assert!(try_lock(&path).unwrap().is_none());
    drop(held);
    assert!(try_lock(&path).unwrap().is_some());
}

#[test]
fn usage_and_disk_usage_report_something_plausible() {
    let dir = directory("usage");
    fs::write(dir.join("f"), vec![1u8; 100_000]).unwrap();
    let usage = usage(&dir).unwrap();
    assert!(usage.total >= usage.free && usage.free > 0);
    let (bytes, inodes) = disk_usage(&dir).unwrap();
    assert!(bytes >= 100_000, "{bytes}");
    assert_eq!(inodes, 2);
}
