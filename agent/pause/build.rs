//! Linker arguments for the target: no C start-up code, and addresses fixed at link time, so that no page is dirtied by
//! relocation. Decides with `cfg(bare)` whether the program is built without libraries.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(bare)");
    let is = |name: &str, value: &str| std::env::var(name).as_deref() == Ok(value);
    // Without the standard library a panic must abort, which only the release profiles say.
    if !is("CARGO_CFG_TARGET_ENV", "musl") || !is("PROFILE", "release") {
        return;
    }
    println!("cargo::rustc-cfg=bare");
    // The target brings C start-up objects along; with another entry point nothing refers to them, and the linker's
    // garbage collection drops them.
    // rust-lld is called directly (.cargo/config.toml): these are the linker's own flags.
    for argument in [
        "--entry=kedge_pause_start",
        "-static",
        "--no-pie",
        "--build-id=none",
        "-znognustack",
        "-znoseparate-code",
        "-znorelro",
        "--no-eh-frame-hdr",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
