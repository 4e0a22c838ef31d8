//! Unsealing a node: the quorum back to back, and patience where it is due.

use std::time::Duration;

use kdf_api::Secret;
use kdf_api::secret::fill_random;
use kdf_api::secret_text::Base64Of;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::http::DEADLINE;
use super::status::SEAL_STATUS;
use super::{Address, Client, Connection, Error, NodeState, Request, Response, SealStatus};

const UNSEAL: &str = "sys/unseal";
/// How often a node is left to somebody else.
const OTHERS: usize = 3;

/// How long to watch a server that took the quorum and is still sealed. A raft follower that joins takes a second or
/// two, and longer while its leader is away.
pub const SETTLE: Duration = Duration::from_mins(1);

/// The pause before the state of a settling server is read again, at first and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));

#[derive(Serialize)]
struct Submission<'a> {
    key: Base64Of<'a>,
}

#[derive(Serialize)]
struct Reset {
    reset: bool,
}

impl Client {
    /// Submits one share (as raw bytes), once.
    pub async fn unseal(&self, share: &Secret) -> Result<SealStatus, Error> {
        let mut session = Session::new(self);
        let answer = session.submit(share, DEADLINE).await;
        session.end().await;
        answer
    }

    /// Drops whatever attempt is under way. Refused with HTTP 400 by a server that is not sealed.
    pub async fn reset_unseal(&self) -> Result<SealStatus, Error> {
        Session::new(self).reset().await
    }
}

/// Unseals a node with at most `threshold` of these shares (raw bytes), and says how it is then: always unsealed.
///
/// A node that is not initialised, migrates, or has no Shamir seal gets no share, and neither does one with another
/// threshold than the shares were made for. A quorum that was refused is not tried again. `settle` is how long a
/// server that took the quorum may need ([`SETTLE`]).
pub async fn unseal_node(
    client: &Client,
    shares: &[Secret],
    threshold: u8,
    settle: Duration,
) -> Result<SealStatus, Error> {
    let mut session = Session::new(client);
    let answer = session.unseal(shares, u64::from(threshold), settle).await;
    session.end().await;
    answer
}

/// As [`unseal_node`]; where somebody else is at it too, it is left to them for a moment, and tried again. Two commands at once
/// end with an open node and not with an error.
pub async fn unseal_beside_others(
    client: &Client,
    shares: &[Secret],
    threshold: u8,
    settle: Duration,
) -> Result<SealStatus, Error> {
    for _ in 0..OTHERS {
        match unseal_node(client, shares, threshold, settle).await {
            Err(Error::Disturbed { .. }) => sleep(back_off() * 4).await,
            outcome => return outcome,
        }
    }
    unseal_node(client, shares, threshold, settle).await
}

/// A submission that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// The node is open, by shares of ours.
    Unsealed,
    /// The node is open, and somebody else did that.
    WasOpen,
    /// It took the quorum, and is not open yet: a raft follower joins its cluster first. Whoever submitted it needs the
    /// shares no more, and watches.
    Taken,
}

/// Gives a node at most `threshold` of these shares, as [`unseal_node`] does, and does not wait for one that takes them and is
/// not open yet. A connection that there is already is used, and closed: it saw secrets.
pub async fn submit(
    client: &Client,
    connection: Option<Connection>,
    shares: &[Secret],
    threshold: u8,
) -> Result<Submitted, Error> {
    let mut session = Session { client, connection };
    let outcome = session.attempt(shares, u64::from(threshold), DEADLINE).await;
    session.end().await;
    Ok(match outcome? {
        Outcome::Unsealed(_) => Submitted::Unsealed,
        Outcome::WasOpen(_) => Submitted::WasOpen,
        Outcome::Taken { .. } => Submitted::Taken,
        Outcome::Disturbed => {
            return Err(Error::Disturbed {
                address: client.address().clone(),
            });
        }
    })
}

/// What became of a quorum.
enum Outcome {
    Unsealed(SealStatus),
    /// Unsealed, and not by our last share.
    WasOpen(SealStatus),
    /// Taken, but the server is not open yet. It has until then.
    Taken {
        until: Instant,
    },
    /// Somebody else's shares came in between.
    Disturbed,
}

