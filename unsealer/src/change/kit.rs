//! The recovery kit in the state folder: made when somebody asks for it, and made anew with each new data key.

use crate::error::Error;
use crate::keyring::Keyring;
use crate::recovery::{Fault, Recipients, kit};
use crate::state::{StateFolder, durable};

/// The kit of a keyring, for the recipients that the configuration names. Those that stand in the keyring may be others: an
/// older copy has whoever was taken out since.
pub(crate) fn make(keyring: &Keyring, recipients: &Recipients) -> Result<Vec<u8>, Error> {
    let body = &keyring.body;
    let sealed = if recipients.is_empty() {
        Err(Fault::NoRecipient)
    } else {
        kit::seal(body.id, body.epoch, &keyring.payload, &body.public, recipients)
    };
    sealed.map_err(|fault| Error::Recovery {
        place: "the recovery kit".to_owned(),
        fault,
    })
}

/// Makes the kit of a state folder anew, if there is one. Without recipients it goes: those that it was for are not to have
/// what comes.
pub(crate) fn refresh(state: &StateFolder, keyring: &Keyring, recipients: &Recipients) -> Result<(), Error> {
    let path = state.file(kit::FILE);
    if !path.exists() {
        return Ok(());
    }
    if recipients.is_empty() {
        return durable::remove(&path);
    }
    durable::replace(&path, &make(keyring, recipients)?)
}
