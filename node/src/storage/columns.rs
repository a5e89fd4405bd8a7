//! Raw columns: opening RocksDB with a small footprint, synced writes, reads by key and by prefix, and coming back
//! after a write that failed.
//!
//! After a failed write (a full disk, an I/O error) RocksDB takes no more writes, and whether the failed one reached
//! the log is not known. [`Columns::ready`] then opens the database anew, which replays the log and settles that
//! question: whoever computed the failed write must read again before the next one. Everything written before is
//! still there, and reads go on all the time.

use super::StorageError;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, Direction, IteratorMode, LogLevel, Options, WriteBatch,
    WriteOptions,
};
use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

/// Memory for all unflushed writes together, in bytes.
const WRITE_BUFFERS: usize = 4 << 20;
/// Memory for cached blocks, in bytes.
const BLOCK_CACHE: usize = 2 << 20;
/// Size of the write-ahead logs at which the oldest column is flushed, in bytes.
const LOG_BYTES: u64 = 8 << 20;
/// Files RocksDB keeps open.
const OPEN_FILES: i32 = 64;
/// Bytes that are more than any key has after a prefix.
const LONGEST_KEY: usize = 64;
/// Free space below which a full database is not opened anew: opening writes a new log and flushes the old one.
const REOPEN_BYTES: u64 = LOG_BYTES / 2;

/// The columns of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// What describes the database itself: its format.
    Meta,
    /// Jobs by side and quote nonce.
    Jobs,
    /// The same by time of creation.
    JobsByTime,
    /// The same by job id.
    JobsById,
    /// The same by digest of their receipt.
    JobsByReceipt,
    /// The same by side, peer and time, with the sums of each.
    JobsByPeer,
    /// Jobs that are not final, and those that a client gave up and may still settle.
    Unfinished,
    /// Channels by side and peer.
    Channels,
    /// Settlements by side and peer.
    Settlements,
    /// Used quotes by nonce.
    UsedQuotes,
    /// Sequence numbers by name.
    Sequences,
    /// Evidence by provider.
    Evidence,
    /// Small values by name.
    Settings,
}

impl Column {
    const ALL: [Self; 13] = [
        Self::Meta,
        Self::Jobs,
        Self::JobsByTime,
        Self::JobsById,
        Self::JobsByReceipt,
        Self::JobsByPeer,
        Self::Unfinished,
        Self::Channels,
        Self::Settlements,
        Self::UsedQuotes,
        Self::Sequences,
        Self::Evidence,
        Self::Settings,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Meta => rocksdb::DEFAULT_COLUMN_FAMILY_NAME,
            Self::Jobs => "jobs",
            Self::JobsByTime => "jobs_by_time",
            Self::JobsById => "jobs_by_id",
            Self::JobsByReceipt => "jobs_by_receipt",
            Self::JobsByPeer => "jobs_by_peer",
            Self::Unfinished => "unfinished",
            Self::Channels => "channels",
            Self::Settlements => "settlements",
            Self::UsedQuotes => "used_quotes",
            Self::Sequences => "sequences",
            Self::Evidence => "evidence",
            Self::Settings => "settings",
        }
    }
}

/// One change of one key.
#[derive(Debug)]
pub(super) enum Edit {
    /// Sets it.
    Put(Column, Vec<u8>, Vec<u8>),
    /// Removes it.
    Delete(Column, Vec<u8>),
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// When it is on the disk: it survives a loss of power.
    Synced,
    /// When the operating system has it: it survives a crash of this process.
    Relaxed,
}

