//! A list of networks in a file: the first word of each line, as hbbr's files have it.
//!
//! A line that says nothing of use is told of, and the others count: a slip must not let everybody
//! in again who is on the list, nor keep the relay from starting.

use std::{
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::config::Network;

/// The largest file that is read: some 500,000 lines.
const LARGEST: u64 = 8 << 20;

/// How many lines of a file are complained of.
const COMPLAINTS: usize = 5;

/// The file, and what it held when it was last read.
#[derive(Default)]
pub(super) struct ListFile {
    path: Option<PathBuf>,
    networks: Vec<Network>,
    seen: Seen,
    hasher: RandomState,
}

/// What a file was found to be: the same again is no news.
#[derive(Default, PartialEq, Eq)]
enum Seen {
    #[default]
    Nothing,
    Text(u64),
    Fault(String),
}

impl ListFile {
    /// The file of this path; none if it is empty.
    pub(super) fn at(path: &Path) -> Self {
        let path = (!path.as_os_str().is_empty()).then(|| path.to_owned());
        Self { path, ..Self::default() }
    }

    /// Where it is, if there is to be one.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What it held.
    pub(super) fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Takes what reading it gave; whether there is news. A file that cannot be read is told of
    /// and leaves things as they are; one that is not there holds nothing.
    pub(super) fn take(&mut self, read: io::Result<Vec<u8>>) -> bool {
        let Some(path) = &self.path else { return false };
        let seen = match &read {
            Ok(text) => Seen::Text(self.hasher.hash_one(text)),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Seen::Nothing,
            Err(fault) => Seen::Fault(fault.to_string()),
        };
        if seen == self.seen {
            return false;
        }
        self.seen = seen;
        match read {
            Ok(text) => {
                let (networks, wrong) = parse(&String::from_utf8_lossy(&text));
                complain(path, &wrong);
                tracing::info!(file = %path.display(), networks = networks.len(), "read a list of addresses");
                self.networks = networks;
            }
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => {
                tracing::info!(file = %path.display(), "a list of addresses is gone");
                self.networks.clear();
            }
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "cannot read a list of addresses: what it held before stays in force");
                return false;
            }
        }
        true
    }
}

/// Reads a list file whole.
///
/// # Errors
/// When it cannot be read, or is larger than any list.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(path)?;
    if file.take(LARGEST + 1).read_to_end(&mut text)? as u64 > LARGEST {
        let what = format!("it is larger than {} MiB", LARGEST >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(text)
}

/// The networks of a text, and the lines that name none, each with its number.
fn parse(text: &str) -> (Vec<Network>, Vec<(usize, String)>) {
    let (mut networks, mut wrong) = (Vec::new(), Vec::new());
    for (line, number) in text.trim_start_matches('\u{feff}').lines().zip(1..) {
        let Some(word) = line.split_whitespace().next() else { continue };
        if word.starts_with(['#', ';']) {
            continue;
        }
        match word.parse() {
            Ok(network) => networks.push(network),
            Err(fault) => wrong.push((number, fault)),
        }
    }
    (networks, wrong)
}

fn complain(path: &Path, wrong: &[(usize, String)]) {
    let path = path.display();
    for (line, fault) in wrong.iter().take(COMPLAINTS) {
        tracing::warn!("{path} line {line} does not count: {fault}");
    }
    if let Some(more @ 1..) = wrong.len().checked_sub(COMPLAINTS) {
        tracing::warn!("{path}: {more} more lines do not count");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(networks: &[Network]) -> Vec<String> {
        networks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_word_of_a_line_counts_and_what_is_wrong_is_told_with_its_line() {
        let text = "\u{feff}192.0.2.1\r\n\n# a comment\n  10.0.0.0/8\tbecause\n; another\n\
                    not-an-address\n::ffff:192.0.2.7\n2001:db8::/32 # said so\n300.1.1.1\n";
        let (networks, wrong) = parse(text);
        assert_eq!(shown(&networks), ["192.0.2.1", "10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]);
        let lines: Vec<_> = wrong.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [6, 9]);
        assert!(wrong[0].1.contains("\"not-an-address\""), "{wrong:?}");
    }

    #[test]
    fn a_file_is_news_when_what_it_holds_has_changed() {
        let mut file = ListFile::at(Path::new("list.txt"));
        let gone = || Err(io::Error::from(io::ErrorKind::NotFound));
        assert!(!file.take(gone()), "it was not there before");
        assert!(file.take(Ok(b"192.0.2.1".to_vec())));
        assert!(!file.take(Ok(b"192.0.2.1".to_vec())));
        let forbidden = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(!file.take(forbidden()) && !file.take(forbidden()));
        assert_eq!(shown(file.networks()), ["192.0.2.1"], "as it was before");
        assert!(file.take(Ok(b"192.0.2.2".to_vec())));
        assert!(file.take(gone()));
        assert!(file.networks().is_empty());
        assert!(!ListFile::at(Path::new("")).take(Ok(b"192.0.2.1".to_vec())), "no file is wanted");
    }

    #[test]
    fn no_file_is_read_beyond_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.txt");
        let file = File::create(&path).unwrap();
        file.set_len(LARGEST).unwrap();
        assert_eq!(read(&path).unwrap().len() as u64, LARGEST);
        file.set_len(LARGEST + 1).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("larger than"));
        assert_eq!(read(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
