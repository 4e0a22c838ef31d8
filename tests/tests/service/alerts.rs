//! `packaging/prometheus/alerts.yaml`: what it asks for exists.

use std::collections::BTreeSet;
use std::fs;

use unsealer::daemon::board::Board;
use unsealer::daemon::metrics;
use unsealer::daemon::node::Phase;
use unsealer_tests::site::source;

use crate::yaml;

/// The families that the daemon serves, with the suffixes of a histogram.
fn served() -> BTreeSet<String> {
    let text = Board::default().show(metrics::text);
    let mut names = BTreeSet::new();
    for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = family.split_once(' ').unwrap();
        if kind == "histogram" {
            names.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
        } else {
            names.insert(name.to_owned());
        }
    }
    names
}

#[test]
fn every_alert_asks_for_what_there_is() {
    let text = fs::read_to_string(source("packaging/prometheus/alerts.yaml")).unwrap();
    let documents = yaml(&text);
    let served = served();
    let states: BTreeSet<_> = Phase::ALL.iter().map(|phase| phase.name()).collect();
    let (mut alerts, mut alarmed) = (BTreeSet::new(), BTreeSet::new());
    for rule in documents[0]["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        assert!(alerts.insert(name.to_owned()), "{name} is there twice");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(matches!(severity, "warning" | "critical"), "{name}: {severity}");
        assert!(
            rule["annotations"]["summary"].as_str().unwrap().ends_with('.'),
            "{name}"
        );
        let expression = rule["expr"].as_str().unwrap();
        let asked: Vec<_> = expression
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("unsealer_"))
            .collect();
        assert!(name == "UnsealerDown" || !asked.is_empty(), "{name}");
        for metric in asked {
            assert!(served.contains(metric), "{name}: there is no {metric}");
        }
        if let Some((_, rest)) = expression.split_once("unsealer_node_state{state=~\"") {
            for state in rest.split('"').next().unwrap().split('|') {
                assert!(states.contains(state), "{name}: there is no state {state}");
                assert!(alarmed.insert(state.to_owned()), "{state} alarms twice");
            }
        }
    }
    // Every state that is not as it should be has its alert; a hold has one of its own.
    let well = [Phase::UnsealedActive, Phase::UnsealedStandby, Phase::Held];
    for phase in Phase::ALL {
        assert_eq!(
            alarmed.contains(phase.name()),
            !well.contains(&phase),
            "{}",
            phase.name()
        );
    }
    assert!(alerts.contains("UnsealerNodeHeld"));
}
