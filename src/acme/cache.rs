//! What is kept between starts: the account with the authority, and the certificate. Private keys
//! are in both, so that they are their owner's alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use instant_acme::AccountCredentials;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::certificate::Issued;
use crate::config::AcmeConfig;

const ACCOUNT: &str = "account.json";
const CERTIFICATE: &str = "certificate.json";

/// A directory of the relay's own.
pub(super) struct Cache {
    dir: PathBuf,
}

/// The account with an authority.
#[derive(Serialize, Deserialize)]
struct Account {
    /// Which.
    directory: String,
    email: String,
    credentials: AccountCredentials,
}

impl Cache {
    /// Makes the directory if there is none, and sees that it can be written to.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&dir)?;
        let cache = Self { dir };
        let probe = cache.dir.join(".probe");
        create_private(&probe)?;
        fs::remove_file(probe)?;
        Ok(cache)
    }

    /// The certificate, if it is what `config` asks for.
    pub(super) fn certificate(&self, config: &AcmeConfig) -> io::Result<Option<Issued>> {
        let kept: Option<Issued> = self.read(CERTIFICATE)?;
        Ok(kept.filter(|kept| kept.is_for(config)))
    }

    pub(super) fn keep_certificate(&self, issued: &Issued) -> io::Result<()> {
        self.write(CERTIFICATE, issued)
    }

    /// The account, if it is with that authority and for that address.
    pub(super) fn account(&self, config: &AcmeConfig) -> io::Result<Option<AccountCredentials>> {
        let kept: Option<Account> = self.read(ACCOUNT)?;
        let kept =
            kept.filter(|kept| kept.directory == config.directory && kept.email == config.email);
        Ok(kept.map(|kept| kept.credentials))
    }

    pub(super) fn keep_account(
        &self,
        config: &AcmeConfig,
        credentials: AccountCredentials,
    ) -> io::Result<()> {
        let (directory, email) = (config.directory.clone(), config.email.clone());
        self.write(ACCOUNT, &Account { directory, email, credentials })
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match fs::read(self.dir.join(name)).map(Zeroizing::new) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Beside the file and then over it: whoever reads it sees the old one or the new one, whole.
    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let beside = self.dir.join(format!(".{name}.new"));
        let mut file = create_private(&beside)?;
        file.write_all(&Zeroizing::new(serde_json::to_vec_pretty(value)?))?;
        file.sync_all()?;
        fs::rename(beside, self.dir.join(name))
    }
}

/// A new file that nobody else may read, in place of what lay there.
fn create_private(path: &Path) -> io::Result<File> {
    // What is there may be readable to others, and would stay so.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
