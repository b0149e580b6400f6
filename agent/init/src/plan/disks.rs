//! STATE and DATA: found by label, mounted, grown, complained about; or RAM in their place, so that the node is reachable.

use kedge_machine::paths;
use kedge_sys::block::{Kind, Short, Volume};
use kedge_sys::mount::Flags;

use super::base::mount;
use super::{Planned, Step};
use crate::cmdline::VolumeFile;

/// A volume looked for by label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The one to use.
    pub volume: &'a Volume,
    /// Others with the same label.
    pub others: Vec<&'a Volume>,
}

/// The volume with this label: on the root's own disk rather than on another, else the first by name. A disk of another
/// node that was plugged in does not take over.
pub fn find<'a>(volumes: &'a [Volume], label: &str, root_disk: Option<&str>) -> Option<Found<'a>> {
    let mut found: Vec<&Volume> = volumes
        .iter()
        .filter(|v| v.superblock.label == label)
        .collect();
    // Stable: name order within each half.
    found.sort_by_key(|v| root_disk != Some(v.disk.as_str()));
    let mut found = found.into_iter();
    Some(Found {
        volume: found.next()?,
        others: found.collect(),
    })
}

/// One of the two volumes of a node.
struct Part {
    label: &'static str,
    target: &'static str,
    flags: Flags,
    missing: &'static str,
    unmountable: &'static str,
    errors: &'static str,
    /// Options of what stands in for it.
    ram: &'static str,
    loss: &'static str,
}

const STATE: Part = Part {
    label: paths::LABEL_STATE,
    target: paths::STATE,
    flags: Flags::MS_NOSUID
        .union(Flags::MS_NODEV)
        .union(Flags::MS_NOEXEC)
        .union(Flags::MS_NOATIME),
    missing: "state-missing",
    unmountable: "state-unmountable",
    errors: "state-errors",
    ram: "mode=0700,size=16m",
    loss: "the node's identity is lost at power-off",
};

/// Programs of containers lie on it, device nodes and set-user-id bits included.
const DATA: Part = Part {
    label: paths::LABEL_DATA,
    target: paths::DATA,
    flags: Flags::MS_NOATIME,
    missing: "data-missing",
    unmountable: "data-unmountable",
    errors: "data-errors",
    ram: "mode=0755,size=50%",
    loss: "images and pods are lost at power-off, and memory is short",
};

/// STATE and DATA mounted, their directories made and shown where they belong; then the test volume, if one is asked for.
pub fn disks(
    volumes: &[Volume],
    root_disk: Option<&str>,
    test: Option<&VolumeFile>,
) -> Vec<Planned> {
    let mut plan = part(&STATE, volumes, root_disk);
    plan.extend(
        [
            (paths::STATE, 0o700),
            ("/state/config", 0o700),
            (paths::STATE_PKI, 0o700),
        ]
        .map(|(path, mode)| Step::Directory(path.to_owned(), mode).should()),
    );
    plan.extend(part(&DATA, volumes, root_disk));
    plan.extend(too_small(volumes, root_disk));
    for (directory, target) in paths::DATA_BINDS {
        let from = format!("{}/{directory}", paths::DATA);
        plan.push(Step::Directory(from.clone(), 0o755).should());
        plan.push(Step::Bind(from, (*target).to_owned()).should());
    }
    plan.extend(
        DIRECTORIES
            .iter()
            .map(|(path, mode)| Step::Directory((*path).to_owned(), *mode).should()),
    );
    plan.push(Step::Link("/var/run".to_owned(), "/run".to_owned()).should());
    plan.push(Step::Link(paths::CNI_PLUGIN.to_owned(), paths::AGENT.to_owned()).should());
    plan.extend(test.map(|file| test_volume(volumes, file)));
    plan
}

/// Directories that other people's software expects to find.
const DIRECTORIES: &[(&str, u32)] = &[
    ("/var/lib/containerd", 0o711),
    (paths::KUBELET, 0o755),
    (paths::POD_LOGS, 0o755),
    (paths::CONTAINER_LOGS, 0o755),
    ("/var/tmp", 0o1777),
    ("/opt/cni/bin", 0o755),
    (paths::MANIFESTS, 0o755),
];

