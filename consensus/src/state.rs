//! The replicated machine's state as one transaction sees it: reads fall through to the engine, changes gather.
//!
//! Two layers of changes lie over the engine: those of the batch, and those of the command at hand. A rejected
//! command's changes are thrown away whole; the batch's are handed out in key order, with the old value of each
//! key, so that the state digest can be kept incrementally. Keys are ordered and nothing iterates over hashes, so
//! every replica makes the same changes in the same order.

use std::collections::BTreeMap;

use tessera_storage::engine::{EngineError, Pairs, Table, View, prefix_end};

/// The engine's table of the machine's state; what the digest covers is exactly this table.
pub const STATE: Table = "state";

/// One changed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Vec<u8>,
    pub old: Option<Vec<u8>>,
    pub new: Option<Vec<u8>>,
}

/// Reads and changes of a batch in the making.
pub struct Transaction<'a> {
    base: &'a dyn View,
    batch: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    command: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Transaction<'a> {
    pub fn new(base: &'a dyn View) -> Self {
        Self { base, batch: BTreeMap::new(), command: BTreeMap::new() }
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.command.get(key).or_else(|| self.batch.get(key)) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(STATE, key),
        }
    }

    pub fn contains(&self, key: &[u8]) -> Result<bool, EngineError> {
        Ok(self.get(key)?.is_some())
    }

    /// At most `limit` pairs under `prefix`, ascending, changes included.
    pub fn scan_prefix(&self, prefix: &[u8], limit: usize) -> Result<Pairs, EngineError> {
        let end = prefix_end(prefix);
        let inside = |key: &Vec<u8>| end.as_ref().is_none_or(|end| key < end);
        let changed: BTreeMap<&Vec<u8>, &Option<Vec<u8>>> = self
            .batch
            .range(prefix.to_vec()..)
            .chain(self.command.range(prefix.to_vec()..))
            .filter(|(key, _)| inside(key))
            .collect();
        // Each changed key can hide at most one key of the engine.
        let below = self.base.scan(STATE, prefix, end.as_deref(), limit.saturating_add(changed.len()))?;
        let mut merged: BTreeMap<Vec<u8>, Vec<u8>> = below.into_iter().collect();
        for (key, value) in changed {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        Ok(merged.into_iter().take(limit).collect())
    }

    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.command.insert(key.into(), Some(value.into()));
    }

    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.command.insert(key.into(), None);
    }

    /// The command took effect: its changes join the batch's. One by one, since `BTreeMap::append` would build the
    /// batch's whole map anew for every command.
    pub fn keep_command(&mut self) {
        self.batch.extend(std::mem::take(&mut self.command));
    }

    /// The command was rejected: its changes never were.
    pub fn drop_command(&mut self) {
        self.command.clear();
    }

    /// All changes of the batch in key order; keys that ended as they began are left out.
    pub fn finish(mut self) -> Result<Vec<Change>, EngineError> {
        self.keep_command();
        let mut changes = Vec::with_capacity(self.batch.len());
        for (key, new) in self.batch {
            let old = self.base.get(STATE, &key)?;
            if old != new {
                changes.push(Change { key, old, new });
            }
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_storage::engine::{Batch, Engine};
    use tessera_storage::memory::MemoryEngine;

    fn engine(pairs: &[(&str, &str)]) -> MemoryEngine {
        let engine = MemoryEngine::open(&[STATE]).expect("table list").auto_flush(true);
        let mut batch = Batch::new();
        pairs.iter().for_each(|(k, v)| {
            batch.put(STATE, *k, *v);
        });
        engine.submit(batch).expect("submit");
        engine
    }

    #[test]
    fn a_rejected_command_leaves_nothing_and_a_kept_one_is_seen_by_the_next() {
        let engine = engine(&[("a1", "old"), ("a2", "old"), ("b1", "old")]);
        let mut state = Transaction::new(&engine);
        state.put("a1", "kept");
        state.delete("a2");
        state.put("a3", "kept");
        state.keep_command();
        state.put("a1", "dropped");
        state.delete("a3");
        state.drop_command();
        let keys: Vec<String> = state
            .scan_prefix(b"a", 10)
            .expect("scan")
            .into_iter()
            .map(|(k, v)| format!("{}={}", String::from_utf8_lossy(&k), String::from_utf8_lossy(&v)))
            .collect();
        assert_eq!(keys, ["a1=kept", "a3=kept"]);
        assert_eq!(state.scan_prefix(b"a", 1).expect("scan").len(), 1);
        state.put("b1", "old");
        let changes = state.finish().expect("finish");
        let names: Vec<_> = changes.iter().map(|c| String::from_utf8_lossy(&c.key).into_owned()).collect();
        assert_eq!(names, ["a1", "a2", "a3"], "b1 ended as it began");
        assert_eq!(changes[1].old.as_deref(), Some(&b"old"[..]));
        assert_eq!(changes[1].new, None);
    }
}
