//! The second half of `init`, at the server: initialise, save, unseal, mint the rotation credential, end the root token.

use std::time::{Duration, SystemTime};

use kdf_api::Secret;
use kdf_api::hardening::Undisturbed;
use kdf_api::secret_text::TextOf;
use tracing::info;

use super::{Init, pass};
use crate::commands::changed;
use crate::config::InitCredential;
use crate::error::Error;
use crate::keyring::{Active, Keyring, MAX_FILE, Pending, RotationCredential};
use crate::report;
use crate::save::{self, Prepared};
use crate::state::durable;
use crate::state::journal::{Operation, Step};
use crate::vault::{self, HealthState, InitFailed, InitReply, NodeState};

/// A raft server takes 5 to 8 seconds to initialise (its election timeout); a busy one longer. Giving up early would lose
/// its keys.
const INIT_DEADLINE: Duration = Duration::from_mins(5);
/// Where a reply that could not be understood is kept.
pub(super) const REPLY: &str = "init-reply.json";
/// How long a server may still be at work on a request whose client was killed.
const IN_FLIGHT: Duration = Duration::from_secs(12);
/// How long a server may need from its last share to serving requests.
const ACTIVE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(100);
/// The pause between two tries to save what exists only in this process.
const SAVE_AGAIN: Duration = Duration::from_secs(2);

