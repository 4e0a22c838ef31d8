//! The daemon as a service: what a service manager, a container and Prometheus see of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod alerts;
mod confined;
mod containers;
mod manager;
mod metrics;
mod notify;
mod pid_one;
mod reload;
mod unit;

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use unsealer_tests::fake_vault::{Answer, FakeVault, seal_status};
use unsealer_tests::process::run;

/// Far more than anything takes here.
const LIMIT: Duration = Duration::from_mins(1);

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a script of Debian's Python, which must have these modules, and gives what it prints, read as JSON.
fn python(packages: &str, script: &str, arguments: &[&str], stdin: &str) -> Value {
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script]).args(arguments);
    let finished = run(&mut command, stdin.as_bytes(), LIMIT);
    assert_eq!(
        finished.code(),
        0,
        "if a module is missing, run: scripts/setup-debian {packages}\n{finished:?}"
    );
    serde_json::from_slice(&finished.stdout).unwrap()
}

/// Every document of a YAML file.
fn yaml(text: &str) -> Vec<Value> {
    let script = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let documents = python("python3-yaml", script, &[], text);
    documents.as_array().unwrap().clone()
}

/// A server that is open, and always says so.
fn open_server() -> FakeVault {
    FakeVault::start(|asked| {
        if asked.what.contains("/sys/health") {
            Answer::json(
                200,
                json!({
                    "initialized": true, "sealed": false, "standby": false, "version": "2.7.2",
                    "replication_performance_mode": "disabled", "replication_dr_mode": "disabled",
                    "server_time_utc": 1_790_000_000,
                }),
            )
        } else {
            Answer::json(200, seal_status(json!({"sealed": false})))
        }
    })
}

/// Asks over HTTP/1.0, where nothing is kept alive. The status and the whole answer.
fn get(address: &str, path: &str) -> (u16, String) {
    let connection = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    ask(connection, &format!("GET {path} HTTP/1.0\r\n\r\n"))
}

fn ask(mut connection: impl std::io::Read + std::io::Write, request: &str) -> (u16, String) {
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.unwrap(), body.unwrap())
}

/// The value of a metric, written with its labels; none if it is not there.
fn metric(address: &str, name: &str) -> Option<String> {
    let (_, text) = get(address, "/metrics");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(str::to_owned)
}

/// Whether a node is in this state.
fn is_in(address: &str, node: &str, state: &str) -> bool {
    let name = format!("unsealer_node_state{{node=\"{node}\",state=\"{state}\"}}");
    metric(address, &name).as_deref() == Some("1")
}
