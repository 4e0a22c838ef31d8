//! `hold`, `release`: a node that stays sealed on purpose.

use std::time::Duration;

use serde_json::json;

use crate::app::App;
use crate::daemon::control::{self, Question};
use crate::error::Error;
use crate::report::Report;
use crate::state::holds::{ALL, Holds, Why};

/// What the command line says of `hold`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// The node; all of them if left out.
    pub node: Option<String>,
    /// For how long, as in 90m or 2h. It counts while the machine runs, whatever its clock says.
    #[arg(long = "for", value_name = "TIME", value_parser = crate::config::duration)]
    pub how_long: Option<Duration>,
}

/// Holds a node, or all.
pub fn hold(app: &App, arguments: &Arguments) -> Result<Report, Error> {
    let question = Question {
        verb: "hold".to_owned(),
        node: arguments.node.clone(),
        for_s: arguments.how_long.map(|time| time.as_secs()),
    };
    let node = checked(app, "hold", arguments.node.as_deref())?;
    let changed = if let Some(answer) = control::ask(&question)? {
        answer.get("changed") == Some(&json!(true))
    } else {
        without_daemon(app, |holds| {
            Ok(holds.hold(node, Why::Operator, arguments.how_long))
        })?
    };
    // What was there already has no end, whatever `--for` says.
    let already = if changed { "" } else { " already" };
    let text = match node {
        ALL => format!("every node is held{already}: what is sealed stays sealed until `unsealer release`"),
        node => format!(
            "node {node} is held{already}: if it is sealed it stays so until `unsealer release {node}`"
        ),
    };
    Ok(Report::done(text, json!({"held": node, "changed": changed})))
}

/// Releases a node, or all.
pub fn release(app: &App, node: Option<&str>) -> Result<Report, Error> {
    let question = Question {
        verb: "release".to_owned(),
        node: node.map(str::to_owned),
        for_s: None,
    };
    let node = checked(app, "release", node)?;
    let changed = if let Some(answer) = control::ask(&question)? {
        answer.get("changed") == Some(&json!(true))
    } else {
        without_daemon(app, |holds| holds.release(node))?
    };
    let text = match (changed, node) {
        (true, ALL) => "every node is released".to_owned(),
        (true, node) => format!("node {node} is released"),
        (false, _) => "nothing was held by that name".to_owned(),
    };
    Ok(Report::done(text, json!({"released": node, "changed": changed})))
}

/// Changes the holds that the next daemon finds. One that runs and cannot be reached would not look at them.
fn without_daemon<T>(app: &App, change: impl FnOnce(&mut Holds) -> Result<T, Error>) -> Result<T, Error> {
    let state = app.state_or_create()?;
    let _no_daemon = state.lock_for_daemon()?;
    let mut holds = Holds::load(&state)?;
    let changed = change(&mut holds)?;
    holds.write(&state)?;
    Ok(changed)
}

/// A name that no node has is a mistake, and not a hold for later.
fn checked<'a>(app: &App, verb: &str, node: Option<&'a str>) -> Result<&'a str, Error> {
    let Some(name) = node else { return Ok(ALL) };
    let (nodes, _) = app.node_tables();
    if nodes.iter().any(|node| node.name == name) {
        return Ok(name);
    }
    let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
    Err(Error::Config {
        place: verb.to_owned(),
        what: format!("there is no node {name}"),
        hint: Some(format!("there are {}", names.join(", "))),
    })
}
