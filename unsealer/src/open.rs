//! Opening the keyring: the order in which nothing is acted on before it is known to be good.

use std::path::Path;

use kdf_api::{Advice, Secret};
use tracing::{error, info, warn};

use crate::config::Config;
use crate::error::Error;
use crate::keyring::{Identity, Keyring, Locked, MAX_FILE, Part};
use crate::slots::{Attempt, Slots};
use crate::state::durable;
use crate::state::seen::{Seen, Verdict};
use crate::state::{Exclusive, Shared, StateFolder};

/// An opened keyring, and how that went.
#[derive(Debug)]
pub struct Opened {
    /// The keyring.
    pub keyring: Keyring,
    /// The slots that opened it, in the order in which they did.
    pub by: Vec<String>,
    /// What the programs of those slots advise.
    pub advice: Vec<(String, Advice)>,
    /// The slots that were tried and failed.
    pub failed: Vec<(String, kdf_api::Error)>,
    /// The slots that were called off, because enough others opened.
    pub not_needed: Vec<String>,
    /// Whether this was the first time that we saw it.
    pub first_use: bool,
}

/// The shares of one submission: as many as open a server, and no more.
#[derive(Debug)]
pub struct Quorum {
    /// The shares, raw.
    pub shares: Vec<Secret>,
    /// How many of them open a server.
    pub threshold: u8,
}

impl Quorum {
    /// Those of a keyring, the rest of which is wiped here: the other shares, and the credential that may rotate them.
    pub fn of(keyring: Keyring) -> Result<Self, Error> {
        let Some(active) = keyring.payload.active else {
            return Err(Error::Ambiguous {
                what: "the keyring has no shares: an init was stopped before the server gave any".to_owned(),
                hint: "run `unsealer init --resume`".to_owned(),
            });
        };
        let mut shares = active.shares;
        shares.truncate(usize::from(active.threshold));
        Ok(Self {
            shares,
            threshold: active.threshold,
        })
    }
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
    refuse_another(config, path, &locked)?;
    Ok(locked)
}

/// Refuses a keyring that is not the one that the configuration names.
pub fn refuse_another(config: &Config, path: &Path, locked: &Locked) -> Result<(), Error> {
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
        _ => Ok(()),
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

/// Opens the keyring by the first slots that suffice: hash, parse, `seen`, slots, commitment, MAC, payload.
pub fn open(
    state: &StateFolder,
    config: &Config,
    slots: &Slots<'_>,
    lock: Lock<'_>,
) -> Result<Opened, Error> {
    let locked = load(state, config)?;
    let verdict = recognise(state, &locked.identity())?;
    let Attempt {
        opened,
        failed,
        not_needed,
    } = slots.open_enough(&locked.body);
    for (slot, error) in &failed {
        warn!(slot, %error, "a slot did not open");
    }
    let path = state.keyring();
    let needed = locked.body.policy.needed();
    if opened.len() < needed {
        return Err(Error::NotEnoughSlots {
            path: path.to_owned(),
            opened: opened.into_iter().map(|opening| opening.slot).collect(),
            needed,
            outcomes: failed,
        });
    }
    let (mut by, mut advice, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for opening in opened {
        advice.extend(opening.advice.map(|advice| (opening.slot.clone(), advice)));
        by.push(opening.slot);
        parts.push(opening.part);
    }
    let refused = |fault| Error::Keyring {
        path: path.to_owned(),
        fault,
    };
    let data_key = Part::combine(parts).map_err(refused)?;
    let keyring = locked.open(data_key).map_err(refused)?;
    info!(
        audit = "keyring-opened",
        slots = by.join(", "),
        generation = keyring.body.generation,
        "the keyring is open"
    );
    let first_use = verdict == Verdict::FirstUse;
    settle_seen(state, &keyring, &verdict, lock);
    Ok(Opened {
        keyring,
        by,
        advice,
        failed,
        not_needed,
        first_use,
    })
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
