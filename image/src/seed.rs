//! The seed volume: a small FAT16 image with a node's `kedge.yaml`, as a cloud or an operator attaches it.
//!
//! In: file names and contents. Out: an image of fixed size whose bytes depend on nothing else. Names are long names
//! (with a numbered short one); directories, deletion and growth are absent: the volume is written once.
//! Format: Microsoft's FAT specification 1.03, sections 3.1 to 3.5, 6, 7.

use std::fs;
use std::path::Path;

use crate::error::{At, Error, Result};

const SECTOR: usize = 512;
/// 8 MiB in clusters of one sector: between the 4085 and 65524 clusters that make a volume FAT16.
const SECTORS: usize = 16384;
const RESERVED: usize = 1;
const FATS: usize = 2;
const FAT_SECTORS: usize = 64;
const ROOT_ENTRIES: usize = 512;
const ROOT_SECTORS: usize = ROOT_ENTRIES * 32 / SECTOR;
const ROOT_AT: usize = (RESERVED + FATS * FAT_SECTORS) * SECTOR;
const DATA_AT: usize = ROOT_AT + ROOT_SECTORS * SECTOR;
const CLUSTERS: usize = SECTORS - DATA_AT / SECTOR;
const _: () = assert!(
    CLUSTERS >= 4085 && CLUSTERS < 65525,
    "FAT16 by the number of clusters"
);
const _: () = assert!(
    CLUSTERS + 2 <= FAT_SECTORS * SECTOR / 2,
    "every cluster has a cell in the table"
);
const END_OF_CHAIN: u16 = 0xffff;
/// 1980-01-01: the format's zero, since a seed has no history.
const DATE: u16 = (1 << 5) | 1;
const ATTR_VOLUME: u8 = 0x08;
const ATTR_ARCHIVE: u8 = 0x20;
const ATTR_LONG: u8 = 0x0f;
const CHARS_PER_LONG_ENTRY: usize = 13;

/// Writes the volume as a file, sparse where nothing is stored.
pub fn write(path: &Path, label: &str, files: &[(&str, &[u8])]) -> Result<()> {
    let bytes = volume(label, files)?;
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    fs::write(path, &bytes[..used]).at("write", path)?;
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .at("open", path)?;
    file.set_len(bytes.len() as u64).at("size", path)
}

pub fn volume(label: &str, files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let label = padded_label(label)?;
    let mut image = vec![0; SECTORS * SECTOR];
    boot_sector(&mut image[..SECTOR], &label);
    let mut fat = vec![0u16; FAT_SECTORS * SECTOR / 2];
    fat[0] = 0xfff8;
    fat[1] = END_OF_CHAIN;
    let mut root = Vec::new();
    root.push(entry(&label, ATTR_VOLUME, 0, 0));
    let mut next = 2;
    for (index, (name, content)) in files.iter().enumerate() {
        let clusters = content.len().div_ceil(SECTOR);
        if next - 2 + clusters > CLUSTERS {
            return Err(Error::Seed(format!(
                "{name} does not fit: {} bytes, but the volume holds {} in all",
                content.len(),
                CLUSTERS * SECTOR
            )));
        }
        let last = next + clusters;
        for (cluster, cell) in fat.iter_mut().enumerate().take(last).skip(next) {
            *cell = if cluster + 1 == last {
                END_OF_CHAIN
            } else {
                cluster as u16 + 1
            };
        }
        let at = DATA_AT + (next - 2) * SECTOR;
        image[at..at + content.len()].copy_from_slice(content);
        let first = if clusters == 0 { 0 } else { next as u16 };
        let short = short_name(name, index)?;
        root.extend(long_entries(name, &short));
        root.push(entry(&short, ATTR_ARCHIVE, first, content.len() as u32));
        next += clusters;
    }
    if root.len() > ROOT_ENTRIES {
        return Err(Error::Seed(format!("{} files are too many", files.len())));
    }
    let fat: Vec<u8> = fat.iter().flat_map(|cell| cell.to_le_bytes()).collect();
    for copy in 0..FATS {
        let at = (RESERVED + copy * FAT_SECTORS) * SECTOR;
        image[at..at + fat.len()].copy_from_slice(&fat);
    }
    let root = root.concat();
    image[ROOT_AT..ROOT_AT + root.len()].copy_from_slice(&root);
    Ok(image)
}

