//! A scripted server that is sealed and opens by the right shares, and that can be made to do what a real one cannot.

use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::fake_vault::{Answer, Asked, FakeVault, seal_status};
use crate::opened;
use crate::site::Site;

/// The shares of a site's keyring, as they are submitted.
pub fn shares(site: &Site) -> Vec<String> {
    let keyring = opened::keyring(site);
    let active = keyring.payload.active.as_ref().expect("there are shares");
    let texts = active.shares.iter().map(|share| share.to_base64().to_string());
    texts.collect()
}

type Fault = dyn Fn(&Asked) -> Option<Answer> + Send + Sync;

/// The server: 3 of 5 shares open it, as `unsealer init` has it by default.
pub struct Scripted {
    fake: FakeVault,
    state: Arc<Mutex<State>>,
}

struct State {
    right: Vec<String>,
    sealed: bool,
    given: Vec<String>,
    attempts: usize,
    submissions: usize,
    fault: Option<Arc<Fault>>,
}

impl Scripted {
    /// A sealed server that opens by any three of these shares.
    pub fn sealed(right: &[String]) -> Self {
        let state = Arc::new(Mutex::new(State {
            right: right.to_vec(),
            sealed: true,
            given: Vec::new(),
            attempts: 0,
            submissions: 0,
            fault: None,
        }));
        let scripted = Arc::clone(&state);
        let fake = FakeVault::start(move |asked| {
            let fault = held(&scripted).fault.clone();
            // Not while the state is held: a fault may take its time.
            let faulty = fault.and_then(|fault| fault(asked));
            faulty.unwrap_or_else(|| held(&scripted).answer(asked))
        });
        Self { fake, state }
    }

    /// Where it is, and who came.
    pub fn fake(&self) -> &FakeVault {
        &self.fake
    }

    /// Its address.
    pub fn address(&self) -> String {
        self.fake.address()
    }

    /// Whether it is sealed.
    pub fn is_sealed(&self) -> bool {
        held(&self.state).sealed
    }

    /// How many shares came.
    pub fn submissions(&self) -> usize {
        held(&self.state).submissions
    }

    /// Seals it, as a person does.
    pub fn seal(&self) {
        held(&self.state).sealed = true;
    }

    /// Seals it, as its restart does: all connections end.
    pub fn restart(&self) {
        let mut state = held(&self.state);
        state.sealed = true;
        state.given.clear();
        drop(state);
        self.fake.hang_up();
    }

    /// Gives it a share, as somebody else does.
    pub fn give(&self, share: &str) {
        let body = json!({"key": share}).to_string();
        held(&self.state).unseal(&body);
    }

    /// From now on every request for which the fault has an answer gets that one.
    pub fn fault(&self, fault: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) {
        held(&self.state).fault = Some(Arc::new(fault));
    }

    /// From now on it answers as it should.
    pub fn mend(&self) {
        held(&self.state).fault = None;
    }
}

fn held(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nobody panicked")
}

impl State {
    fn answer(&mut self, asked: &Asked) -> Answer {
        match asked.what.as_str() {
            "GET /v1/sys/seal-status" => Answer::json(200, self.status()),
            "GET /v1/sys/health" => Answer::json(
                if self.sealed { 503 } else { 200 },
                json!({"initialized": true, "sealed": self.sealed, "standby": false}),
            ),
            "POST /v1/sys/unseal" => self.unseal(&asked.body),
            _ => Answer::json(404, json!({"errors": []})),
        }
    }

    fn unseal(&mut self, body: &str) -> Answer {
        let body: Value = serde_json::from_str(body).expect("a submission is JSON");
        if body["reset"] == json!(true) {
            self.given.clear();
            return Answer::json(200, self.status());
        }
        self.submissions += 1;
        let share = body["key"].as_str().expect("a share is a text").to_owned();
        if self.sealed && !self.given.contains(&share) {
            if self.given.is_empty() {
                self.attempts += 1;
            }
            self.given.push(share);
        }
        if self.given.len() == 3 {
            let given = std::mem::take(&mut self.given);
            if given.iter().any(|share| !self.right.contains(share)) {
                let said = "unable to retrieve stored keys: invalid key";
                return Answer::json(400, json!({"errors": [said]}));
            }
            self.sealed = false;
        }
        Answer::json(200, self.status())
    }

    fn status(&self) -> Value {
        let nonce = if self.given.is_empty() {
            String::new()
        } else {
            format!("attempt-{}", self.attempts)
        };
        seal_status(json!({"sealed": self.sealed, "progress": self.given.len(), "nonce": nonce}))
    }
}
