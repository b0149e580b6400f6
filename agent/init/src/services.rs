//! The table of services: which programs init keeps running, as data.
//!
//! In: the text of `/usr/lib/kedge/services` (or of a test volume's file). Out: bounded [`Service`]s in starting order, or
//! an error with its line. A line is a key and its value; `#` starts a comment line; a `service` line opens a block:
//!
//! ```text
//! service containerd
//!   exec /usr/bin/containerd --config /etc/containerd/config.toml
//!   env PATH=/usr/bin
//!   cgroup /runtime
//!   oom-score-adj -999
//!   grace 10
//! service kedge
//!   exec /usr/bin/kedge agent
//!   control
//! ```
//!
//! | key | meaning |
//! | --- | --- |
//! | `service NAME` | begins a service; services start in this order and stop in reverse |
//! | `exec PATH ARG…` | the program and its arguments, split at white space |
//! | `arg TEXT` | one more argument, taken as it stands, spaces included |
//! | `env KEY=VALUE` | one variable; the value is taken as it stands; nothing is inherited |
//! | `cgroup /PATH` | its cgroup (made when missing); without it the program runs in init's |
//! | `oom-score-adj N` | −1000 to 1000 |
//! | `grace SECONDS` | how long it may take to end after SIGTERM (default 10) |
//! | `control` | gets the control socket and must send heartbeats |
//! | `restart always\|never` | default always |

use std::fmt;

/// Most services.
pub const MAX_SERVICES: usize = 8;
/// Most arguments of one, and variables of one.
pub const MAX_WORDS: usize = 64;
/// Longest line.
pub const MAX_LINE: usize = 1024;
/// Longest name.
pub const MAX_NAME: usize = 24;

/// A service's name.
pub type Name = heapless::String<MAX_NAME>;

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name, the prefix of its log lines.
    pub name: Name,
    /// Program and arguments.
    pub argv: heapless::Vec<String, MAX_WORDS>,
    /// `KEY=VALUE`.
    pub env: heapless::Vec<String, MAX_WORDS>,
    /// Below the cgroup mount, beginning with `/`.
    pub cgroup: Option<String>,
    /// How readily the kernel kills it when memory runs out.
    pub oom_score_adj: Option<i16>,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace: u16,
    /// Whether it gets the control socket and owes heartbeats.
    pub control: bool,
    /// Whether it is started again when it ends.
    pub restart: bool,
}

/// The services in starting order.
pub type Table = heapless::Vec<Service, MAX_SERVICES>;

/// Why a table cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableError {
    /// 1-based; 0 when no line is at fault.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service table, line {}: {}", self.line, self.reason)
    }
}

impl std::error::Error for TableError {}

/// Reads a table. It must have at least one service.
pub fn parse(text: &str) -> Result<Table, TableError> {
    let mut table = Table::new();
    let mut last = 0;
    for (index, line) in text.lines().enumerate() {
        let line_error = |reason: String| TableError {
            line: index + 1,
            reason,
        };
        last = index + 1;
        if line.len() > MAX_LINE {
            return Err(line_error(format!("longer than {MAX_LINE} bytes")));
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = value.trim_start();
        if key == "service" {
            complete(&table).map_err(line_error)?;
            begin(&mut table, value).map_err(line_error)?;
        } else {
            let service = table
                .last_mut()
                .ok_or_else(|| line_error(format!("`{key}` before the first `service NAME`")))?;
            set(service, key, value).map_err(line_error)?;
        }
    }
    let at_end = |reason| TableError { line: last, reason };
    complete(&table).map_err(at_end)?;
    if table.is_empty() {
        return Err(at_end("no service".to_owned()));
    }
    Ok(table)
}

fn begin(table: &mut Table, name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("name `{name}`: letters, digits, `-` and `_` only"));
    }
    if table.iter().any(|s| s.name == name) {
        return Err(format!("second service named {name}"));
    }
    let name = Name::try_from(name)
        .map_err(|_| format!("name `{name}` is longer than {MAX_NAME} bytes"))?;
    let service = Service {
        name,
        argv: heapless::Vec::new(),
        env: heapless::Vec::new(),
        cgroup: None,
        oom_score_adj: None,
        grace: 10,
        control: false,
        restart: true,
    };
    table
        .push(service)
        .map_err(|_| format!("more than {MAX_SERVICES} services"))
}

/// The service being described must have a program before the next one begins.
fn complete(table: &Table) -> Result<(), String> {
    match table.last() {
        Some(service) if service.argv.is_empty() => {
            Err(format!("service {} has no `exec`", service.name))
        }
        _ => Ok(()),
    }
}

