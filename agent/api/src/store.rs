//! Keys and certificates on STATE: each a small PEM file, replaced atomically and fsynced, key and certificate together so that a
//! power cut cannot separate them.
//!
//! In: the directory (`/state/pki`). Out: identities, or "there is none". A file that cannot be understood is moved aside as
//! `<name>.corrupt-N` and reported: it is evidence, and deleting it would lose a key that might be recovered.
//! Blocking; call through [`Store::blocking`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls::Identity;

/// The files of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The node's identity towards the API server: key and chain.
    Client,
    /// What 10250 shows to others: key and chain.
    Serving,
    /// The cluster's CA.
    Ca,
    /// A client key whose certificate was asked for and not yet issued.
    PendingClient,
    /// The same for serving.
    PendingServing,
}

impl Item {
    fn file(self) -> &'static str {
        match self {
            Self::Client => "client.pem",
            Self::Serving => "serving.pem",
            Self::Ca => "ca.pem",
            Self::PendingClient => "client-key-pending.pem",
            Self::PendingServing => "serving-key-pending.pem",
        }
    }
}

/// Why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file was moved aside.
    #[error("{} is corrupt ({reason}); it is kept as {}", path.display(), kept.display())]
    Corrupt {
        path: PathBuf,
        kept: PathBuf,
        reason: String,
    },
    #[error("the task reading STATE ended")]
    Interrupted,
}

/// A directory of PEM files.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// Runs `work` off the loop: STATE may be a slow or failing flash.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .unwrap_or(Err(StoreError::Interrupted))
    }

    /// A key with its chain.
    pub fn identity(&self, item: Item) -> Result<Option<Identity>, StoreError> {
        self.parsed(item, |pem| {
            let (chain, key) = sections(pem)?;
            match (chain.is_empty(), key) {
                (false, Some(key)) => Ok(Identity { chain, key }),
                (true, _) => Err("it holds no certificate".to_owned()),
                (_, None) => Err("it holds no private key".to_owned()),
            }
        })
    }

    /// A key alone.
    pub fn key(&self, item: Item) -> Result<Option<PrivateKeyDer<'static>>, StoreError> {
        self.parsed(item, |pem| {
            sections(pem)?
                .1
                .ok_or_else(|| "it holds no private key".to_owned())
        })
    }

    /// Certificates alone.
    pub fn certificates(
        &self,
        item: Item,
    ) -> Result<Option<Vec<CertificateDer<'static>>>, StoreError> {
        self.parsed(item, |pem| match sections(pem)?.0 {
            chain if chain.is_empty() => Err("it holds no certificate".to_owned()),
            chain => Ok(chain),
        })
    }

    /// Replaces a file: written aside, fsynced, renamed, directory fsynced.
    pub fn write(&self, item: Item, pem: &str) -> Result<(), StoreError> {
        let path = self.path(item);
        let aside = path.with_extension("new");
        fs::create_dir_all(&self.directory).map_err(io_error("create", &self.directory))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)
            .map_err(io_error("create", &aside))?;
        file.write_all(pem.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(io_error("write", &aside))?;
        fs::rename(&aside, &path).map_err(io_error("replace", &path))?;
        self.sync()
    }

    /// Removes a file; absent is fine.
    pub fn remove(&self, item: Item) -> Result<(), StoreError> {
        let path = self.path(item);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_error("remove", &path)(e)),
            Ok(()) => self.sync(),
        }
    }

    /// Moves a file that turned out to be useless out of the way, and says where it is now.
    pub fn set_aside(&self, item: Item, reason: &str) -> StoreError {
        let path = self.path(item);
        let kept = self.free_name(&path);
        if let Err(e) = fs::rename(&path, &kept) {
            return io_error("set aside the corrupt", &path)(e);
        }
        if let Err(e) = self.sync() {
            return e;
        }
        StoreError::Corrupt {
            path,
            kept,
            reason: reason.to_owned(),
        }
    }

    fn parsed<T>(
        &self,
        item: Item,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<Option<T>, StoreError> {
        let path = self.path(item);
        let pem = match fs::read(&path) {
            Ok(pem) => pem,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        match parse(&pem) {
            Ok(value) => Ok(Some(value)),
            Err(reason) => Err(self.set_aside(item, &reason)),
        }
    }

    fn path(&self, item: Item) -> PathBuf {
        self.directory.join(item.file())
    }

    fn free_name(&self, path: &Path) -> PathBuf {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A thousand corrupt files is a broken flash; the last one is then overwritten rather than the disk filled.
        (1..1000)
            .map(|n| path.with_file_name(format!("{name}.corrupt-{n}")))
            .find(|candidate| !candidate.exists())
            .unwrap_or_else(|| path.with_file_name(format!("{name}.corrupt-1000")))
    }

    fn sync(&self) -> Result<(), StoreError> {
        File::open(&self.directory)
            .and_then(|d| d.sync_all())
            .map_err(io_error("sync", &self.directory))
    }
}

/// Certificates and the private key in a PEM text; other sections are an error, as they are in no file we write.
fn sections(
    pem: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, Option<PrivateKeyDer<'static>>), String> {
    let mut chain = Vec::new();
    let mut key = None;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        match section.map_err(|e| format!("not PEM: {e:?}"))? {
            (SectionKind::Certificate, der) => chain.push(CertificateDer::from(der)),
            (SectionKind::PrivateKey, der) => key = Some(PrivateKeyDer::Pkcs8(der.into())),
            (SectionKind::EcPrivateKey, der) => key = Some(PrivateKeyDer::Sec1(der.into())),
            (other, _) => return Err(format!("unexpected section {other:?}")),
        }
    }
    for certificate in &chain {
        crate::cert::facts(certificate).map_err(|e| e.to_string())?;
    }
    Ok((chain, key))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity_pem() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        format!("{}{}", key.serialize_pem(), certificate.pem())
    }

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("pki"));
        (directory, store)
    }

    #[test]
    fn key_and_chain_come_back_together() {
        let (_directory, store) = store();
        assert!(store.identity(Item::Client).unwrap().is_none());
        store.write(Item::Client, &identity_pem()).unwrap();
        let identity = store.identity(Item::Client).unwrap().unwrap();
        assert_eq!(identity.chain.len(), 1);
        store.remove(Item::Client).unwrap();
        store.remove(Item::Client).unwrap();
        assert!(store.identity(Item::Client).unwrap().is_none());
    }

    #[test]
    fn a_corrupt_file_is_kept_aside_and_named_never_deleted() {
        let (directory, store) = store();
        let pki = directory.path().join("pki");
        let whole = identity_pem();
        for (n, bad) in ["", "rubbish", &whole[..whole.len() / 2]]
            .iter()
            .enumerate()
        {
            store.write(Item::Client, bad).unwrap();
            let message = store.identity(Item::Client).unwrap_err().to_string();
            let kept = pki.join(format!("client.pem.corrupt-{}", n + 1));
            assert!(message.contains(&kept.display().to_string()), "{message}");
            assert_eq!(fs::read_to_string(kept).unwrap(), *bad);
            assert!(store.identity(Item::Client).unwrap().is_none());
        }
    }

    #[test]
    fn a_key_is_readable_by_nobody_else() {
        use std::os::unix::fs::PermissionsExt;
        let (directory, store) = store();
        store.write(Item::Client, &identity_pem()).unwrap();
        let mode = fs::metadata(directory.path().join("pki/client.pem"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