/// Where a scan begins and which way it goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scan<'a> {
    /// All keys with this prefix, upwards.
    Prefix(&'a [u8]),
    /// All keys with this prefix, from the last one down; all there are where it is empty.
    Backwards(&'a [u8]),
    /// All keys from this one on, upwards.
    From(&'a [u8]),
}

/// The open database.
pub(super) struct Columns {
    directory: PathBuf,
    /// Empty only while a database that failed cannot be opened again.
    database: RwLock<Option<DB>>,
    /// Why the last write failed; cleared by opening anew.
    failure: Mutex<Option<StorageError>>,
}

impl fmt::Debug for Columns {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Columns").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Columns {
    /// Opens the database in `directory`, made if there is none. One process holds it at a time.
    pub(super) fn open(directory: &Path) -> Result<Self, StorageError> {
        let database = open(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            database: RwLock::new(Some(database)),
            failure: Mutex::new(None),
        })
    }

    /// Makes the database writable again after a failed write. Costs nothing otherwise.
    pub(super) fn ready(&self) -> Result<(), StorageError> {
        if self.failure().is_none() {
            return Ok(());
        }
        let free = rustix::fs::statvfs(&self.directory)
            .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
            .map_err(|error| StorageError::Database(format!("{}: {error}", self.directory.display())))?;
        if free < REOPEN_BYTES {
            return Err(StorageError::Full(self.directory.clone()));
        }
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if self.failure().is_some() {
            // The lock file belongs to the old instance until it is gone.
            drop(database.take());
            *database = Some(open(&self.directory)?);
            *self.failure() = None;
            tracing::warn!(directory = %self.directory.display(), "database opened anew after a failed write");
        }
        Ok(())
    }

    /// Writes all edits or none. After an error nothing can be written until [`Self::ready`] succeeds.
    pub(super) fn write(&self, edits: Vec<Edit>, durability: Durability) -> Result<(), StorageError> {
        let guard = self.reader();
        let database = self.opened(&guard)?;
        if let Some(failure) = self.failure().clone() {
            return Err(failure);
        }
        let mut batch = WriteBatch::default();
        for edit in edits {
            match edit {
                Edit::Put(column, key, value) => batch.put_cf(handle(database, column), key, value),
                Edit::Delete(column, key) => batch.delete_cf(handle(database, column), key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        database.write_opt(batch, &options).map_err(|error| {
            let failure = explain(&self.directory, &error);
            self.failure().get_or_insert(failure).clone()
        })
    }

    /// The value of a key.
    pub(super) fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.read(|view| view.get(column, key))
    }

    /// Hands keys and values to `visit` until it returns false or the scan ends.
    pub(super) fn scan(
        &self,
        column: Column,
        scan: Scan<'_>,
        visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        self.read(|view| view.scan(column, scan, visit))
    }

    /// Several reads that belong together. `query` reads through the view only: the lock it holds is not reentrant.
    pub(super) fn read<T>(
        &self,
        query: impl FnOnce(&View<'_>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let guard = self.reader();
        query(&View { database: self.opened(&guard)?, directory: &self.directory })
    }

    fn reader(&self) -> RwLockReadGuard<'_, Option<DB>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> MutexGuard<'_, Option<StorageError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened<'a>(&self, guard: &'a RwLockReadGuard<'_, Option<DB>>) -> Result<&'a DB, StorageError> {
        let closed = || StorageError::Database(format!("{} is not open", self.directory.display()));
        guard.as_ref().ok_or_else(|| self.failure().clone().unwrap_or_else(closed))
    }
}

/// The open database as one query sees it.
pub(super) struct View<'a> {
    database: &'a DB,
    directory: &'a Path,
}

impl View<'_> {
    /// The value of a key.
    pub(super) fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let value = self.database.get_cf(handle(self.database, column), key);
        value.map_err(|error| explain(self.directory, &error))
    }

    /// Hands keys and values to `visit` until it returns false or the scan ends.
    pub(super) fn scan(
        &self,
        column: Column,
        scan: Scan<'_>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StorageError>,
    ) -> Result<(), StorageError> {
        let last;
        let (mode, prefix) = match scan {
            Scan::Prefix(prefix) => (IteratorMode::From(prefix, Direction::Forward), prefix),
            Scan::From(key) => (IteratorMode::From(key, Direction::Forward), [].as_slice()),
            Scan::Backwards([]) => (IteratorMode::End, [].as_slice()),
            Scan::Backwards(prefix) => {
                last = [prefix, &[0xff; LONGEST_KEY]].concat();
                (IteratorMode::From(&last, Direction::Reverse), prefix)
            }
        };
        for entry in self.database.iterator_cf(handle(self.database, column), mode) {
            let (key, value) = entry.map_err(|error| explain(self.directory, &error))?;
            if !key.starts_with(prefix) || !visit(&key, &value)? {
                break;
            }
        }
        Ok(())
    }
}

fn handle(database: &DB, column: Column) -> &rocksdb::ColumnFamily {
    database.cf_handle(column.name()).expect("every column is opened with the database")
}

fn open(directory: &Path) -> Result<DB, StorageError> {
    std::fs::create_dir_all(directory)
        .map_err(|error| StorageError::Database(format!("cannot make {}: {error}", directory.display())))?;
    let options = options();
    // Columns of a newer format must be opened too, so that its number can be read and told.
    let mut names: BTreeSet<String> = DB::list_cf(&options, directory).unwrap_or_default().into_iter().collect();
    names.extend(Column::ALL.map(|column| column.name().to_owned()));
    let families = names.into_iter().map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
    DB::open_cf_descriptors(&options, directory, families).map_err(|error| explain(directory, &error))
}

/// Few, small buffers and files: a node keeps kilobytes an hour, and idles most of its life.
fn options() -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE));
    blocks.set_cache_index_and_filter_blocks(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    options.set_write_buffer_size(WRITE_BUFFERS / 4);
    options.set_db_write_buffer_size(WRITE_BUFFERS);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(LOG_BYTES);
    options.set_max_open_files(OPEN_FILES);
    options.set_max_background_jobs(2);
    options.set_max_manifest_file_size(1 << 20);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// RocksDB's C interface tells errors apart only by their text.
fn explain(directory: &Path, error: &rocksdb::Error) -> StorageError {
    let text = error.as_ref();
    if text.contains("While lock file") || text.contains("lock hold by current process") {
        StorageError::Locked(directory.to_owned())
    } else if text.contains("No space left") || text.contains("NoSpace") {
        StorageError::Full(directory.to_owned())
    } else if error.kind() == rocksdb::ErrorKind::Corruption {
        StorageError::Corrupt(text.to_owned())
    } else {
        StorageError::Database(text.to_owned())
    }
}
