//! The initramfs archive: a [`Tree`] as "newc" cpio, which the kernel unpacks at boot.
//!
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst. Inode numbers count up, times are zero, owners
//! are root, so equal trees give equal bytes. Hard links and device nodes are absent: PID 1 mounts devtmpfs itself.

use crate::error::Result;
use crate::tree::{Node, Tree};

const S_IFDIR: u32 = 0o040000;
const S_IFREG: u32 = 0o100000;
const S_IFLNK: u32 = 0o120000;
/// GNU cpio pads archives to this; the kernel only wants a multiple of four.
const BLOCK: usize = 512;

pub fn newc(tree: &Tree) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (inode, (path, node)) in (1..).zip(tree.iter()) {
        match node {
            Node::Dir { mode } => entry(&mut out, inode, S_IFDIR | mode, 2, path, &[]),
            Node::File { mode, content } => {
                entry(&mut out, inode, S_IFREG | mode, 1, path, &content.read()?);
            }
            Node::Symlink { target } => {
                entry(&mut out, inode, S_IFLNK | 0o777, 1, path, target.as_bytes());
            }
        }
    }
    entry(&mut out, 0, 0, 1, "TRAILER!!!", &[]);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    Ok(out)
}

fn entry(out: &mut Vec<u8>, inode: u32, mode: u32, links: u32, name: &str, content: &[u8]) {
    let fields = [
        inode,
        mode,
        0, // uid
        0, // gid
        links,
        0, // mtime
        content.len() as u32,
        0, // device of the file: major, minor
        0,
        0, // device number, for device nodes: major, minor
        0,
        name.len() as u32 + 1,
        0, // checksum, unused in this variant
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad4(out);
    out.extend_from_slice(content);
    pad4(out);
}

fn pad4(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_gives_the_documented_bytes() {
        let mut tree = Tree::new();
        tree.file("init", 0o755, "hello").unwrap();
        let archive = newc(&tree).unwrap();
        let header = "07070100000001000081ed00000000000000000000000100000000\
                      0000000500000000000000000000000000000000\
                      0000000500000000init\0";
        assert_eq!(&archive[..header.len()], header.as_bytes());
        // 110 + 5 bytes of header and name, padded to 116; then the content, padded to 8.
        assert_eq!(&archive[116..124], b"hello\0\0\0");
        assert_eq!(&archive[124..130], b"070701");
        assert_eq!(archive.len() % BLOCK, 0);
    }

    #[test]
    fn symlinks_carry_their_target() {
        let mut tree = Tree::new();
        tree.symlink("a", "b/c").unwrap();
        let text = String::from_utf8(newc(&tree).unwrap()).unwrap();
        assert!(text.starts_with("070701000000010000a1ff"), "{text}");
        assert!(text.contains("b/c"));
    }
}
