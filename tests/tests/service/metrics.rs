//! `/metrics` as Prometheus' own parser for Python reads it, the health checks, and where they are served.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use serde_json::Value;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::site::Site;
use unsealer_tests::wait;

use crate::manager::Managed;
use crate::{LIMIT, ask, get, is_in, metric, open_server, python};

/// A name that has everything in it that a label escapes.
const ODD: &str = r#"o"d\d"#;

const PARSE: &str = r"
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
families = [{'name': f.name, 'type': f.type, 'help': f.documentation,
             'samples': [[s.name, s.labels, s.value] for s in f.samples]} for f in parse(sys.stdin.read())]
json.dump(families, sys.stdout)
";

fn families(text: &str) -> Vec<Value> {
    let parsed = python("python3-prometheus-client", PARSE, &[], text);
    parsed.as_array().unwrap().clone()
}

#[test]
fn a_prometheus_parser_reads_all_of_it_and_the_names_are_as_is_the_custom() {
    let mut server = OpenBao::start(Storage::Raft);
    let mut site = Site::new(&server.address()).file_slot("file");
    let odd = open_server();
    site.rewrite_config(|config| {
        format!(
            "{config}[[node]]\nname = '{ODD}'\naddress = \"{}\"\n\
             [[node]]\nname = \"gone\"\naddress = \"http://127.0.0.1:1\"\n",
            odd.address()
        )
    });
    site.rewrite_config(str::to_owned);
    // Of several nodes `init` takes none by itself.
    let address = server.address();
    site.expect(&["init", "--no-recovery", "--address", &address], 0);
    let daemon = site.daemon();
    server.kill_9();
    server.restart();
    wait::until("it is unsealed", LIMIT, || {
        is_in(&daemon.metrics(), "one", "unsealed-active")
            && metric(
                &daemon.metrics(),
                "unsealer_unseals_total{node=\"one\",result=\"success\"}",
            )
            .is_some_and(|count| count != "0")
    });

    let (status, text) = get(&daemon.metrics(), "/metrics");
    assert_eq!(status, 200);
    let families = families(&text);
    let mut nodes = BTreeMap::<String, f64>::new();
    for family in &families {
        let (name, kind) = (family["name"].as_str().unwrap(), family["type"].as_str().unwrap());
        let samples = family["samples"].as_array().unwrap();
        assert!(
            !samples.is_empty(),
            "{name} has no sample: the table tells of it all the same"
        );
        follows_the_customs(name, kind, family["help"].as_str().unwrap());
        for sample in samples {
            let value = sample[2].as_f64().unwrap();
            assert!(value >= 0.0, "{sample}");
            if sample[0] == "unsealer_node_state" {
                *nodes
                    .entry(sample[1]["node"].as_str().unwrap().to_owned())
                    .or_default() += value;
            }
        }
        if kind == "histogram" {
            is_a_histogram(samples);
        }
    }
    // Each node is in one state, whatever its name.
    assert_eq!(
        nodes,
        BTreeMap::from(["gone", "one", ODD].map(|name| (name.to_owned(), 1.0)))
    );
    // Every line is in it: the parser passes over none.
    let lines = text.lines().filter(|line| !line.starts_with('#')).count();
    let samples: usize = families
        .iter()
        .map(|family| family["samples"].as_array().unwrap().len())
        .sum();
    assert_eq!(samples, lines);
}

/// <https://prometheus.io/docs/practices/naming/>: one prefix, base units, what it counts, `_total` for what only grows.
fn follows_the_customs(name: &str, kind: &str, help: &str) {
    assert!(name.starts_with("unsealer_"), "{name}");
    assert!(
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
        "{name}"
    );
    assert!(help.ends_with('.'), "{name}: {help}");
    for unit in [
        "_ms",
        "_milliseconds",
        "_minutes",
        "_percent",
        "_kb",
        "_count",
        "_sum",
        "_bucket",
    ] {
        assert!(!name.ends_with(unit), "{name}");
    }
    match kind {
        // The parser takes the suffix off.
        "counter" => assert!(!name.ends_with("_total"), "{name}"),
        "histogram" => assert!(name.ends_with("_seconds"), "{name}"),
        "gauge" => assert!(!name.contains("total"), "{name}"),
        other => panic!("{name}: {other}"),
    }
}

