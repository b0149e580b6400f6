//! Serves image layouts on a port, to look at with curl or containerd.
//!
//!     cargo run -p kedge-qemu-tests --example registry -- 127.0.0.1:5000 ~/.cache/kedge/images/*

use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::Context;
use kedge_qemu_tests::registry::{Registry, Shelf, serve};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments
        .next()
        .context("usage: registry ADDRESS LAYOUT…")?;
    let layouts: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    let registry = Registry::open(&layouts)?;
    println!("{}", registry.names().join("\n"));
    let listener = TcpListener::bind(&address).with_context(|| format!("listen on {address}"))?;
    serve(listener, Shelf::new(registry)).context("serve")
}
