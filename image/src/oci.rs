//! OCI images from file trees: one uncompressed layer, a config, a manifest (image-spec v1.1).
//!
//! In: a name, a [`Tree`], what to run. Out: the files of an image layout, named by their digest; equal inputs give equal
//! digests. Compression, several layers and several platforms are absent: these images go from a disk to a neighbour.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{At, Error, Result};
use crate::tree::{Node, Tree};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// containerd's own annotation for the whole reference; the OCI one holds the tag.
pub const NAME_ANNOTATION: &str = "io.containerd.image.name";
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";

#[derive(Clone, Debug, Default)]
pub struct Image {
    /// `host/repository:tag`.
    pub name: String,
    /// Go's word: `amd64`, `arm64`.
    pub architecture: String,
    pub tree: Tree,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub media_type: String,
    /// `sha256:…`
    pub digest: String,
    pub size: u64,
}

impl Descriptor {
    fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: digest(bytes),
            size: bytes.len() as u64,
        }
    }

    fn json(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.size})
    }

    /// The path of the blob below the layout.
    pub fn path(&self) -> String {
        blob_path(&self.digest)
    }
}

pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| {
        text + &format!("{byte:02x}")
    })
}

pub fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

/// Hands the blobs of one image to `sink(path, bytes)` and returns its manifest's descriptor.
pub fn blobs(
    image: &Image,
    sink: &mut impl FnMut(&str, &[u8]) -> Result<()>,
) -> Result<Descriptor> {
    split_name(&image.name)?;
    let layer = tar(&image.name, &image.tree)?;
    let layer_descriptor = Descriptor::of(LAYER, &layer);
    sink(&layer_descriptor.path(), &layer)?;
    let config = json!({
        "architecture": image.architecture,
        "os": "linux",
        "config": run_config(image),
        "rootfs": {"type": "layers", "diff_ids": [layer_descriptor.digest]},
    });
    let config = config.to_string().into_bytes();
    let config_descriptor = Descriptor::of(CONFIG, &config);
    sink(&config_descriptor.path(), &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config_descriptor.json(),
        "layers": [layer_descriptor.json()],
    });
    let manifest = manifest.to_string().into_bytes();
    let descriptor = Descriptor::of(MANIFEST, &manifest);
    sink(&descriptor.path(), &manifest)?;
    Ok(descriptor)
}

/// The layout's two top files for images whose blobs are written: (path, bytes).
pub fn top_files(images: &[(String, Descriptor)]) -> Result<[(&'static str, Vec<u8>); 2]> {
    let manifests: Vec<Value> = images
        .iter()
        .map(|(name, descriptor)| {
            let (_, tag) = split_name(name)?;
            let mut value = descriptor.json();
            value["annotations"] = json!({NAME_ANNOTATION: name, REF_ANNOTATION: tag});
            Ok(value)
        })
        .collect::<Result<_>>()?;
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    Ok([
        (
            "oci-layout",
            json!({"imageLayoutVersion": "1.0.0"})
                .to_string()
                .into_bytes(),
        ),
        ("index.json", index.to_string().into_bytes()),
    ])
}

/// Adds a layout with this one image to a tree, below `at`.
pub fn add_layout(tree: &mut Tree, at: &str, image: &Image) -> Result<()> {
    let descriptor = blobs(image, &mut |path, bytes| {
        tree.file(&format!("{at}/{path}"), 0o644, bytes)
    })?;
    for (path, bytes) in top_files(&[(image.name.clone(), descriptor)])? {
        tree.file(&format!("{at}/{path}"), 0o644, bytes)?;
    }
    Ok(())
}

/// Writes a layout with these images to a directory; blobs that are there already are kept.
pub fn write_layout(directory: &Path, images: &[Image]) -> Result<Vec<(String, Descriptor)>> {
    let blob_dir = directory.join("blobs/sha256");
    fs::create_dir_all(&blob_dir).at("create directory", &blob_dir)?;
    let mut written = Vec::new();
    for image in images {
        let descriptor = blobs(image, &mut |path, bytes| {
            let path = directory.join(path);
            fs::write(&path, bytes).at("write", &path)
        })?;
        written.push((image.name.clone(), descriptor));
    }
    for (name, bytes) in top_files(&written)? {
        let path = directory.join(name);
        fs::write(&path, bytes).at("write", &path)?;
    }
    Ok(written)
}

/// `registry.k8s.io/a/b:tag` -> (`registry.k8s.io/a/b`, `tag`).
pub fn split_name(name: &str) -> Result<(&str, &str)> {
    match name.rsplit_once(':') {
        Some((repository, tag))
            if repository.contains('/') && !tag.is_empty() && !tag.contains('/') =>
        {
            Ok((repository, tag))
        }
        _ => Err(oci(name, "a name is host/repository:tag")),
    }
}

fn run_config(image: &Image) -> Value {
    let mut config = json!({"Env": image.env});
    let lists = [("Entrypoint", &image.entrypoint), ("Cmd", &image.cmd)];
    for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        config[key] = json!(list);
    }
    let texts = [("User", &image.user), ("WorkingDir", &image.working_dir)];
    for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        config[key] = json!(text);
    }
    config
}

