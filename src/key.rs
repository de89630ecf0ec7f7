//! A key: parsed, generated, compared in constant time, never shown. Which keys there are, and what
//! each grants, is `key_ring`'s affair.
//!
//! It also tells which of the usual mistakes a wrong key is, so that an operator can help without
//! either key being printed. Where the key is configured is `config`'s affair.

use std::{
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::SigningKey;
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::Zeroizing;

/// The secret key's file of RustDesk-family servers; its public half lies beside it with `.pub`.
const SECRET_FILE: &str = "id_ed25519";
const PUBLIC_FILE: &str = "id_ed25519.pub";

/// The key that RustDesk clients send when nobody has configured one: that of its public servers.
const RUSTDESK_PUBLIC_KEY: &str = "OeVuKk5nlHiXp+APNn0Y3pC1Iwpwn44JGqrQCsWqmBw=";

/// One key that clients may send.
#[derive(Clone)]
pub struct RelayKey(Zeroizing<String>);

/// A fresh Ed25519 key pair, each half in base64 as the servers of the family write it.
pub struct KeyPair {
    /// 64 bytes, seed then public half: for `id_ed25519`. Not to be shared.
    pub secret: Zeroizing<String>,
    /// 32 bytes: what clients are given.
    pub public: String,
}

/// What an operator's `key` asks for, before anything is made.
#[derive(Clone, Debug)]
pub enum KeySetting {
    /// No key: an open relay.
    Open,
    /// A key pair that is not there yet.
    NewPair,
    /// A key.
    Key(RelayKey),
}

/// Which of the usual mistakes a wrong key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum KeyFault {
    /// The client has no key set.
    #[error("the client sent no key: set the relay's key in the client")]
    Empty,
    /// The client was never configured for this server.
    #[error(
        "the client sent RustDesk's public default key: it was never configured for this server"
    )]
    PublicDefault,
    /// Typed by hand, or changed by an editor.
    #[error("the key differs in upper and lower case only")]
    Case,
    /// The wrong half of the pair.
    #[error("the client sent a secret key: give it the public half, from {PUBLIC_FILE}")]
    Secret,
    /// Copied with a space or a line break.
    #[error("the key has white space around or within it")]
    Whitespace,
    /// Copied without its end.
    #[error("the key lost (or gained) an = at its end")]
    Padding,
    /// None of the above.
    #[error("the key is a different one")]
    Unknown,
}

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key file that cannot be read.
    #[error("cannot read the key file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A key pair that cannot be stored.
    #[error("cannot write the key file {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// `id_ed25519` does not hold what it must.
    #[error(
        "{path} is not base64 of a 64-byte Ed25519 secret key whose second half is the public key of its first: restore it, or move it away so that a new pair is made"
    )]
    MalformedSecret {
        /// The file.
        path: PathBuf,
    },
    /// A secret key whose halves do not belong together.
    #[error(
        "the secret key's second half is not the public key of its first: it was damaged or put together by hand"
    )]
    MismatchedHalves,
    /// The same, in a file.
    #[error("the key file {path} is of no use")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with its key.
        #[source]
        source: Box<KeyError>,
    },
    /// An empty file would mean an open relay.
    #[error(
        "the key file {path} is empty: write a key into it, or unset key_file for an open relay"
    )]
    EmptyFile {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no random bytes.
    #[error("cannot draw random bytes for a new key: {0}")]
    Random(getrandom::Error),
}

impl RelayKey {
    /// The key that `text` stands for: literally, or its public half when it is base64 of a
    /// 64-byte secret key.
    ///
    /// # Errors
    /// When it is a secret key whose halves do not match.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        match decode_secret(text) {
            Some(secret) => public_half(&secret).map(|public| Self(Zeroizing::new(public))),
            None => Ok(Self(Zeroizing::new(text.to_owned()))),
        }
    }

    /// The key in the file at `path`, read as [`RelayKey::parse`] reads a text, without the white
    /// space around it.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or holds a damaged secret key.
    pub fn from_file(path: &Path) -> Result<Self, KeyError> {
        let text = read(path)?;
        match text.trim() {
            "" => Err(KeyError::EmptyFile { path: path.to_owned() }),
            key => Self::parse(key).map_err(|source| KeyError::BadFile {
                path: path.to_owned(),
                source: Box::new(source),
            }),
        }
    }

    /// What clients send.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `sent` is this key. Takes the same time wherever the two differ; only their lengths
    /// are no secret.
    pub fn is(&self, sent: &str) -> Choice {
        self.0.as_bytes().ct_eq(sent.as_bytes())
    }
}

