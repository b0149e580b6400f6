//! Linker arguments for the target: no C start-up code, and addresses fixed at link time, so that no page is dirtied by
//! relocation.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("musl") {
        return;
    }
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
