//! `unsealer run` and a raft cluster over TLS: an unsealer beside each node, and one for all of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use unsealer_tests::daemon::Daemon;
use unsealer_tests::openbao::{Initialised, OpenBao, Options, Storage};
use unsealer_tests::site::Site;
use unsealer_tests::swtpm::Swtpm;
use unsealer_tests::wait;

/// Far more than a cluster takes to find together on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);
const NAMES: [&str; 4] = ["n1", "n2", "n3", "n4"];

/// Nodes of one cluster; the first is initialised, the others know of no cluster yet.
struct Cluster {
    nodes: Vec<OpenBao>,
    certificate: String,
    key: String,
    initialised: Initialised,
    id: String,
    folder: TempDir,
}

impl Cluster {
    fn new(count: usize) -> Self {
        let pair = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let (certificate, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        let nodes: Vec<_> = NAMES[..count]
            .iter()
            .map(|name| start(name, &certificate, &key))
            .collect();
        let initialised = nodes[0].init_by_hand(5, 3);
        nodes[0].unseal(&initialised.keys[..3]);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), &certificate).unwrap();
        let json = json!({"keys": initialised.keys, "root_token": initialised.root_token});
        fs::write(folder.path().join("init.json"), json.to_string()).unwrap();
        let cluster_id = nodes[0].seal_status()["cluster_id"].as_str().unwrap().to_owned();
        Self {
            nodes,
            certificate,
            key,
            initialised,
            id: cluster_id,
            folder,
        }
    }

    /// A machine with the shares of the cluster, for these of its nodes.
    fn adopted(&self, slot: impl FnOnce(Site) -> Site, nodes: &[usize]) -> Site {
        let mut site = slot(Site::new(&self.nodes[0].address())).telling_everything();
        // Against the node that is open: the others may not even have joined.
        self.set_nodes(&mut site, &[0]);
        let from = self.folder.path().join("init.json");
        site.expect(&["adopt", "--no-recovery", "--from", from.to_str().unwrap()], 0);
        self.set_nodes(&mut site, nodes);
        site
    }

    fn set_nodes(&self, site: &mut Site, nodes: &[usize]) {
        let ca = self.ca_file();
        let of = |&node: &usize| (NAMES[node], self.nodes[node].address());
        site.set_nodes_with(nodes.iter().map(of), &format!("ca-file = \"{}\"\n", ca.display()));
    }

    fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn join(&self, node: usize) {
        let active = self.nodes.iter().find(|node| node.health() == 200).unwrap();
        self.nodes[node].join(active, &self.certificate);
    }

    /// Waits until every node is unsealed and knows of an active one, and checks that it is still the one cluster.
    fn assert_whole(&self, daemons: &[&Daemon]) {
        let logs = || daemons.iter().map(|daemon| daemon.log()).collect::<String>();
        for (node, name) in self.nodes.iter().zip(NAMES) {
            wait::until_or(&format!("{name} is unsealed"), LIMIT, || !node.is_sealed(), logs);
        }
        let active = || self.nodes.iter().filter(|node| node.health() == 200).count() == 1;
        wait::until_or("one node is active", LIMIT, active, logs);
        for node in &self.nodes {
            let cluster_id = || node.seal_status()["cluster_id"] == json!(self.id);
            wait::until_or("it is the same cluster", LIMIT, cluster_id, logs);
        }
        // Whoever initialises a server logs this.
        let initialised = self
            .nodes
            .iter()
            .map(|node| node.log().matches("security barrier initialized").count());
        assert_eq!(initialised.sum::<usize>(), 1);
        for alarm in ["giving-up", "deliberate-seal", "was not unsealed", "unseal-limit"] {
            assert!(!logs().contains(alarm), "{alarm}\n{}", logs());
        }
    }

    /// Kills nodes at once and starts them again: each in turn, two, all.
    fn kill_in_every_way(&mut self, daemons: &[&Daemon]) {
        let count = self.nodes.len();
        let mut rounds: Vec<Vec<usize>> = (0..count).map(|node| vec![node]).collect();
        rounds.push(vec![0, count - 1]);
        rounds.push((0..count).collect());
        for round in rounds {
            for &node in &round {
                self.nodes[node].kill_9();
            }
            for &node in &round {
                self.nodes[node].restart();
            }
            self.assert_whole(daemons);
        }
    }
}