/// A POSIX ustar archive.
fn tar(image: &str, tree: &Tree) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (path, node) in tree.iter() {
        let (kind, mode, target, content) = match node {
            Node::Dir { mode } => (b'5', *mode, "", Vec::new()),
            Node::Symlink { target } => (b'2', 0o777, target.as_str(), Vec::new()),
            Node::File { mode, content } => (b'0', *mode, "", content.read()?),
        };
        let header = tar_header(path, kind, mode, target, content.len() as u64)
            .map_err(|problem| oci(image, &problem))?;
        out.extend_from_slice(&header);
        out.extend_from_slice(&content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    Ok(out)
}

fn tar_header(
    path: &str,
    kind: u8,
    mode: u32,
    target: &str,
    size: u64,
) -> std::result::Result<[u8; 512], String> {
    let path = if kind == b'5' {
        format!("{path}/")
    } else {
        path.to_owned()
    };
    let (prefix, name) = split_tar_name(&path)?;
    if target.len() > 100 {
        return Err(format!("link target {target} is longer than 100 bytes"));
    }
    let mut out = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{:07o}", mode & 0o7777).as_bytes());
    put(108, b"0000000"); // uid
    put(116, b"0000000"); // gid
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000"); // mtime
    put(148, b"        "); // the checksum counts as blanks
    put(156, &[kind]);
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = out.iter().map(|byte| u32::from(*byte)).sum();
    out[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(out)
}

fn split_tar_name(path: &str) -> std::result::Result<(&str, &str), String> {
    if path.len() <= 100 {
        return Ok(("", path));
    }
    path.match_indices('/')
        .map(|(at, _)| (&path[..at], &path[at + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && name.len() <= 100 && !name.is_empty())
        .ok_or_else(|| format!("path {path} is too long for a tar header"))
}

fn oci(image: &str, problem: &str) -> Error {
    Error::Oci {
        image: image.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        let mut tree = Tree::new();
        tree.file("bin/sh", 0o755, "#!").unwrap();
        tree.symlink("bin/cat", "sh").unwrap();
        tree.dir("tmp", 0o1777).unwrap();
        Image {
            name: "registry.test/a/b:1.0".to_owned(),
            architecture: "amd64".to_owned(),
            tree,
            entrypoint: vec!["/bin/sh".to_owned()],
            ..Image::default()
        }
    }

    #[test]
    fn a_layout_is_complete_and_every_blob_has_its_digest() {
        let dir = tempfile::TempDir::new().unwrap();
        let written = write_layout(dir.path(), &[image()]).unwrap();
        let manifest = fs::read(dir.path().join(written[0].1.path())).unwrap();
        assert_eq!(digest(&manifest), written[0].1.digest);
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        for part in [&manifest["config"], &manifest["layers"][0]] {
            let named = part["digest"].as_str().unwrap();
            let blob = fs::read(dir.path().join(blob_path(named))).unwrap();
            assert_eq!(digest(&blob), named);
            assert_eq!(part["size"], blob.len());
        }
        let index: Value =
            serde_json::from_slice(&fs::read(dir.path().join("index.json")).unwrap()).unwrap();
        assert_eq!(
            index["manifests"][0]["annotations"][NAME_ANNOTATION],
            "registry.test/a/b:1.0"
        );
        let again = tempfile::TempDir::new().unwrap();
        assert_eq!(written, write_layout(again.path(), &[image()]).unwrap());
    }

    #[test]
    fn tar_agrees_about_the_layer() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("layer.tar");
        fs::write(&path, tar("test", &image().tree).unwrap()).unwrap();
        let path = path.to_string_lossy();
        let list = crate::tool::run("tar", &["--full-time", "-tvf", &path], &[]).unwrap();
        expect_test::expect![[r#"
            drwxr-xr-x 0/0               0 1970-01-01 00:00:00 bin/
            lrwxrwxrwx 0/0               0 1970-01-01 00:00:00 bin/cat -> sh
            -rwxr-xr-x 0/0               2 1970-01-01 00:00:00 bin/sh
            drwxrwxrwt 0/0               0 1970-01-01 00:00:00 tmp/
        "#]]
        .assert_eq(&String::from_utf8(list).unwrap());
    }

    #[test]
    fn long_paths_are_split_or_refused() {
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(90));
        assert_eq!(
            split_tar_name(&long).unwrap(),
            (&*"d".repeat(120), &*"f".repeat(90))
        );
        let text = split_tar_name(&"x".repeat(101)).unwrap_err();
        assert!(text.contains("too long"), "{text}");
    }

    #[test]
    fn a_name_without_tag_or_host_is_refused() {
        for name in ["busybox", "busybox:1", "registry:5000/busybox", "a/b:"] {
            assert!(split_name(name).is_err(), "{name}");
        }
        assert_eq!(split_name("r:5000/a:1").unwrap(), ("r:5000/a", "1"));
    }
}
