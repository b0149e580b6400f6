//! The certificate authorities that the node's containerd trusts when it pulls images over TLS.
//!
//! In: Debian's `ca-certificates` package unpacked, or a PEM file of one's own. Out: one PEM text for [`PATH`], where Go's
//! standard library looks first. Deliberately absent: validation of the certificates, which is the reader's.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{At, Error, Result};

/// Below the root.
pub const PATH: &str = "etc/ssl/certs/ca-certificates.crt";
/// Where the package keeps one file for each authority.
const PACKAGED: &str = "usr/share/ca-certificates/mozilla";

/// The bundle, in the order of file names.
pub fn bundle(source: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for file in files(source)? {
        text.extend(fs::read(&file).at("read certificates", &file)?);
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
    }
    let begin = b"-----BEGIN CERTIFICATE-----";
    if !text.windows(begin.len()).any(|window| window == begin) {
        return Err(Error::Authorities(source.to_owned()));
    }
    Ok(text)
}

fn files(source: &Path) -> Result<Vec<PathBuf>> {
    if source.is_file() {
        return Ok(vec![source.to_owned()]);
    }
    let directory = source.join(PACKAGED);
    let mut files = Vec::new();
    for entry in fs::read_dir(&directory).at("list certificates in", &directory)? {
        files.push(entry.at("list certificates in", &directory)?.path());
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "crt"));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_of_the_package_come_in_order_and_nothing_is_no_bundle() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(PACKAGED);
        fs::create_dir_all(&directory).unwrap();
        let error = bundle(root.path()).unwrap_err().to_string();
        assert!(error.contains("holds no certificate"), "{error}");
        let pem =
            |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----");
        for name in ["b.crt", "a.crt", "c.txt"] {
            fs::write(directory.join(name), pem(name)).unwrap();
        }
        let text = String::from_utf8(bundle(root.path()).unwrap()).unwrap();
        assert_eq!(text, format!("{}\n{}\n", pem("a.crt"), pem("b.crt")));
        let own = root.path().join("own.pem");
        fs::write(&own, pem("own")).unwrap();
        assert_eq!(
            bundle(&own).unwrap(),
            format!("{}\n", pem("own")).into_bytes()
        );
    }
}