/// Buckets that only grow, the last of which has all.
fn is_a_histogram(samples: &[Value]) {
    let mut last = BTreeMap::<String, f64>::new();
    for sample in samples {
        let (name, value) = (sample[0].as_str().unwrap(), sample[2].as_f64().unwrap());
        let mut labels = sample[1].as_object().unwrap().clone();
        let bound = labels.remove("le");
        let series = serde_json::to_string(&labels).unwrap();
        if name.ends_with("_bucket") {
            assert!(bound.is_some(), "{sample}");
            let before = last.insert(series, value).unwrap_or_default();
            assert!(value >= before, "{sample}");
        } else if name.ends_with("_count") {
            assert_eq!(last.get(&series), Some(&value), "{sample}");
        }
    }
    assert!(!last.is_empty());
}

/// Positive control.
#[test]
#[should_panic(expected = "scripts/setup-debian")]
fn the_parser_refuses_what_is_broken() {
    families("# TYPE unsealer_x counter\nunsealer_x{node=\"o\"ne\"} 1\n");
}

#[test]
fn live_never_depends_on_a_node_and_ready_does() {
    let server = OpenBao::start(Storage::Inmem);
    let keys = server.init_by_hand(1, 1);
    let mut site = Site::new(&server.address()).file_slot("file");
    let daemon = site.daemon();
    let at = daemon.metrics();
    wait::until("it is seen sealed", LIMIT, || is_in(&at, "one", "sealed"));
    assert_eq!(get(&at, "/livez"), (200, "ok\n".to_owned()));
    let (status, body) = get(&at, "/readyz");
    assert_eq!((status, body.starts_with("one: ")), (503, true), "{body}");

    // What is held is as somebody wants it.
    site.expect(&["hold", "one"], 0);
    assert_eq!(get(&at, "/readyz").0, 200);
    site.expect(&["release", "one"], 0);
    assert_eq!(get(&at, "/readyz").0, 503);

    server.unseal(&keys.keys);
    wait::until("it is seen open", LIMIT, || get(&at, "/readyz").0 == 200);
    assert_eq!(get(&at, "/livez"), (200, "ok\n".to_owned()));
}

#[test]
fn only_what_is_there_is_served_and_only_to_be_read() {
    let server = open_server();
    let mut site = Site::new(&server.address()).file_slot("file");
    let daemon = site.daemon();
    for path in ["/", "/metrics/", "/../metrics", "/v1/sys/health"] {
        assert_eq!(get(&daemon.metrics(), path).0, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        let connection = TcpStream::connect(daemon.metrics()).unwrap();
        let request = format!("{method} /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(ask(connection, &request).0, 405, "{method}");
    }
}

#[test]
fn a_unix_socket_does_as_well_also_where_an_earlier_process_has_left_one() {
    let server = open_server();
    let mut site = Site::new(&server.address()).file_slot("file");
    let socket = site.runtime().join("metrics.sock");
    let listen = format!("[daemon]\nlisten = \"unix:{}\"\n", socket.display());
    site.rewrite_config(|config| config.to_owned() + &listen);
    for _ in 0..2 {
        let mut daemon = Managed::start(&site.command(&["run"]), &site.runtime());
        daemon.wait_for("READY=1");
        let mode = fs::metadata(&socket).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        for path in ["/livez", "/metrics"] {
            let connection = UnixStream::connect(&socket).unwrap();
            let request = format!("GET {path} HTTP/1.0\r\n\r\n");
            assert_eq!(ask(connection, &request).0, 200, "{path}");
        }
        // Killed, it leaves its socket behind.
        drop(daemon);
        assert!(socket.exists());
    }
}