fn boot_sector(out: &mut [u8], label: &[u8; 11]) {
    out[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
    out[3..11].copy_from_slice(b"KEDGE   ");
    out[11..13].copy_from_slice(&(SECTOR as u16).to_le_bytes());
    out[13] = 1; // sectors per cluster
    out[14..16].copy_from_slice(&(RESERVED as u16).to_le_bytes());
    out[16] = FATS as u8;
    out[17..19].copy_from_slice(&(ROOT_ENTRIES as u16).to_le_bytes());
    out[19..21].copy_from_slice(&(SECTORS as u16).to_le_bytes());
    out[21] = 0xf8; // fixed disk
    out[22..24].copy_from_slice(&(FAT_SECTORS as u16).to_le_bytes());
    out[24..26].copy_from_slice(&32u16.to_le_bytes()); // sectors per track
    out[26..28].copy_from_slice(&16u16.to_le_bytes()); // heads
    out[36] = 0x80; // drive number
    out[38] = 0x29; // the three fields below are present
    out[39..43].copy_from_slice(b"KDGE"); // serial number
    out[43..54].copy_from_slice(label);
    out[54..62].copy_from_slice(b"FAT16   ");
    out[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn entry(name: &[u8; 11], attributes: u8, cluster: u16, size: u32) -> [u8; 32] {
    let mut out = [0; 32];
    out[..11].copy_from_slice(name);
    out[11] = attributes;
    out[16..18].copy_from_slice(&DATE.to_le_bytes());
    out[18..20].copy_from_slice(&DATE.to_le_bytes());
    out[24..26].copy_from_slice(&DATE.to_le_bytes());
    out[26..28].copy_from_slice(&cluster.to_le_bytes());
    out[28..32].copy_from_slice(&size.to_le_bytes());
    out
}

/// The parts of a long name, last part first, as they stand before the short entry.
fn long_entries(name: &str, short: &[u8; 11]) -> Vec<[u8; 32]> {
    let checksum = short
        .iter()
        .fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let units: Vec<u16> = name.encode_utf16().collect();
    let parts = units.chunks(CHARS_PER_LONG_ENTRY).collect::<Vec<_>>();
    let count = parts.len();
    let build = |(index, part): (usize, &&[u16])| {
        let mut out = [0; 32];
        out[0] = index as u8 + 1;
        if index + 1 == count {
            out[0] |= 0x40;
        }
        out[11] = ATTR_LONG;
        out[13] = checksum;
        let places = (1..11)
            .step_by(2)
            .chain((14..26).step_by(2))
            .chain((28..32).step_by(2));
        for (position, at) in places.enumerate() {
            // A zero ends the name, then all ones.
            let unit = match position.cmp(&part.len()) {
                std::cmp::Ordering::Less => part[position],
                std::cmp::Ordering::Equal => 0,
                std::cmp::Ordering::Greater => 0xffff,
            };
            out[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        out
    };
    parts.iter().enumerate().map(build).rev().collect()
}

/// `KEDGE~1 YAM` from `kedge.yaml`: unique by its number.
fn short_name(name: &str, index: usize) -> Result<[u8; 11]> {
    let plain = !name.is_empty()
        && name.len() <= 255
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !name.starts_with('.');
    if !plain {
        return Err(Error::Seed(format!(
            "file name {name:?}: only letters, digits, '.', '_' and '-' are possible"
        )));
    }
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let letters = |text: &str| -> Vec<u8> {
        text.bytes()
            .filter(u8::is_ascii_alphanumeric)
            .map(|b| b.to_ascii_uppercase())
            .collect()
    };
    let tail = format!("~{}", index + 1);
    let mut stem = letters(stem);
    stem.truncate(8 - tail.len());
    stem.extend_from_slice(tail.as_bytes());
    let mut extension = letters(extension);
    extension.truncate(3);
    let mut out = [b' '; 11];
    out[..stem.len()].copy_from_slice(&stem);
    out[8..8 + extension.len()].copy_from_slice(&extension);
    Ok(out)
}

fn padded_label(label: &str) -> Result<[u8; 11]> {
    let mut out = [b' '; 11];
    let ok = !label.is_empty()
        && label.len() <= out.len()
        && label
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b"-_".contains(&b));
    if !ok {
        return Err(Error::Seed(format!(
            "label {label:?}: 1 to 11 capital letters, digits, '-', '_'"
        )));
    }
    out[..label.len()].copy_from_slice(label.as_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool;

    #[test]
    fn the_volume_has_label_name_and_content_where_readers_look() {
        let image = volume("KEDGE-SEED", &[("kedge.yaml", b"kind: Machine\n")]).unwrap();
        assert_eq!(&image[43..54], b"KEDGE-SEED ");
        assert_eq!(&image[ROOT_AT..ROOT_AT + 12], b"KEDGE-SEED \x08");
        assert_eq!(&image[ROOT_AT + 64..ROOT_AT + 75], b"KEDGE~1 YAM");
        assert_eq!(&image[DATA_AT..DATA_AT + 13], b"kind: Machine");
    }

    /// mtools is the second opinion where it is installed; the VM stories mount the volume with Linux's own driver.
    #[test]
    fn mtools_reads_back_every_file() {
        let big: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        let long = "a-very-long-file-name-of-more-than-thirteen.yaml";
        let files: [(&str, &[u8]); 4] = [
            ("kedge.yaml", b"kind: Machine\n"),
            ("empty", b""),
            ("big.bin", &big),
            (long, b"x"),
        ];
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("seed.img");
        write(&path, "KEDGE-SEED", &files).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            (SECTORS * SECTOR) as u64
        );
        for (name, content) in files {
            let image = path.to_string_lossy();
            match tool::run("mtype", &["-i", &image, &format!("::{name}")], &[]) {
                Ok(read) => assert!(read == content, "{name} differs"),
                Err(Error::ToolMissing { .. }) => return,
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_name() {
        let check = |label: &str, name: &str, size: usize, words: &str| {
            let content = vec![0; size];
            let text = volume(label, &[(name, &content)]).unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        };
        check("KEDGE-SEED", "big", 9 << 20, "big does not fit");
        check("KEDGE-SEED", "a/b", 1, "file name \"a/b\"");
        check("KEDGE-SEED-TOO-LONG", "a", 1, "label");
    }
}
