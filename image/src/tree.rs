//! A file tree as data: what the root, the initramfs and image layers hold, before any file system exists.
//!
//! In: paths relative to the root, modes, contents. Out: a sorted walk, the same on every machine; a content hash; or
//! the tree written to a directory (for `mkfs.erofs`). Owners and times are absent: everything belongs to root, and
//! each writer sets one fixed time.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{At, Error, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Dir { mode: u32 },
    File { mode: u32, content: Content },
    Symlink { target: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Bytes(Vec<u8>),
    Path(PathBuf),
}

impl Content {
    pub fn read(&self) -> Result<Vec<u8>> {
        match self {
            Content::Bytes(bytes) => Ok(bytes.clone()),
            Content::Path(path) => fs::read(path).at("read", path),
        }
    }
}

/// Sorted by path; a parent always stands before its children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Node>);

impl Tree {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn dir(&mut self, path: &str, mode: u32) -> Result<()> {
        self.insert(path, Node::Dir { mode })
    }

    pub fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Result<()> {
        let content = Content::Bytes(bytes.into());
        self.insert(path, Node::File { mode, content })
    }

    pub fn file_from(&mut self, path: &str, mode: u32, source: &Path) -> Result<()> {
        let content = Content::Path(source.to_owned());
        self.insert(path, Node::File { mode, content })
    }

    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        let target = target.to_owned();
        self.insert(path, Node::Symlink { target })
    }

    pub fn get(&self, path: &str) -> Option<&Node> {
        self.0.get(path.trim_start_matches('/'))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_str(), node))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names every byte and mode; two trees with one hash give one file system.
    pub fn sha256(&self) -> Result<[u8; 32]> {
        let mut hash = Sha256::new();
        for (path, node) in self.iter() {
            let (mode, content) = match node {
                Node::Dir { mode } => (*mode, Vec::new()),
                Node::File { mode, content } => (*mode, content.read()?),
                Node::Symlink { target } => (0, target.clone().into_bytes()),
            };
            let kind = match node {
                Node::Dir { .. } => 'd',
                Node::File { .. } => 'f',
                Node::Symlink { .. } => 'l',
            };
            hash.update(format!("{kind} {mode:o} {} {path}\0", content.len()));
            hash.update(&content);
        }
        Ok(hash.finalize().into())
    }

    /// Writes the tree below `root`, which must exist. Modes are set apart from creation: the umask must not show.
    pub fn write_to(&self, root: &Path) -> Result<()> {
        for (path, node) in self.iter() {
            let target = root.join(path);
            match node {
                Node::Dir { mode } => {
                    fs::create_dir(&target).at("create directory", &target)?;
                    chmod(&target, mode | 0o700)?;
                }
                Node::File { mode, content } => {
                    write_content(content, &target)?;
                    chmod(&target, *mode)?;
                }
                Node::Symlink { target: to } => symlink(to, &target).at("link", &target)?,
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: &str, node: Node) -> Result<()> {
        let path = clean(path)?;
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.ensure_parent(parent)?;
        }
        match self.0.get(&path) {
            None => {
                self.0.insert(path, node);
                Ok(())
            }
            Some(old) if *old == node => Ok(()),
            Some(_) => Err(Error::Tree {
                path,
                problem: "is already in the tree with other content".to_owned(),
            }),
        }
    }

    fn ensure_parent(&mut self, path: &str) -> Result<()> {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.ensure_parent(parent)?;
        }
        match self.0.get(path) {
            Some(Node::Dir { .. }) => Ok(()),
            Some(_) => Err(Error::Tree {
                path: path.to_owned(),
                problem: "is not a directory, but something lies below it".to_owned(),
            }),
            None => {
                self.0.insert(path.to_owned(), Node::Dir { mode: 0o755 });
                Ok(())
            }
        }
    }
}

fn clean(path: &str) -> Result<String> {
    let relative = path.trim_start_matches('/');
    let bad = relative
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == ".." || part.contains('\0'));
    if bad {
        return Err(Error::Tree {
            path: path.to_owned(),
            problem: "is not a plain path".to_owned(),
        });
    }
    Ok(relative.to_owned())
}

fn write_content(content: &Content, target: &Path) -> Result<()> {
    match content {
        Content::Bytes(bytes) => fs::write(target, bytes).at("write", target),
        Content::Path(source) => fs::copy(source, target).map(drop).at("copy", source),
    }
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("chmod", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_appear_before_children() {
        let mut tree = Tree::new();
        tree.file("/usr/bin/kedge", 0o755, "x").unwrap();
        let paths: Vec<_> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["usr", "usr/bin", "usr/bin/kedge"]);
    }

    #[test]
    fn the_same_entry_twice_is_fine_and_another_is_refused() {
        let mut tree = Tree::new();
        tree.file("a", 0o644, "x").unwrap();
        tree.file("a", 0o644, "x").unwrap();
        let error = tree.file("a", 0o644, "y").unwrap_err();
        assert!(error.to_string().contains("already in the tree"), "{error}");
        let error = tree.file("a/b", 0o644, "y").unwrap_err();
        assert!(error.to_string().contains("not a directory"), "{error}");
        let error = tree.file("../b", 0o644, "y").unwrap_err();
        assert!(error.to_string().contains("not a plain path"), "{error}");
    }

    #[test]
    fn the_hash_sees_modes_names_and_bytes() {
        let hash = |path: &str, mode, bytes: &str| {
            let mut tree = Tree::new();
            tree.file(path, mode, bytes).unwrap();
            tree.sha256().unwrap()
        };
        let base = hash("a", 0o644, "x");
        assert_eq!(base, hash("a", 0o644, "x"));
        assert_ne!(base, hash("a", 0o755, "x"));
        assert_ne!(base, hash("b", 0o644, "x"));
        assert_ne!(base, hash("a", 0o644, "y"));
    }
}