fn set(service: &mut Service, key: &str, value: &str) -> Result<(), String> {
    let expected = |what: &str| format!("`{key} {value}`: expected {what}");
    match key {
        "exec" if !service.argv.is_empty() => return Err("second `exec`".to_owned()),
        "exec" => {
            if !value.starts_with('/') {
                return Err(expected("an absolute path"));
            }
            for word in value.split_ascii_whitespace() {
                add(&mut service.argv, word)?;
            }
        }
        "arg" if service.argv.is_empty() => return Err("`arg` before `exec`".to_owned()),
        "arg" => add(&mut service.argv, value)?,
        "env" => match value.split_once('=') {
            Some((name, _)) if !name.is_empty() => add(&mut service.env, value)?,
            _ => return Err(expected("KEY=VALUE")),
        },
        "cgroup" => {
            let safe = value.starts_with('/') && !value.split('/').any(|part| part == "..");
            service.cgroup = Some(
                safe.then(|| value.to_owned())
                    .ok_or_else(|| expected("/PATH"))?,
            );
        }
        "oom-score-adj" => {
            let score = value.parse().ok().filter(|n| (-1000..=1000).contains(n));
            service.oom_score_adj = Some(score.ok_or_else(|| expected("-1000 to 1000"))?);
        }
        "grace" => service.grace = value.parse().map_err(|_| expected("seconds"))?,
        "control" if value.is_empty() => service.control = true,
        "control" => return Err(expected("nothing after it")),
        "restart" => {
            service.restart = match value {
                "always" => true,
                "never" => false,
                _ => return Err(expected("always or never")),
            }
        }
        _ => return Err(format!("unknown key `{key}`")),
    }
    Ok(())
}

fn add(words: &mut heapless::Vec<String, MAX_WORDS>, word: &str) -> Result<(), String> {
    if word.contains('\0') {
        return Err("a NUL byte".to_owned());
    }
    words
        .push(word.to_owned())
        .map_err(|_| format!("more than {MAX_WORDS} words"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: &str = "
# the product's table
service containerd
  exec /usr/bin/containerd --config /etc/containerd/config.toml
  env PATH=/usr/bin
  cgroup /runtime
  oom-score-adj -999
  grace 7
service probe
  exec /run/kedge/test/probe
  arg two words
  control
  restart never
";

    #[test]
    fn a_table_keeps_its_order_and_values() {
        let table = parse(TABLE).expect("valid");
        let containerd = &table[0];
        assert_eq!(containerd.name, "containerd");
        assert_eq!(containerd.argv.len(), 3);
        assert_eq!(containerd.env[0], "PATH=/usr/bin");
        assert_eq!(containerd.cgroup.as_deref(), Some("/runtime"));
        assert_eq!(
            (containerd.oom_score_adj, containerd.grace),
            (Some(-999), 7)
        );
        assert!(containerd.restart && !containerd.control);
        let probe = &table[1];
        assert_eq!(probe.argv[1], "two words");
        assert_eq!((probe.grace, probe.oom_score_adj), (10, None));
        assert!(probe.control && !probe.restart);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).expect_err(text).to_string();
            assert_eq!(error, format!("service table, line {expected}"));
        };
        check("", "0: no service");
        check("exec /bin/x", "1: `exec` before the first `service NAME`");
        check("service a\nservice b", "2: service a has no `exec`");
        check("service a\n", "1: service a has no `exec`");
        check(
            "service a b",
            "1: name `a b`: letters, digits, `-` and `_` only",
        );
        check(
            "service a\nexec x",
            "2: `exec x`: expected an absolute path",
        );
        check("service a\nexec /x\nexec /y", "3: second `exec`");
        check("service a\nexec /x\nservice a", "3: second service named a");
        check("service a\narg x", "2: `arg` before `exec`");
        check(
            "service a\nexec /x\nenv X",
            "3: `env X`: expected KEY=VALUE",
        );
        check(
            "service a\nexec /x\nrestart maybe",
            "3: `restart maybe`: expected always or never",
        );
        check(
            "service a\nexec /x\ncgroup /a/../b",
            "3: `cgroup /a/../b`: expected /PATH",
        );
        check(
            "service a\nexec /x\noom-score-adj 2000",
            "3: `oom-score-adj 2000`: expected -1000 to 1000",
        );
        check(
            "service a\nexec /x\ngrace soon",
            "3: `grace soon`: expected seconds",
        );
        check("service a\nexec /x\ncolour red", "3: unknown key `colour`");
        check(&"x".repeat(2000), "1: longer than 1024 bytes");
    }

    #[test]
    fn tables_are_bounded() {
        let many: String = (0..9).map(|n| format!("service s{n}\nexec /x\n")).collect();
        assert_eq!(parse(&many).expect_err("9").reason, "more than 8 services");
        let wide = format!("service a\nexec /x\n{}", "arg y\n".repeat(64));
        assert_eq!(parse(&wide).expect_err("65").reason, "more than 64 words");
    }

    proptest! {
        #[test]
        fn any_text_is_a_table_or_an_error(text in "(service|exec|env|arg|cgroup|grace|control|[ \\n/a-z=-]){0,60}") {
            let _ = parse(&text);
        }
    }
}
