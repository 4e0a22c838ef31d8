//! `unsealer run`: servers that stay unsealed.
//!
//! One task a node watches it over a connection that is kept ([`watch`]); what follows from what it sees is decided by a
//! machine without clocks and sockets ([`node`]). When a node goes down the keyring is opened, so that its programs work while
//! the server starts ([`opener`]): once for all nodes that need it, and wiped when none does.
//!
//! | module | one idea |
//! |---|---|
//! | [`node`] | from what was seen of a node to what to do |
//! | [`watch`] | the connection to a node, and when to look |
//! | [`ask`] | one look at a node that may not answer |
//! | [`opener`] | one opening of the keyring for all who need it |
//! | [`heal`] | advice to enrol a slot anew, followed |
//! | [`board`] | what is known of nodes, slots and holds, for whoever asks |
//! | [`metrics`], [`listen`] | the same for Prometheus and for health checks |
//! | [`control`] | the same for `unsealer status`, `hold` and `release` |
//! | [`service`] | all of it together: start, reload, end |

pub mod ask;
pub mod board;
pub mod control;
pub mod heal;
pub mod listen;
pub mod metrics;
pub mod node;
pub mod opener;
pub mod service;
pub mod watch;
