//! Images of several shared layers: directories in, one image layout out (image-spec v1.1).
//!
//! `kedge_image::oci` makes the product's images of one layer each, from trees in memory. Test images are large and stand on a common
//! base, which nodes shall fetch and unpack once: so layers are directories, tarred by `tar` with fixed times and owners, and equal
//! directories give equal digests. Absent: compression (the registry is a neighbour), other platforms.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kedge_image::oci::{self, Descriptor};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::tied;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Same bytes from same files: order, times, owners and format are fixed.
const TAR: &[&str] = &[
    "--create",
    "--sort=name",
    "--mtime=@0",
    "--owner=0",
    "--group=0",
    "--numeric-owner",
    "--format=gnu",
];

/// What containers of an image start as, and which layers it stands on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipe {
    /// `host/repository:tag`, one image for each.
    pub names: Vec<String>,
    /// Names of layers, lowest first.
    pub layers: Vec<&'static str>,
    pub entrypoint: Vec<&'static str>,
    pub cmd: Vec<&'static str>,
    pub user: &'static str,
}

/// Writes a layout into an empty directory. `layers` maps names to directories.
pub fn write(
    layout: &Path,
    layers: &BTreeMap<&'static str, PathBuf>,
    recipes: &[Recipe],
) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
    let mut packed = BTreeMap::new();
    for (name, directory) in layers {
        let layer = pack(layout, directory).with_context(|| format!("pack layer {name}"))?;
        packed.insert(*name, layer);
    }
    let mut images = Vec::new();
    for recipe in recipes {
        let layers = recipe
            .layers
            .iter()
            .map(|name| {
                packed
                    .get(name)
                    .with_context(|| format!("{:?}: no layer {name}", recipe.names))
            })
            .collect::<Result<Vec<_>>>()?;
        let manifest = describe(layout, recipe, &layers)?;
        for name in &recipe.names {
            images.push((name.clone(), manifest.clone()));
        }
    }
    for (name, bytes) in oci::top_files(&images)? {
        let path = layout.join(name);
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// One directory as a blob.
fn pack(layout: &Path, directory: &Path) -> Result<Descriptor> {
    let fresh = layout.join(".layer");
    let output = tied::command("tar")
        .args(TAR)
        .arg("--file")
        .arg(&fresh)
        .arg("--directory")
        .arg(directory)
        .arg(".")
        .env("LC_ALL", "C")
        .output()
        .context("run tar")?;
    if !output.status.success() {
        bail!(
            "tar {}: {}",
            directory.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let (hash, size) = digest_of(&fresh)?;
    let descriptor = Descriptor {
        media_type: LAYER.to_owned(),
        digest: format!("sha256:{hash}"),
        size,
    };
    let path = layout.join(descriptor.path());
    fs::rename(&fresh, &path).with_context(|| format!("rename to {}", path.display()))?;
    Ok(descriptor)
}

fn digest_of(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        hash.update(&buffer[..count]);
        size += count as u64;
    }
    Ok((crate::pki::hex(&hash.finalize()), size))
}

/// Config and manifest of one image.
fn describe(layout: &Path, recipe: &Recipe, layers: &[&Descriptor]) -> Result<Descriptor> {
    let mut run = json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    });
    let lists = [("Entrypoint", &recipe.entrypoint), ("Cmd", &recipe.cmd)];
    for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        run[key] = json!(list);
    }
    if !recipe.user.is_empty() {
        run["User"] = json!(recipe.user);
    }
    // Two names of one content stay two images: tests that change a container's image want another id.
    let diffs: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": diffs},
        "history": [{"comment": recipe.names.join(" ")}],
    });
    let config = blob(layout, CONFIG, &config)?;
    let descriptors: Vec<Value> = layers.iter().map(|layer| value(layer)).collect();
    blob(
        layout,
        oci::MANIFEST,
        &json!({
            "schemaVersion": 2,
            "mediaType": oci::MANIFEST,
            "config": value(&config),
            "layers": descriptors,
        }),
    )
}

fn value(descriptor: &Descriptor) -> Value {
    json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    })
}

fn blob(layout: &Path, media_type: &str, content: &Value) -> Result<Descriptor> {
    let bytes = content.to_string().into_bytes();
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest: oci::digest(&bytes),
        size: bytes.len() as u64,
    };
    let path = layout.join(descriptor.path());
    fs::write(&path, &bytes).with_context(|| format!("write {}", path.display()))?;
    Ok(descriptor)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::registry::{Body, Registry, Request};

    fn recipes() -> Vec<Recipe> {
        let recipe = |name: &str, layers: &[&'static str]| Recipe {
            names: vec![name.to_owned()],
            layers: layers.to_vec(),
            ..Recipe::default()
        };
        vec![
            recipe("r.test/a:1", &["base"]),
            recipe("r.test/b:1", &["base", "top"]),
        ]
    }

    fn layers(directory: &Path) -> BTreeMap<&'static str, PathBuf> {
        let mut layers = BTreeMap::new();
        for name in ["base", "top"] {
            let path = directory.join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), name).unwrap();
            layers.insert(name, path);
        }
        layers
    }

    /// Masking one applet of busybox must not mask all of them, and all of them are not as many copies.
    #[test]
    fn names_of_one_file_stay_names_of_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("bin/busybox"), vec![7; 300_000]).unwrap();
        crate::testimages::roots::another_name(&root, "bin/ls", "bin/busybox").unwrap();
        let layout = directory.path().join("layout");
        let layers = BTreeMap::from([("base", root)]);
        write(&layout, &layers, &recipes()[..1]).unwrap();
        let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap();
        let layer = blobs.max_by_key(|blob| blob.as_ref().unwrap().metadata().unwrap().len());
        let layer = layer.unwrap().unwrap().path();
        assert!(fs::metadata(&layer).unwrap().len() < 400_000);
        let tar = Command::new("tar")
            .args(["-tvf"])
            .arg(&layer)
            // Its words are looked at.
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let text = String::from_utf8(tar.stdout).unwrap();
        assert!(text.contains("./bin/ls link to ./bin/busybox"), "{text}");
    }

    #[test]
    fn images_share_their_base_and_packing_again_gives_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let layers = layers(directory.path());
        let write_to = |name: &str| {
            let layout = directory.path().join(name);
            write(&layout, &layers, &recipes()).unwrap();
            fs::read(layout.join("index.json")).unwrap()
        };
        assert_eq!(write_to("one"), write_to("two"));
        let registry = Registry::open(&[directory.path().join("one")]).unwrap();
        let layers = |repository: &str| -> Vec<Value> {
            let target = format!("/v2/{repository}/manifests/1");
            let answer = registry.answer(Request {
                method: "GET",
                target: &target,
                range: None,
                authorization: None,
            });
            let Body::Bytes(bytes) = answer.body else {
                panic!("no manifest of {repository}")
            };
            let manifest: Value = serde_json::from_slice(&bytes).unwrap();
            manifest["layers"].as_array().unwrap().clone()
        };
        let (a, b) = (layers("a"), layers("b"));
        assert_eq!((a.len(), b.len()), (1, 2));
        assert_eq!(a[0], b[0]);
    }

    #[test]
    fn a_recipe_with_an_unknown_layer_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut recipes = recipes();
        recipes[1].layers.push("absent");
        let layers = layers(directory.path());
        let error = write(&directory.path().join("out"), &layers, &recipes).unwrap_err();
        assert_eq!(error.to_string(), "[\"r.test/b:1\"]: no layer absent");
    }
}
