//! `docs/slots-and-recovery.md`: its commands, in its order, with its configurations, against real servers; its table of
//! messages against the source.

use std::fs;
use std::path::Path;

use unsealer_tests::openbao::{OpenBao, Storage};

use crate::following::{Machine, World, follow, names_only};
use crate::{document, root};

const CHAPTER: &str = "docs/slots-and-recovery.md";
const ADDRESS: &str = "http://127.0.0.1:8200";

/// Follows what the chapter says of machines that come after each other, with one server.
fn commands_of(names: &[&'static str]) -> usize {
    let (world, mut server) = (World::new(), OpenBao::start(Storage::Raft));
    let mut machines: Vec<_> = names
        .iter()
        .map(|name| Machine::new(&world, name, &[(ADDRESS, &server)]))
        .collect();
    follow(CHAPTER, &mut machines, |machine, command| {
        match command {
            "sudo systemctl restart openbao" => server.restart(),
            "sudo reboot" => {
                server.restart();
                machine.reboot_tpm();
            }
            _ => return false,
        }
        assert!(server.is_sealed());
        true
    })
}

#[test]
fn slots_come_and_go_as_the_text_says() {
    let ran = commands_of(&["slots"]);
    assert!(ran > 20, "{ran}");
}

#[test]
fn a_live_system_moves_to_a_tpm_as_the_text_says() {
    let ran = commands_of(&["migration"]);
    assert!(ran > 5, "{ran}");
}

#[test]
fn a_dead_board_is_recovered_as_the_text_says() {
    let ran = commands_of(&["recovery", "new-board"]);
    assert!(ran > 12, "{ran}");
}

#[test]
fn every_machine_of_the_chapter_is_followed() {
    names_only(CHAPTER, &["slots", "migration", "recovery", "new-board"]);
}

/// A message that is explained is one that can be met.
#[test]
fn the_messages_are_those_of_the_source() {
    let mut source = String::new();
    for package in ["unsealer", "kdf-api", "kdf-file", "kdf-software"] {
        read_all(&root().join(package).join("src"), &mut source);
    }
    let chapter = document(CHAPTER);
    let (_, section) = chapter.split_once("\n## What it says, and what to do\n").unwrap();
    let messages: Vec<_> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .collect();
    assert!(messages.len() > 15, "{}", messages.len());
    for (message, _) in messages {
        for piece in message.split('…').map(str::trim).filter(|piece| piece.len() > 3) {
            assert!(source.contains(piece), "{message}: nothing says {piece:?}");
        }
    }
}

/// All Rust below a folder, with the strings that go over several lines in one.
fn read_all(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, into);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let mut pieces = text.split("\\\n");
            into.push_str(pieces.next().unwrap());
            for piece in pieces {
                into.push_str(piece.trim_start());
            }
        }
    }
}
