//! A full disk, or a `kill -9` at any step of the executable: nothing half is ever used, and what is left is found.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kdf_api::{Code, Retire, id};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{CONTEXT, PROGRAM, Site, a_file, a_folder, ask, id_of, program, run, set_mode};

/// The length of a key file.
const LENGTH: usize = 107;

/// The executable, which may write files of at most this many bytes (`RLIMIT_FSIZE`). To go past it is an error like that
/// of a full disk if the signal is ignored, and death otherwise.
fn limited(bytes: usize, survive: bool) -> Command {
    let trap = if survive { "trap '' XFSZ; " } else { "" };
    let mut command = Command::new("/bin/sh");
    command.args([
        "-c",
        &format!("{trap}exec prlimit --fsize={bytes} -- {PROGRAM} --kdf-protocol=1"),
    ]);
    command
}

fn enroll_request(site: &Site) -> (Value, uuid::Uuid) {
    let id = id::random().unwrap();
    (
        site.request("enroll", &json!({"id": id.to_string(), "options": {}})),
        id,
    )
}

/// Invariant 5: a full disk, at any byte.
#[test]
fn a_full_disk_leaves_nothing() {
    for bytes in 0..=LENGTH {
        let site = a_file();
        let (request, _) = enroll_request(&site);
        let answer = ask(&mut limited(bytes, true), &request);
        if bytes < LENGTH {
            assert_eq!(answer["error"]["code"], "unavailable", "{answer}");
            assert!(site.names().is_empty(), "{bytes}: {:?}", site.names());
        } else {
            site.derive(&answer["ok"]["enrolment"]).unwrap();
        }
    }
}

/// Invariant 5: and a death there leaves what `retire` finds by id.
#[test]
fn a_death_while_writing_leaves_what_retire_finds() {
    for (site, bytes) in [
        (a_file(), 0),
        (a_file(), 50),
        (a_file(), LENGTH - 1),
        (a_folder(), 80),
    ] {
        let (request, id) = enroll_request(&site);
        let output = run(&mut limited(bytes, false), &request);
        assert!(
            output.status.code().is_none() && output.stdout.is_empty(),
            "{output:?}"
        );
        assert_eq!(site.names(), [format!(".{id}.key.new")]);
        assert_eq!(fs::metadata(site.key_file()).unwrap().len(), bytes as u64);
        // The same id is not enrolled over it.
        assert_eq!(ask(&mut program(), &request)["error"]["code"], "invalid-request");

        let left = format!("unfinished key file {}", site.key_file().display());
        assert_eq!(site.retire(Retire::Id(id)).unwrap(), [left]);
        assert!(site.names().is_empty());
        assert!(ask(&mut program(), &request).get("ok").is_some());
    }
}

/// Invariant 5: `kill -9` at every system call of `enroll` that comes after the first change on disk.
#[test]
fn killed_at_any_step_of_enroll() {
    for site in [a_file(), a_folder()] {
        let (request, id) = enroll_request(&site);
        let calls = Traced::start(&request).run_until(|_| false);
        site.retire(Retire::Id(id)).unwrap();
        let first = Traced::start(&request).run_until(|_| !site.names().is_empty());
        site.retire(Retire::Id(id)).unwrap();
        assert!(first + 10 < calls, "{first} of {calls}");

        let mut seen = Vec::new();
        for step in first..=calls {
            Traced::start(&request).run_until(|stop| stop == step);
            let names = site.names();
            if let Some(name) = names.iter().find(|name| !name.starts_with('.')) {
                // Under its name it is whole.
                assert_eq!(
                    fs::metadata(site.at(name)).unwrap().len(),
                    LENGTH as u64,
                    "step {step}"
                );
            }
            assert_eq!(
                site.retire(Retire::Id(id)).unwrap().len(),
                names.len(),
                "step {step}: {names:?}"
            );
            assert!(site.names().is_empty(), "step {step}");
            seen.push(names.len());
        }
        // The steps that matter were among them: one name, two, and one again.
        seen.dedup();
        assert_eq!(seen, [1, 2, 1]);
    }
}

