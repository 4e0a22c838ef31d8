//! `run`: the daemon.

use std::path::PathBuf;

use serde_json::Value;

use crate::app::App;
use crate::daemon::service::{self, Start};
use crate::error::Error;
use crate::report::Report;

/// Runs until it is told to end.
pub fn run(app: App, config_file: PathBuf) -> Result<Report, Error> {
    // Said at once where there is none.
    drop(app.nodes()?);
    let state = app.state_or_create()?;
    let (nodes, nodes_of_config) = app.node_tables();
    let nodes = nodes.to_vec();
    service::run(Start {
        nodes,
        nodes_of_config,
        config: app.config,
        config_file,
        state,
    })?;
    Ok(Report::done("", Value::Null))
}
