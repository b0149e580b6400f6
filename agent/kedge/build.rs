//! Tells the program which compiler makes it (`kubernetes_build_info`). Nothing of the day or the machine: builds stay reproducible.

#![expect(
    clippy::disallowed_methods,
    reason = "the ban is for the node; this runs where the program is built"
)]

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    // "rustc 1.94.0 (4a4ef493e 2026-03-02)"
    let words: Vec<String> = said
        .unwrap_or_default()
        .split_whitespace()
        .take(2)
        .map(str::to_owned)
        .collect();
    println!("cargo::rustc-env=KEDGE_COMPILER={}", words.join(" "));
}
