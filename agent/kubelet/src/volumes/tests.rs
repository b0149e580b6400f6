//! On a real filesystem, without mounts.

use super::*;
use kedge_pods::volume::{FilesSource, FsGroup};

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("kedge-vol-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn file(path: &str, content: &str) -> PayloadFile {
    PayloadFile {
        path: path.into(),
        content: content.as_bytes().to_vec(),
        mode: 0o644,
        uid: None,
        gid: None,
    }
}

fn volume(path: PathBuf, plan: VolumePlan) -> Volume {
    Volume {
        name: "v".into(),
        path,
        plan,
        fs_group: None,
    }
}

const NO_MOUNTS: Options = Options { tmpfs: false };

#[test]
fn files_appear_and_change_through_one_link() {
    let root = directory("payload");
    let first = [file("a", "1"), file("dir/b", "2")];
    assert!(write_payload("v", &root, &first, 1).unwrap());
    assert_eq!(fs::read_to_string(root.join("dir/b")).unwrap(), "2");
    let seen = fs::read_link(root.join("..data")).unwrap();
    assert!(!write_payload("v", &root, &first, 2).unwrap());
    assert_eq!(fs::read_link(root.join("..data")).unwrap(), seen);
    assert!(write_payload("v", &root, &[file("a", "3")], 3).unwrap());
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "3");
    assert!(!root.join("dir").exists());
    // One version, `..data` and `a`.
    assert_eq!(fs::read_dir(&root).unwrap().count(), 3);
}

#[test]
fn a_changed_mode_is_a_change() {
    let root = directory("mode");
    write_payload("v", &root, &[file("a", "1")], 1).unwrap();
    let mut secret = file("a", "1");
    secret.mode = 0o400;
    assert!(write_payload("v", &root, &[secret], 2).unwrap());
    let mode = fs::metadata(root.join("a")).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o400);
}

#[test]
fn a_path_that_leaves_the_volume_is_refused() {
    let root = directory("escape");
    for path in ["../x", "/x", "a/../../x", ""] {
        write_payload("v", &root, &[file(path, "")], 1).unwrap_err();
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}

#[test]
fn an_empty_source_still_has_its_data_link() {
    let root = directory("empty");
    assert!(write_payload("v", &root, &[], 1).unwrap());
    assert!(root.join("..data").is_dir());
    assert!(!write_payload("v", &root, &[], 2).unwrap());
}

#[test]
fn host_path_types_are_checked() {
    let root = directory("host");
    fs::write(root.join("f"), "").unwrap();
    let check = |path: &str, kind| {
        let path = root.join(path);
        let plan = VolumePlan::HostPath {
            path: path.clone(),
            kind,
        };
        make(&volume(path, plan), NO_MOUNTS)
    };
    check("f", HostPathType::File).unwrap();
    check("absent", HostPathType::Unset).unwrap();
    check("made/dir", HostPathType::DirectoryOrCreate).unwrap();
    check("made/file", HostPathType::FileOrCreate).unwrap();
    assert!(root.join("made/file").is_file());
    let error = check("f", HostPathType::Directory).unwrap_err().to_string();
    assert!(error.contains("is not a directory"), "{error}");
    let error = check("absent", HostPathType::File).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
    check("f", HostPathType::Socket).unwrap_err();
    check("f", HostPathType::CharDevice).unwrap_err();
    check("f", HostPathType::BlockDevice).unwrap_err();
}

#[test]
fn an_empty_dir_has_the_mode_of_its_plan_whatever_the_umask() {
    let root = directory("empty-dir").join("v");
    let plan = VolumePlan::EmptyDir {
        medium: Medium::Disk,
        size_limit: None,
        mode: 0o777,
    };
    make(&volume(root.clone(), plan), NO_MOUNTS).unwrap();
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o777);
}

#[test]
fn a_group_reaches_the_root_of_a_volume() {
    let root = directory("group").join("v");
    let plan = VolumePlan::Files {
        source: FilesSource::ConfigMap,
        files: Vec::new(),
    };
    let mut volume = volume(root.clone(), plan);
    let gid = fs::metadata(std::env::temp_dir()).unwrap().gid();
    volume.fs_group = Some(FsGroup {
        gid,
        only_on_root_mismatch: false,
    });
    make(&volume, NO_MOUNTS).unwrap();
    apply_fs_group(&volume).unwrap();
    let metadata = fs::metadata(&root).unwrap();
    assert_eq!(metadata.gid(), gid);
    assert_eq!(metadata.mode() & 0o2050, 0o2050);
}

