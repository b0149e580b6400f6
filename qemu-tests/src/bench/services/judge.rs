//! Whether a Service answers: a TCP connection from the control plane's own network namespace through its ClusterIP.
//!
//! Natively all ClusterIPs are local there, so that a Service without rules refuses at once. While a VM is measured they are routed to the node, which
//! masquerades connections from outside the cluster (both proxies do), so that the answer comes back through it: a packet that finds no rules there goes
//! round in a circle and is dropped, and nobody refuses.

use std::net::Ipv4Addr;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::objects::{self, SECOND, cluster_ip};
use crate::cluster::Cluster;
use crate::controlplane::plan::SERVICE_RANGE;

const ATTEMPT: Duration = Duration::from_millis(500);
/// How often an attempt begins where nobody may refuse, and how many run at once.
const STEP: Duration = Duration::from_millis(200);
const AT_ONCE: u32 = 5;

/// Who serves the ClusterIPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A proxy in the control plane's namespace.
    Here,
    /// A node.
    Through(Ipv4Addr),
}

#[derive(Clone, Copy)]
pub struct Judge<'a> {
    cluster: &'a Cluster,
    /// Between two attempts. Each costs a machine that is emulated more than one that is not.
    pause: Duration,
}

impl<'a> Judge<'a> {
    /// The endpoints' addresses.
    pub fn prepare(cluster: &'a Cluster) -> Result<()> {
        let address = format!("{SECOND}/24");
        exec(cluster, &["ip", "address", "add", &address, "dev", "br0"]).map(drop)
    }

    /// From now on connections go this way; what a proxy has left behind is gone.
    pub fn new(cluster: &'a Cluster, way: Way) -> Result<Self> {
        for line in commands(way) {
            let words: Vec<&str> = line.split(' ').collect();
            exec(cluster, &words)?;
        }
        let pause = Duration::from_millis(match way {
            Way::Here => 2,
            Way::Through(_) => 10,
        });
        Ok(Self { cluster, pause })
    }

    pub fn until_answers(&self, number: usize, deadline: Duration) -> Result<()> {
        self.until(number, true, deadline)
    }

    /// Silence counts as well.
    pub fn until_refuses(&self, number: usize, deadline: Duration) -> Result<()> {
        self.until(number, false, deadline)
    }

    fn until(&self, number: usize, wanted: bool, deadline: Duration) -> Result<()> {
        let start = Instant::now();
        while self.answers(number, ATTEMPT).is_ok() != wanted {
            if start.elapsed() > deadline {
                let not = if wanted { "not answer" } else { "still answer" };
                bail!(
                    "{} does {not} within {} s",
                    cluster_ip(number),
                    deadline.as_secs()
                );
            }
            thread::sleep(self.pause);
        }
        Ok(())
    }

    /// When the last of them gave its first answer.
    pub fn all_answer(&self, numbers: &[usize], deadline: Duration) -> Result<Instant> {
        let answers = |number, timeout| self.answers(number, timeout).is_ok();
        let firsts = first_answers(numbers, STEP, deadline, &answers);
        let mut last = None;
        for (&number, first) in numbers.iter().zip(firsts) {
            let at = first.with_context(|| {
                let (ip, seconds) = (cluster_ip(number), deadline.as_secs());
                let now = self.answers(number, ATTEMPT);
                let now = now.map_or_else(|error| format!("{error:#}"), |()| "it does now".into());
                format!("{ip} does not answer within {seconds} s: {now}")
            })?;
            last = last.max(Some(at));
        }
        last.context("no Service to look at")
    }

    /// A Service whose endpoints are dead gets live ones; then they die again. Milliseconds until it answers.
    pub fn change(&self, number: usize, deadline: Duration) -> Result<f64> {
        objects::revive(&self.cluster.api, number, true)?;
        let changed = Instant::now();
        self.until_answers(number, deadline)?;
        let time = changed.elapsed().as_secs_f64() * 1000.0;
        objects::revive(&self.cluster.api, number, false)?;
        Ok(time)
    }

