//! The little of ELF (System V gABI, 64 bit little endian) that the builder asks for.
//!
//! In: a file's bytes. Out: a section's bytes, whether the program needs a dynamic loader, its machine. Checked reads
//! throughout: a truncated file is an answer, not a panic.

const MAGIC: &[u8] = b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const PT_INTERP: u32 = 3;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

#[derive(Clone, Copy, Debug)]
pub struct Elf<'a> {
    bytes: &'a [u8],
}

impl<'a> Elf<'a> {
    /// `None` when this is not a 64-bit little-endian ELF file.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let ident = bytes.get(..16)?;
        let ours = ident.starts_with(MAGIC) && ident[4] == CLASS_64 && ident[5] == LITTLE_ENDIAN;
        ours.then_some(Self { bytes })
    }

    /// The machine in Go's and OCI's words, or the ELF number.
    pub fn architecture(&self) -> String {
        match self.u16(18) {
            Some(EM_X86_64) => "amd64".to_owned(),
            Some(EM_AARCH64) => "arm64".to_owned(),
            other => format!("ELF machine {other:?}"),
        }
    }

    /// A program with an interpreter segment needs a loader and libraries that the root does not have.
    pub fn is_static(&self) -> bool {
        let (Some(offset), Some(size), Some(count)) = (self.u64(32), self.u16(54), self.u16(56))
        else {
            return false;
        };
        (0..u64::from(count)).all(|index| {
            let header = offset.saturating_add(index * u64::from(size));
            matches!(self.u32(header), Some(kind) if kind != PT_INTERP)
        })
    }

    /// The bytes of the first section of that name.
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        let table = self.u64(40)?;
        let size = u64::from(self.u16(58)?);
        let count = u64::from(self.u16(60)?);
        let names = u64::from(self.u16(62)?);
        let header = |index: u64| table.checked_add(index.checked_mul(size)?);
        let names = self.section_bytes(header(names)?)?;
        (0..count).find_map(|index| {
            let header = header(index)?;
            let at = usize::try_from(self.u32(header)?).ok()?;
            let text = names.get(at..)?.split(|byte| *byte == 0).next()?;
            (text == name.as_bytes()).then(|| self.section_bytes(header))?
        })
    }

    fn section_bytes(&self, header: u64) -> Option<&'a [u8]> {
        let offset = usize::try_from(self.u64(header.checked_add(24)?)?).ok()?;
        let length = usize::try_from(self.u64(header.checked_add(32)?)?).ok()?;
        self.bytes.get(offset..offset.checked_add(length)?)
    }

    fn array<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(N)?;
        self.bytes.get(offset..end)?.try_into().ok()
    }

    fn u16(&self, offset: u64) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: u64) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: u64) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A relocatable object with one section, as small as the format allows.
    pub(crate) fn object_with_section(name: &str, content: &[u8]) -> Vec<u8> {
        let strings = format!("\0{name}\0.shstrtab\0");
        let content_at = 64;
        let strings_at = content_at + content.len();
        let table_at = strings_at + strings.len();
        let mut out = vec![0; 64];
        out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        out[16..18].copy_from_slice(&1u16.to_le_bytes());
        out[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
        out[40..48].copy_from_slice(&(table_at as u64).to_le_bytes());
        out[58..60].copy_from_slice(&64u16.to_le_bytes());
        out[60..62].copy_from_slice(&3u16.to_le_bytes());
        out[62..64].copy_from_slice(&2u16.to_le_bytes());
        out.extend_from_slice(content);
        out.extend_from_slice(strings.as_bytes());
        out.extend_from_slice(&[0; 64]);
        for (name_at, offset, length) in [
            (1, content_at, content.len()),
            (2 + name.len(), strings_at, strings.len()),
        ] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&(name_at as u32).to_le_bytes());
            header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(length as u64).to_le_bytes());
            out.extend_from_slice(&header);
        }
        out
    }

    /// A program with one segment: PT_LOAD, or PT_INTERP when it is dynamic.
    pub(crate) fn program(dynamic: bool) -> Vec<u8> {
        let mut out = vec![0; 64];
        out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        out[16..18].copy_from_slice(&2u16.to_le_bytes());
        out[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
        out[32..40].copy_from_slice(&64u64.to_le_bytes());
        out[54..56].copy_from_slice(&56u16.to_le_bytes());
        out[56..58].copy_from_slice(&1u16.to_le_bytes());
        let mut segment = [0; 56];
        segment[0] = if dynamic { 3 } else { 1 };
        out.extend_from_slice(&segment);
        out
    }

    #[test]
    fn sections_are_found_by_name() {
        let object = object_with_section(".modinfo", b"name=x\0");
        let elf = Elf::parse(&object).unwrap();
        assert_eq!(elf.section(".modinfo"), Some(&b"name=x\0"[..]));
        assert_eq!(elf.section(".text"), None);
        assert_eq!(elf.architecture(), "amd64");
    }

    #[test]
    fn an_interpreter_makes_a_program_dynamic() {
        assert!(Elf::parse(&program(false)).unwrap().is_static());
        assert!(!Elf::parse(&program(true)).unwrap().is_static());
    }

    #[test]
    fn truncated_files_never_panic() {
        let object = object_with_section(".modinfo", b"name=x\0");
        for length in 0..object.len() {
            if let Some(elf) = Elf::parse(&object[..length]) {
                let _ = elf.section(".modinfo");
                let _ = elf.is_static();
            }
        }
        assert!(Elf::parse(b"#!/bin/sh\n").is_none());
    }
}