fn start(name: &str, certificate: &str, key: &str) -> OpenBao {
    OpenBao::start(Options::from(Storage::Raft).tls(certificate, key).node_id(name))
}

#[test]
fn an_unsealer_with_a_tpm_beside_each_node() {
    let mut cluster = Cluster::new(3);
    let tpms: Vec<_> = (0..3).map(|_| Swtpm::new()).collect();
    let mut sites: Vec<_> = tpms
        .iter()
        .enumerate()
        .map(|(node, tpm)| cluster.adopted(|site| site.tpm_slot("tpm", &tpm.tcti(), ""), &[node]))
        .collect();
    let daemons: Vec<_> = sites.iter_mut().map(Site::daemon).collect();
    daemons[0].wait_for("n1", "unsealed-active");
    for node in [1, 2] {
        daemons[node].wait_for(NAMES[node], "uninitialised");
    }
    // Followers that join: sealed, they take the shares, and open later.
    cluster.join(1);
    cluster.join(2);
    let all: Vec<_> = daemons.iter().collect();
    cluster.assert_whole(&all);
    for (daemon, name) in daemons.iter().zip(NAMES) {
        let failed = format!("unsealer_unseals_total{{node=\"{name}\",result=\"failure\"}}");
        assert_eq!(daemon.metric(&failed), 0, "{}", daemon.log());
        // It is counted once the node was seen open, a moment after it is.
        let counted = || daemon.unseals(name) == u64::from(name != "n1");
        wait::until(&format!("the unseals of {name} are counted"), LIMIT, counted);
    }
    cluster.kill_in_every_way(&all);
    for (site, daemon) in sites.iter().zip(&daemons) {
        site.expect(&["status"], 0);
        daemon.assert_tells_no_secret(site);
    }
}

#[test]
fn one_unsealer_for_all_nodes() {
    let mut cluster = Cluster::new(3);
    let mut site = cluster.adopted(|site| site.file_slot("file"), &[0, 1, 2]);
    let mut daemon = site.daemon();
    cluster.join(1);
    cluster.join(2);
    cluster.assert_whole(&[&daemon]);
    cluster.kill_in_every_way(&[&daemon]);

    // Another node joins, and the daemon is told of it.
    cluster
        .nodes
        .push(start(NAMES[3], &cluster.certificate, &cluster.key));
    cluster.set_nodes(&mut site, &[0, 1, 2, 3]);
    daemon.process().signal(Signal::HUP);
    wait::until_or(
        "the daemon knows of the new node",
        LIMIT,
        || daemon.get("/metrics").1.contains("node=\"n4\""),
        || daemon.log(),
    );
    daemon.wait_for("n4", "uninitialised");
    cluster.join(3);
    cluster.assert_whole(&[&daemon]);

    // One that a person seals is held, and the others are not.
    let sealed = cluster
        .nodes
        .iter()
        .position(|node| node.health() == 429)
        .unwrap();
    cluster.nodes[sealed].seal(&cluster.initialised.root_token);
    daemon.wait_for(NAMES[sealed], "held");
    let others = (0..4).filter(|node| *node != sealed).collect::<Vec<_>>();
    for node in others {
        cluster.nodes[node].restart();
        wait::until("it is unsealed", LIMIT, || !cluster.nodes[node].is_sealed());
    }
    assert!(cluster.nodes[sealed].is_sealed());
    site.expect(&["status"], 3);
    daemon.assert_tells_no_secret(&site);
}