impl Init<'_> {
    /// Initialises the server. From its reply to the end of the save, this process holds the only copy of the keys.
    pub(super) fn initialise(&self, operation: &mut Operation, keyring: &mut Keyring) -> Result<(), Error> {
        let again = "name it again, or give this init up (`unsealer init --abandon`) and begin anew";
        changed::refuse_other_recipients(self.app, keyring, again)?;
        let (shares, threshold) = (self.app.config.init.shares, self.app.config.init.threshold);
        let size = self
            .state
            .keyring()
            .metadata()
            .map_or(0, |found| usize::try_from(found.len()).unwrap_or(0));
        let prepared = save::prepare(self.state, size + save::ROOM)?;
        self.app.progress.step(format!(
            "initialising node {} at {} with {shares} shares, {threshold} of which open it; this may take some seconds",
            self.node.name,
            self.node.address
        ));
        if size + save::ROOM > MAX_FILE {
            return Err(Error::Ambiguous {
                what: "with the server's shares the keyring would be longer than 4 MiB".to_owned(),
                hint: "use fewer slots, or programs whose enrolments are shorter".to_owned(),
            });
        }
        // Ctrl-C in the seconds that the server takes would lose its keys.
        let _undisturbed = Undisturbed::begin();
        self.app
            .progress
            .step("until the shares are saved, signals to end this process are ignored");
        operation.note(Step::InitSent)?;
        self.point("before init request")?;
        let conversation = async { Ok(self.client.init(shares, threshold, INIT_DEADLINE).await) };
        let InitReply {
            shares: given,
            root_token,
        } = match self.node.talk(conversation)? {
            Ok(reply) => reply,
            Err(failed) => return Err(self.keep_reply(keyring, *failed)),
        };
        self.point("after init reply")?;
        keyring.payload.active = Some(Active {
            shares: given,
            threshold,
            created: now(),
        });
        keyring.payload.pending = Some(Pending {
            root_token,
            step: self.pending_step(),
        });
        keyring.body.public.shares = Some(shares);
        keyring.body.public.threshold = Some(threshold);
        self.save_the_only_copy(keyring, prepared);
        info!(
            audit = "server-initialised",
            node = self.node.name,
            "the server's shares are in the keyring"
        );
        self.app
            .progress
            .step("the shares are in the keyring, written, read back and compared");
        Ok(())
    }

    /// Keeps a reply that was not understood, or came in part: it may be the only copy of the server's keys.
    fn keep_reply(&self, keyring: &Keyring, failed: InitFailed) -> Error {
        let InitFailed { error, received } = failed;
        if received.as_bytes().is_empty() {
            return self.node.fault(error);
        }
        let path = self.state.file(REPLY);
        let keep = || durable::replace(&path, keyring.seal_reply(&received)?.as_bytes());
        while let Err(failure) = keep() {
            self.app.progress.warn(format!(
                "{failure}. The server's reply exists only in this process: do not stop it"
            ));
            std::thread::sleep(SAVE_AGAIN);
        }
        Error::Ambiguous {
            what: format!(
                "{}; what it sent is kept, sealed, in {}",
                self.node.fault(error),
                path.display()
            ),
            hint:
                "it may hold the server's only keys: read_keyring.py --reply prints it (see docs/keyring.md)"
                    .to_owned(),
        }
    }

    /// Saves what exists nowhere else. Room was reserved; if the disk fails us all the same, nothing is given up while this
    /// process lives.
    fn save_the_only_copy(&self, keyring: &mut Keyring, prepared: Prepared) {
        let mut attempt = save::commit(self.state, keyring, prepared);
        while let Err(error) = attempt {
            let hint = error.hint().map_or_else(String::new, |hint| format!(": {hint}"));
            self.app.progress.warn(format!(
                "{error}{hint}. The server's keys exist only in this process: do not stop it. Trying again"
            ));
            std::thread::sleep(SAVE_AGAIN);
            attempt = save::prepare(self.state, save::ROOM)
                .and_then(|prepared| save::commit(self.state, keyring, prepared));
        }
    }

    /// A request was sent and no reply saved. The server may still be at work on it.
    pub(super) fn find_out_what_became_of_the_request(&self) -> Result<(), Error> {
        let deadline = std::time::Instant::now() + IN_FLIGHT;
        let mut told = false;
        loop {
            match self.node.state()? {
                NodeState::NotInitialised(_) if std::time::Instant::now() >= deadline => {
                    self.app
                        .progress
                        .step("the server never took the request: sending it again");
                    return Ok(());
                }
                NodeState::NotInitialised(_) => {
                    if !told {
                        self.app.progress.step(
                            "the server is not initialised: waiting whether the request is still at work",
                        );
                        told = true;
                    }
                    std::thread::sleep(POLL);
                }
                NodeState::Unreachable(error) | NodeState::Unknown(error) => {
                    return Err(self.node.fault(error));
                }
                state => {
                    return Err(Error::Ambiguous {
                        what: format!(
                            "node {} is {state}: it took our request to initialise it, and this process's forerunner was \
                             stopped between the server's reply and the save. That reply was the only copy of its keys, \
                             and it is lost",
                            self.node.name
                        ),
                        hint: "nothing was stored on that server yet: empty its storage, then run `unsealer init \
                               --abandon` and `unsealer init`"
                            .to_owned(),
                    });
                }
            }
        }
    }

    /// Unseals the server and waits until it serves requests.
    pub(super) fn unseal(&self, operation: &mut Operation, keyring: &Keyring) -> Result<(), Error> {
        let Some(active) = &keyring.payload.active else {
            unreachable!("the shares were saved")
        };
        let client = self.client;
        self.node.talk(async {
            if !matches!(client.state().await, NodeState::Unsealed(_)) {
                vault::unseal_node(client, &active.shares, active.threshold, vault::SETTLE).await?;
            }
            Ok(())
        })?;
        if !operation.reached(Step::Unsealed) {
            operation.note(Step::Unsealed)?;
        }
        self.app
            .progress
            .step(format!("node {} is unsealed", self.node.name));
        if keyring.payload.pending.is_none() {
            return Ok(());
        }
        self.node.talk(async {
            let deadline = std::time::Instant::now() + ACTIVE;
            loop {
                match client.health().await {
                    Ok(health) if health.state == HealthState::Active => return Ok(()),
                    Err(error) if std::time::Instant::now() >= deadline => return Err(error),
                    _ if std::time::Instant::now() >= deadline => return Ok(()),
                    _ => tokio::time::sleep(POLL).await,
                }
            }
        })
    }

    /// Mints the rotation credential, tries it, and saves it.
    pub(super) fn credential(&self, operation: &mut Operation, keyring: &mut Keyring) -> Result<(), Error> {
        let status = self.node.talk(self.client.seal_status())?;
        keyring.body.public.cluster_id = status.cluster_id;
        keyring.body.public.cluster_name = status.cluster_name;
        let wanted = self.app.config.init.credential == InitCredential::Approle
            && keyring.payload.credential.is_none();
        if let (true, Some(pending)) = (wanted, &keyring.payload.pending) {
            let minted = self.node.talk(mint(self.client, &pending.root_token))?;
            keyring.payload.credential = Some(minted.map_err(|what| {
                Error::Config {
                    place: "[init] credential".to_owned(),
                    what: what.to_owned(),
                    hint: Some(
                        "set credential = \"none\" to go on without, then run `unsealer init --resume`"
                            .to_owned(),
                    ),
                }
            })?);
            save::save(self.state, keyring)?;
            self.app.progress.step("the rotation credential is in the keyring: it does not expire, and can only rotate the shares");
        }
        pass(operation, Step::Credential)
    }

    /// Revokes the root token and confirms that it is dead; or prints it, if that was asked for. Either way it no longer
    /// rests in the keyring.
    pub(super) fn end_root_token(
        &self,
        operation: &mut Operation,
        keyring: &mut Keyring,
    ) -> Result<(), Error> {
        if let Some(Pending { root_token, .. }) = &keyring.payload.pending {
            if self.arguments.keep_root_token_on_stdout {
                let line: [&[u8]; 2] = [root_token.expose(), b"\n"];
                report::print_secret(
                    self.app.progress.format(),
                    &line,
                    "root_token",
                    &TextOf(root_token),
                )?;
                self.app
                    .progress
                    .warn("the root token is on stdout, and stays valid until you revoke it");
            } else {
                if !self.node.talk(revoke(self.client, root_token))? {
                    return Err(Error::Ambiguous {
                        what: format!(
                            "node {} says that the root token is revoked, and still takes it",
                            self.node.name
                        ),
                        hint: "find out why; `unsealer init --resume` tries again".to_owned(),
                    });
                }
                self.app
                    .progress
                    .step("the root token is revoked, and the server confirms that it is dead");
            }
            keyring.payload.pending = None;
            save::save(self.state, keyring)?;
        }
        // The generation before still has the root token, which may be one that was kept alive. A run that was stopped
        // right after the save has left it.
        durable::remove(&self.state.previous_keyring())?;
        pass(operation, Step::Revoked)
    }
}

