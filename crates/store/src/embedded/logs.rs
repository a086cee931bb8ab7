//! The logs of the embedded engine: one table each, trimmed as they grow.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, Table,
    TableDefinition, WriteTransaction,
};

use crate::bus::{LOG_AGE, LOG_DUPLICATES, LOG_ENTRIES, Log, Logged};

/// Sequence to time (8 bytes, milliseconds since 1970), length of the id (2
/// bytes), id and payload.
const fn table(log: Log) -> TableDefinition<'static, u64, &'static [u8]> {
    TableDefinition::new(match log {
        Log::Events => "log-events",
        Log::Audit => "log-audit",
    })
}

/// Name to the last sequence given, which outlives the entries.
const SEQUENCES: TableDefinition<'_, &str, u64> = TableDefinition::new("log-sequences");

/// Ids kept in memory for one log; beyond, the oldest are forgotten early.
const IDS: usize = 65_536;

/// Old entries removed by one append: it adds one, so they get fewer.
const TRIM: usize = 64;

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn before(now: u64, age: Duration) -> u64 {
    now.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

struct Row<'a> {
    time: u64,
    id: &'a str,
    payload: &'a [u8],
}

fn encode(time: u64, id: &str, payload: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(10 + id.len() + payload.len());
    row.extend_from_slice(&time.to_be_bytes());
    row.extend_from_slice(&u16::try_from(id.len()).unwrap_or(u16::MAX).to_be_bytes());
    row.extend_from_slice(id.as_bytes());
    row.extend_from_slice(payload);
    row
}

fn decode(row: &[u8]) -> Result<Row<'_>, redb::Error> {
    let parse = || {
        let (time, rest) = row.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (id, payload) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let id = std::str::from_utf8(id).ok()?;
        Some(Row { time: u64::from_be_bytes(*time), id, payload })
    };
    parse().ok_or_else(|| redb::Error::Corrupted("a log entry is too short".to_owned()))
}

/// The ids of the last two minutes. Belongs to the thread that writes.
#[derive(Debug, Default)]
pub(super) struct Recent {
    ids: [HashMap<String, (u64, u64)>; 2],
}

impl Recent {
    /// What the file holds of the last two minutes.
    pub(super) fn load(database: &Database) -> Result<Self, redb::Error> {
        let mut recent = Self::default();
        let oldest = before(now(), LOG_DUPLICATES);
        let transaction = database.begin_read()?;
        for log in Log::ALL {
            let entries = transaction.open_table(table(log))?;
            for row in entries.iter()?.rev().take(IDS) {
                let (sequence, row) = row?;
                let row = decode(row.value())?;
                if row.time < oldest {
                    break;
                }
                recent.ids[log.index()].insert(row.id.to_owned(), (row.time, sequence.value()));
            }
        }
        Ok(recent)
    }

    fn get(&self, log: Log, id: &str, now: u64) -> Option<u64> {
        let (time, sequence) = self.ids[log.index()].get(id)?;
        (*time >= before(now, LOG_DUPLICATES)).then_some(*sequence)
    }

    fn remember(&mut self, log: Log, id: String, sequence: u64, now: u64) {
        let ids = &mut self.ids[log.index()];
        // Sweeping at each doubling keeps the cost of one insert constant.
        if ids.len() == ids.capacity() || ids.len() >= IDS {
            let oldest = before(now, LOG_DUPLICATES);
            ids.retain(|_, (time, _)| *time >= oldest);
            if ids.len() >= IDS {
                let median = sequence.saturating_sub(IDS as u64 / 2);
                ids.retain(|_, (_, sequence)| *sequence > median);
            }
        }
        ids.insert(id, (now, sequence));
    }
}

/// Makes the tables and removes what is too old.
pub(super) fn prepare(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    transaction.open_table(SEQUENCES)?;
    for log in Log::ALL {
        trim(&mut transaction.open_table(table(log))?, now(), usize::MAX)?;
    }
    Ok(())
}

fn trim(entries: &mut Table<'_, u64, &[u8]>, now: u64, most: usize) -> Result<(), redb::Error> {
    for _ in 0..most {
        let many = entries.len()? > LOG_ENTRIES;
        let Some((sequence, old)) = entries
            .first()?
            .map(|(sequence, row)| {
                let old = decode(row.value())?.time < before(now, LOG_AGE);
                Ok::<_, redb::Error>((sequence.value(), old))
            })
            .transpose()?
        else {
            break;
        };
        if !many && !old {
            break;
        }
        entries.remove(sequence)?;
    }
    Ok(())
}

/// Appends within a transaction. When that fails, `recent` is to be loaded anew.
pub(super) fn append(
    transaction: &WriteTransaction,
    recent: &mut Recent,
    log: Log,
    id: &str,
    payload: &[u8],
) -> Result<u64, redb::Error> {
    let now = now();
    if let Some(sequence) = recent.get(log, id, now) {
        return Ok(sequence);
    }
    let mut sequences = transaction.open_table(SEQUENCES)?;
    let sequence = sequences.get(log.as_str())?.map_or(0, |last| last.value()) + 1;
    let mut entries = transaction.open_table(table(log))?;
    entries.insert(sequence, encode(now, id, payload).as_slice())?;
    sequences.insert(log.as_str(), sequence)?;
    trim(&mut entries, now, TRIM)?;
    recent.remember(log, id.to_owned(), sequence, now);
    Ok(sequence)
}

/// See [`crate::Bus::read`].
pub(super) fn read(
    database: &Database,
    log: Log,
    after: u64,
    limit: usize,
) -> Result<Vec<Logged>, redb::Error> {
    let entries = database.begin_read()?.open_table(table(log))?;
    let oldest = before(now(), LOG_AGE);
    let mut read = Vec::new();
    for row in entries.range(after.saturating_add(1)..)? {
        if read.len() >= limit {
            break;
        }
        let (sequence, row) = row?;
        let row = decode(row.value())?;
        // Trimming waits for the next append; readers do not see what is due.
        if row.time >= oldest {
            let payload = Bytes::copy_from_slice(row.payload);
            read.push(Logged { sequence: sequence.value(), payload });
        }
    }
    Ok(read)
}

/// See [`crate::Bus::last`].
pub(super) fn last(database: &Database, log: Log) -> Result<u64, redb::Error> {
    let sequences = database.begin_read()?.open_table(SEQUENCES)?;
    Ok(sequences.get(log.as_str())?.map_or(0, |last| last.value()))
}
