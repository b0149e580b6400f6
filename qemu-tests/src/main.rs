//! `rig`: the command line. What each command does is in [`commands`]; here are its words, its help and the exit code.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;

use kedge_qemu_tests::conformance::plan::Shard;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kedge_qemu_tests::bench::Measure;
use kedge_qemu_tests::cluster::Size;
use kedge_qemu_tests::twin::Mix;

#[derive(Parser)]
#[command(
    name = "cargo rig",
    bin_name = "cargo rig",
    version,
    about = "Kedge in VMs: a cluster for you, and every test"
)]
#[command(after_help = "Start with:\n  cargo rig up\n  cargo rig kubectl get nodes")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything, boot a control plane and three nodes, wait until all are Ready.
    #[command(
        after_help = "Example:\n  cargo rig up\n  cargo rig up --nodes 1\n  cargo rig up --node-software upstream\n  cargo rig up --mixed\n\nThe cluster keeps running in the background; end it with `cargo rig down`."
    )]
    Up(UpArgs),
    /// Pass all tests: format, lints, unit, golden, kernel and VM stories.
    #[command(
        after_help = "Examples:\n  cargo rig test\n  cargo rig test --stories 'nodeport|dns'\n  cargo rig test --only unit\n\nThe last line is \"N passed, N failed\". Stories run in a cluster of their own beside yours."
    )]
    Test(TestArgs),
    /// Show programs, machines, nodes and what happened.
    #[command(after_help = "Example:\n  cargo rig status")]
    Status,
    /// Print the path of the kubeconfig (API server on 127.0.0.1).
    #[command(
        after_help = "Example:\n  export KUBECONFIG=$(cargo rig kubeconfig)\n  kubectl get nodes"
    )]
    Kubeconfig,
    /// Run the cluster's own kubectl.
    #[command(after_help = "Example:\n  cargo rig kubectl get pods -A -o wide")]
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Follow the serial console of a node (Ctrl-C leaves).
    #[command(after_help = "Example:\n  cargo rig console node1")]
    Console { node: String },
    /// Print what a node has said since it was made.
    #[command(after_help = "Example:\n  cargo rig logs node2 --lines 50")]
    Logs {
        node: String,
        /// Only the last N lines.
        #[arg(long)]
        lines: Option<usize>,
    },
    /// Pull a node's plug and put it back.
    #[command(
        name = "power-cut",
        after_help = "Examples:\n  cargo rig power-cut node3\n  cargo rig power-cut node3 --stay-off    (on again: the same command without it)"
    )]
    PowerCut {
        node: String,
        /// Leave it without power.
        #[arg(long)]
        stay_off: bool,
    },
    /// End the cluster and everything it runs.
    #[command(after_help = "Example:\n  cargo rig down")]
    Down,
    /// Measure what a node costs, beside upstream's where asked.
    #[command(
        after_help = "Examples:\n  cargo rig bench boot memory\n  cargo rig bench all --against upstream --repeat 3\n  cargo rig bench services-vm --against upstream   (services: natively as well)\n  cargo rig bench sizes\n\nA run that was cut off goes on where it stopped; one that was whole measures nothing and says so (--fresh begins anew). A measure that failed is named at the end, and the exit code is not 0."
    )]
    Bench(BenchArgs),
    /// Run upstream's conformance tests against the nodes and print the table.
    #[command(
        after_help = "Examples:\n  cargo rig conformance --class a,b,c            (210 tests, about an hour with --procs 5 on two cores)\n  cargo rig conformance --class abc --resume     (goes on after an interruption)\n  cargo rig conformance --focus 'InitContainer' --procs 1\n  cargo rig conformance --node-conformance --list\n  cargo rig conformance --ci\n\nClasses: a kubelet, b network, c node API, d the rest. Results are below target/conformance, by build."
    )]
    Conformance(ConformanceArgs),
    /// Run cri-tools' suite against a node's runtime and print the table.
    #[command(
        after_help = "Examples:\n  cargo rig critest\n  cargo rig critest --node node2 --focus 'PodSandbox'"
    )]
    Critest(CritestArgs),
    /// Have Prometheus and metrics-server read every node's metrics, and say what they say.
    #[command(
        after_help = "Examples:\n  cargo rig scrape\n  cargo rig scrape --minutes 2\n\nWithout a cluster that runs, three nodes are booted for it. The first run compiles both programs: minutes on two cores."
    )]
    Scrape(ScrapeArgs),
    /// Say what the metrics of a Kedge node and of an upstream node with the same pods have not in common.
    #[command(
        after_help = "Examples:\n  cargo rig compare-metrics\n  cargo rig compare-metrics --all                (what is listed too: a line and a count for each line of the list)\n\nDifferences that are meant are listed in qemu-tests/metrics/differences.tsv, one line per family with a reason. Others, lines that excuse nothing, and values of the known load that are not within 5 % of the truth make the exit code 1. Left out, as the first lines say, are what one machine alone has and what is chance of a run: the latter is held against the kernel's own files on each node."
    )]
    CompareMetrics(CompareArgs),
    /// Scrape as told on standard input (run by `bench metrics` in the cluster's namespace).
    #[command(hide = true)]
    Scraper,
    /// The background process (started by `up`).
    #[command(hide = true)]
    Supervise {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        inner: bool,
    },
}

