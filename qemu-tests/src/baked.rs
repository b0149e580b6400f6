//! A DATA volume that has the test images already: pulled once by a node, unpacked by its containerd, shared by all machines of later
//! clusters. Under TCG a node takes over a minute for the largest image, and a test that waits for three nodes to pull it runs out of time.
//!
//! In: artefacts, an image layout. Out: the volume in the cache, named after what decides its content (containerd and its configuration, the
//! images, the disk's layout), and disks made of an image and such a volume. It is test data: the product's image never has it.
//! Absent: anything of the machine that pulled: its STATE is not taken over, its pods are gone before it is switched off.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kedge_machine::paths;
use serde_json::{Value, json};

use crate::artefacts::{Artefacts, image_key, workspace};
use crate::cluster::{Cluster, Size};
use crate::dirs::Dirs;
use crate::progress::Progress;
use crate::supervisor::client::Client;
use crate::supervisor::protocol::{Action, Request};
use crate::{oci, testimages, tied, up, upstream, wait};

const VOLUME: &str = "data.img";
const NODE: &str = "node1";
const POD: &str = "/api/v1/namespaces/default/pods/images";
const PULL_DEADLINE: Duration = Duration::from_secs(1800);
const END_DEADLINE: Duration = Duration::from_secs(180);
const MIB: u64 = 1 << 20;

/// Steps that [`ensure`] reports.
pub const STEPS: usize = 1;

/// The volume for these images; made by a cluster of one machine where it is not cached. Takes minutes.
pub fn ensure(
    dirs: &Dirs,
    artefacts: &Artefacts,
    layout: &Path,
    progress: &Progress,
) -> Result<PathBuf> {
    let step = progress.step(
        "test images on a volume of their own",
        Some(Duration::from_secs(300)),
    );
    let place = place(artefacts, layout)?;
    let volume = place.join(VOLUME);
    if volume.is_file() {
        step.cached();
        return Ok(volume);
    }
    let dirs = Dirs {
        root: dirs.root.join("bake"),
    };
    let fresh = pull(&dirs, artefacts, layout).context("pull the test images onto a volume")?;
    forget_old(&place)?;
    fs::create_dir_all(&place).with_context(|| format!("make directory {}", place.display()))?;
    fs::rename(&fresh, &volume).with_context(|| format!("rename to {}", volume.display()))?;
    fs::remove_dir_all(&dirs.root).with_context(|| format!("delete {}", dirs.root.display()))?;
    step.done();
    Ok(volume)
}

fn place(artefacts: &Artefacts, layout: &Path) -> Result<PathBuf> {
    let root = workspace()?;
    let key = image_key(&[
        artefacts.product.join("containerd"),
        root.join("image/src/root/containerd.toml"),
        root.join("image/src/ext4.rs"),
        root.join("image/src/disk.rs"),
    ])?;
    let images = layout
        .file_name()
        .with_context(|| format!("{} has no name", layout.display()))?;
    let name = format!("{key}-{}", images.to_string_lossy());
    Ok(upstream::cache_root()?.join("baked").join(name))
}

/// Gigabytes each: only the newest is kept.
fn forget_old(place: &Path) -> Result<()> {
    let Some(all) = place.parent().filter(|all| all.is_dir()) else {
        return Ok(());
    };
    for entry in fs::read_dir(all)
        .with_context(|| format!("list {}", all.display()))?
        .flatten()
    {
        fs::remove_dir_all(entry.path())
            .with_context(|| format!("delete {}", entry.path().display()))?;
    }
    Ok(())
}

fn pull(dirs: &Dirs, artefacts: &Artefacts, layout: &Path) -> Result<PathBuf> {
    let client = Client::new(dirs);
    if client.running().is_some() {
        client.stop()?;
    }
    let options = up::Options {
        size: Size {
            memory_mib: 2048,
            cpus: 2,
            ..Size::default()
        },
        probe: false,
        ..up::Options::new(1, artefacts.accel()?)
    };
    let artefacts = Artefacts {
        images_on: None,
        ..artefacts.clone()
    };
    let progress = Progress::new(up::STEPS);
    let (cluster, _holder) = up::control_plane(dirs, &artefacts, &options, &progress)?;
    // CoreDNS' pod would be left on the volume.
    cluster.api.merge(
        "/apis/apps/v1/namespaces/kube-system/deployments/coredns",
        &json!({"spec": {"replicas": 0}}),
    )?;
    up::nodes(&cluster, &progress)?;
    cluster
        .client
        .request(&Request::Images {
            layouts: vec![layout.to_owned()],
        })
        .context("serve the test images")?;
    pull_all(&cluster)?;
    switch_off(&cluster)?;
    let disk = cluster.dirs.vm(NODE).join("disk.img");
    let (offset, size) = partition(&disk, paths::LABEL_DATA)?;
    let fresh = dirs.root.join(VOLUME);
    dd(&[
        ("if", disk.display().to_string()),
        ("of", fresh.display().to_string()),
        ("skip", (offset / MIB).to_string()),
        ("count", (size / MIB).to_string()),
    ])?;
    cluster.client.stop()?;
    Ok(fresh)
}

