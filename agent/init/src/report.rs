//! What the agent learns about the boot: `/run/kedge/init.json`.
//!
//! In: stages, faults and disks as they come up. Out: one JSON document:
//!
//! ```json
//! {"stages":[{"name":"initramfs","ms":2100}],
//!  "faults":[{"code":"data-missing","message":"…"}],
//!  "machine_id":"32 hex digits or null",
//!  "last_shutdown":"power off: power button, or null after a crash or a power cut",
//!  "state":{"device":"/dev/vda3","bytes":67108864},"data":null}
//! ```
//!
//! `ms` counts from kernel entry. `state` and `data` are null when a RAM disk stands in. Codes are listed at [`Fault`].

use std::fmt::Write;

/// Something wrong with the node that its operator should know about.
///
/// Codes: `state-missing`, `state-unmountable`, `state-errors`, the same for `data-…`, `data-too-small`,
/// `machine-id-corrupt`, `services-unreadable`, `test-services`, `kernel-argument`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// One of the words above.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// A disk in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// `/dev/vda3`.
    pub device: String,
    /// Its size.
    pub bytes: u64,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Name and milliseconds since kernel entry, in order.
    pub stages: Vec<(String, u64)>,
    /// In the order of discovery.
    pub faults: Vec<Fault>,
    /// This machine's id.
    pub machine_id: Option<String>,
    /// Why the machine went down the last time, when it did so in order.
    pub last_shutdown: Option<String>,
    /// Where STATE is.
    pub state: Option<Disk>,
    /// Where DATA is.
    pub data: Option<Disk>,
}

impl Report {
    /// The document.
    pub fn to_json(&self) -> String {
        let stage =
            |(name, ms): &(String, u64)| format!("{{\"name\":{},\"ms\":{ms}}}", quoted(name));
        let fault = |fault: &Fault| {
            format!(
                "{{\"code\":{},\"message\":{}}}",
                quoted(fault.code),
                quoted(&fault.message)
            )
        };
        format!(
            "{{\"stages\":[{}],\n\"faults\":[{}],\n\"machine_id\":{},\n\"last_shutdown\":{},\n\"state\":{},\n\"data\":{}}}\n",
            joined(self.stages.iter().map(stage)),
            joined(self.faults.iter().map(fault)),
            optional(self.machine_id.as_deref()),
            optional(self.last_shutdown.as_deref()),
            disk(self.state.as_ref()),
            disk(self.data.as_ref()),
        )
    }

    /// Stages for the environment of the next program: `initramfs:2100,root-found:2300`.
    pub fn stages_to_env(&self) -> String {
        joined(self.stages.iter().map(|(name, ms)| format!("{name}:{ms}")))
    }

    /// Takes over stages from [`Self::stages_to_env`]; what cannot be read is left out.
    pub fn stages_from_env(&mut self, value: &str) {
        let stage = |word: &str| {
            let (name, ms) = word.split_once(':')?;
            Some((name.to_owned(), ms.parse().ok()?))
        };
        self.stages.extend(value.split(',').filter_map(stage));
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

fn disk(disk: Option<&Disk>) -> String {
    disk.map_or("null".to_owned(), |d| {
        format!("{{\"device\":{},\"bytes\":{}}}", quoted(&d.device), d.bytes)
    })
}

fn optional(text: Option<&str>) -> String {
    text.map_or("null".to_owned(), quoted)
}

/// RFC 8259 section 7.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\0'..='\x1f' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn sample() -> Report {
        Report {
            stages: vec![("initramfs".to_owned(), 2100), ("root".to_owned(), 2300)],
            faults: vec![Fault {
                code: "data-missing",
                message: "a \"quoted\" \\ line\nbroken".to_owned(),
            }],
            machine_id: Some("0123".to_owned()),
            last_shutdown: None,
            state: Some(Disk {
                device: "/dev/vda3".to_owned(),
                bytes: 1024,
            }),
            data: None,
        }
    }

    #[test]
    fn the_document_is_json() {
        let value: serde_json::Value = serde_json::from_str(&sample().to_json()).expect("JSON");
        assert_eq!(
            value["faults"][0]["message"],
            "a \"quoted\" \\ line\nbroken"
        );
        assert_eq!(value["stages"][1]["ms"], 2300);
        assert_eq!(value["state"]["bytes"], 1024);
        assert!(value["data"].is_null() && value["last_shutdown"].is_null());
        expect![[r#"
            {"stages":[{"name":"initramfs","ms":2100},{"name":"root","ms":2300}],
            "faults":[{"code":"data-missing","message":"a \"quoted\" \\ line\u000abroken"}],
            "machine_id":"0123",
            "last_shutdown":null,
            "state":{"device":"/dev/vda3","bytes":1024},
            "data":null}
        "#]]
        .assert_eq(&sample().to_json());
    }

    #[test]
    fn stages_survive_the_change_of_root() {
        let mut next = Report::default();
        next.stages_from_env(&sample().stages_to_env());
        next.stages_from_env("nonsense,x:y,");
        assert_eq!(next.stages, sample().stages);
    }
}
