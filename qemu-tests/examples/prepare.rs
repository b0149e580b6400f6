//! Fetches and builds everything a cluster is made of but our own programs, and prints where it is.
//!
//!     cargo run -p kedge-qemu-tests --example prepare

use std::path::Path;

use kedge_qemu_tests::progress::Progress;
use kedge_qemu_tests::{debian, deps, oci, upstream};

fn main() -> anyhow::Result<()> {
    deps::ensure(deps::NEEDS, &|text| eprintln!("{text}"))?;
    let cache = upstream::cache_root()?;
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("upstream");
    let names = [
        upstream::CONTROL_PLANE,
        upstream::PRODUCT,
        upstream::POD_IMAGES,
    ]
    .concat();
    let progress = Progress::new(names.len() + 2);
    let built = upstream::ensure(&modules, &cache, &names, &progress)?;
    println!(
        "control plane: {}",
        built
            .directory("control-plane", upstream::CONTROL_PLANE)?
            .display()
    );
    println!(
        "product:       {}",
        built.directory("product", upstream::PRODUCT)?.display()
    );
    let step = progress.step("Debian packages", None);
    let packages = debian::ensure(&cache)?;
    step.done();
    println!("kernel:        {}", packages.kernel_root.display());
    let step = progress.step("pod images", None);
    let programs = oci::Programs {
        agnhost: built.path("agnhost")?.to_owned(),
        coredns: built.path("coredns")?.to_owned(),
        busybox: packages.busybox,
    };
    println!(
        "pod images:    {}",
        oci::ensure(&cache, &programs)?.display()
    );
    step.done();
    Ok(())
}
