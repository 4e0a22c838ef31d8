//! The daemon as the first process of a container: nobody else takes in orphans there, and a signal without a handler is
//! lost (`pid_namespaces(7)`).

use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::site::Site;
use unsealer_tests::wait;

use crate::manager::Managed;
use crate::{LIMIT, is_root};

#[test]
fn it_unseals_as_pid_one_leaves_no_zombie_and_ends_when_told() {
    let mut server = OpenBao::start(Storage::Raft);
    let site = Site::new(&server.address())
        .file_slot("file")
        .software_slot("fingerprint");
    site.init();
    let plain = site.command(&["run"]);
    let mut command = Command::new("/usr/bin/unshare");
    if !is_root() {
        command.args(["--user", "--map-current-user"]);
    }
    command
        .args(["--fork", "--pid", "--mount-proc", "--kill-child"])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut daemon = Managed::start(&command, &site.runtime());
    daemon.wait_for("READY=1");
    let children = children(daemon.process().pid());
    assert_eq!(children.len(), 1, "unshare has one child");
    let status = fs::read_to_string(format!("/proc/{}/status", children[0])).unwrap();
    let numbers = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .unwrap();
    assert_eq!(numbers.split_whitespace().last(), Some("1"), "{numbers}");

    for _ in 0..3 {
        server.kill_9();
        server.restart();
        wait::until("it is unsealed", LIMIT, || !server.is_sealed());
    }
    wait::until("every program it ran is gone", LIMIT, || {
        self::children(children[0]).is_empty()
    });

    let pid = Pid::from_raw(children[0].try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    daemon.wait_for("STOPPING=1");
    let ended = daemon.process().wait(LIMIT).expect("it ends");
    assert!(ended.success(), "{ended}\n{}", daemon.log());
}

/// The children of every thread of a process, zombies among them.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .flat_map(|text| {
            let numbers = text.split_whitespace().map(|number| number.parse().unwrap());
            numbers.collect::<Vec<_>>()
        })
        .collect()
}
