//! The month's traffic of every key, kept over a restart in a file that several processes may
//! share: during a hand-over the old one still drains. Each adds what it has counted since it last
//! did, under a lock; so none overwrites another's, and all learn the sum.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::{Timestamp, tz::TimeZone};

use super::account::Account;

/// Months that the file keeps.
const KEPT: usize = 13;

/// How long another process may hold the lock: it reads, adds and writes a few KiB.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// A calendar month in UTC, such as `2026-11`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Month {
    year: i16,
    month: i8,
}

/// Bytes by label, by month.
type Totals = BTreeMap<String, BTreeMap<String, u64>>;

/// The accounts, and where they are kept.
pub(super) struct Ledger {
    // Not held while the file is written: whoever reloads would wait for it.
    book: Mutex<Book>,
    file: Option<UsageFile>,
    /// Held while the file is written, so that no month ends meanwhile.
    saving: Mutex<()>,
}

struct Book {
    month: Month,
    /// Of every label that was on the ring this month, or still has relays.
    accounts: BTreeMap<Arc<str>, Arc<Account>>,
    /// This month's totals as they were last read.
    known: BTreeMap<String, u64>,
    /// What past months have still to get.
    owed: Vec<Owed>,
}

/// The file that keeps the traffic of each key. It was read once, so that a file which is of no use
/// stops the start.
#[derive(Debug)]
pub struct UsageFile {
    path: PathBuf,
    totals: Totals,
}

/// Why the traffic cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The file cannot be read or written.
    #[error("the keys' traffic cannot be kept in {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "{path} does not hold the keys' traffic: restore it, or move it away so that this month counts from 0"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Another process does not let go of it.
    #[error("{path} has been locked by another process for too long")]
    Locked {
        /// The lock's file.
        path: PathBuf,
    },
}

