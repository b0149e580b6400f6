//! Boot: kernel entry to Ready, and of that the part after containerd was up. First join (with certificate requests), then warm.

use anyhow::Result;

use super::lab::Lab;
use super::machine::Ready;
use super::store::Figures;

pub fn figures(lab: &Lab, first: Ready) -> Result<Figures> {
    let warm = lab.boot_again()?;
    let mut figures = Figures::new();
    for (label, ready) in [("first join", first), ("warm", warm)] {
        figures.insert(
            format!("{label}: kernel entry to Ready, s"),
            ready.from_kernel,
        );
        figures.insert(
            format!("{label}: containerd up to Ready, s"),
            ready.from_runtime,
        );
    }
    Ok(figures)
}
