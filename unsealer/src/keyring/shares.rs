//! Generations of key shares, in memory and as JSON. Reading takes shares straight into their type; writing names each place
//! where one is revealed.

use kdf_api::Secret;
use kdf_api::secret_text::{Base64Of, FromBase64};
use serde::{Deserialize, Serialize};

/// Shares in force.
#[derive(Debug)]
pub struct Active {
    /// The shares, raw.
    pub shares: Vec<Secret>,
    /// How many of them open the server.
    pub threshold: u8,
    /// When the server gave them, in seconds since 1970.
    pub created: u64,
}

/// Shares no longer in force.
#[derive(Debug)]
pub struct Retired {
    /// The shares and what goes with them.
    pub shares: Active,
    /// When they were replaced, in seconds since 1970.
    pub retired: u64,
}

impl Active {
    /// Whether there are as many shares as the threshold needs, and no more than a server gives.
    pub(crate) fn is_reachable(&self) -> bool {
        self.threshold > 0 && (usize::from(self.threshold)..=255).contains(&self.shares.len())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadActive {
    shares: Vec<FromBase64>,
    threshold: u8,
    created: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadRetired {
    shares: Vec<FromBase64>,
    threshold: u8,
    created: u64,
    retired: u64,
}

impl From<ReadActive> for Active {
    fn from(read: ReadActive) -> Self {
        Self {
            shares: read.shares.into_iter().map(|FromBase64(share)| share).collect(),
            threshold: read.threshold,
            created: read.created,
        }
    }
}

impl From<ReadRetired> for Retired {
    fn from(read: ReadRetired) -> Self {
        let ReadRetired {
            shares,
            threshold,
            created,
            retired,
        } = read;
        let shares = ReadActive {
            shares,
            threshold,
            created,
        };
        Self {
            shares: shares.into(),
            retired,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct WriteActive<'a> {
    shares: Vec<Base64Of<'a>>,
    threshold: u8,
    created: u64,
}

#[derive(Serialize)]
pub(crate) struct WriteRetired<'a> {
    shares: Vec<Base64Of<'a>>,
    threshold: u8,
    created: u64,
    retired: u64,
}

impl<'a> From<&'a Active> for WriteActive<'a> {
    fn from(active: &'a Active) -> Self {
        Self {
            shares: active.shares.iter().map(Base64Of).collect(),
            threshold: active.threshold,
            created: active.created,
        }
    }
}

impl<'a> From<&'a Retired> for WriteRetired<'a> {
    fn from(Retired { shares, retired }: &'a Retired) -> Self {
        Self {
            shares: shares.shares.iter().map(Base64Of).collect(),
            threshold: shares.threshold,
            created: shares.created,
            retired: *retired,
        }
    }
}
