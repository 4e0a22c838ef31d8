//! The control socket: `unsealer status`, `hold` and `release` ask the daemon that runs.
//!
//! One line of JSON each way. Anybody on the machine may ask how the nodes are; holding and releasing is for root and for
//! the user whom the daemon runs as, which the kernel says of the other end (`SO_PEERCRED`, unix(7)).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kdf_api::json::{self, Limits};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::board::{Board, Known, SlotState};
use super::listen::bind_unix;
use crate::error::Error;

/// The longest request and the longest answer, in bytes: a thousand nodes with their details.
const LONGEST: usize = 4 * 1024 * 1024;
const LIMITS: Limits = Limits {
    bytes: 64 * 1024,
    depth: 4,
};
/// Connections at once of those who may hold and release. None may take a descriptor that a node or a program needs.
const CONNECTIONS: usize = 32;
/// The time for one exchange of theirs.
const DEADLINE: Duration = Duration::from_secs(5);
/// Connections at once of all others, who may keep nobody else out: one more is closed at once.
const CONNECTIONS_OF_OTHERS: usize = 8;
/// The time for one exchange of theirs.
const DEADLINE_OF_OTHERS: Duration = Duration::from_secs(1);

/// The socket of the daemon: in `$RUNTIME_DIRECTORY`, or in `/run/unsealer`.
pub fn socket() -> PathBuf {
    let folder = std::env::var_os("RUNTIME_DIRECTORY").filter(|value| !value.is_empty());
    folder
        .map_or_else(|| PathBuf::from("/run/unsealer"), PathBuf::from)
        .join("control.sock")
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// `status`, `hold` or `release`.
    pub verb: String,
    /// Of `hold` and `release`: the node; all of them if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Of `hold`: for how many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_s: Option<u64>,
}

impl Question {
    /// How things are.
    pub fn status() -> Self {
        Self {
            verb: "status".to_owned(),
            node: None,
            for_s: None,
        }
    }
}

/// A hold or release that the service carries out, and where the answer goes.
#[derive(Debug)]
pub struct Order {
    /// What is asked.
    pub question: Question,
    /// What came of it, or why nothing did.
    pub answer: oneshot::Sender<Result<Value, String>>,
}

/// Asks the daemon. `None` if there is none.
pub fn ask(question: &Question) -> Result<Option<Value>, Error> {
    let path = socket();
    let mut stream = match BlockingStream::connect(&path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(Error::file("reach the daemon at", &path, error)),
    };
    let answer = exchange(&mut stream, question)
        .map_err(|error| Error::file("talk to the daemon at", &path, error))?;
    match answer.get("error").and_then(Value::as_str) {
        None => Ok(Some(answer)),
        Some(what) => Err(Error::Config {
            place: question.verb.clone(),
            what: what.to_owned(),
            hint: None,
        }),
    }
}

fn exchange(stream: &mut BlockingStream, question: &Question) -> io::Result<Value> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    let text = serde_json::to_string(question).unwrap_or_default();
    stream.write_all(format!("{text}\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST as u64).read_to_end(&mut answer)?;
    serde_json::from_slice(&answer).map_err(io::Error::other)
}

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Server {
    task: tokio::task::JoinHandle<()>,
    path: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Begins to serve.
pub fn start(path: &Path, board: Arc<Board>, orders: mpsc::UnboundedSender<Order>) -> io::Result<Server> {
    // Whoever may ask, the kernel says who it is.
    let listener = bind_unix(path, 0o666)?;
    let ours = Arc::new(Semaphore::new(CONNECTIONS));
    let of_others = Arc::new(Semaphore::new(CONNECTIONS_OF_OTHERS));
    let task = tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // Only who it is decides who waits for a place, and for whose.
            let (place, deadline) = if may_order(&stream) {
                (Arc::clone(&ours).acquire_owned().await.ok(), DEADLINE)
            } else {
                (
                    Arc::clone(&of_others).try_acquire_owned().ok(),
                    DEADLINE_OF_OTHERS,
                )
            };
            let Some(place) = place else { continue };
            let (board, orders) = (Arc::clone(&board), orders.clone());
            tokio::spawn(async move {
                let _ = tokio::time::timeout(deadline, answer(stream, &board, &orders)).await;
                drop(place);
            });
        }
    });
    Ok(Server {
        task,
        path: path.to_owned(),
    })
}

async fn answer(
    mut stream: UnixStream,
    board: &Board,
    orders: &mpsc::UnboundedSender<Order>,
) -> io::Result<()> {
    let mut text = Vec::new();
    let mut chunk = [0; 1024];
    while !text.ends_with(b"\n") && text.len() < LIMITS.bytes {
        match stream.read(&mut chunk).await? {
            0 => break,
            count => text.extend_from_slice(chunk.get(..count).unwrap_or_default()),
        }
    }
    let said = match json::parse::<Question>(text.trim_ascii(), LIMITS) {
        Err(fault) => json!({"error": format!("the question {fault}")}),
        Ok(question) if question.verb == "status" => board.show(status),
        Ok(question) if may_order(&stream) => {
            let (sender, receiver) = oneshot::channel();
            let order = Order {
                question,
                answer: sender,
            };
            let _ = orders.send(order);
            match receiver.await {
                Ok(Ok(value)) => value,
                Ok(Err(what)) => json!({"error": what}),
                Err(_) => json!({"error": "the daemon is ending"}),
            }
        }
        Ok(_) => json!({"error": "only root and the user whom the daemon runs as may do that"}),
    };
    stream.write_all(said.to_string().as_bytes()).await?;
    stream.shutdown().await
}

fn may_order(stream: &UnixStream) -> bool {
    let us = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == us)
}

/// What is known, as JSON.
fn status(known: &Known) -> Value {
    let nodes: Vec<_> = known
        .nodes
        .iter()
        .map(|(name, node)| {
            json!({
                "name": name, "address": node.address, "state": node.phase.name(), "detail": node.detail,
                "hint": node.hint, "since_s": node.since.elapsed().as_secs(), "held": node.held, "unseals": node.unseals,
                "failures": node.failures, "open": node.phase.is_open(),
            })
        })
        .collect();
    let slots: Vec<_> = known
        .slots
        .iter()
        .map(|(name, slot)| {
            let (opens, code, error) = match &slot.state {
                SlotState::Opens => (true, None, None),
                SlotState::Failed(code, error) => (false, Some(code.name()), Some(error)),
            };
            json!({"name": name, "opens": opens, "code": code, "error": error, "advice": slot.advice})
        })
        .collect();
    json!({"nodes": nodes, "slots": slots, "generation": known.generation, "trouble": known.trouble})
}
