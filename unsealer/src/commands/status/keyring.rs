//! What is known of the keyring without opening it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::app::App;
use crate::error::Error;
use crate::open;
use crate::state::journal::{Journal, Operation, Step};
use crate::state::seen::Seen;
use crate::strength;

/// What can be said of the keyring without opening it. That there is none, or that it is not ours to read, is no error here.
pub(super) fn known(app: &App) -> (String, Value) {
    let loaded = app
        .state()
        .and_then(|state| open::load(&state, &app.config).map(|locked| (state, locked)));
    let (state, locked) = match loaded {
        Ok(loaded) => loaded,
        Err(Error::NoKeyring { .. }) => {
            let missing = app.state().and_then(|state| Seen::refuse_missing(&state)).err();
            let text = missing.map_or_else(|| "none yet".to_owned(), |missing| missing.to_string());
            return (format!("keyring: {text}\n"), Value::Null);
        }
        Err(Error::File { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
            return ("keyring: none yet\n".to_owned(), Value::Null);
        }
        Err(error) => return (format!("keyring: {error}\n"), json!({"error": error.to_string()})),
    };
    let body = &locked.body;
    let slots: Vec<_> = body.slots.iter().map(|slot| slot.name.as_str()).collect();
    let mut text = format!(
        "keyring {}: generation {}, slots {}\n  {}\n",
        body.id,
        body.generation,
        slots.join(", "),
        strength::of(body)
    );
    if let Some(warning) = strength::warning(body) {
        let _ = writeln!(text, "  {warning}");
    }
    let refusal = open::recognise(&state, &locked.identity())
        .err()
        .map(|error| error.to_string());
    if let Some(refusal) = &refusal {
        let _ = writeln!(text, "  {refusal}");
    }
    let (unfinished, journal_fault) = match Journal::of(&state).unfinished() {
        Ok(unfinished) => (unfinished, None),
        Err(error) => (None, Some(error.to_string())),
    };
    if let Some(fault) = &journal_fault {
        let _ = writeln!(text, "  {fault}");
    }
    let reply = state.file("init-reply.json");
    if reply.exists() {
        let _ = writeln!(
            text,
            "  a reply that was not understood is kept in {}: it may hold the server's only keys",
            reply.display()
        );
    }
    let has_shares = body.public.shares.is_some();
    let pending = unfinished.as_ref().is_some_and(|init| {
        init.op() == "init" && (init.reached(Step::Saved) || has_shares) && !init.reached(Step::Revoked)
    });
    let step = unfinished.as_ref().and_then(Operation::last).map(Step::name);
    let op = unfinished.as_ref().map(Operation::op);
    if let (Some(op), Some(step)) = (op, step) {
        let then = match op {
            "init" => "`unsealer init --resume`",
            "destroy" => "`unsealer destroy` finishes it",
            _ => "the next change finishes it or takes it back; `unsealer slot prune` does only that",
        };
        let _ = writeln!(text, "  an unfinished {op} stands at the step `{step}`: {then}");
    }
    if pending {
        text.push_str("  the root token is in the keyring, sealed, until that is finished\n");
    }
    let json = json!({
        "id": body.id, "generation": body.generation, "epoch": body.epoch, "slots": slots, "error": refusal,
        "policy": body.policy, "strength": strength::of(body), "warning": strength::warning(body),
        "unfinished": op.zip(step).map(|(op, step)| json!({"op": op, "step": step})), "root_token_pending": pending,
    });
    (text, json)
}