    /// The API server's answer to plain HTTP: one line, and the connection is closed.
    fn answers(&self, number: usize, timeout: Duration) -> Result<()> {
        let address = format!("{}:80", cluster_ip(number));
        let request = "GET / HTTP/1.0\r\n\r\n";
        let answer = self
            .cluster
            .client
            .dial(&address, request, false, timeout)?;
        if answer.contains("HTTPS server") {
            Ok(())
        } else {
            bail!("{address} answers {answer:?}")
        }
    }
}

/// When each gave its first answer. Attempts begin in steps, whatever has become of earlier ones: one that nobody refuses takes several steps, but
/// costs nothing of the figure's resolution.
fn first_answers(
    numbers: &[usize],
    step: Duration,
    deadline: Duration,
    answers: &(impl Fn(usize, Duration) -> bool + Sync),
) -> Vec<Option<Instant>> {
    let start = Instant::now();
    let timeout = step * AT_ONCE;
    let firsts: Vec<OnceLock<Instant>> = numbers.iter().map(|_| OnceLock::new()).collect();
    thread::scope(|scope| {
        for (&number, first) in numbers.iter().zip(&firsts) {
            for phase in 0..AT_ONCE {
                scope.spawn(move || {
                    thread::sleep(step * phase);
                    while first.get().is_none() && start.elapsed() < deadline {
                        let begun = Instant::now();
                        if answers(number, timeout) {
                            // Another attempt's answer may have been earlier.
                            let _ = first.set(Instant::now());
                            return;
                        }
                        thread::sleep(timeout.saturating_sub(begun.elapsed()));
                    }
                });
            }
        }
    });
    firsts.into_iter().map(OnceLock::into_inner).collect()
}

/// A local route is looked up before any other, so it must go before a node's can hold.
fn commands(way: Way) -> Vec<String> {
    let mut lines = vec!["nft flush ruleset".to_owned()];
    for table in ["local", "main"] {
        lines.push(format!(
            "ip route flush exact {SERVICE_RANGE} table {table}"
        ));
    }
    lines.push(match way {
        Way::Here => format!("ip route add local {SERVICE_RANGE} dev lo table local"),
        Way::Through(node) => format!("ip route add {SERVICE_RANGE} via {node} dev br0"),
    });
    lines
}

pub fn exec(cluster: &Cluster, argv: &[&str]) -> Result<String> {
    let result = cluster.client.exec(argv, "", Duration::from_secs(60))?;
    if result.code != 0 {
        bail!("{}: {}", argv.join(" "), result.stderr.trim());
    }
    Ok(result.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_is_asked_until_it_has_answered() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let asked = [AtomicU32::new(0), AtomicU32::new(0)];
        let step = Duration::from_millis(1);
        let answers = |number: usize, timeout| {
            assert_eq!(timeout, step * AT_ONCE);
            // The first at once, the second at the twelfth attempt.
            asked[number].fetch_add(1, Ordering::Relaxed) >= [0, 11][number]
        };
        let firsts = first_answers(&[0, 1], step, Duration::from_secs(60), &answers);
        assert!(firsts.iter().all(Option::is_some));
        assert!(asked[1].load(Ordering::Relaxed) >= 12);
        let never = first_answers(&[0, 1], step, Duration::ZERO, &|_, _| false);
        assert_eq!(never, [None, None]);
    }

    #[test]
    fn either_way_begins_without_the_others_routes_and_rules() {
        let shown = |way| commands(way).join("\n") + "\n";
        expect_test::expect![[r#"
            nft flush ruleset
            ip route flush exact 10.96.0.0/16 table local
            ip route flush exact 10.96.0.0/16 table main
            ip route add local 10.96.0.0/16 dev lo table local
        "#]]
        .assert_eq(&shown(Way::Here));
        expect_test::expect![[r#"
            nft flush ruleset
            ip route flush exact 10.96.0.0/16 table local
            ip route flush exact 10.96.0.0/16 table main
            ip route add 10.96.0.0/16 via 192.168.50.12 dev br0
        "#]]
        .assert_eq(&shown(Way::Through(Ipv4Addr::new(192, 168, 50, 12))));
    }
}