impl fmt::Debug for RelayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayKey(***)")
    }
}

impl KeySetting {
    /// What `key` asks for: nothing when it is empty; for `-` or `_` the key pair in `dir`;
    /// anything else as [`RelayKey::parse`]. Writes nothing.
    ///
    /// # Errors
    /// When a key file is malformed or cannot be read.
    pub fn read(key: &str, dir: &Path) -> Result<Self, KeyError> {
        match key {
            "" => Ok(Self::Open),
            "-" | "_" => read_pair(dir).map(|found| found.map_or(Self::NewPair, Self::Key)),
            text => RelayKey::parse(text).map(Self::Key),
        }
    }

    /// The key, `None` for an open relay; a new pair is made in `dir`.
    ///
    /// # Errors
    /// When a new pair cannot be made or written.
    pub fn made(self, dir: &Path) -> Result<Option<RelayKey>, KeyError> {
        match self {
            Self::Open => Ok(None),
            Self::Key(key) => Ok(Some(key)),
            Self::NewPair => {
                let pair = KeyPair::generate()?;
                pair.store(dir)?;
                Ok(Some(RelayKey(Zeroizing::new(pair.public))))
            }
        }
    }
}

/// What keys look like after one of the usual mistakes, so that a wrong one is told what it is
/// without being worked on again for every leg that is refused.
pub struct Likeness {
    bare: Zeroizing<String>,
    unpadded: Zeroizing<String>,
    lower: Zeroizing<String>,
}

impl Likeness {
    /// That of `text`.
    pub fn of(text: &str) -> Self {
        Self {
            bare: Zeroizing::new(text.split_whitespace().collect()),
            unpadded: Zeroizing::new(text.trim_end_matches('=').to_owned()),
            lower: Zeroizing::new(text.to_ascii_lowercase()),
        }
    }
}

impl KeyFault {
    /// Which usual mistake `sent` is, which is none of the keys that look like `keys`.
    pub fn diagnose<'a>(sent: &str, keys: impl Iterator<Item = &'a Likeness> + Clone) -> Self {
        let found = Likeness::of(sent);
        let alike = |of: fn(&Likeness) -> &str| -> bool {
            let same = |key| of(key).as_bytes().ct_eq(of(&found).as_bytes());
            keys.clone().fold(Choice::from(0), |any, key| any | same(key)).into()
        };
        // All of them in any case: what a wrong key has in common with a right one takes no time
        // of its own.
        let but_for_space = alike(|text| &text.bare);
        let but_for_padding = alike(|text| &text.unpadded);
        let but_for_case = alike(|text| &text.lower);
        if sent.trim().is_empty() {
            Self::Empty
        } else if *found.bare == RUSTDESK_PUBLIC_KEY {
            Self::PublicDefault
        } else if decode_secret(&found.bare).is_some() {
            Self::Secret
        } else if but_for_space {
            Self::Whitespace
        } else if but_for_padding {
            Self::Padding
        } else if but_for_case {
            Self::Case
        } else {
            Self::Unknown
        }
    }
}

impl KeyFault {
    /// Every fault, for the metrics' table.
    pub const ALL: [Self; 7] = [
        Self::Empty,
        Self::PublicDefault,
        Self::Case,
        Self::Secret,
        Self::Whitespace,
        Self::Padding,
        Self::Unknown,
    ];

    /// Its name as a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Empty => "key_empty",
            Self::PublicDefault => "key_public_default",
            Self::Case => "key_case",
            Self::Secret => "key_secret",
            Self::Whitespace => "key_whitespace",
            Self::Padding => "key_padding",
            Self::Unknown => "key_unknown",
        }
    }
}

impl KeyPair {
    /// Makes a pair whose public half can also be a file's name, as hbbs wants it.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        loop {
            let mut seed = Zeroizing::new([0; 32]);
            getrandom::fill(seed.as_mut_slice()).map_err(KeyError::Random)?;
            let key = SigningKey::from_bytes(&seed);
            let public = BASE64_STANDARD.encode(key.verifying_key().as_bytes());
            if !public.contains(['/', ':']) {
                let bytes = Zeroizing::new(key.to_keypair_bytes());
                let secret = Zeroizing::new(BASE64_STANDARD.encode(bytes.as_slice()));
                return Ok(Self { secret, public });
            }
        }
    }

    /// Stores both halves in `dir` as `id_ed25519` and `id_ed25519.pub`, the secret one for its
    /// owner only. An existing secret key is never overwritten.
    ///
    /// # Errors
    /// When a file cannot be written, or there is a secret key already.
    pub fn store(&self, dir: &Path) -> Result<(), KeyError> {
        let write = |name: &str, text: &str, private: bool| {
            let path = dir.join(name);
            create(&path, text, private).map_err(|source| KeyError::Write { path, source })
        };
        write(SECRET_FILE, &self.secret, true)?;
        write(PUBLIC_FILE, &self.public, false)
    }
}

