//! Turns at a study: whoever fetches it, and whoever gives up a copy of it, is alone with it; the others wait.
//! Not for reading: what is complete is read without a turn. A turn is held from the question whether something is here
//! to the answer, so that of many who ask at once one fetches and the others find it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Mutex as Turn;

#[derive(Default)]
pub struct Turns(Mutex<BTreeMap<String, Weak<Turn<()>>>>);

impl Turns {
    /// The turn at a study, to be locked.
    pub fn of(&self, study: &str) -> Arc<Turn<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Only those that somebody waits for are kept, so the map is as small as the number of requests.
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(study).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Turn::new(()));
        turns.insert(study.to_owned(), Arc::downgrade(&turn));
        turn
    }
}
