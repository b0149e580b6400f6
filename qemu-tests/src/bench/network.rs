//! A Service on the node itself: how soon it answers after it was made, and how much goes through it.
//!
//! Server and client are pods of busybox; the client runs by exec. Both ways, by the pod's address and by the ClusterIP, so that the difference is
//! the proxy's rules. Every time is told by the guest's clock: exec's own start and end are in none. For the first answer the client is trying before the
//! Service is made, every few hundredths of a second, and writes down when it succeeded.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::lab::Lab;
use super::pods;
use super::store::Figures;
use crate::api::text_at;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
/// Known before the Service is made; nobody else has it.
const CLUSTER_IP: &str = "10.96.77.77";
/// Where the client writes when it got its first answer.
const ANSWERED: &str = "/tmp/answered";
const FILE_MIB: u32 = 64;
const DEADLINE: Duration = Duration::from_secs(120);
/// Rounds of each way; the best counts, since everything else only slows.
const ROUNDS: usize = 3;

pub fn figures(lab: &Lab) -> Result<Figures> {
    let watch = pods::watch(lab)?;
    let server = format!(
        "mkdir /tmp/www && dd if=/dev/zero of=/tmp/www/file bs=1M count={FILE_MIB} && echo x > /tmp/www/small && exec httpd -f -p 8080 -h /tmp/www"
    );
    for (name, script) in [("server", server.as_str()), ("client", "sleep 1000000")] {
        let path = PODS_PATH;
        lab.cluster
            .api
            .create(path, &pods::pod(name, &["sh", "-c", script]))?;
        watch.when(name, "Running", DEADLINE)?;
    }
    let pod = lab.cluster.api.get(&format!("{PODS_PATH}/server"))?;
    let direct = format!("{}:8080", text_at(&pod, "/status/podIP"));
    // The file takes a moment to write.
    fetch_until(lab, &direct)?;
    let mut figures = Figures::new();
    let address = format!("{CLUSTER_IP}:80");
    client(lab, &trying(&address)).context("start trying")?;
    lab.cluster.api.create(
        SERVICES,
        &json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "server", "namespace": "default"},
            "spec": {
                "clusterIP": CLUSTER_IP, "selector": {"app": "server"},
                "ports": [{"port": 80, "targetPort": 8080}],
            },
        }),
    )?;
    let made = Instant::now();
    let made = lab.clock()?.at(made);
    let answered = client(
        lab,
        &format!("for i in $(seq 600); do [ -s {ANSWERED} ] && exec cat {ANSWERED}; usleep 100000; done; exit 1"),
    )
    .context("the Service does not answer")?;
    figures.insert(
        "Service made to first answer, timed in the pod, s".into(),
        waited(made, &answered)?,
    );
    for (label, address) in [("pod's address", &direct), ("ClusterIP", &address)] {
        figures.insert(
            format!("throughput by {label}, MiB/s"),
            throughput(lab, address)?,
        );
        figures.insert(
            format!("one of 50 requests by {label}, ms"),
            connections(lab, address)?,
        );
    }
    lab.cluster
        .api
        .delete(&format!("{SERVICES}/server"), None)?;
    pods::remove(lab, &["server".to_owned(), "client".to_owned()])?;
    Ok(figures)
}

/// In the background, until the pod ends: a try that hangs is given up soon, since packets to an address that nobody has may be dropped.
fn trying(address: &str) -> String {
    let attempt =
        format!("timeout 0.3 wget -q -T 1 -O /dev/null http://{address}/none 2>&1 | grep -q 404");
    format!(
        "setsid sh -c 'until {attempt}; do usleep 20000; done; read now _ < /proc/uptime; echo $now > {ANSWERED}' < /dev/null > /dev/null 2>&1 &"
    )
}

/// Seconds from `made` to the time in `answered`, both by the guest's clock. A proxy may be faster than the answer to the request.
fn waited(made: f64, answered: &str) -> Result<f64> {
    let at: f64 = answered
        .trim()
        .parse()
        .with_context(|| format!("no time in {answered:?}"))?;
    Ok((at - made).max(0.0))
}

fn client(lab: &Lab, script: &str) -> Result<String> {
    lab.cluster
        .kubectl_with(
            &[
                "exec",
                "--namespace",
                "default",
                "client",
                "--",
                "sh",
                "-c",
                script,
            ],
            "",
            DEADLINE,
        )?
        .success("exec in the client")
}

fn fetch_until(lab: &Lab, address: &str) -> Result<()> {
    client(
        lab,
        &format!("for i in $(seq 60); do wget -q -T 30 -O /dev/null http://{address}/file && exit 0; sleep 1; done; exit 1"),
    )
    .map(drop)
}

/// Timed in the guest by the shell, so that exec's own time does not count.
fn throughput(lab: &Lab, address: &str) -> Result<f64> {
    let mut best: f64 = 0.0;
    for _ in 0..ROUNDS {
        let seconds = timed(lab, &format!("wget -q -O /dev/null http://{address}/file"))?;
        best = best.max(f64::from(FILE_MIB) / seconds);
    }
    Ok(best)
}

fn connections(lab: &Lab, address: &str) -> Result<f64> {
    let script = format!(
        "for i in $(seq 50); do wget -q -O /dev/null http://{address}/small || exit 1; done"
    );
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        best = best.min(timed(lab, &script)? * 1000.0 / 50.0);
    }
    Ok(best)
}

/// Seconds that a script takes, by the guest's clock.
fn timed(lab: &Lab, script: &str) -> Result<f64> {
    let text = client(
        lab,
        &format!(
            "read a _ < /proc/uptime; {{ {script}; }} || exit 1; read b _ < /proc/uptime; echo $a $b"
        ),
    )?;
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(from)), Some(Ok(to))) if to > from => Ok(to - from),
        _ => bail!("no times in {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_counts_from_when_the_service_was_made() {
        assert!((waited(100.25, "101.00\n").unwrap() - 0.75).abs() < 1e-9);
        assert_eq!(waited(100.25, "100.20\n").unwrap(), 0.0);
        assert!(waited(1.0, "").is_err());
    }
}
