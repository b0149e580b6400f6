//! Stop signals by name. CRI has numbers of its own, which are not the kernel's.

use kedge_cri::v1::Signal;

/// CRI's number for `SIGTERM`, `SIGRTMIN+3`, ….
pub fn number(name: &str) -> Option<i32> {
    let bare = name.strip_prefix("SIG")?;
    if let Some(offset) = bare.strip_prefix("RTMIN+") {
        let offset: i32 = offset.parse().ok()?;
        return (1..=15)
            .contains(&offset)
            .then_some(Signal::Sigrtmin as i32 + offset);
    }
    if let Some(offset) = bare.strip_prefix("RTMAX-") {
        let offset: i32 = offset.parse().ok()?;
        return (1..=14)
            .contains(&offset)
            .then_some(Signal::Sigrtmax as i32 - offset);
    }
    let at = PLAIN.iter().position(|known| *known == bare)?;
    match bare {
        "RTMIN" => Some(Signal::Sigrtmin as i32),
        "RTMAX" => Some(Signal::Sigrtmax as i32),
        _ => i32::try_from(at).ok().map(|at| at + 1),
    }
}

/// The name for CRI's number; `None` for "the runtime's default".
pub fn name(number: i32) -> Option<String> {
    let (min, max) = (Signal::Sigrtmin as i32, Signal::Sigrtmax as i32);
    match number {
        n if n <= 0 || n > max => None,
        n if n == min => Some("SIGRTMIN".to_owned()),
        n if n == max => Some("SIGRTMAX".to_owned()),
        n if n > min && n <= min + 15 => Some(format!("SIGRTMIN+{}", n - min)),
        n if n > min => Some(format!("SIGRTMAX-{}", max - n)),
        n => {
            let plain = PLAIN.get(usize::try_from(n - 1).ok()?)?;
            Some(format!("SIG{plain}"))
        }
    }
}

/// In the order of CRI's enum, starting at 1.
const PLAIN: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_with_the_enum() {
        let check = |text: &str, signal: Signal| {
            assert_eq!(number(text), Some(signal as i32), "{text}");
            assert_eq!(name(signal as i32).as_deref(), Some(text));
        };
        check("SIGABRT", Signal::Sigabrt);
        check("SIGTERM", Signal::Sigterm);
        check("SIGUSR1", Signal::Sigusr1);
        check("SIGXFSZ", Signal::Sigxfsz);
        check("SIGRTMIN", Signal::Sigrtmin);
        check("SIGRTMIN+15", Signal::Sigrtminplus15);
        check("SIGRTMAX-14", Signal::Sigrtmaxminus14);
        check("SIGRTMAX-1", Signal::Sigrtmaxminus1);
        check("SIGRTMAX", Signal::Sigrtmax);
        assert_eq!(number("TERM"), None);
        assert_eq!(number("SIGRTMIN+16"), None);
        assert_eq!(name(0), None);
    }
}
