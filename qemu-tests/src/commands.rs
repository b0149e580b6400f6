//! One function per command: they read the command line's values, call the library and print.

mod consumers;
mod ground;
mod judges;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kedge_qemu_tests::artefacts::{self, Profile};
use kedge_qemu_tests::bench;
use kedge_qemu_tests::cluster::{Cluster, node_table};
use kedge_qemu_tests::controlplane::last_lines;
use kedge_qemu_tests::dirs::Dirs;
use kedge_qemu_tests::progress::Progress;
use kedge_qemu_tests::recap;
use kedge_qemu_tests::rings;
use kedge_qemu_tests::stories::{self, Tally};
use kedge_qemu_tests::supervisor::client::Client;
use kedge_qemu_tests::supervisor::protocol::Action;
use kedge_qemu_tests::supervisor::{self, ns};
use kedge_qemu_tests::twin::{self, Mix, Software};
use kedge_qemu_tests::up;

use super::{BenchArgs, Command, NodeSoftware, Ring, TestArgs, UpArgs};

pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Supervise { dir, inner } => return supervise(dir, inner),
        Command::Up(args) => up(&args)?,
        Command::Test(args) => return test(&args),
        Command::Status => status()?,
        Command::Kubeconfig => println!("{}", attached()?.dirs.kubeconfig().display()),
        Command::Kubectl { arguments } => return kubectl(&arguments),
        Command::Console { node } => console(&node)?,
        Command::Logs { node, lines } => logs(&node, lines)?,
        Command::PowerCut { node, stay_off } => power_cut(&node, stay_off)?,
        Command::Down => down()?,
        Command::Bench(args) => bench(args)?,
        Command::Scraper => scraper()?,
        Command::Scrape(args) => return consumers::scrape(&args),
        Command::CompareMetrics(args) => return consumers::compare(&args),
        Command::Critest(args) => return judges::critest(args),
        Command::Conformance(args) => return judges::conformance(args),
    }
    Ok(ExitCode::SUCCESS)
}

fn supervise(dir: PathBuf, inner: bool) -> Result<ExitCode> {
    let dirs = Dirs { root: dir };
    if inner {
        supervisor::inner(&dirs)
    } else {
        supervisor::outer(&dirs)
    }
    .map(|()| ExitCode::SUCCESS)
}

fn scraper() -> Result<()> {
    let plan = serde_json::from_reader(io::stdin()).context("read the plan")?;
    let outcome = kedge_qemu_tests::scraper::run(&plan)?;
    serde_json::to_writer(io::stdout(), &outcome).context("write the outcome")
}

fn attached() -> Result<Cluster> {
    Cluster::attach(&Dirs::from_environment()?)
}

fn up(args: &UpArgs) -> Result<()> {
    let dirs = Dirs::from_environment()?;
    let software = args.mix();
    if Client::new(&dirs).running().is_some() {
        let there = Cluster::attach(&dirs)?.description;
        software
            .check(&there.nodes, &there.twins)
            .context("a cluster runs already")?;
        println!("A cluster runs already.\n");
        return status();
    }
    ns::check()?;
    let progress = Progress::new(artefacts::steps() + up::STEPS);
    let mut artefacts = artefacts::build(Profile::Story, &progress)?;
    if software != Mix::Kedge {
        progress.add(twin::steps());
        twin::ensure(&mut artefacts, &progress)?;
    }
    let options = up::Options {
        software,
        size: args.size(),
        ..up::Options::new(args.node_count(), artefacts.accel()?)
    };
    let (cluster, holder) = up::control_plane(&dirs, &artefacts, &options, &progress)?;
    let nodes = up::nodes(&cluster, &progress)?;
    holder.detach()?;
    drop(progress);
    println!("\n{}\n{}", node_table(&nodes), how_to_use(&cluster));
    Ok(())
}

fn how_to_use(cluster: &Cluster) -> String {
    format!(
        "export KUBECONFIG={}\n{} get pods -A\n\nor: cargo rig kubectl get pods -A; cargo rig status; cargo rig console node1; cargo rig down",
        cluster.dirs.kubeconfig().display(),
        cluster.description.artefacts.kubectl().display()
    )
}

