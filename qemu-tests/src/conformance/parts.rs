//! What a conformance run needs besides a cluster, as files: `e2e.test`, `ginkgo` and the images that tests pull.
//!
//! In: the caches, the control plane's programs, our sandbox program. Out: [`Parts`]. Nothing is made again that has not changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::artefacts::Artefacts;
use crate::progress::Progress;
use crate::testimages::{self, Packages, Programs};
use crate::upstream::{self, Go};
use crate::{artefacts, deps};

#[derive(Debug, Clone)]
pub struct Parts {
    pub e2e: PathBuf,
    pub ginkgo: PathBuf,
    /// One image layout.
    pub images: PathBuf,
}

fn names() -> Vec<&'static str> {
    [upstream::JUDGES, testimages::UPSTREAM].concat()
}

/// How many steps [`build`] reports.
pub fn steps() -> usize {
    names().len() + 1
}

pub fn suite_steps() -> usize {
    upstream::JUDGES.len()
}

/// `e2e.test` and `ginkgo` alone.
pub fn suite(progress: &Progress) -> Result<(PathBuf, PathBuf)> {
    let modules = artefacts::workspace()?.join("qemu-tests/upstream");
    let built = upstream::ensure(
        &modules,
        &upstream::cache_root()?,
        upstream::JUDGES,
        progress,
    )?;
    Ok((
        built.path("e2e.test")?.to_owned(),
        built.path("ginkgo")?.to_owned(),
    ))
}

/// `of` is what the cluster is made of: its etcd and sandbox program are in images too.
pub fn build(of: &Artefacts, progress: &Progress) -> Result<Parts> {
    let needs = [deps::NEEDS, deps::TEST_IMAGES].concat();
    deps::ensure(&needs, &|text| progress.say(text))?;
    let modules = artefacts::workspace()?.join("qemu-tests/upstream");
    let cache = upstream::cache_root()?;
    let built = upstream::ensure(&modules, &cache, &names(), progress)?;
    let step = progress.step("images of upstream's tests", Some(Duration::from_secs(90)));
    let path = |name: &str| built.path(name).map(Path::to_owned);
    let programs = Programs {
        agnhost: path("agnhost")?,
        coredns: path("coredns")?,
        busybox: testimages::busybox::ensure(&cache)?,
        pause: of.ours.join("kedge-pause"),
        etcd: of.programs.join("etcd"),
        sample_apiserver: path("sample-apiserver")?,
        nonewprivs: path("nonewprivs")?,
        resource_consumer: path("resource-consumer")?,
        regression_74839: path("regression-issue-74839")?,
        sample_device_plugin: path("sample-device-plugin")?,
        critest: path("critest")?,
    };
    let packages = Packages::fetch(&cache)?;
    let sources = Go::find()?.module_directory(&modules.join("kubernetes"), "k8s.io/kubernetes")?;
    let images = testimages::ensure(&cache, &programs, &packages, &sources)?;
    step.done();
    Ok(Parts {
        e2e: path("e2e.test")?,
        ginkgo: path("ginkgo")?,
        images,
    })
}