/// Invariant 5: and of `retire`. Whatever is left is retired by the next one, and no step gives another key.
#[test]
fn killed_at_any_step_of_retire() {
    for site in [a_file(), a_folder()] {
        let enrolment = site.enroll();
        let (path, line) = (site.key_file(), fs::read(site.key_file()).unwrap());
        let key = site.derive(&enrolment).unwrap();
        let request = site.request("retire", &json!({"enrolment": enrolment}));
        let calls = Traced::start(&request).run_until(|_| false);
        assert!(site.names().is_empty());

        let (mut usable, mut damaged, mut gone) = (0, 0, 0);
        for step in (1..=calls).rev() {
            fs::write(&path, &line).unwrap();
            set_mode(&path, 0o600);
            Traced::start(&request).run_until(|stop| stop == step);
            match site.derive(&enrolment) {
                Ok(same) => {
                    assert!(same.same_as(&key), "step {step}");
                    usable += 1;
                }
                Err(error) if error.code == Code::Tampered => damaged += 1,
                Err(error) if error.code == Code::NotEnrolled => gone += 1,
                Err(error) => panic!("step {step}: {error}"),
            }
            let left = site.names().len();
            assert_eq!(
                site.retire(Retire::Id(id_of(&enrolment))).unwrap().len(),
                left,
                "step {step}"
            );
            assert!(site.names().is_empty(), "step {step}");
            if usable > 3 {
                break;
            }
        }
        assert!(usable > 0 && damaged > 0 && gone > 0, "{usable} {damaged} {gone}");
    }
}

/// The executable under ptrace(2), stopped at each entry to and exit from a system call.
struct Traced {
    child: Child,
    pid: Pid,
}

impl Traced {
    /// A shell is traced before it becomes the executable, which does not let itself be traced.
    fn start(request: &Value) -> Self {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; exec {PROGRAM} --kdf-protocol=1")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let options = ptrace::Options::PTRACE_O_EXITKILL
            | ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_TRACEEXEC;
        ptrace::seize(pid, options).expect("ptrace(2) of a child of ours");
        writeln!(child.stdin.take().unwrap(), "\n{request}").unwrap();
        Self { child, pid }
    }

    /// Runs until a stop, counted from exec, is the one to die at. Gives the number of that stop, or of all of them if it
    /// ended by itself.
    fn run_until(mut self, dies: impl Fn(usize) -> bool) -> usize {
        let mut stops = 0;
        let mut executing = false;
        loop {
            match waitpid(self.pid, None).unwrap() {
                WaitStatus::PtraceEvent(..) => {
                    // The shell's own exec may be seen too.
                    executing =
                        fs::read_link(format!("/proc/{}/exe", self.pid)).unwrap() == Path::new(PROGRAM);
                    ptrace::syscall(self.pid, None).unwrap();
                }
                WaitStatus::PtraceSyscall(_) if executing => {
                    stops += 1;
                    if dies(stops) {
                        self.child.kill().unwrap();
                        self.child.wait().unwrap();
                        return stops;
                    }
                    ptrace::syscall(self.pid, None).unwrap();
                }
                WaitStatus::PtraceSyscall(_) => ptrace::syscall(self.pid, None).unwrap(),
                WaitStatus::Stopped(_, signal) => {
                    let signal = (signal != Signal::SIGTRAP).then_some(signal);
                    ptrace::syscall(self.pid, signal).unwrap();
                }
                WaitStatus::Exited(_, status) => {
                    assert_eq!(status, 0);
                    return stops;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// The executable and the library agree.
#[test]
fn the_executable_serves_the_protocol() {
    let site = a_folder();
    let (request, id) = enroll_request(&site);
    let enrolment = ask(&mut program(), &request)["ok"]["enrolment"].clone();
    assert_eq!(id_of(&enrolment), id);
    let request = site.request("derive", &json!({"enrolment": enrolment, "context": CONTEXT}));
    let answer = ask(&mut program(), &request);
    let key = site.derive(&enrolment).unwrap();
    assert_eq!(
        answer["ok"]["key"].as_str().unwrap(),
        &**key.as_secret().to_base64()
    );
    let answer = ask(
        &mut program(),
        &site.request("health", &json!({"enrolment": enrolment})),
    );
    assert_eq!(answer["ok"]["state"], "ok", "{answer}");
    let request = site.request("retire", &json!({"id": id.to_string()}));
    assert_eq!(
        ask(&mut program(), &request)["ok"]["destroyed"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(ask(&mut program(), &request)["ok"]["destroyed"], json!([]));
    let request = site.request("derive", &json!({"enrolment": enrolment, "context": CONTEXT}));
    assert_eq!(ask(&mut program(), &request)["error"]["code"], "not-enrolled");
}
