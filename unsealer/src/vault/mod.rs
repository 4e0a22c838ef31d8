//! A client for the servers to unseal: only what an unsealer needs of their API, and careful with what it carries.
//!
//! | module | one idea |
//! |---|---|
//! | `address` | where a node is, and whether plain HTTP may go there |
//! | `tls` | whom to trust |
//! | `http` | one request, one bounded answer, one deadline, no redirects |
//! | `status`, `health` | what a node says of itself, and what follows from it |
//! | `init`, `unseal`, `approle`, `token` | the endpoints |
//! | `reply` | from an answer to a value |
//! | `error`, `shown` | what can go wrong, in words that say what to do; and what others say, made fit to be shown |
//!
//! Three rules hold everywhere. An answer that cannot be understood is *unknown*, never "unsealed". No share and no
//! token is ever part of an error, a log line or a URL. A connection that carried a secret is closed after it.
//!
//! Everything is asynchronous; [`block_on`] runs it for a caller that is not:
//!
//! ```no_run
//! use unsealer::vault::{Client, Settings, block_on};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(&Settings::new("https://127.0.0.1:8200".parse()?))?;
//! let state = block_on(client.state())?;
//! println!("{}: {state}", client.address());
//! # Ok(())
//! # }
//! ```

mod address;
mod approle;
mod error;
mod health;
mod http;
mod init;
mod reply;
mod shown;
mod status;
mod tls;
mod token;
mod unseal;

use std::io;

pub use address::Address;
pub use approle::{AppRole, Login, MOUNT, ROLE, Rotation, SecretIdLimits, rotation_policy};
pub use error::{CertificateFault, Error, Stage, Unreachable};
pub use health::{Health, HealthState};
pub use http::{BODY_LIMIT, Client, Connection, DEADLINE, Method, Request, Response, Settings};
#[cfg(feature = "fuzzing")]
pub(crate) use init::read as read_init;
pub use init::{InitFailed, InitReply};
#[cfg(feature = "fuzzing")]
pub(crate) use reply::refused;
pub use status::{NodeState, SealStatus};
pub use token::TokenInfo;
pub use unseal::{SETTLE, Submitted, submit, unseal_beside_others, unseal_node};

/// Runs a future to its end on a runtime of its own, on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let output = runtime.block_on(future);
    // A name lookup runs in a thread that cannot be cancelled: one that hangs must not hold up the caller past its
    // deadline.
    runtime.shutdown_background();
    Ok(output)
}
