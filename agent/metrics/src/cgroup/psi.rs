//! Pressure files: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.

use crate::file;

/// How long tasks waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Psi {
    /// At least one task waited.
    pub some: PsiLine,
    /// All tasks waited. `cpu.pressure` has it from 5.13 on.
    pub full: Option<PsiLine>,
}

/// One line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PsiLine {
    /// Hundredths of a percent of the last ten seconds.
    pub avg10: u32,
    /// Of the last minute.
    pub avg60: u32,
    /// Of the last five minutes.
    pub avg300: u32,
    /// Microseconds in all.
    pub total_usec: u64,
}

pub(super) fn parse(text: &[u8]) -> Result<Psi, &[u8]> {
    let mut psi = Psi::default();
    let mut has_some = false;
    for line in file::lines(text) {
        let mut words = file::words(line);
        match words.next() {
            Some(b"some") => (psi.some, has_some) = (values(words).ok_or(line)?, true),
            Some(b"full") => psi.full = Some(values(words).ok_or(line)?),
            _ => {}
        }
    }
    if has_some { Ok(psi) } else { Err(text) }
}

fn values<'a>(words: impl Iterator<Item = &'a [u8]>) -> Option<PsiLine> {
    let mut line = PsiLine::default();
    for word in words {
        let equals = word.iter().position(|b| *b == b'=')?;
        let (key, value) = (word.get(..equals)?, word.get(equals + 1..)?);
        match key {
            b"avg10" => line.avg10 = hundredths(value)?,
            b"avg60" => line.avg60 = hundredths(value)?,
            b"avg300" => line.avg300 = hundredths(value)?,
            b"total" => line.total_usec = file::number(value)?,
            _ => {}
        }
    }
    Some(line)
}

/// `12.34` is 1234.
fn hundredths(text: &[u8]) -> Option<u32> {
    let dot = text.iter().position(|b| *b == b'.')?;
    let (whole, rest) = (text.get(..dot)?, text.get(dot + 1..)?);
    if rest.len() != 2 {
        return None;
    }
    let value = file::number(whole)?
        .checked_mul(100)?
        .checked_add(file::number(rest)?)?;
    u32::try_from(value).ok()
}
