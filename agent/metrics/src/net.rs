//! `net/dev`: what the interfaces of one network namespace moved. Source: `net/core/net-procfs.c`.

use crate::file;

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: Box<str>,
    /// Received.
    pub rx: Traffic,
    /// Sent.
    pub tx: Traffic,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Errors.
    pub errors: u64,
    /// Packets dropped.
    pub dropped: u64,
}

/// Interfaces that say nothing about the namespace's own traffic: loopback, and the node's ends of its pods' links.
const IGNORED: [&[u8]; 4] = [b"lo", b"veth", b"docker", b"pod"];

/// The error is the line that is not as documented.
pub(crate) fn interfaces(text: &[u8]) -> Result<Vec<Interface>, &[u8]> {
    let mut found = Vec::new();
    for line in file::lines(text).skip(2) {
        let colon = line.iter().position(|b| *b == b':').ok_or(line)?;
        let name = line.get(..colon).map(file::trimmed).ok_or(line)?;
        let rest = line.get(colon + 1..).ok_or(line)?;
        let mut values = [0u64; 16];
        let mut words = file::words(rest);
        for value in &mut values {
            *value = words.next().and_then(file::number).ok_or(line)?;
        }
        if name.is_empty() || IGNORED.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let traffic = |at: usize| {
            let value = |n: usize| values.get(at + n).copied().unwrap_or_default();
            Traffic {
                bytes: value(0),
                packets: value(1),
                errors: value(2),
                dropped: value(3),
            }
        };
        let name: Box<str> = String::from_utf8_lossy(name).into();
        // Names that are no UTF-8 may look alike; two series of one name would spoil the whole page.
        if found.iter().any(|other: &Interface| other.name == name) {
            continue;
        }
        found.push(Interface {
            name,
            rx: traffic(0),
            tx: traffic(8),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

    fn check(rest: &str) -> Result<Vec<Interface>, String> {
        let text = format!("{HEAD}{rest}");
        interfaces(text.as_bytes()).map_err(|line| String::from_utf8_lossy(line).into_owned())
    }

    #[test]
    fn a_pods_interface_is_read_and_loopback_is_not() {
        let found = check("    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 2 3 4 0 0 0 0 500 6 7 8 0 0 0 0\n").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(&*found[0].name, "eth0");
        assert_eq!((found[0].rx.bytes, found[0].rx.dropped), (100, 4));
        assert_eq!((found[0].tx.bytes, found[0].tx.errors), (500, 7));
    }

    #[test]
    fn a_large_number_may_touch_the_colon() {
        let found = check("eth0:18446744073709551615 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n").unwrap();
        assert_eq!(found[0].rx.bytes, u64::MAX);
    }

    #[test]
    fn a_short_line_is_named() {
        assert_eq!(check("eth0: 1 2\n"), Err("eth0: 1 2".to_owned()));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let _ = interfaces(&text);
        }
    }
}
