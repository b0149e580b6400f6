//! Trees that real kernels showed, recorded by `cargo run -p kedge-qemu-tests --example record-kernel-trees`.
//!
//! A node with one pod: its sandbox, `web` (which met its CPU limit, wrote and read 4 MiB, listens on a socket), `hog` (killed once for
//! memory). Format: `qemu-tests/src/recorder.rs`.

use std::os::unix::fs::symlink;
use std::sync::Arc;

use super::Tree;
use crate::sample::{Filesystem, Generation, Sampler, Stamp};
use crate::subject::{Kind, Subject};

/// Name and text of each. `6.12-bare` is 6.12 without memory controller and pressure.
pub(crate) const TREES: [(&str, &str); 4] = [
    ("6.1", include_str!("../testdata/6.1.txt")),
    ("6.12", include_str!("../testdata/6.12.txt")),
    ("6.12-bare", include_str!("../testdata/6.12-bare.txt")),
    ("newest", include_str!("../testdata/newest.txt")),
];

pub(crate) const POD: &str = "/kubepods/burstable/pod7d3c2a54-0f6e-4c1b-9f2d-5e8a1b6c9d70";
pub(crate) const SANDBOX: &str = "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf";
pub(crate) const WEB: &str = "b0b1b2b3b4b5b6b7b8b9babbbcbdbebf";
pub(crate) const HOG: &str = "c0c1c2c3c4c5c6c7c8c9cacbcccdcecf";

/// Paths and contents of the files.
pub(crate) fn files(text: &str) -> Vec<(&str, String)> {
    let mut files: Vec<(&str, String)> = Vec::new();
    for line in text.split_inclusive('\n') {
        match (line.strip_prefix("=== "), files.last_mut()) {
            (Some(path), _) => files.push((path.trim_end(), String::new())),
            (None, Some((_, content))) => content.push_str(line),
            (None, None) => panic!("a recording begins with a path: {line:?}"),
        }
    }
    assert_eq!(files.pop(), Some(("end", String::new())));
    files
}

/// The names that a directory of the recording had, whether its files were recorded or not.
pub(crate) fn names(text: &str, directory: &str) -> Vec<String> {
    let wanted = format!("{directory}/");
    let found = files(text).into_iter().find(|(path, _)| *path == wanted);
    let names = found.expect("a recorded directory").1;
    names.lines().map(str::to_owned).collect()
}

/// The recording as a tree of files.
pub(crate) fn tree(text: &str) -> Tree {
    let tree = Tree::new();
    for (path, content) in files(text) {
        if let Some((path, target)) = path.split_once(" -> ") {
            let path = tree.path(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
        } else if !path.ends_with('/') {
            tree.write(path.trim_start_matches('/'), &content);
        }
    }
    tree
}

/// Root, hierarchy, pod, sandbox, containers.
pub(crate) fn subjects() -> Vec<Arc<Subject>> {
    let group = |kind, cgroup: &str| Subject {
        kind,
        cgroup: cgroup.to_owned(),
        ..Subject::default()
    };
    let of_pod = |kind, id: &str, image: &str, container: &str| Subject {
        kind,
        cgroup: format!("{POD}/{id}").trim_end_matches('/').to_owned(),
        name: id.to_owned(),
        image: image.to_owned(),
        pod: "shop-0".to_owned(),
        namespace: "default".to_owned(),
        uid: "7d3c2a54-0f6e-4c1b-9f2d-5e8a1b6c9d70".to_owned(),
        container: container.to_owned(),
        created_ns: Some(1_795_867_220_000_000_000),
        started_ns: Some(1_795_867_221_000_000_000),
        began: true,
        ..Subject::default()
    };
    [
        group(Kind::Root, "/"),
        group(Kind::Group, "/init"),
        group(Kind::Group, "/kubepods"),
        group(Kind::Group, "/kubepods/burstable"),
        of_pod(Kind::Pod, "", "", ""),
        of_pod(Kind::Sandbox, SANDBOX, "pause:1", ""),
        of_pod(Kind::Container, WEB, "web:1", "web"),
        of_pod(Kind::Container, HOG, "hog:1", "hog"),
    ]
    .into_iter()
    .map(|s| Arc::new(s.finished()))
    .collect()
}

/// A minute after the recording's clock was started.
pub(crate) const NOW: Stamp = Stamp {
    mono_ns: 60_000_000_000,
    wall_ms: 1_795_867_260_000,
};

/// A whole generation, with what would be measured of the filesystems, and what could not be read.
pub(crate) fn generation(tree: &Tree) -> (Generation, Vec<String>) {
    let mut sampler = Sampler::new(tree.root());
    let mut generation = sampler.begin(crate::cgroup::Depth::Full, NOW);
    for subject in subjects() {
        sampler.sample(&mut generation, &subject, NOW);
    }
    let filesystem = |mount| Filesystem {
        mount,
        total: 30_000_000,
        free: 20_000_000,
        available: 19_000_000,
        inodes: 8192,
        inodes_free: 8000,
    };
    generation.filesystems = sampler.mounts().into_iter().map(filesystem).collect();
    let errors = sampler.end(&mut generation);
    for row in &mut generation.rows {
        // Directories of this test are not older than their files.
        if row.subject.kind != Kind::Root {
            row.since = Some(1_795_867_219);
        }
    }
    (generation, errors.iter().map(ToString::to_string).collect())
}
