//! One look at a node, which may not answer.
//!
//! A network or a server that loses a connection without a word leaves it silent for ever, while whoever comes anew is served.
//! So a node that does not answer at once is asked over further connections too, and what comes first counts. One that is only
//! slow has its time all the same.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::node::Look;
use crate::vault::{Address, Client, Connection, Error, NodeState, Stage, Submitted};

/// The time for one look: a node that takes longer is as good as gone.
pub const LOOK: Duration = Duration::from_secs(5);
/// How long a silent connection is the only one, and how long each of the further ones has.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a look gave.
#[derive(Debug)]
pub struct Asked {
    /// What it showed.
    pub look: Look,
    /// The connection, if it is of further use.
    pub connection: Option<Connection>,
    /// Whether that is another one than before.
    pub reconnected: bool,
}

impl Asked {
    fn over(connection: Connection, reconnected: bool, look: Look) -> Self {
        Self {
            look,
            connection: Some(connection).filter(Connection::is_reusable),
            reconnected,
        }
    }

    const fn nobody(look: Look) -> Self {
        Self {
            look,
            connection: None,
            reconnected: true,
        }
    }
}

/// Looks at a node that was open, or was not, over the connection that there is.
pub async fn look(client: &Client, kept: Option<Connection>, open: bool) -> Asked {
    // Sealed over the connection on which it was open is another thing than sealed.
    let tells_more = open && kept.is_some();
    let mut first = pin!(over_kept(client, kept, open));
    loop {
        let another = tokio::select! {
            asked = &mut first => return asked,
            asked = over_another(client) => asked,
        };
        match &another.look {
            // A server that is being sealed answers nobody, and then both.
            Look::State(NodeState::Sealed(_)) if tells_more => {
                return timeout(PATIENCE, first).await.unwrap_or(another);
            }
            // One that takes no further connection may be only slow over the one on which it was open.
            Look::State(NodeState::Unreachable(_)) if tells_more => {}
            _ => return another,
        }
    }
}

/// Over the connection that there is, or else over a new one.
async fn over_kept(client: &Client, kept: Option<Connection>, open: bool) -> Asked {
    if let Some(mut connection) = kept {
        match ask(&mut connection, open).await {
            // It hangs: to ask once more would only take as long again.
            look @ Look::State(NodeState::Unreachable(Error::Deadline { .. })) => return Asked::nobody(look),
            // The server may have been restarted, and wait already.
            Look::State(NodeState::Unreachable(_)) => {}
            look => return Asked::over(connection, false, look),
        }
    }
    over_new(client).await
}

async fn over_new(client: &Client) -> Asked {
    match Box::pin(client.connect(LOOK)).await {
        Ok(mut connection) => {
            let look = ask(&mut connection, false).await;
            Asked::over(connection, true, look)
        }
        Err(error) => Asked::nobody(Look::State(Err(error).into())),
    }
}

/// Over new connections, one after the other, once the first has had its time. Seldom needed, and so it takes no room in a
/// node's task until it is.
async fn over_another(client: &Client) -> Asked {
    sleep(PATIENCE).await;
    loop {
        if let Ok(asked) = timeout(PATIENCE, Box::pin(over_new(client))).await {
            return asked;
        }
    }
}

/// Watches a node that is being given its shares, and returns when it can be told that waiting longer is in vain: it is open, or
/// answers others and gets no share any more.
pub async fn overtaken(client: &Client) -> Result<Submitted, Error> {
    let begun = Instant::now();
    let mut before = None;
    loop {
        sleep(PATIENCE).await;
        let Ok(asked) = timeout(PATIENCE, Box::pin(over_new(client))).await else {
            continue;
        };
        match asked.look {
            Look::Open(_) | Look::State(NodeState::Unsealed(_)) => return Ok(Submitted::Unsealed),
            Look::State(NodeState::Sealed(status)) => {
                let stands = Some((status.progress, status.nonce));
                if before == stands {
                    return Err(silent(client.address(), begun.elapsed()));
                }
                before = stands;
            }
            Look::State(_) => before = None,
        }
    }
}

/// What a node says, within the time for one look.
async fn ask(connection: &mut Connection, open: bool) -> Look {
    let asked = timeout(LOOK, state_of(connection, open)).await;
    asked.unwrap_or_else(|_| Look::State(NodeState::Unreachable(silent(connection.address(), LOOK))))
}

/// One that is open is asked for its health, which costs one request and says whether it serves.
async fn state_of(connection: &mut Connection, open: bool) -> Look {
    if open {
        match connection.health().await {
            Ok(health) if health.state.is_open() => return Look::Open(health.state),
            Ok(_) => {}
            Err(error) => return Look::State(Err(error).into()),
        }
    }
    match NodeState::from(connection.seal_status().await) {
        state if !open && state.status().is_some_and(|status| !status.sealed) => {
            match connection.health().await {
                Ok(health) if health.state.is_open() => Look::Open(health.state),
                _ => Look::State(state),
            }
        }
        state => Look::State(state),
    }
}

/// What is known of a node that gave no answer in this time.
pub fn silent(address: &Address, after: Duration) -> Error {
    Error::Deadline {
        address: address.clone(),
        stage: Stage::Waiting,
        after,
    }
}