impl Month {
    pub(super) fn of(time: Timestamp) -> Self {
        let date = time.to_zoned(TimeZone::UTC).date();
        Self { year: date.year(), month: date.month() }
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl Ledger {
    pub(super) fn new(file: Option<UsageFile>, now: Timestamp) -> Self {
        let month = Month::of(now);
        let totals = file.as_ref().map(|file| &file.totals);
        let known = totals.and_then(|totals| totals.get(&month.to_string())).cloned();
        let known = known.unwrap_or_default();
        let book = Book { month, accounts: BTreeMap::new(), known, owed: Vec::new() };
        Self { book: Mutex::new(book), file, saving: Mutex::default() }
    }

    /// The account of a label, a new one if there is none.
    pub(super) fn account(&self, label: &str) -> Arc<Account> {
        let mut book = self.book();
        let book = &mut *book;
        if let Some(account) = book.accounts.get(label) {
            return Arc::clone(account);
        }
        let account = Account::new(label, book.known.get(label).copied().unwrap_or_default());
        book.accounts.insert(Arc::clone(&account.label), Arc::clone(&account));
        account
    }

    /// This month, and the accounts that have something in it.
    pub(super) fn accounts(&self) -> (Month, Vec<Arc<Account>>) {
        let book = self.book();
        (book.month, book.accounts.values().cloned().collect())
    }

    /// Does this to every account, if it is still that month.
    pub(super) fn each_in(&self, month: &str, tell: impl Fn(&Account)) {
        // Held, so that no month begins meanwhile.
        let book = self.book();
        if book.month.to_string() == month {
            book.accounts.values().for_each(|account| tell(account));
        }
    }

    /// Begins a new month if it is time to.
    pub(super) fn turn_over(&self, now: Timestamp) {
        let month = Month::of(now);
        if self.book().month == month {
            return;
        }
        // If it is being saved, the month ends a little later.
        let Some(_saving) = try_lock(&self.saving) else { return };
        let mut book = self.book();
        let book = &mut *book;
        for account in book.accounts.values() {
            let bytes = account.turn_over();
            if bytes > 0 && self.file.is_some() {
                book.owed.push((book.month, Arc::clone(&account.label), bytes));
            }
        }
        // Those that are not on the ring and have no relay are forgotten.
        book.accounts.retain(|_, account| Arc::strong_count(account) > 1);
        book.known.clear();
        book.month = month;
    }

    /// Adds to the file what is not in it, and learns what other processes have added. Blocks.
    pub(super) fn save(&self) -> Result<(), UsageError> {
        let Some(file) = &self.file else { return Ok(()) };
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let Unsaved { month, fresh, owed } = self.book().unsaved();
        let now = fresh.iter().map(|(account, bytes)| (month, &account.label, *bytes));
        let past = owed.iter().map(|(month, label, bytes)| (*month, label, *bytes));
        let mut totals = file.add(now.chain(past).filter(|(.., bytes)| *bytes > 0))?;
        let mut book = self.book();
        // No month has ended since.
        book.owed.clear();
        book.known = totals.remove(&month.to_string()).unwrap_or_default();
        for (account, bytes) in fresh {
            let total = book.known.get(&*account.label).copied().unwrap_or_default();
            account.settle(bytes, total);
        }
        Ok(())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // What is left half done by a panic are counts, at worst counted again.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a label is owed of a past month.
type Owed = (Month, Arc<str>, u64);

/// What has been counted and is not in the file.
struct Unsaved {
    month: Month,
    /// Of that month, by each account.
    fresh: Vec<(Arc<Account>, u64)>,
    /// Of past ones.
    owed: Vec<Owed>,
}

impl Book {
    fn unsaved(&self) -> Unsaved {
        let accounts = self.accounts.values();
        let fresh = accounts.map(|account| (Arc::clone(account), account.unsaved()));
        Unsaved { month: self.month, fresh: fresh.collect(), owed: self.owed.clone() }
    }
}

/// `None` if it is held.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

impl UsageFile {
    /// Whether the file at `path` would do. Makes nothing, not even the lock.
    ///
    /// # Errors
    /// When it cannot be read, or holds something else.
    pub fn check(path: &Path) -> Result<(), UsageError> {
        Self { path: path.to_owned(), totals: Totals::new() }.read().map(drop)
    }

    /// The file at `path`; one that is not there yet is made when there is something to keep.
    ///
    /// # Errors
    /// When it cannot be read or locked, or holds something else.
    pub fn open(path: &Path) -> Result<Self, UsageError> {
        let mut file = Self { path: path.to_owned(), totals: Totals::new() };
        let _lock = file.lock()?;
        file.totals = file.read()?;
        Ok(file)
    }

    /// Adds bytes to labels of months, and gives what is then in the file.
    fn add<'a>(
        &self,
        fresh: impl Iterator<Item = (Month, &'a Arc<str>, u64)>,
    ) -> Result<Totals, UsageError> {
        let _lock = self.lock()?;
        let mut totals = self.read()?;
        let mut changed = false;
        for (month, label, bytes) in fresh {
            let labels = totals.entry(month.to_string()).or_default();
            let total = labels.entry(label.to_string()).or_default();
            *total = total.saturating_add(bytes);
            changed = true;
        }
        while totals.len() > KEPT {
            totals.pop_first();
        }
        if changed {
            self.write(&totals).map_err(|source| self.io(source))?;
        }
        Ok(totals)
    }

    fn read(&self) -> Result<Totals, UsageError> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Totals::new()),
            Err(source) => return Err(self.io(source)),
        };
        serde_json::from_slice(&text)
            .map_err(|source| UsageError::Malformed { path: self.path.clone(), source })
    }

    /// Beside the file and then over it: whoever reads it sees the old one or the new one, whole.
    fn write(&self, totals: &Totals) -> io::Result<()> {
        let beside = self.beside(".new");
        let mut file = File::create(&beside)?;
        serde_json::to_writer_pretty(&mut file, totals)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        // The new name, too, has to reach the disk. It is there already: were it an error that a
        // file system cannot sync a directory, the same bytes would be added again and again.
        #[cfg(unix)]
        if let Some(dir) = self.path.parent() {
            let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            let _ = File::open(dir).and_then(|dir| dir.sync_all());
        }
        Ok(())
    }

    /// Held until dropped. Not the file itself, which is another one after each write.
    fn lock(&self) -> Result<File, UsageError> {
        let path = self.beside(".lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(|source| self.io(source))?;
        let since = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::Error(source)) => return Err(self.io(source)),
                Err(TryLockError::WouldBlock) if since.elapsed() > LOCK_PATIENCE => {
                    return Err(UsageError::Locked { path });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(ending);
        name.into()
    }

    fn io(&self, source: io::Error) -> UsageError {
        UsageError::Io { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn ledger(dir: &Path, now: &str) -> Ledger {
        Ledger::new(Some(UsageFile::open(&dir.join("usage.json")).unwrap()), at(now))
    }

    const NOVEMBER: &str = "2026-11-30T23:59:59Z";
    const DECEMBER: &str = "2026-12-01T00:00:00Z";

    #[test]
    fn two_that_share_a_file_add_up_and_learn_of_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (ledger(dir.path(), NOVEMBER), ledger(dir.path(), NOVEMBER));
        let (of_old, of_new) = (old.account("office"), new.account("office"));
        for round in 1..=3_u64 {
            of_old.charge(100);
            old.save().unwrap();
            of_new.charge(10);
            new.save().unwrap();
            assert_eq!((of_old.used(), of_new.used()), (110 * round - 10, 110 * round));
        }
        old.save().unwrap();
        assert_eq!(of_old.used(), 330);
        assert_eq!(ledger(dir.path(), NOVEMBER).account("office").used(), 330);
    }

    #[test]
    fn of_many_that_save_at_once_no_byte_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let ledger = ledger(dir.path(), NOVEMBER);
                    let account = ledger.account("office");
                    for _ in 0..10 {
                        account.charge(1);
                        ledger.save().unwrap();
                    }
                });
            }
        });
        assert_eq!(ledger(dir.path(), NOVEMBER).account("office").used(), 80);
    }

    #[test]
    fn a_month_begins_at_nought_and_the_last_one_gets_what_it_is_owed() {
        let dir = tempfile::tempdir().unwrap();
        let kept = ledger(dir.path(), NOVEMBER);
        let account = kept.account("office");
        account.charge(7);
        kept.turn_over(at(NOVEMBER));
        assert_eq!(account.used(), 7);
        kept.turn_over(at(DECEMBER));
        assert_eq!(account.used(), 0);
        account.charge(5);
        kept.save().unwrap();
        assert_eq!(account.used(), 5);
        assert_eq!(ledger(dir.path(), NOVEMBER).account("office").used(), 7);
        assert_eq!(ledger(dir.path(), DECEMBER).account("office").used(), 5);
    }

    #[test]
    fn a_file_that_holds_something_else_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("usage.json");
        for text in ["", "[]", "{\"2026-11\": 5}", "{\"2026-11\": {\"a\": -1}}"] {
            fs::write(&path, text).unwrap();
            let error = UsageFile::open(&path).unwrap_err();
            assert!(error.to_string().contains("usage.json"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn what_cannot_be_saved_now_is_saved_later() {
        let dir = tempfile::tempdir().unwrap();
        let kept = ledger(dir.path(), NOVEMBER);
        let account = kept.account("office");
        account.charge(7);
        fs::write(dir.path().join("usage.json"), "damaged").unwrap();
        kept.save().unwrap_err();
        assert_eq!(account.used(), 7);
        fs::remove_file(dir.path().join("usage.json")).unwrap();
        kept.save().unwrap();
        assert_eq!(ledger(dir.path(), NOVEMBER).account("office").used(), 7);
    }

    /// Root can open any directory, and so finds nothing here.
    #[cfg(unix)]
    #[test]
    fn where_a_directory_cannot_be_synced_nothing_is_added_twice() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let kept = ledger(dir.path(), NOVEMBER);
        let account = kept.account("office");
        let allow = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode));
        allow(0o300).unwrap();
        account.charge(7);
        let saved = [kept.save(), kept.save()];
        allow(0o700).unwrap();
        assert!(saved.iter().all(Result::is_ok), "{saved:?}");
        assert_eq!(ledger(dir.path(), NOVEMBER).account("office").used(), 7);
    }

    #[test]
    fn old_months_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let kept = ledger(dir.path(), "2025-01-15T00:00:00Z");
        let account = kept.account("office");
        for month in 1..=20 {
            account.charge(1);
            kept.save().unwrap();
            let (year, month) = (2025 + month / 12, month % 12 + 1);
            kept.turn_over(at(&format!("{year}-{month:02}-15T00:00:00Z")));
        }
        let totals = UsageFile::open(&dir.path().join("usage.json")).unwrap().totals;
        assert_eq!(totals.len(), KEPT);
        assert!(totals.contains_key("2026-08") && !totals.contains_key("2025-07"));
    }
}