/// One pod with an image volume for each image: it ends when all are there, and not one of their programs is started.
fn pull_all(cluster: &Cluster) -> Result<()> {
    cluster
        .api
        .create("/api/v1/namespaces/default/pods", &pod(&names()))?;
    wait::until("every test image pulled", PULL_DEADLINE, || {
        let pod = wait::seen(cluster.api.get(POD))?;
        let phase = crate::api::text_at(&pod, "/status/phase").to_owned();
        wait::check(phase == "Succeeded", || {
            format!("the pod is {phase}: {}", last_event(cluster))
        })
    })
}

fn names() -> Vec<String> {
    testimages::recipes()
        .into_iter()
        .flat_map(|recipe| recipe.names)
        .collect()
}

fn pod(names: &[String]) -> Value {
    let volume = |(number, name): (usize, &String)| {
        json!({
            "name": format!("v{number}"),
            "image": {"reference": name, "pullPolicy": "IfNotPresent"},
        })
    };
    let volumes: Vec<Value> = names.iter().enumerate().map(volume).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "images", "namespace": "default"},
        "spec": {
            "nodeName": NODE, "restartPolicy": "Never", "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": oci::BUSYBOX, "command": ["true"]}],
            "volumes": volumes,
        },
    })
}

fn last_event(cluster: &Cluster) -> String {
    let events = cluster
        .api
        .items("/api/v1/namespaces/default/events")
        .unwrap_or_default();
    let text = events.last().map(|event| {
        let text = |pointer| crate::api::text_at(event, pointer);
        format!("{}: {}", text("/reason"), text("/message"))
    });
    text.unwrap_or_default()
}

/// In order: what the pod left is removed, the file systems are unmounted.
fn switch_off(cluster: &Cluster) -> Result<()> {
    cluster.api.delete(POD, Some(0))?;
    wait::until("the pod gone", END_DEADLINE, || {
        let pods = wait::seen(cluster.api.items("/api/v1/namespaces/default/pods"))?;
        wait::check(pods.is_empty(), || "it is still there".into())
    })?;
    cluster.client.machine(NODE, Action::PowerButton)?;
    wait::until("the machine off", END_DEADLINE, || {
        let machines = wait::seen(cluster.client.status())?.machines;
        wait::check(machines.iter().all(|machine| !machine.running), || {
            "still on".into()
        })
    })
}

/// A disk with the image's root and STATE and the volume as DATA.
pub fn compose(image: &Path, volume: &Path, out: &Path) -> Result<()> {
    crate::cluster::copy_sparse(image, out)?;
    let (offset, size) = partition(out, paths::LABEL_DATA)?;
    let length = fs::metadata(volume)
        .with_context(|| format!("stat {}", volume.display()))?
        .len();
    if length != size {
        bail!(
            "{} has {length} bytes, DATA of {} has {size}",
            volume.display(),
            image.display()
        );
    }
    // Where the volume has holes, what the image has there must not show through.
    run(
        "fallocate",
        &[
            "--punch-hole".into(),
            "--offset".into(),
            offset.to_string(),
            "--length".into(),
            size.to_string(),
            out.display().to_string(),
        ],
    )?;
    dd(&[
        ("if", volume.display().to_string()),
        ("of", out.display().to_string()),
        ("seek", (offset / MIB).to_string()),
    ])
}

/// A disk that begins with another's content and keeps its own changes only.
pub fn overlay(base: &Path, out: &Path) -> Result<()> {
    let words = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"].map(String::from);
    let files = [base, out].map(|path| path.display().to_string());
    run("qemu-img", &[&words[..], &files[..]].concat())
}

