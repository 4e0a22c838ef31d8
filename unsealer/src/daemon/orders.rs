//! What the task of a node is told.

use crate::config::{Config, OnDeliberateSeal};
use crate::vault::Client;

/// What the configuration says of all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What to do about a node that somebody sealed.
    pub on_deliberate_seal: OnDeliberateSeal,
    /// How often a node may be unsealed in an hour.
    pub limit: Option<u32>,
}

impl Rules {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        Self {
            on_deliberate_seal: config.on_deliberate_seal,
            limit: config.unseals_per_hour,
        }
    }
}

/// What is asked of a node's task.
#[derive(Clone, Debug)]
pub struct Orders {
    /// Whether the node is held, and why.
    pub held: Option<String>,
    /// How often it was released.
    pub released: u64,
    /// Whether the task is to end.
    pub end: bool,
    /// What it goes by.
    pub rules: Rules,
    /// How to talk to the node.
    pub client: Client,
    /// How often that changed.
    pub renewed: u64,
}

impl Orders {
    /// The first ones.
    pub const fn new(held: Option<String>, rules: Rules, client: Client) -> Self {
        Self {
            held,
            released: 0,
            end: false,
            rules,
            client,
            renewed: 0,
        }
    }

    /// The node is talked to by other certificates from now on.
    pub fn renew(&mut self, client: Client) {
        self.client = client;
        self.renewed += 1;
    }
}
