//! A TPM that does not answer: libtss2 waits for ever, and the host would end us without a word of why.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use kdf_api::{Code, Error, Result};

/// What a use may take: less than a host gives.
pub(crate) const USE: Duration = Duration::from_secs(8);
/// What must be left of that when a PIN is tried: if the time ran out meanwhile nobody would know whether the TPM counted it,
/// and a host would try again.
pub(crate) const FOR_PIN: Duration = Duration::from_secs(3);
/// What an enrolment may take: some TPMs need seconds to make a key.
pub(crate) const ENROLL: Duration = Duration::from_secs(50);

/// Does work with a TPM in a thread of its own, which is given up when it takes too long: it ends with the process, or when
/// the TPM answers after all.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (send, receive) = sync_channel(1);
    thread::Builder::new()
        .name("tpm".to_owned())
        .spawn(move || {
            // Nobody waits any more after the limit.
            let _ = send.send(work());
        })
        .map_err(|error| Error::new(Code::Unavailable, format!("no thread can be started: {error}")))?;
    match receive.recv_timeout(limit) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(Error::new(
            Code::Unavailable,
            format!("the TPM did not answer within {} s", limit.as_secs()),
        )
        .hint("see whether something else keeps it busy; if it never answers, power the machine off and on")),
        Err(RecvTimeoutError::Disconnected) => Err(Error::new(
            Code::Internal,
            "the work with the TPM ended in a panic",
        )),
    }
}