/// Requests over one connection where the server keeps it open: a quorum costs one TLS handshake. It carries shares, so
/// it ends with the attempt.
struct Session<'a> {
    client: &'a Client,
    connection: Option<Connection>,
}

impl<'a> Session<'a> {
    const fn new(client: &'a Client) -> Self {
        Self {
            client,
            connection: None,
        }
    }

    async fn end(self) {
        if let Some(connection) = self.connection {
            connection.close().await;
        }
    }

    fn address(&self) -> Address {
        self.client.address().clone()
    }

    async fn send(&mut self, request: Request<'_>) -> Result<Response, Error> {
        let mut connection = match self.connection.take() {
            Some(mut connection) => {
                if connection.is_ready().await {
                    connection
                } else {
                    self.client.connect(DEADLINE).await?
                }
            }
            None => self.client.connect(DEADLINE).await?,
        };
        let response = connection.send(request).await?;
        self.connection = Some(connection);
        Ok(response)
    }

    async fn status(&mut self) -> Result<SealStatus, Error> {
        let response = self.send(Request::get(SEAL_STATUS)).await?;
        SealStatus::read(response, self.client.address(), SEAL_STATUS)
    }

    async fn submit(&mut self, share: &Secret, deadline: Duration) -> Result<SealStatus, Error> {
        let body = Submission { key: Base64Of(share) };
        let response = self
            .send(Request::post(UNSEAL).deadline(deadline).json(&body)?)
            .await?;
        match SealStatus::read(response, self.client.address(), UNSEAL) {
            Err(Error::Status {
                address,
                status: 400,
                said,
                ..
            }) if is_about_the_form(&said) => Err(Error::NotAShare { address, said }),
            answer => answer,
        }
    }

    async fn reset(&mut self) -> Result<SealStatus, Error> {
        let response = self
            .send(Request::post(UNSEAL).json(&Reset { reset: true })?)
            .await?;
        SealStatus::read(response, self.client.address(), UNSEAL)
    }

    async fn unseal(
        &mut self,
        shares: &[Secret],
        threshold: u64,
        settle: Duration,
    ) -> Result<SealStatus, Error> {
        match self.attempt(shares, threshold, settle).await? {
            Outcome::Unsealed(status) | Outcome::WasOpen(status) => Ok(status),
            Outcome::Taken { until } => self.settle(until, settle).await,
            Outcome::Disturbed => Err(Error::Disturbed {
                address: self.address(),
            }),
        }
    }

    async fn attempt(
        &mut self,
        shares: &[Secret],
        threshold: u64,
        settle: Duration,
    ) -> Result<Outcome, Error> {
        let quorum = distinct(shares, threshold);
        let mut may_reset = true;
        // Twice at most. Who disturbs us may be another unsealer that thinks the same of us: two that never gave up
        // would keep a server sealed for ever.
        for _ in 0..2 {
            let status = match self.look().await? {
                NodeState::Unsealed(status) => return Ok(Outcome::WasOpen(status)),
                NodeState::Sealed(status) => status,
                state => return Err(self.no_shares_for(state)),
            };
            self.check_quorum(&quorum, &status, threshold)?;
            if status.progress > 0 {
                // Somebody's attempt, perhaps with shares that are none any more. Ours must not mix with it.
                if !std::mem::take(&mut may_reset) {
                    break;
                }
                match self.reset().await {
                    // So refuses a server that was unsealed in the meantime.
                    Err(Error::Status { status: 400, .. }) => continue,
                    answer => drop(answer?),
                }
            }
            match self.submit_quorum(&quorum, settle).await? {
                Outcome::Disturbed => sleep(back_off()).await,
                outcome => return Ok(outcome),
            }
        }
        // Shares of two unsealers may also add up.
        match self.look().await? {
            NodeState::Unsealed(status) => Ok(Outcome::WasOpen(status)),
            _ => Ok(Outcome::Disturbed),
        }
    }

