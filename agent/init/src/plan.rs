//! What is done at boot, as values, in order. Every decision of the boot is made here; carrying out is [`crate::apply`].
//!
//! In: the command line and facts (what is mounted, which volumes there are, what files say). Out: [`Planned`] steps, each
//! printing as one line: the console, the tests' golden files and a reader see the same words.
//! Facts appear during the boot (a disk exists after its driver is loaded), so there is one plan per stretch:
//!
//! 1. [`initramfs`]: enough to see disks; then [`switch`] to the root found.
//! 2. [`base`]: file systems of the kernel, modules, settings, cgroups.
//! 3. [`disks`]: STATE and DATA, or what stands in for them.
//! 4. [`settle`]: clock, machine id, files of `/etc`.

mod base;
mod disks;
mod settle;
mod step;

pub use base::{
    Base, CGROUPS, base, cgroups_of_services, initramfs, kernel_file_systems,
    kernel_file_systems_missing, switch,
};
pub use disks::{disks, find, no_root};
pub use settle::{LAST_SHUTDOWN, Settle, settle};
pub use step::{OnFailure, Planned, Step};

#[cfg(test)]
mod tests;
