//! Bodies: one way in a buffer that wipes itself, the other way into one, and never too much.

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use kdf_api::protocol::SecretBuffer;

/// Why an answer was not read to its end.
pub(super) enum Fault {
    /// More than was to be read.
    TooLarge,
    /// The connection, or its framing.
    Broken(hyper::Error),
}

/// A request's body, wiped when the last who holds it lets go.
pub(super) fn wiped(body: SecretBuffer) -> Bytes {
    struct Owner(SecretBuffer);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.as_bytes()
        }
    }
    Bytes::from_owner(Owner(body))
}

/// Reads an answer's body. What came before a fault stays in `into`.
pub(super) async fn read(mut body: Incoming, limit: usize, into: &mut SecretBuffer) -> Result<(), Fault> {
    // An honest server says beforehand how much it has.
    if body.size_hint().lower() > limit as u64 {
        return Err(Fault::TooLarge);
    }
    while let Some(frame) = body.frame().await {
        // Trailers say nothing that we want to know.
        let Ok(data) = frame.map_err(Fault::Broken)?.into_data() else {
            continue;
        };
        if into.as_bytes().len() + data.len() > limit {
            return Err(Fault::TooLarge);
        }
        into.append(&data);
    }
    Ok(())
}
