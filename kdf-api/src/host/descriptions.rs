//! What programs say of themselves, asked once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::check::Identity;
use crate::description::Described;
use crate::error::Result;

/// Descriptions that several [`Executable`](super::Executable)s share: a program that serves several of them is asked once, as
/// long as its file stays the same.
#[derive(Clone, Debug, Default)]
pub struct Descriptions(Arc<Mutex<Vec<(Of, Entry)>>>);

/// A file in one state, and the environment that its program is given.
type Of = (Identity, Vec<(String, String)>);

/// The answer, once there is one.
type Entry = Arc<Mutex<Option<Described>>>;

impl Descriptions {
    /// The description of a program. Whoever asks while somebody else does waits for that answer. One that failed is asked
    /// again.
    pub(super) fn of(
        &self,
        file: Identity,
        environment: &[(String, String)],
        ask: impl FnOnce() -> Result<Described>,
    ) -> Result<Described> {
        let entry = self.entry(file, environment);
        let mut known = held(&entry);
        if let Some(described) = &*known {
            return Ok(described.clone());
        }
        let described = ask()?;
        Ok(known.insert(described).clone())
    }

    fn entry(&self, file: Identity, environment: &[(String, String)]) -> Entry {
        let mut all = held(&self.0);
        let known = all
            .iter()
            .find(|((of, with), _)| *of == file && with == environment);
        if let Some((_, entry)) = known {
            return Arc::clone(entry);
        }
        let entry = Entry::default();
        all.push(((file, environment.to_vec()), Arc::clone(&entry)));
        entry
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
