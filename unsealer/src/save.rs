//! Saving the keyring: written aside and durable, accepted, renamed, read back. A crash at any line leaves the old generation
//! or the new one, whole, and recognised.

use tracing::warn;

use crate::error::Error;
use crate::keyring::{Identity, Keyring, Locked, MAX_FILE, Written};
use crate::recovery::kit;
use crate::state::StateFolder;
use crate::state::durable::{self, Reservation, Staged};
use crate::state::seen::{self, Seen};

/// Everything that a save needs, made ready before a step that cannot be undone: space for the new keyring and for the
/// record of it, and the copy of the present one.
#[derive(Debug)]
pub struct Prepared {
    keyring: Reservation,
    seen: Reservation,
}

/// Room for the record of what was seen; far more than two entries take.
const SEEN_ROOM: usize = 4096;

/// Makes ready for a save of at most `size` bytes.
pub fn prepare(state: &StateFolder, size: usize) -> Result<Prepared, Error> {
    // One that is damaged is not worth the good one that may have been kept.
    if let Some(present) = durable::read(state.keyring(), MAX_FILE)?
        && Locked::parse(&present).is_ok()
    {
        durable::replace(&state.previous_keyring(), &present)?;
    }
    Ok(Prepared {
        keyring: durable::reserve(state.keyring(), size)?,
        seen: durable::reserve(&state.file(seen::FILE), SEEN_ROOM)?,
    })
}

/// The next generation, whole and durable beside the present file, and nowhere accepted yet. Given up when it is dropped:
/// the next save writes over it.
#[derive(Debug)]
pub struct Aside {
    written: Written,
    staged: Staged,
    seen: Reservation,
}

/// Writes the next generation beside the present file, durably.
pub fn stage(keyring: &mut Keyring, prepared: Prepared) -> Result<Aside, Error> {
    let written = keyring.seal()?;
    let staged = prepared.keyring.stage(&written.bytes)?;
    Ok(Aside {
        written,
        staged,
        seen: prepared.seen,
    })
}

impl Aside {
    /// What lies on the disk beside the present file, read again: to be proven before it takes that file's place.
    pub fn read_back(&self) -> Result<Locked, Error> {
        let path = self.staged.path();
        let bytes = durable::read(path, MAX_FILE)?.unwrap_or_default();
        Locked::parse(&bytes).map_err(|fault| Error::Keyring {
            path: path.to_owned(),
            fault,
        })
    }

    /// Puts it in the place of the present file: its hash is accepted, then comes the rename, then the old hash is dropped.
    /// So a crash between never locks us out.
    pub fn publish(self, state: &StateFolder, keyring: &mut Keyring) -> Result<(), Error> {
        let present = keyring.identity().clone();
        let both: Vec<_> = (!present.sha256.is_empty())
            .then_some(&present)
            .into_iter()
            .chain([&self.written.identity])
            .collect();
        self.seen.commit(&Seen::text(keyring.body.id, &both))?;
        let outcome = self.staged.publish(&self.written.bytes);
        // What failed may have come after the rename. Then this is the present generation all the same: if the next save
        // did not accept it, a crash before its rename would lock us out, and its slots must not be taken back.
        if outcome.is_ok() || may_lie_there(state, &self.written.bytes) {
            keyring.written(self.written);
        }
        outcome?;
        // The keyring is safe. The next opening drops the old entry if this fails.
        if let Err(error) = Seen::record(state, keyring.body.id, &[keyring.identity()]) {
            warn!(%error, "the record of the generation before could not be dropped: going on");
        }
        Ok(())
    }
}

/// Saves the next generation, which nothing has to be proven of.
pub fn commit(state: &StateFolder, keyring: &mut Keyring, prepared: Prepared) -> Result<(), Error> {
    stage(keyring, prepared)?.publish(state, keyring)
}

/// Puts a whole keyring file that somebody else has written in the place of the present one, which is kept as the generation
/// before. `known` is the present one, if we know it: no other is accepted on the way, or a crash before the rename would
/// leave somebody else's keyring accepted.
pub fn install(
    state: &StateFolder,
    bytes: &[u8],
    identity: &Identity,
    known: Option<&Identity>,
) -> Result<(), Error> {
    let prepared = prepare(state, bytes.len())?;
    let staged = prepared.keyring.stage(bytes)?;
    let both: Vec<_> = known
        .into_iter()
        .filter(|known| known.id == identity.id && known.sha256 != identity.sha256)
        .chain([identity])
        .collect();
    prepared.seen.commit(&Seen::text(identity.id, &both))?;
    staged.publish(bytes)?;
    Seen::record(state, identity.id, &[identity])
}

/// Finishes a save that was stopped after the next generation was written and before it was in its place. The data key
/// says that it is ours: nobody else can have made it.
pub fn finish_stopped_save(state: &StateFolder, keyring: Keyring) -> Result<Keyring, Error> {
    let Some(bytes) = durable::left_beside(state.keyring(), MAX_FILE)? else {
        return Ok(keyring);
    };
    let Some(next) = keyring.successor(&bytes) else {
        return Ok(keyring);
    };
    let both = [keyring.identity(), next.identity()];
    durable::replace(&state.file(seen::FILE), &Seen::text(keyring.body.id, &both))?;
    durable::finish(state.keyring(), &bytes)?;
    Seen::record(state, next.body.id, &[next.identity()])?;
    Ok(next)
}

/// Removes whatever writes that were stopped have left beside our files. What a stopped change has left is never put in its
/// place later: its slots may be those that were taken back.
pub fn remove_stopped_writes(state: &StateFolder) -> Result<(), Error> {
    let files = [state.keyring().to_owned(), state.previous_keyring()];
    let named = [seen::FILE, "proven.json", "journal.jsonl", kit::FILE];
    for file in files.into_iter().chain(named.map(|name| state.file(name))) {
        durable::remove_left_beside(&file)?;
    }
    Ok(())
}

/// Whether a stopped save has left a whole keyring beside the present one.
pub fn lies_beside(state: &StateFolder) -> bool {
    left_beside(state).is_some()
}

/// Whether a stopped save has left a keyring with shares beside the present one.
pub fn shares_left_beside(state: &StateFolder) -> bool {
    left_beside(state).is_some_and(|locked| locked.body.public.shares.is_some())
}

fn left_beside(state: &StateFolder) -> Option<Locked> {
    let left = durable::left_beside(state.keyring(), MAX_FILE).ok().flatten();
    left.and_then(|bytes| Locked::parse(&bytes).ok())
}

/// Whether the keyring file may have this content: where it cannot be read, nobody knows.
fn may_lie_there(state: &StateFolder, content: &[u8]) -> bool {
    match durable::read(state.keyring(), MAX_FILE) {
        Ok(present) => present.is_some_and(|present| present == content),
        Err(_) => true,
    }
}

/// Saves the next generation where nothing that cannot be undone came before.
pub fn save(state: &StateFolder, keyring: &mut Keyring) -> Result<(), Error> {
    let prepared = prepare_for(state)?;
    commit(state, keyring, prepared)
}

/// Makes ready for a save of a keyring that is not much longer than the present one.
pub fn prepare_for(state: &StateFolder) -> Result<Prepared, Error> {
    // The size of what is there now, and room to grow.
    let size = state
        .keyring()
        .metadata()
        .map_or(0, |metadata| usize::try_from(metadata.len()).unwrap_or(0));
    prepare(state, size + ROOM)
}

/// What a keyring may grow by in one save: 255 shares and their encodings take less than half of it.
pub const ROOM: usize = 64 * 1024;
