//! Records the trees that the tests of `kedge-metrics` read, each from a real kernel in QEMU.
//!
//!     cargo run -p kedge-qemu-tests --example record-kernel-trees [NAME …]
//!
//! Without names all of them are recorded, about half a minute each. Files go to `agent/metrics/src/testdata/NAME.txt`; the goldens beside them
//! are then renewed by `UPDATE_EXPECT=1 cargo test -p kedge-metrics recorded`, and the difference is read before it is committed.

use std::path::Path;

use anyhow::{Context, bail};
use kedge_qemu_tests::recorder::{self, RECORDINGS};
use kedge_qemu_tests::upstream;

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let known = |name: &String| RECORDINGS.iter().any(|r| r.name == name);
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        let names: Vec<&str> = RECORDINGS.iter().map(|r| r.name).collect();
        bail!(
            "no recording is called {unknown}; there are {}",
            names.join(", ")
        );
    }
    let cache = upstream::cache_root()?;
    let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/metrics/src/testdata");
    std::fs::create_dir_all(&to).with_context(|| format!("create {}", to.display()))?;
    for recording in RECORDINGS {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == recording.name) {
            continue;
        }
        let text = recorder::record(&cache, recording)?;
        let path = to.join(format!("{}.txt", recording.name));
        std::fs::write(&path, &text).with_context(|| format!("write {}", path.display()))?;
        println!("{}: {} bytes", path.display(), text.len());
    }
    Ok(())
}
