//! Opening and saving the keyring: the order in which nothing is acted on before it is known to be good.

use kdf_api::Advice;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::error::Error;
use crate::keyring::{Identity, Keyring, Locked, MAX_FILE};
use crate::slots::Slots;
use crate::state::durable::{self, Reservation};
use crate::state::seen::{self, Seen, Verdict};
use crate::state::{Exclusive, Shared, StateFolder};

/// An opened keyring, and how that went.
#[derive(Debug)]
pub struct Opened {
    /// The keyring.
    pub keyring: Keyring,
    /// The slot that opened it.
    pub slot: String,
    /// What that slot's program advises.
    pub advice: Option<Advice>,
    /// The slots that were tried before and failed.
    pub failed: Vec<(String, kdf_api::Error)>,
    /// Whether this was the first time that we saw it.
    pub first_use: bool,
}

/// Which lock the caller holds.
#[derive(Clone, Copy, Debug)]
pub enum Lock<'a> {
    /// That of a reader.
    Shared(&'a Shared),
    /// That of a writer.
    Exclusive(&'a Exclusive),
}

/// Reads the keyring file and parses it. Nothing in it is believed yet.
pub fn load(state: &StateFolder, config: &Config) -> Result<Locked, Error> {
    let path = state.keyring();
    let bytes = durable::read(path, MAX_FILE)?.ok_or_else(|| Error::NoKeyring {
        path: path.to_owned(),
    })?;
    let locked = Locked::parse(&bytes).map_err(|fault| Error::Keyring {
        path: path.to_owned(),
        fault,
    })?;
    match &config.keyring_id {
        Some(expected) if *expected != locked.body.id.to_string() => Err(Error::Config {
            place: "keyring-id".to_owned(),
            what: format!(
                "is {expected}, but {} is the keyring {}",
                path.display(),
                locked.body.id
            ),
            hint: Some("this is another keyring: put the right one in its place".to_owned()),
        }),
        _ => Ok(locked),
    }
}

/// Refuses a keyring that somebody else changed (invariant 10), before any program runs.
pub fn recognise(state: &StateFolder, identity: &Identity) -> Result<Verdict, Error> {
    match Seen::judge(state, identity)? {
        Verdict::Changed(seen) => Err(Error::ChangedOutside {
            path: state.keyring().to_owned(),
            what: describe_change(&seen, identity),
        }),
        verdict => Ok(verdict),
    }
}

/// What differs between the keyring we know and the one that lies there.
pub fn describe_change(seen: &Seen, found: &Identity) -> String {
    if seen.id() != found.id {
        return format!("it is the keyring {}, and we know {}", found.id, seen.id());
    }
    let Some(known) = seen.entries().last() else {
        return "it is not the one we know".to_owned();
    };
    if known.commitment != found.commitment && known.epoch == found.epoch {
        return format!(
            "it has another data key than the one we know of epoch {}: somebody may have chosen one of his own",
            known.epoch
        );
    }
    if found.generation < known.generation {
        return format!(
            "it is an older copy: generation {}, and we know {}",
            found.generation, known.generation
        );
    }
    if (found.generation, found.epoch) == (known.generation, known.epoch) {
        return format!(
            "it has the generation {} that we know, and another content",
            found.generation
        );
    }
    format!(
        "it has generation {} and epoch {}, and we know generation {} and epoch {}",
        found.generation, found.epoch, known.generation, known.epoch
    )
}

/// Opens the keyring by the first slot that gives its data key: hash, parse, `seen`, slots, commitment, MAC, payload.
pub fn open(
    state: &StateFolder,
    config: &Config,
    slots: &Slots<'_>,
    lock: Lock<'_>,
) -> Result<Opened, Error> {
    let locked = load(state, config)?;
    let verdict = recognise(state, &locked.identity())?;
    let mut failed = Vec::new();
    let mut found = None;
    for slot in &locked.body.slots {
        match slots.open(&locked.body, slot) {
            Ok(opened) if locked.is_committed(&opened.data_key) => {
                found = Some((slot.name.clone(), opened));
                break;
            }
            Ok(_) => failed.push((slot.name.clone(), not_the_data_key())),
            Err(error) => failed.push((slot.name.clone(), error)),
        }
    }
    for (slot, error) in &failed {
        warn!(slot, %error, "a slot did not open");
    }
    let path = state.keyring();
    let Some((slot, opened)) = found else {
        return Err(Error::NoSlotOpens {
            path: path.to_owned(),
            outcomes: failed,
        });
    };
    let keyring = locked.open(opened.data_key).map_err(|fault| Error::Keyring {
        path: path.to_owned(),
        fault,
    })?;
    info!(
        audit = "keyring-opened",
        slot,
        generation = keyring.body.generation,
        "the keyring is open"
    );
    let first_use = verdict == Verdict::FirstUse;
    settle_seen(state, &keyring, &verdict, lock);
    Ok(Opened {
        keyring,
        slot,
        advice: opened.advice,
        failed,
        first_use,
    })
}

/// A slot that opens to something else than the commitment says is that slot's fault, not the keyring's.
fn not_the_data_key() -> kdf_api::Error {
    kdf_api::Error::new(
        kdf_api::Code::Tampered,
        "the slot opened to something that is not this keyring's data key",
    )
}

/// Notes a keyring whose MAC held: on first use, or to drop the second entry of an interrupted write. On a read-only folder
/// opening goes on without.
fn settle_seen(state: &StateFolder, keyring: &Keyring, verdict: &Verdict, lock: Lock<'_>) {
    if matches!(verdict, Verdict::Known { others: 0 }) {
        return;
    }
    let alone = match lock {
        Lock::Exclusive(_) => true,
        Lock::Shared(shared) => shared.try_upgrade(),
    };
    // Taking the exclusive lock may have let a writer in between (flock(2)): what lies there must still be what we opened.
    if alone
        && lies_there_by_hash(state, keyring)
        && let Err(error) = Seen::record(state, keyring.body.id, &[keyring.identity()])
    {
        error!(%error, "the keyring could not be noted as seen: going on without");
    }
    if let Lock::Shared(shared) = lock {
        shared.downgrade();
    }
}

fn lies_there_by_hash(state: &StateFolder, keyring: &Keyring) -> bool {
    let present = durable::read(state.keyring(), MAX_FILE).ok().flatten();
    present
        .and_then(|bytes| Locked::parse(&bytes).ok())
        .is_some_and(|locked| locked.identity() == *keyring.identity())
}

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
    if let Some(present) = durable::read(state.keyring(), MAX_FILE)? {
        durable::replace(&state.previous_keyring(), &present)?;
    }
    Ok(Prepared {
        keyring: durable::reserve(state.keyring(), size)?,
        seen: durable::reserve(&state.file(seen::FILE), SEEN_ROOM)?,
    })
}