#[derive(Args)]
pub struct UpArgs {
    /// How many nodes [default: 3, or 2 with --mixed].
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=20))]
    nodes: Option<u8>,
    /// What makes the machines nodes: ours, or upstream's kubelet, kube-proxy and CNI plugins.
    #[arg(long, value_enum, default_value_t = NodeSoftware::Kedge)]
    node_software: NodeSoftware,
    /// One node of each software in turn, beginning with Kedge.
    #[arg(long, conflicts_with = "node_software")]
    mixed: bool,
    /// Memory of each machine in MiB.
    #[arg(long, default_value_t = Size::default().memory_mib, value_parser = clap::value_parser!(u32).range(128..))]
    memory: u32,
    /// CPUs of each machine.
    #[arg(long, default_value_t = Size::default().cpus, value_parser = clap::value_parser!(u8).range(1..=16))]
    cpus: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NodeSoftware {
    Kedge,
    Upstream,
}

impl UpArgs {
    fn mix(&self) -> Mix {
        match self.node_software {
            _ if self.mixed => Mix::Mixed,
            NodeSoftware::Kedge => Mix::Kedge,
            NodeSoftware::Upstream => Mix::Upstream,
        }
    }

    fn node_count(&self) -> usize {
        let usual = if self.mixed { 2 } else { 3 };
        self.nodes.unwrap_or(usual).into()
    }

    fn size(&self) -> Size {
        Size {
            memory_mib: self.memory,
            cpus: self.cpus,
            ..Size::default()
        }
    }
}

#[derive(Args)]
pub struct TestArgs {
    /// Only VM stories whose name matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    stories: Option<String>,
    /// Only one ring of tests.
    #[arg(long, value_enum)]
    only: Option<Ring>,
    /// Run the stories in the cluster of `cargo rig up` instead of a fresh one.
    #[arg(long)]
    here: bool,
    /// List the stories and leave.
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ring {
    Lints,
    Unit,
    Stories,
    /// A shard of upstream's conformance tests.
    Conformance,
}

#[derive(Args)]
pub struct CritestArgs {
    /// Whose runtime; the first node's unless named.
    #[arg(long)]
    node: Option<String>,
    /// Only tests whose name matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    focus: Option<String>,
}

#[derive(Args)]
pub struct ConformanceArgs {
    /// Classes of tests: letters of a, b, c, d, or all.
    #[arg(long, value_name = "CLASSES")]
    class: Option<String>,
    /// Only tests whose name matches this regular expression.
    #[arg(long, value_name = "REGEX")]
    focus: Option<String>,
    /// The tests with upstream's label NodeConformance instead.
    #[arg(long)]
    node_conformance: bool,
    /// Print the names and leave.
    #[arg(long)]
    list: bool,
    /// Write qemu-tests/conformance-tests.tsv anew from the suite and leave.
    #[arg(long, conflicts_with = "list")]
    rewrite_list: bool,
    /// Go on where an interrupted run of this build stopped.
    #[arg(long)]
    resume: bool,
    /// Go on as well, and run those again that failed; the table says which passed only then.
    #[arg(long)]
    again: bool,
    /// Only the I-th of N parts.
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// The fixed shard that CI runs, 8 minutes at most.
    #[arg(long, conflicts_with_all = ["class", "node_conformance", "shard"])]
    ci: bool,
    /// How many tests run side by side.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    procs: u8,
    /// What the nodes run.
    #[arg(long, value_enum, default_value_t = NodeSoftware::Kedge)]
    node_software: NodeSoftware,
    /// A summary.json to compare with, instead of the newest.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// End after so many minutes; what was not reached is missing, and the exit code says so.
    #[arg(long)]
    minutes: Option<u64>,
}

#[derive(Args)]
pub struct ScrapeArgs {
    /// How long Prometheus scrapes.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=600))]
    minutes: u64,
}

#[derive(Args)]
pub struct CompareArgs {
    /// Print the listed differences as well, counted by line of the list.
    #[arg(long)]
    all: bool,
    /// Add to qemu-tests/metrics/promtool-upstream.tsv what promtool newly says of the upstream node.
    #[arg(long)]
    record: bool,
}

#[derive(Args)]
pub struct BenchArgs {
    /// What to measure.
    #[arg(value_enum, required = true)]
    what: Vec<Measure>,
    /// Measure this as well, in turn.
    #[arg(long, value_enum)]
    against: Option<Against>,
    /// Take this side's turns only; another run goes on with the other's.
    #[arg(long, value_enum, requires = "against")]
    only: Option<NodeSoftware>,
    /// How often each is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// In the first round, fill the node up to 110 pods as well (`all` does without being told).
    #[arg(long)]
    pods_110: bool,
    /// A trial: so many Services instead of those of the measure; the samples go to a file of their own.
    #[arg(
        long,
        hide = true,
        value_delimiter = ',',
        value_name = "N,N",
        requires = "out"
    )]
    service_counts: Option<Vec<usize>>,
    /// Begin anew: do not go on with the samples of an interrupted run.
    #[arg(long)]
    fresh: bool,
    /// Where samples are kept [default: qemu-tests/results/bench.json].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Against {
    /// Upstream's kubelet, kube-proxy and CNI plugins on the same image.
    Upstream,
}

fn main() -> ExitCode {
    match commands::run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rig: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_trial_with_few_services_has_a_file_of_its_own() {
        let words = ["rig", "bench", "services", "--service-counts", "50,200"];
        assert!(Cli::try_parse_from(words).is_err());
        let parsed = Cli::try_parse_from([&words[..], &["--out", "/tmp/trial.json"]].concat());
        let Ok(Command::Bench(args)) = parsed.map(|cli| cli.command) else {
            panic!("not a bench command");
        };
        assert_eq!(args.service_counts, Some(vec![50, 200]));
    }

    #[test]
    fn every_visible_command_shows_an_example() {
        for command in Cli::command()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains("Example") && help.contains("cargo rig"),
                "{}",
                command.get_name()
            );
        }
    }
}
