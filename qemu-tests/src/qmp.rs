//! A QMP client for one command at a time (QEMU's machine protocol: JSON lines over a unix socket).
//!
//! In: the socket's path and a command. Out: its return value. Absent: events; the console and the process tell what happened.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Connects, negotiates, executes one command, leaves.
pub fn execute(socket: &Path, command: &str, arguments: &Value) -> Result<Value> {
    let what = || format!("QMP {command} at {}", socket.display());
    let stream = UnixStream::connect(socket).with_context(what)?;
    stream.set_read_timeout(Some(TIMEOUT)).with_context(what)?;
    let writer = stream.try_clone().with_context(what)?;
    converse(BufReader::new(stream), writer, command, arguments).with_context(what)
}

fn converse(
    mut reader: impl BufRead,
    mut writer: impl Write,
    command: &str,
    arguments: &Value,
) -> Result<Value> {
    let greeting = next(&mut reader)?;
    if greeting.get("QMP").is_none() {
        bail!("no QMP greeting: {greeting}");
    }
    writeln!(writer, "{}", json!({"execute": "qmp_capabilities"}))
        .context("send qmp_capabilities")?;
    answer(&mut reader)?;
    writeln!(
        writer,
        "{}",
        json!({"execute": command, "arguments": arguments})
    )
    .context("send")?;
    answer(&mut reader)
}

/// The next return or error; events in between are skipped.
fn answer(reader: &mut impl BufRead) -> Result<Value> {
    loop {
        let mut message = next(reader)?;
        if let Some(value) = message.get_mut("return") {
            return Ok(value.take());
        }
        if let Some(error) = message.get("error") {
            bail!(
                "{}",
                error
                    .get("desc")
                    .and_then(Value::as_str)
                    .unwrap_or("unknown error")
            );
        }
    }
}

fn next(reader: &mut impl BufRead) -> Result<Value> {
    let mut line = String::new();
    if reader.read_line(&mut line).context("read")? == 0 {
        bail!("QEMU closed the connection");
    }
    serde_json::from_str(&line).with_context(|| format!("parse {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(script: &str) -> (Result<Value>, String) {
        let mut sent = Vec::new();
        let result = converse(
            script.as_bytes(),
            &mut sent,
            "set_link",
            &json!({"name": "nic0", "up": false}),
        );
        (result, String::from_utf8(sent).unwrap())
    }

    #[test]
    fn events_between_command_and_answer_are_skipped() {
        let (result, sent) =
            talk("{\"QMP\":{}}\n{\"return\":{}}\n{\"event\":\"RESET\"}\n{\"return\":{\"ok\":1}}\n");
        assert_eq!(result.unwrap(), json!({"ok": 1}));
        assert!(sent.contains("qmp_capabilities") && sent.contains("set_link"));
    }

    #[test]
    fn an_error_carries_qemus_words() {
        let (result, _) = talk(
            "{\"QMP\":{}}\n{\"return\":{}}\n{\"error\":{\"class\":\"x\",\"desc\":\"Device 'nic0' not found\"}}\n",
        );
        assert_eq!(result.unwrap_err().to_string(), "Device 'nic0' not found");
    }

    #[test]
    fn a_closed_connection_is_said() {
        let (result, _) = talk("{\"QMP\":{}}\n");
        assert!(result.unwrap_err().to_string().contains("closed"));
    }
}
