//! A node given its shares, and what becomes of that.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use super::Watch;
use crate::daemon::ask;
use crate::daemon::node::Phase;
use crate::state::holds::Why;
use crate::vault::{self, Error, Submitted};

/// How long a node that took the shares may take to join its cluster.
const JOIN: Duration = Duration::from_mins(1);
/// How long a whole submission may take: a node that answers each time, and late, must not keep shares in memory.
const SUBMISSION: Duration = Duration::from_mins(1);

impl Watch {
    /// Gives the node the shares, unless it had them too often, or somebody said otherwise meanwhile.
    pub(super) async fn unseal(&mut self) {
        self.joining = None;
        if self.is_over_the_limit() {
            error!(
                audit = "unseal-limit",
                node = self.name,
                "the node was unsealed as often as it may be in an hour: it stays sealed until `unsealer release`"
            );
            self.machine.hold(true);
            let _ = self.sealed.send((self.name.clone(), Why::UnsealLimit));
            return;
        }
        let quorum = match self.opener.shares().await {
            Ok(quorum) => quorum,
            Err(message) => {
                self.tell_setback(format!("the keyring does not open: {message}"));
                return;
            }
        };
        let turn = self.turn().await;
        let (held, ends) = {
            let orders = self.orders.borrow();
            (orders.held.is_some(), orders.end)
        };
        if held || ends {
            // Somebody said so while the keyring was being opened.
            return;
        }
        self.board.phase(&self.name, Phase::Unsealing, || {
            "it is being given its key shares".to_owned()
        });
        info!(
            audit = "shares-submitted",
            node = self.name,
            "the node is given its key shares"
        );
        let begun = Instant::now();
        // Its future is large, and a node seldom needs it.
        let submission = Box::pin(vault::submit(
            &self.client,
            self.connection.take(),
            &quorum.shares,
            quorum.threshold,
        ));
        let submission = async {
            tokio::select! {
                outcome = submission => (outcome, true),
                outcome = ask::overtaken(&self.client) => (outcome, false),
            }
        };
        let (outcome, is_the_answer) = timeout(SUBMISSION, submission)
            .await
            .unwrap_or_else(|_| (Err(ask::silent(self.client.address(), SUBMISSION)), false));
        drop((turn, quorum));
        match outcome {
            // What it is now, it says itself; and nothing is proven of the shares.
            Ok(Submitted::WasOpen) => {
                let look = Box::pin(self.look()).await;
                self.saw(&look);
            }
            Ok(Submitted::Unsealed) => {
                self.count_unsealed();
                if is_the_answer {
                    self.opener.proved();
                }
                // What it is now, it says itself.
                let look = Box::pin(self.look()).await;
                self.saw(&look);
            }
            Ok(Submitted::Taken) => {
                self.joining = Some(Instant::now() + JOIN);
                self.machine.joins();
                self.board.phase(&self.name, Phase::Joining, || {
                    "it took the key shares, and joins its cluster".to_owned()
                });
            }
            Err(error) => {
                self.waited = begun.elapsed();
                self.failed(&error);
            }
        }
    }

    pub(super) fn count_unsealed(&mut self) {
        if self.obeyed.rules.limit.is_some() {
            self.recent.push(Instant::now());
        }
        let took = self.sealed_at.take().map(|at| at.elapsed()).unwrap_or_default();
        info!(
            audit = "node-unsealed",
            node = self.name,
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "the node is unsealed"
        );
        self.board.unsealed(&self.name, took);
    }

    fn failed(&mut self, error: &Error) {
        warn!(node = self.name, %error, "the node was not unsealed");
        self.machine.refused(error);
        self.board.node(&self.name, |row| row.failures += 1);
        self.tell_setback(error.to_string());
        if self.machine.phase() == Phase::GivingUp {
            error!(audit = "giving-up", node = self.name, %error, "the node does not take the key shares: a person has to look");
            self.opener.served();
        }
    }

    /// The node took the shares and did not join its cluster in time.
    pub(super) fn did_not_join(&mut self) {
        self.joining = None;
        self.machine.did_not_join();
        let error = Error::StillSealed {
            address: self.client.address().clone(),
            after: JOIN,
        };
        warn!(node = self.name, %error, "the node was not unsealed");
        self.board.node(&self.name, |row| row.failures += 1);
        self.setback = Some(error.to_string());
    }

    fn is_over_the_limit(&mut self) -> bool {
        let Some(limit) = self.obeyed.rules.limit else {
            return false;
        };
        self.recent.retain(|at| at.elapsed() < Duration::from_hours(1));
        self.recent.len() >= usize::try_from(limit).unwrap_or(usize::MAX)
    }
}