fn part(part: &Part, volumes: &[Volume], root_disk: Option<&str>) -> Vec<Planned> {
    let Some(found) = find(volumes, part.label, root_disk) else {
        return vec![
            Step::Fault(
                part.missing,
                format!(
                    "no volume labelled {} ({}): using memory in its place, {}",
                    part.label,
                    seen(volumes),
                    part.loss
                ),
            )
            .should(),
            in_memory(part),
        ];
    };
    let volume = found.volume;
    let device = volume.device.display().to_string();
    let mut plan: Vec<Planned> = found
        .others
        .iter()
        .map(|other| {
            Step::Say(format!(
                "{} is labelled {} too, using {device}",
                other.device.display(),
                part.label
            ))
            .should()
        })
        .collect();
    let Kind::Ext4(ext4) = volume.superblock.kind else {
        let message = format!(
            "{device} is labelled {} but holds {}, not ext4: using memory in its place, {}",
            part.label,
            volume.superblock.kind.fstype(),
            part.loss
        );
        plan.extend([
            Step::Fault(part.unmountable, message).should(),
            in_memory(part),
        ]);
        return plan;
    };
    if ext4.errors {
        let message = format!(
            "{} on {device} has recorded file system errors; it is used as it is",
            part.label
        );
        plan.push(Step::Fault(part.errors, message).should());
    }
    let quota = if ext4.project_quota { ",prjquota" } else { "" };
    let data = format!("data=ordered,errors=remount-ro{quota}");
    plan.push(mount(&device, part.target, "ext4", part.flags, &data).or(
        part.unmountable,
        format!(
            "the disk is left as it is, and memory used in its place: {}",
            part.loss
        ),
        vec![in_memory(part)],
    ));
    if volume.bytes >= volume.superblock.bytes + WORTH_GROWING {
        plan.push(Step::Grow(part.target.to_owned(), volume.bytes / ext4.block_bytes).should());
    }
    plan
}

/// Less than this is what makers of file systems leave at the end for alignment.
const WORTH_GROWING: u64 = 16 << 20;

fn in_memory(part: &Part) -> Planned {
    mount("tmpfs", part.target, "tmpfs", part.flags, part.ram).must()
}

fn too_small(volumes: &[Volume], root_disk: Option<&str>) -> Option<Planned> {
    let volume = find(volumes, DATA.label, root_disk)?.volume;
    let message = format!(
        "disk too small: {} on {} has {} MiB, at least {} MiB are needed for images and pods; give the node a larger disk",
        DATA.label,
        volume.device.display(),
        volume.bytes >> 20,
        paths::MIN_DATA_BYTES >> 20
    );
    (volume.bytes < paths::MIN_DATA_BYTES).then(|| Step::Fault("data-too-small", message).should())
}

fn test_volume(volumes: &[Volume], file: &VolumeFile) -> Planned {
    match find(volumes, &file.label, None) {
        Some(found) => mount(
            &found.volume.device.display().to_string(),
            paths::RUN_TEST,
            found.volume.superblock.kind.fstype(),
            Flags::MS_RDONLY,
            "",
        )
        .or("test-services", "the test volume is not used", Vec::new()),
        None => Step::Fault(
            "test-services",
            format!(
                "kedge.services names a volume labelled {}, and there is none ({})",
                file.label,
                seen(volumes)
            ),
        )
        .should(),
    }
}

/// What to say when no volume has the root's label. A disk that ends before its partition table shows no partition at all, so
/// it is named first: it is the reason.
pub fn no_root(label: &str, volumes: &[Volume], short: &[Short]) -> String {
    let mib = |bytes: u64| bytes >> 20;
    match short.first() {
        Some(disk) => format!(
            "a volume labelled {label}: disk too small: {} has {} MiB, the image on it was made for {} MiB; write it to a larger disk",
            disk.device.display(),
            mib(disk.bytes),
            mib(disk.needed)
        ),
        None => format!(
            "a volume labelled {label} ({}); attach the node's disk or name the root with kedge.root=/dev/…",
            seen(volumes)
        ),
    }
}

/// What there is instead, for a message.
fn seen(volumes: &[Volume]) -> String {
    if volumes.is_empty() {
        return "no disk with a file system was found".to_owned();
    }
    let one = |v: &Volume| {
        let label = &v.superblock.label;
        let label = if label.is_empty() { "no label" } else { label };
        format!("{} {label}", v.device.display())
    };
    format!(
        "there are {}",
        volumes.iter().map(one).collect::<Vec<_>>().join(", ")
    )
}
