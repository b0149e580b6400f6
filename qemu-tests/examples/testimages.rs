//! Makes the images of upstream's tests and prints where they are.
//!
//!     cargo run -p kedge-qemu-tests --example testimages -- CONTROL-PLANE-PROGRAMS KEDGE-PAUSE

use std::path::PathBuf;

use anyhow::Context;
use kedge_qemu_tests::conformance::parts;
use kedge_qemu_tests::progress::Progress;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let usage = "usage: testimages CONTROL-PLANE-PROGRAMS KEDGE-PAUSE";
    let (programs, pause) = (
        arguments.next().context(usage)?,
        arguments.next().context(usage)?,
    );
    let parts = parts::build(&programs, &pause, &Progress::new(parts::steps()))?;
    println!("{}\n{}", parts.e2e.display(), parts.images.display());
    Ok(())
}
