//! Whole lives of volumes on a real ext4 with project quotas, made in a file and mounted through a loop device. Where that cannot be (no
//! root, no loop device, a kernel without the quota format), the tests say `SKIPPED` and why.
#![expect(
    clippy::disallowed_methods,
    reason = "mke2fs, mount and umount belong to the test"
)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::volumes::{Options, make, remove_pod};

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let words = format!("{program} {}: {}", args.join(" "), said.trim());
    output.status.success().then_some(()).ok_or(words)
}

/// Unmounted also when a test fails.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run("umount", &[&self.0.join("top").display().to_string()]);
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mounted(name: &str) -> Option<Mounted> {
    let dir = std::env::temp_dir().join(format!("kedge-projects-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("top")).unwrap();
    let image = dir.join("image").display().to_string();
    let file = fs::File::create(&image).unwrap();
    file.set_len(64 << 20).unwrap();
    let top = dir.join("top").display().to_string();
    let made = run(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-O",
            "quota,project",
            "-E",
            "quotatype=prjquota",
            &image,
        ],
    );
    let args = ["-t", "ext4", "-o", "loop,prjquota", &image, &top];
    match made.and_then(|()| run("mount", &args)) {
        Ok(()) => Some(Mounted(dir)),
        Err(why) => {
            eprintln!("SKIPPED: no ext4 with project quotas on this machine: {why}");
            let _ = fs::remove_dir_all(&dir);
            None
        }
    }
}

fn volume(top: &Path, pod: usize, name: &str) -> Volume {
    let volume = Volume {
        name: name.to_owned(),
        path: top.join(format!(
            "top/pods/{pod}/volumes/kubernetes.io~empty-dir/{name}"
        )),
        plan: VolumePlan::EmptyDir {
            medium: Medium::Disk,
            size_limit: None,
            mode: 0o777,
        },
        fs_group: None,
    };
    make(&volume, Options { tmpfs: false }).unwrap();
    volume
}

fn id(volume: &Volume) -> u32 {
    let directory = Directory::open(&volume.path).unwrap();
    directory.project().unwrap().id
}

#[test]
fn a_volume_is_counted_from_its_making_to_its_end_by_any_agent() {
    let Some(top) = mounted("life") else { return };
    let first = Projects::default();
    let a = volume(&top.0, 1, "a");
    first.assign(&a);
    assert!(project::is_ours(id(&a)));
    assert_eq!(counted(&a.path).unwrap().1, 1);
    fs::create_dir(a.path.join("d")).unwrap();
    fs::write(a.path.join("d/f"), vec![1; 3 << 20]).unwrap();
    let (bytes, inodes) = counted(&a.path).unwrap();
    assert!((3 << 20..4 << 20).contains(&bytes), "{bytes}");
    assert_eq!(inodes, 3);
    fs::write(a.path.join("d/f"), "x").unwrap();
    let (bytes, _) = usage(&a.path).unwrap();
    assert!(bytes < 64 << 10, "{bytes}");
    // After a restart: the old volume keeps its id, a new one gets another.
    let second = Projects::default();
    let before = id(&a);
    second.assign(&a);
    let b = volume(&top.0, 2, "a");
    second.assign(&b);
    assert_eq!(id(&a), before);
    assert!(project::is_ours(id(&b)) && id(&b) != before);
    // Gone with the pod: the id is free.
    let pod = top.0.join("top/pods/1");
    remove_pod(&pod, |_, _, _| {}).unwrap();
    let directory = Directory::open(&b.path).unwrap();
    assert_eq!(in_use(&directory).unwrap(), BTreeSet::from([id(&b)]));
}

#[test]
fn what_is_not_ours_or_not_empty_is_left_alone_and_walked() {
    let Some(top) = mounted("left") else { return };
    let projects = Projects::default();
    let filled = volume(&top.0, 1, "filled");
    fs::write(filled.path.join("f"), vec![1; 1 << 20]).unwrap();
    let foreign = volume(&top.0, 1, "foreign");
    Directory::open(&foreign.path)
        .unwrap()
        .set_project(1)
        .unwrap();
    for volume in [&filled, &foreign] {
        projects.assign(volume);
        assert_eq!(counted(&volume.path), None);
        assert!(projects.try_assign(&volume.path).is_err());
    }
    assert_eq!((id(&filled), id(&foreign)), (0, 1));
    assert!(usage(&filled.path).unwrap().0 >= 1 << 20);
    // An id of ours that somebody else uses is passed over.
    let place = volume(&top.0, 2, "place");
    let seed = project::seed(&place.path.to_string_lossy());
    let wanted = project::choose(seed, &BTreeSet::new()).unwrap();
    let squatter = volume(&top.0, 3, "squatter");
    let squatter = Directory::open(&squatter.path).unwrap();
    squatter.set_project(wanted).unwrap();
    projects.assign(&place);
    let next = project::choose(seed, &BTreeSet::from([wanted])).unwrap();
    assert_eq!(id(&place), next);
}

#[test]
fn volumes_made_at_the_same_time_get_different_ids() {
    let Some(top) = mounted("race") else { return };
    let projects = Projects::default();
    let ids: Vec<u32> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|pod| {
                let (top, projects) = (&top.0, &projects);
                scope.spawn(move || {
                    let made = (0..8).map(|n| volume(top, pod, &n.to_string()));
                    made.map(|volume| {
                        projects.assign(&volume);
                        id(&volume)
                    })
                    .collect::<Vec<_>>()
                })
            })
            .collect();
        let joined = threads.into_iter().map(|t| t.join().unwrap());
        joined.flatten().collect()
    });
    let distinct: BTreeSet<u32> = ids.iter().copied().collect();
    assert_eq!(distinct.len(), 32);
    assert!(ids.iter().all(|id| project::is_ours(*id)));
}

#[test]
fn without_project_quotas_a_volume_works_and_is_walked() {
    let dir = std::env::temp_dir().join(format!("kedge-projects-{}-none", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let volume = volume(&dir, 1, "v");
    Projects::default().assign(&volume);
    fs::write(volume.path.join("f"), vec![1; 100_000]).unwrap();
    assert!(usage(&volume.path).unwrap().0 >= 100_000);
    fs::remove_dir_all(dir).unwrap();
}