/// The key of the pair in `dir`; `None` when there is no pair.
fn read_pair(dir: &Path) -> Result<Option<RelayKey>, KeyError> {
    let path = dir.join(SECRET_FILE);
    if !path.exists() {
        return Ok(None);
    }
    let text = read(&path)?;
    decode_secret(text.trim())
        .and_then(|secret| public_half(&secret).ok())
        .map(|public| Some(RelayKey(Zeroizing::new(public))))
        .ok_or(KeyError::MalformedSecret { path })
}

fn read(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|source| KeyError::Read { path: path.to_owned(), source })
}

fn create(path: &Path, text: &str, private: bool) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true);
    if private {
        options.create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    } else {
        options.create(true).truncate(true);
    }
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn decode_secret(text: &str) -> Option<Zeroizing<[u8; 64]>> {
    let bytes = Zeroizing::new(BASE64_STANDARD.decode(text).ok()?);
    bytes.as_slice().try_into().ok().map(Zeroizing::new)
}

fn public_half(secret: &[u8; 64]) -> Result<String, KeyError> {
    SigningKey::from_keypair_bytes(secret)
        .map(|key| BASE64_STANDARD.encode(key.verifying_key().as_bytes()))
        .map_err(|_| KeyError::MismatchedHalves)
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 8032, section 7.1, test 1.
    const SEED: [u8; 32] = [
        0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c,
        0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae,
        0x7f, 0x60,
    ];
    const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    fn secret() -> String {
        BASE64_STANDARD.encode(SigningKey::from_bytes(&SEED).to_keypair_bytes())
    }

    #[test]
    fn a_secret_key_stands_for_its_public_half() {
        assert!(bool::from(RelayKey::parse(&secret()).unwrap().is(PUBLIC)));
    }

    #[test]
    fn every_usual_mistake_is_told_apart() {
        let keys = [Likeness::of("another key"), Likeness::of(PUBLIC)];
        for (sent, fault) in [
            ("", KeyFault::Empty),
            (" \n", KeyFault::Empty),
            (RUSTDESK_PUBLIC_KEY, KeyFault::PublicDefault),
            (&PUBLIC.to_ascii_lowercase(), KeyFault::Case),
            (&secret(), KeyFault::Secret),
            (&format!("{PUBLIC}\n"), KeyFault::Whitespace),
            (PUBLIC.trim_end_matches('='), KeyFault::Padding),
            ("something else", KeyFault::Unknown),
        ] {
            assert_eq!(KeyFault::diagnose(sent, keys.iter()), fault, "{sent:?}");
        }
    }

    #[test]
    fn a_generated_pair_is_stored_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        for sign in ["-", "_"] {
            let key = KeySetting::read(sign, dir.path()).unwrap().made(dir.path()).unwrap();
            let public = fs::read_to_string(dir.path().join(PUBLIC_FILE)).unwrap();
            assert!(bool::from(key.unwrap().is(&public)));
            assert!(!public.contains(['\n', '/', ':']));
        }
        let path = dir.path().join(SECRET_FILE);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(BASE64_STANDARD.decode(&text).unwrap().len(), 64);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let refused = KeyPair::generate().unwrap().store(dir.path());
        assert!(matches!(refused, Err(KeyError::Write { .. })), "an old secret key must survive");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_malformed_key_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(SECRET_FILE), "not a key").unwrap();
        let error = KeySetting::read("_", dir.path()).unwrap_err();
        assert!(error.to_string().contains(SECRET_FILE), "{error}");
    }

    #[test]
    fn no_key_is_shown() {
        let key = KeySetting::read("letmein", Path::new("/nonexistent")).unwrap();
        assert!(!format!("{key:?}").contains("letmein"));
        for fault in KeyFault::ALL {
            assert!(!fault.to_string().contains("letmein"));
        }
    }
}
