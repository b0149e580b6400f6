//! `kedge-image`: the command line around [`kedge_image::build`] and [`kedge_image::seed`].

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use kedge_image::{Compression, DEFAULT_DATA_SIZE, Inputs, build, seed, size};
use kedge_machine::paths;

#[derive(Parser)]
#[command(
    name = "kedge-image",
    version,
    about = "Builds bootable Kedge artefacts without root rights"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Kernel, initramfs and disk image from a kernel package and programs.
    #[command(after_help = BUILD_EXAMPLE)]
    Build(BuildArgs),
    /// A seed volume with a node's kedge.yaml.
    #[command(after_help = SEED_EXAMPLE)]
    Seed(SeedArgs),
}

const BUILD_EXAMPLE: &str = "Example:
  kedge-image build --out /tmp/image \\
    --kernel-package linux-image-6.12.107+deb13-cloud-amd64_6.12.107-1_amd64.deb \\
    --bin-dir target/x86_64-unknown-linux-musl/release --upstream-dir ~/.cache/kedge/upstream/product \\
    --authorities /etc/ssl/certs/ca-certificates.crt --data-size 4G --build-stamp $(git log -1 --format=%ct)

The same inputs give the same bytes at any path, date, umask and number of cores.";

const SEED_EXAMPLE: &str = "Example:
  kedge-image seed --config node-1.yaml --out node-1.seed.img
  qemu-system-x86_64 … -drive file=node-1.seed.img,format=raw,if=virtio,readonly=on";

#[derive(Args)]
struct BuildArgs {
    /// Directory for the result; created when missing.
    #[arg(long)]
    out: PathBuf,
    /// Debian's linux-image package, or a directory it was unpacked to.
    #[arg(long)]
    kernel_package: PathBuf,
    /// Directory with kedge, kedge-init and kedge-pause.
    #[arg(long)]
    bin_dir: PathBuf,
    /// Directory with containerd, containerd-shim-runc-v2 and runc.
    #[arg(long)]
    upstream_dir: PathBuf,
    /// Whom containerd trusts when it pulls over TLS: Debian's ca-certificates package, unpacked, or a PEM file.
    #[arg(long)]
    authorities: Option<PathBuf>,
    /// Size of the DATA volume, for example 4G.
    #[arg(long, default_value_t = DEFAULT_DATA_SIZE.to_string())]
    data_size: String,
    /// Seconds since the epoch: all time stamps, and the floor of the node's clock.
    #[arg(long)]
    build_stamp: u64,
    /// Version shown by the node.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    image_version: String,
    /// Do not compress the root.
    #[arg(long)]
    uncompressed: bool,
    /// Leave out the compressed size and the digest of the whole disk.
    #[arg(long)]
    no_measure: bool,
}

#[derive(Args)]
struct SeedArgs {
    /// The machine config.
    #[arg(long)]
    config: PathBuf,
    /// The volume's file.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Build(args) => {
            let manifest = build(&Inputs {
                data_size: size::parse(&args.data_size)?,
                out: args.out,
                kernel_package: args.kernel_package,
                bin_dir: args.bin_dir,
                upstream_dir: args.upstream_dir,
                authorities: args.authorities,
                build_stamp: args.build_stamp,
                version: args.image_version,
                compression: if args.uncompressed {
                    Compression::None
                } else {
                    Compression::Lz4hc
                },
                measure: !args.no_measure,
            })?;
            print!("{manifest}");
        }
        Command::Seed(args) => {
            let config = std::fs::read(&args.config)
                .with_context(|| format!("read {}", args.config.display()))?;
            seed::write(
                &args.out,
                paths::LABEL_SEED,
                &[(paths::SEED_CONFIG, &config)],
            )?;
        }
    }
    Ok(())
}