#[test]
fn a_pod_directory_goes_with_everything_in_it() {
    let root = directory("pod");
    fs::create_dir_all(root.join("volumes/kubernetes.io~secret/y")).unwrap();
    fs::write(root.join("volumes/kubernetes.io~secret/stray"), "x").unwrap();
    assert!(leftovers(&root));
    let mut told = Vec::new();
    remove_pod(&root, |plugin, done, _| {
        told.push((plugin.to_owned(), done))
    })
    .unwrap();
    assert_eq!(told, [("kubernetes.io/secret".to_owned(), true)]);
    assert!(!leftovers(&root));
    remove_pod(&root, |_, _, _| {}).unwrap();
}

// What needs mounts runs in a namespace of its own:
// `unshare -Urm cargo test -p kedge-kubelet volumes -- --ignored`

#[test]
#[ignore = "mounts: run under unshare -Urm"]
fn a_memory_volume_is_a_tmpfs_of_its_size_and_goes_with_the_pod() {
    let pod = directory("tmpfs");
    let root = pod.join("volumes/kubernetes.io~empty-dir/v");
    let plan = VolumePlan::EmptyDir {
        medium: Medium::Memory { size: 1 << 20 },
        size_limit: Some(1 << 20),
        mode: 0o777,
    };
    let volume = volume(root.clone(), plan);
    let mounts = Options { tmpfs: true };
    make(&volume, mounts).unwrap();
    // Once more, as after an agent restart: no second mount on top.
    make(&volume, mounts).unwrap();
    let listed = mount::list().unwrap();
    let there: Vec<_> = listed.iter().filter(|m| m.target == root).collect();
    assert_eq!(there.len(), 1);
    assert_eq!(there[0].fstype, "tmpfs");
    assert_eq!(kedge_sys::fs::usage(&root).unwrap().total, 1 << 20);
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o777);
    fs::write(root.join("f"), "x").unwrap();
    remove_pod(&pod, |_, _, _| {}).unwrap();
    assert!(!pod.exists());
}

#[test]
#[ignore = "mounts: run under unshare -Urm"]
fn a_sub_path_shows_its_place_and_cannot_leave_the_volume() {
    use kedge_pods::spec::container::SubPath;
    let pod = directory("subpath");
    let root = pod.join("volumes/v");
    fs::create_dir_all(root.join("a")).unwrap();
    fs::write(root.join("a/f"), "inside").unwrap();
    std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
    let sub = |path: &str, create| SubPath {
        mount: 0,
        volume_path: root.display().to_string(),
        sub_path: path.to_owned(),
        create,
    };
    let at = bind_sub_path(&pod, "app", &sub("a", true)).unwrap();
    assert_eq!(fs::read_to_string(at.join("f")).unwrap(), "inside");
    let file = bind_sub_path(&pod, "other", &sub("a/f", false)).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "inside");
    bind_sub_path(&pod, "app", &sub("out", true)).unwrap_err();
    bind_sub_path(&pod, "app", &sub("absent", false)).unwrap_err();
    bind_sub_path(&pod, "made", &sub("new/deep", true)).unwrap();
    assert!(root.join("new/deep").is_dir());
    // The next instance of the container gets the place anew.
    bind_sub_path(&pod, "app", &sub("new", true)).unwrap();
    assert!(!at.join("f").exists());
    remove_pod(&pod, |_, _, _| {}).unwrap();
    assert!(!pod.exists());
}

#[test]
#[ignore = "mounts: run under unshare -Urm"]
fn removing_a_pod_does_not_reach_through_what_is_mounted_in_it() {
    let (pod, host) = (directory("through"), directory("host-data"));
    fs::write(host.join("precious"), "x").unwrap();
    fs::create_dir_all(pod.join("volumes/h")).unwrap();
    mount::bind(&host, pod.join("volumes/h"), true).unwrap();
    kedge_sys::fs::remove_tree(&pod).unwrap_err();
    assert!(host.join("precious").exists());
    remove_pod(&pod, |_, _, _| {}).unwrap();
    assert!(host.join("precious").exists() && !pod.exists());
}