/// Copies in blocks of a mebibyte, leaving holes where there are zeros. Partitions are aligned to it.
fn dd(operands: &[(&str, String)]) -> Result<()> {
    let mut words: Vec<String> = operands
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    words.extend(["bs=1M", "conv=sparse,notrunc", "status=none"].map(String::from));
    run("dd", &words)?;
    // A hole at the end is not written: the length is set all the same.
    let value = |wanted: &str| {
        operands
            .iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| value.as_str())
    };
    if let (Some(out), Some(count)) = (value("of"), value("count")) {
        let length = count.parse::<u64>().context("count")? * MIB;
        File::options()
            .write(true)
            .open(out)
            .and_then(|file| file.set_len(length))
            .with_context(|| format!("size {out}"))?;
    }
    Ok(())
}

fn run(program: &str, words: &[String]) -> Result<()> {
    let output = tied::command(program)
        .args(words)
        .output()
        .with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Offset and size in bytes of the partition of this name (UEFI 2.10, 5.3.3: entries of 128 bytes from sector 2 on).
fn partition(disk: &Path, name: &str) -> Result<(u64, u64)> {
    let mut table = vec![0; 128 * 128];
    File::open(disk)
        .and_then(|file| file.read_exact_at(&mut table, 1024))
        .with_context(|| format!("read the partition table of {}", disk.display()))?;
    find(&table, name).with_context(|| format!("{} has no partition {name}", disk.display()))
}

fn find(table: &[u8], name: &str) -> Option<(u64, u64)> {
    let number = |entry: &[u8], at: usize| {
        let bytes: [u8; 8] = entry.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    let called = |entry: &&[u8]| {
        let units: Vec<u16> = entry[56..]
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
            .take_while(|unit| *unit != 0)
            .collect();
        String::from_utf16_lossy(&units) == name
    };
    let entry = table.chunks_exact(128).find(called)?;
    let (first, last) = (number(entry, 32)?, number(entry, 40)?);
    Some((first * 512, (last.checked_sub(first)? + 1) * 512))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_found_by_its_whole_name() {
        let mut table = vec![0; 128 * 128];
        for (at, name, first, last) in [
            (0, "KEDGE-DATA-2", 1u64, 9u64),
            (1, "KEDGE-DATA", 2048, 6143),
        ] {
            let entry = &mut table[at * 128..][..128];
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            for (pair, unit) in entry[56..].chunks_exact_mut(2).zip(name.encode_utf16()) {
                pair.copy_from_slice(&unit.to_le_bytes());
            }
        }
        assert_eq!(find(&table, "KEDGE-DATA"), Some((MIB, 2 * MIB)));
        assert_eq!(find(&table, "KEDGE"), None);
    }

    #[test]
    fn the_pod_has_every_image_once() {
        let names = names();
        let pod = pod(&names);
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        assert_eq!(volumes.len(), names.len());
        let unique: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }

    #[test]
    fn nothing_of_the_image_shows_through_the_holes_of_the_volume() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        // A disk of 4 MiB whose DATA is the third and fourth.
        let mut disk = vec![7u8; 4 * MIB as usize];
        disk[1024..1024 + 128 * 128].fill(0);
        let entry = &mut disk[1024..1152];
        entry[32..40].copy_from_slice(&4096u64.to_le_bytes());
        entry[40..48].copy_from_slice(&8191u64.to_le_bytes());
        for (pair, unit) in entry[56..]
            .chunks_exact_mut(2)
            .zip("KEDGE-DATA".encode_utf16())
        {
            pair.copy_from_slice(&unit.to_le_bytes());
        }
        fs::write(file("image"), &disk).unwrap();
        let mut volume = vec![0u8; 2 * MIB as usize];
        volume[..4096].fill(9);
        fs::write(file("volume"), &volume).unwrap();
        compose(&file("image"), &file("volume"), &file("out")).unwrap();
        let out = fs::read(file("out")).unwrap();
        assert!(out[..2 * MIB as usize] == disk[..2 * MIB as usize]);
        assert!(out[2 * MIB as usize..] == volume[..]);
        fs::write(file("short"), b"x").unwrap();
        let error = compose(&file("image"), &file("short"), &file("out")).unwrap_err();
        assert!(error.to_string().contains("has 1 bytes"), "{error}");
    }
}
