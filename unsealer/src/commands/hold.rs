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
    let node = checked(app, arguments.node.as_deref())?;
    if control::ask(&question)?.is_none() {
        let (state, mut holds) = load(app)?;
        let _lock = state.lock()?;
        holds.hold(node, Why::Operator, arguments.how_long);
        holds.write(&state)?;
    }
    let text = match node {
        ALL => "every node is held: what is sealed stays sealed until `unsealer release`".to_owned(),
        node => format!("node {node} is held: if it is sealed it stays so until `unsealer release {node}`"),
    };
    Ok(Report::done(text, json!({"held": node})))
}

/// Releases a node, or all.
pub fn release(app: &App, node: Option<&str>) -> Result<Report, Error> {
    let question = Question {
        verb: "release".to_owned(),
        node: node.map(str::to_owned),
        for_s: None,
    };
    let node = checked(app, node)?;
    let changed = if let Some(answer) = control::ask(&question)? {
        answer.get("changed") == Some(&json!(true))
    } else {
        let (state, mut holds) = load(app)?;
        let _lock = state.lock()?;
        let changed = holds.release(node);
        holds.write(&state)?;
        changed
    };
    let text = match (changed, node) {
        (true, ALL) => "every node is released".to_owned(),
        (true, node) => format!("node {node} is released"),
        (false, _) => "nothing was held by that name".to_owned(),
    };
    Ok(Report::done(text, json!({"released": node, "changed": changed})))
}

fn load(app: &App) -> Result<(crate::state::StateFolder, Holds), Error> {
    let state = app.state_or_create()?;
    let holds = Holds::load(&state)?;
    Ok((state, holds))
}

/// A name that no node has is a mistake, and not a hold for later.
fn checked<'a>(app: &App, node: Option<&'a str>) -> Result<&'a str, Error> {
    let Some(name) = node else { return Ok(ALL) };
    let (nodes, _) = app.node_tables();
    if nodes.iter().any(|node| node.name == name) {
        return Ok(name);
    }
    let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
    Err(Error::Config {
        place: "hold".to_owned(),
        what: format!("there is no node {name}"),
        hint: Some(format!("there are {}", names.join(", "))),
    })
}
