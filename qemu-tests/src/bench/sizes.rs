//! Sizes of programs and of the image, as released; and of upstream's programs where they have been built.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::artefacts::{self, Profile};
use crate::progress::Progress;
use crate::{deps, twin, upstream};

/// Sizes of programs and image, as released.
pub fn sizes() -> Result<()> {
    let progress = Progress::new(artefacts::steps() + upstream::NODE_SOFTWARE.len());
    deps::ensure(deps::BENCH_NEEDS, &|text| progress.say(text))?;
    let artefacts = artefacts::build(Profile::Release, &progress)?;
    let theirs = twin::program_sizes(&upstream::cache_root()?, &progress)?;
    drop(progress);
    let mib = |bytes: u64| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
    for (directory, names) in [
        (&artefacts.ours, &["kedge", "kedge-init", "kedge-pause"][..]),
        (&artefacts.product, upstream::PRODUCT),
        (
            &artefacts.image,
            &[
                kedge_image::KERNEL,
                kedge_image::INITRAMFS,
                kedge_image::ROOT,
            ],
        ),
    ] {
        for name in names {
            let path = directory.join(name);
            println!(
                "{name:<26} {:>12}",
                mib(std::fs::metadata(&path)
                    .with_context(|| format!("stat {}", path.display()))?
                    .len())
            );
        }
    }
    for (name, bytes) in theirs {
        println!("{:<26} {:>12}", format!("upstream's {name}"), mib(bytes));
    }
    let mut compressed = 0;
    for name in [
        kedge_image::KERNEL,
        kedge_image::INITRAMFS,
        kedge_image::ROOT,
    ] {
        let output = Command::new("zstd")
            .args(["-19", "-cq"])
            .arg(artefacts.image.join(name))
            .output()
            .context("run zstd")?;
        if !output.status.success() {
            bail!(
                "zstd {name}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        compressed += output.stdout.len() as u64;
    }
    println!("{:<26} {:>12}", "image under zstd -19", mib(compressed));
    Ok(())
}
