//! The recovery kit in the state folder: made when somebody asks for it, and made anew with each new data key.

use crate::error::Error;
use crate::keyring::Keyring;
use crate::recovery::{Fault, kit};
use crate::state::{StateFolder, durable};

/// The kit of a keyring, for the recipients that stand in it. Its MAC held, and they are those of the configuration at the
/// time of its data key.
pub(crate) fn make(keyring: &Keyring) -> Result<Vec<u8>, Error> {
    let body = &keyring.body;
    let sealed = match &body.recovery {
        None => Err(Fault::NoRecipient),
        Some(stanza) => kit::seal(
            body.id,
            body.epoch,
            &keyring.payload,
            &body.public,
            stanza.recipients(),
        ),
    };
    sealed.map_err(|fault| Error::Recovery {
        place: "the recovery kit".to_owned(),
        fault,
    })
}

/// Makes the kit of a state folder anew, if there is one. Without recipients it goes: those that it was for are not to have
/// what comes.
pub(crate) fn refresh(state: &StateFolder, keyring: &Keyring) -> Result<(), Error> {
    let path = state.file(kit::FILE);
    if !path.exists() {
        return Ok(());
    }
    if keyring.body.recovery.is_none() {
        return durable::remove(&path);
    }
    durable::replace(&path, &make(keyring)?)
}