/// An AppRole on a mount of our own, tried once: its secret id does not expire by the server's own answer, and what it
/// logs in to may rotate.
///
/// The mount is made anew: a run that was stopped here may have left a secret id that nobody knows.
async fn mint(client: &vault::Client, root: &Secret) -> Result<Minted, vault::Error> {
    client.disable_approle(root).await?;
    client.enable_approle(root).await?;
    client.write_rotation_policy(root).await?;
    client.write_rotation_role(root).await?;
    let approle = client.mint_approle(root).await?;
    let limits = client.secret_id_limits(root, &approle.accessor).await?;
    if !limits.ttl.is_zero() || limits.uses != 0 {
        return Ok(Err("the server limits how long or how often its secret id works"));
    }
    let login = client.login(&approle.role_id, &approle.secret_id).await?;
    if !client.may_rotate(&login.token).await? {
        return Ok(Err("the server does not let it rotate the shares"));
    }
    client.revoke(root, &login.token).await?;
    Ok(Ok(RotationCredential::AppRole {
        mount: vault::MOUNT.to_owned(),
        role: vault::ROLE.to_owned(),
        role_id: approle.role_id,
        secret_id: approle.secret_id,
        accessor: approle.accessor,
    }))
}

/// A rotation credential, or why the one that the server gave is of no use.
type Minted = Result<RotationCredential, &'static str>;

/// Revokes a token, and says whether it is dead then. One that was dead before is no error: an earlier run may have been
/// stopped just there.
async fn revoke(client: &vault::Client, token: &Secret) -> Result<bool, vault::Error> {
    match client.revoke_self(token).await {
        Err(error) if error.status() != Some(403) => Err(error),
        _ => client.token_is_dead(token).await,
    }
}

/// For the record only: no decision reads the wall clock.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