    async fn look(&mut self) -> Result<NodeState, Error> {
        self.status().await.map(NodeState::of)
    }

    fn no_shares_for(&self, state: NodeState) -> Error {
        Error::NotSubmitted {
            address: self.address(),
            state: Box::new(state),
        }
    }

    fn check_quorum(&self, quorum: &[&Secret], status: &SealStatus, threshold: u64) -> Result<(), Error> {
        if status.threshold != threshold {
            return Err(Error::OtherThreshold {
                address: self.address(),
                server: status.threshold,
                ours: threshold,
            });
        }
        if (quorum.len() as u64) < threshold {
            return Err(Error::TooFewShares {
                address: self.address(),
                needed: threshold,
                have: quorum.len(),
            });
        }
        Ok(())
    }

    /// Every share once. Each answer must show our own attempt, one share further.
    async fn submit_quorum(&mut self, quorum: &[&Secret], settle: Duration) -> Result<Outcome, Error> {
        let mut attempt: Option<String> = None;
        let mut until = Instant::now();
        for (given, share) in (1..).zip(quorum) {
            let last = given == quorum.len();
            until = Instant::now() + settle;
            let status = match self.submit(share, if last { settle } else { DEADLINE }).await {
                Ok(status) => status,
                // All shares of this attempt were ours, and the server could not unseal with them.
                Err(Error::Status {
                    address,
                    status: 400,
                    said,
                    ..
                }) if last => {
                    return Err(Error::WrongShares { address, said });
                }
                // The threshold was reached before our quorum was complete: with somebody's share that does not fit.
                Err(Error::Status { status: 400, .. }) => return Ok(Outcome::Disturbed),
                // A follower that joins its cluster may answer the last share only when it has joined.
                Err(Error::Deadline { .. }) if last => return Ok(Outcome::Taken { until }),
                Err(error) => return Err(error),
            };
            if !status.sealed {
                // Before our last one it took shares of somebody else, too.
                return Ok(if last {
                    Outcome::Unsealed(status)
                } else {
                    Outcome::WasOpen(status)
                });
            }
            let as_expected = if last {
                status.progress == 0
            } else {
                let same_attempt = *attempt.get_or_insert_with(|| status.nonce.clone()) == status.nonce;
                same_attempt && status.progress == given as u64
            };
            if !as_expected {
                return Ok(Outcome::Disturbed);
            }
        }
        // Still sealed, without progress: not a failure. A raft follower that joins says so, and opens a second later.
        Ok(Outcome::Taken { until })
    }

    /// Watches a server that took the quorum. Only its last word counts: in between it may not even answer.
    async fn settle(&mut self, until: Instant, settle: Duration) -> Result<SealStatus, Error> {
        let (mut pause, longest) = POLL;
        loop {
            let answer = match self.look().await {
                Ok(NodeState::Unsealed(status)) => return Ok(status),
                answer => answer,
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(answer.err().unwrap_or_else(|| Error::StillSealed {
                    address: self.address(),
                    after: settle,
                }));
            }
            sleep(pause.min(left)).await;
            pause = longest.min(pause * 2);
        }
    }
}

/// As many different shares as the threshold asks for: a share that comes twice counts once.
fn distinct(shares: &[Secret], threshold: u64) -> Vec<&Secret> {
    let mut quorum: Vec<&Secret> = Vec::new();
    for share in shares {
        if (quorum.len() as u64) < threshold && !quorum.iter().any(|other| other.same_as(share)) {
            quorum.push(share);
        }
    }
    quorum
}

/// Whether a refusal is about the share's form, and not about the attempt.
fn is_about_the_form(said: &str) -> bool {
    [
        "must be a valid hex",
        "shorter than minimum",
        "longer than maximum",
    ]
    .iter()
    .any(|text| said.contains(text))
}

/// A tenth to a third of a second, so that two unsealers that met do not meet again.
fn back_off() -> Duration {
    let mut random = [0];
    // Without randomness the pause is just the shortest.
    drop(fill_random(&mut random));
    Duration::from_millis(100 + u64::from(random[0]))
}