fn test(args: &TestArgs) -> Result<ExitCode> {
    let chosen = stories::select(args.stories.as_deref())?;
    if args.list {
        chosen.iter().for_each(|story| println!("{}", story.name));
        return Ok(ExitCode::SUCCESS);
    }
    // Asking for stories by name asks for nothing else.
    let only = args
        .only
        .or(args.stories.is_some().then_some(Ring::Stories));
    let wanted = |ring: Ring| only.is_none_or(|only| only == ring);
    let mut tally = Tally::default();
    if wanted(Ring::Lints) {
        tally.add(rings::lints()?);
    }
    if wanted(Ring::Unit) {
        tally.add(rings::unit()?);
    }
    // Before the stories: those take what time is left. Stories in a given cluster ask for no other one.
    if wanted(Ring::Conformance) && !args.here {
        tally.add(rings::conformance(&Dirs::from_environment()?)?);
    }
    if wanted(Ring::Stories) {
        tally.add(rings::stories(
            chosen,
            &Dirs::from_environment()?,
            args.here,
        )?);
    }
    print!("{}", recap::take());
    println!("{tally}");
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn bench(args: BenchArgs) -> Result<()> {
    let request = bench::Request {
        measures: args.what,
        against_upstream: args.against.is_some(),
        only: args.only.map(|side| match side {
            NodeSoftware::Kedge => Software::Kedge,
            NodeSoftware::Upstream => Software::Upstream,
        }),
        repeat: args.repeat,
        pods_110: args.pods_110,
        services: args
            .service_counts
            .unwrap_or_else(|| bench::SERVICE_COUNTS.to_vec()),
        fresh: args.fresh,
        out: args.out,
    };
    bench::run(&Dirs::from_environment()?, &request)
}

fn status() -> Result<()> {
    let cluster = attached()?;
    let status = cluster.client.status()?;
    println!("programs: {}", status.programs.join(", "));
    for machine in &status.machines {
        let address = machine
            .address
            .map(|address| address.to_string())
            .unwrap_or_default();
        println!(
            "machine:  {:<10} {:<4} lease {address}",
            machine.name,
            if machine.running { "on" } else { "off" }
        );
    }
    status
        .routes
        .iter()
        .for_each(|route| println!("route:    {route}"));
    status
        .events
        .iter()
        .for_each(|event| println!("event:    {event}"));
    match cluster.api.items("/api/v1/nodes") {
        Ok(nodes) => println!("\n{}", node_table(&nodes)),
        Err(error) => println!("\nAPI server: {error:#}"),
    }
    Ok(())
}

fn kubectl(arguments: &[String]) -> Result<ExitCode> {
    let cluster = attached()?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let status = cluster
        .kubectl_command(&arguments)
        .status()
        .context("run kubectl")?;
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}

/// The console file of a node, or an error that names the nodes there are.
fn console_file(node: &str) -> Result<PathBuf> {
    let cluster = attached()?;
    let path = cluster.dirs.console(node);
    if !path.exists() {
        let machines = cluster.client.status()?.machines;
        let names: Vec<&str> = machines
            .iter()
            .map(|machine| machine.name.as_str())
            .collect();
        bail!("no machine {node:?} (there are: {})", names.join(", "));
    }
    Ok(path)
}

fn console(node: &str) -> Result<()> {
    let path = console_file(node)?;
    let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let length = file
        .metadata()
        .with_context(|| format!("stat {}", path.display()))?
        .len();
    // The last screenful, then what comes.
    file.seek(SeekFrom::Start(length.saturating_sub(4096)))
        .context("seek in the console")?;
    let mut stdout = io::stdout();
    loop {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .with_context(|| format!("read {}", path.display()))?;
        stdout
            .write_all(&bytes)
            .and_then(|()| stdout.flush())
            .context("write to the terminal")?;
        thread::sleep(Duration::from_millis(200));
    }
}

fn logs(node: &str, lines: Option<usize>) -> Result<()> {
    println!(
        "{}",
        last_lines(&console_file(node)?, lines.unwrap_or(usize::MAX))
    );
    Ok(())
}

fn power_cut(node: &str, stay_off: bool) -> Result<()> {
    let cluster = attached()?;
    cluster.client.machine(node, Action::PowerCut)?;
    if !stay_off {
        cluster.client.machine(node, Action::PowerOn)?;
    }
    println!(
        "{node} lost power{}",
        if stay_off { "" } else { " and has it back" }
    );
    Ok(())
}

fn down() -> Result<()> {
    let client = Client::new(&Dirs::from_environment()?);
    match client.running() {
        None => println!("No cluster runs."),
        Some(_) => {
            client.stop()?;
            println!("The cluster is gone.");
        }
    }
    Ok(())
}