/// Saves the next generation: first its bytes, durably, beside the present file; then its hash is accepted; then the
/// rename; then the old hash is dropped. So a crash between never locks us out, and never loses what was once written.
pub fn commit(state: &StateFolder, keyring: &mut Keyring, prepared: Prepared) -> Result<(), Error> {
    let present = keyring.identity().clone();
    let written = keyring.seal()?;
    let both: Vec<_> = (!present.sha256.is_empty())
        .then_some(&present)
        .into_iter()
        .chain([&written.identity])
        .collect();
    let staged = prepared.keyring.stage(&written.bytes)?;
    prepared.seen.commit(&Seen::text(keyring.body.id, &both))?;
    let outcome = staged.publish();
    // What failed may have come after the rename. Then this is the present generation all the same: if the next save did
    // not accept it, a crash before its rename would lock us out.
    if outcome.is_ok() || lies_there(state, &written.bytes) {
        keyring.written(written);
    }
    outcome?;
    // The keyring is safe. The next opening drops the old entry if this fails.
    if let Err(error) = Seen::record(state, keyring.body.id, &[keyring.identity()]) {
        warn!(%error, "the record of the generation before could not be dropped: going on");
    }
    Ok(())
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

/// Whether a stopped save has left a keyring with shares beside the present one.
pub fn shares_left_beside(state: &StateFolder) -> bool {
    let left = durable::left_beside(state.keyring(), MAX_FILE).ok().flatten();
    left.and_then(|bytes| Locked::parse(&bytes).ok())
        .is_some_and(|locked| locked.body.public.shares.is_some())
}

/// Whether the keyring file has this content.
fn lies_there(state: &StateFolder, content: &[u8]) -> bool {
    matches!(durable::read(state.keyring(), MAX_FILE), Ok(Some(present)) if present == content)
}

/// Saves the next generation where nothing that cannot be undone came before.
pub fn save(state: &StateFolder, keyring: &mut Keyring) -> Result<(), Error> {
    // The size of what is there now, and room to grow.
    let size = state
        .keyring()
        .metadata()
        .map_or(0, |metadata| usize::try_from(metadata.len()).unwrap_or(0));
    let prepared = prepare(state, size + ROOM)?;
    commit(state, keyring, prepared)
}

/// What a keyring may grow by in one save: 255 shares and their encodings take less than half of it.
pub const ROOM: usize = 64 * 1024;
