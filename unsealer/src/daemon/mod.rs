//! `unsealer run`: servers that stay unsealed.
//!
//! One task a node watches it over a connection that is kept ([`watch`]); what follows from what it sees is decided by a
//! machine without clocks and sockets ([`node`]). When a node goes down the keyring is opened, so that its programs work while
//! the server starts ([`opener`]): once for all nodes that need it, and wiped when none does.
//!
//! | module | one idea |
//! |---|---|
//! | [`node`] | from what was seen of a node to what to do |
//! | [`watch`] | the connection to a node, when to look, and the shares given to it |
//! | [`orders`] | what the task of a node is told |
//! | [`ask`] | one look at a node that may not answer |
//! | [`opener`] | one opening of the keyring for all who need it |
//! | [`heal`] | advice to enrol a slot anew, followed |
//! | [`board`] | what is known of nodes, slots and holds, for whoever asks |
//! | [`metrics`], [`listen`] | the same for Prometheus and for health checks |
//! | [`control`] | the same for `unsealer status`, `hold` and `release` |
//! | [`tasks`] | the tasks of the nodes: as many as the configuration has |
//! | [`fingerprint`] | whether a file is another one now |
//! | [`service`] | all of it together: start, reload, holds, end |

pub mod ask;
pub mod board;
pub mod control;
pub mod fingerprint;
pub mod heal;
pub mod listen;
pub mod metrics;
pub mod node;
pub mod opener;
pub mod orders;
pub mod service;
pub mod tasks;
pub mod watch;
