//! `docs/topologies.md`: its commands, in its order, with its configurations, against real servers and clusters.

use std::time::Duration;

use unsealer_tests::openbao::{OpenBao, Options, Storage};
use unsealer_tests::wait;

use crate::following::{Machine, World, follow, names_only};

const CHAPTER: &str = "docs/topologies.md";
const ADDRESS: &str = "http://127.0.0.1:8200";

/// A node that is to join does so a moment after the first one is open.
fn wait_until_joined(node: &OpenBao) {
    wait::until("the node to join", Duration::from_secs(30), || {
        node.seal_status()["initialized"] == true
    });
}

/// Follows what the chapter says of one machine with one server.
fn commands_of(name: &'static str, server: &OpenBao) -> usize {
    let world = World::new();
    let mut machines = [Machine::new(&world, name, &[(ADDRESS, server)])];
    follow(CHAPTER, &mut machines, |_, _| false)
}

#[test]
fn a_server_that_runs_already_is_taken_over() {
    let server = OpenBao::start(Storage::Inmem);
    assert_eq!(commands_of("takeover", &server), 3);
    assert!(!server.is_sealed());
}

#[test]
fn a_box_initialises_itself_at_its_first_boot() {
    let server = OpenBao::start(Storage::Inmem);
    assert_eq!(commands_of("image", &server), 3);
    assert!(!server.is_sealed());
}

#[test]
fn the_shares_go_from_host_to_host() {
    let world = World::new();
    let first = OpenBao::start(Storage::Raft);
    let mut second = OpenBao::start(Options::joining(&first));
    let mut machines = [
        Machine::new(&world, "host-a", &[(ADDRESS, &first)]),
        Machine::new(&world, "host-b", &[(ADDRESS, &second)]),
    ];
    let ran = follow(CHAPTER, &mut machines, |_, command| {
        if command.starts_with("sudo unsealer adopt") {
            wait_until_joined(&second);
            assert!(second.is_sealed());
        }
        if command == "sudo systemctl restart openbao" {
            second.restart();
            assert!(second.is_sealed());
            return true;
        }
        false
    });
    assert_eq!(ran, 8);
    assert!(!first.is_sealed() && !second.is_sealed());
}

#[test]
fn one_host_opens_the_nodes_of_a_cluster() {
    let world = World::new();
    let first = OpenBao::start(Storage::Raft);
    let second = OpenBao::start(Options::joining(&first));
    let addresses = [
        ("https://vault-1.example:8200", &first),
        ("https://vault-2.example:8200", &second),
    ];
    let mut machines = [Machine::new(&world, "central", &addresses)];
    let ran = follow(CHAPTER, &mut machines, |_, command| {
        if command == "sudo unsealer unseal" {
            wait_until_joined(&second);
        }
        false
    });
    assert_eq!(ran, 3);
    assert!(!first.is_sealed() && !second.is_sealed());
}

#[test]
fn every_machine_of_the_chapter_is_followed() {
    names_only(CHAPTER, &["takeover", "host-a", "host-b", "central", "image"]);
}
