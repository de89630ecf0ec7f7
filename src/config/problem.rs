//! What is wrong with a configuration, said so that it can be put right: where, which key, what
//! was found and what was expected. The value of a secret never gets here.

use std::{fmt, path::PathBuf};

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the default is in force.
    Default,
    /// A TOML file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// One of hbbr's own names in `.env`.
    DotEnv {
        /// The line, counted from 1.
        line: usize,
        /// The name as it is written there.
        name: String,
    },
    /// A flag on the command line.
    CommandLine(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "the environment, {name}"),
            Self::DotEnv { line, name } => write!(f, ".env line {line}, {name}"),
            Self::CommandLine(flag) => write!(f, "the command line, {flag}"),
        }
    }
}

impl From<&Origin> for Origin {
    fn from(origin: &Origin) -> Self {
        origin.clone()
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: a file, a line of `.env`, an environment variable, a flag.
    pub place: String,
    /// The key as it is named in the TOML file, with its section; empty if no key is at fault.
    pub key: String,
    /// What was found, what was expected, and what to do about it.
    pub what: String,
}

impl Problem {
    pub(super) fn at(
        place: impl fmt::Display,
        key: impl Into<String>,
        what: impl Into<String>,
    ) -> Self {
        Self { place: place.to_string(), key: key.into(), what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// Everything that is wrong, at once: nobody has to start five times to find five mistakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub(super) Vec<Problem>);

impl Problems {
    /// One after the other; there is at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
