//! What is checked before a program runs, that it is what then runs, and what it finds when it does.
//!
//! Security invariant 6. Each refusal goes with the same program in order as its positive control.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod host_support;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use host_support::{Workshop, program};
use kdf_api::host::{Call, Checked, Program, ProgramDirs};
use kdf_api::{Code, Error};
use sha2::{Digest, Sha256};

const CALL: Call<'_> = Call {
    arguments: &["--first", "second"],
    input: None,
    timeout: Duration::from_secs(20),
    most: 100_000,
    live: false,
};

fn check(program: &Program) -> kdf_api::Result<Checked> {
    program.check(&ProgramDirs::default())
}

#[track_caller]
fn refused(path: &Path) -> Error {
    let error = check(&program(path)).unwrap_err();
    assert_eq!(error.code, Code::Insecure, "{error}");
    error
}

#[track_caller]
fn passes(path: &Path) {
    check(&program(path)).unwrap();
}

fn output(checked: &Checked) -> String {
    let finished = checked.call(&CALL).unwrap();
    assert!(finished.success, "{:?}", finished.stderr);
    String::from_utf8(finished.output.as_bytes().to_vec()).unwrap()
}

/// The hint is run in a shell, and then the program passes.
#[track_caller]
fn mended_by_its_hint(path: &Path, names: &Path) {
    let error = refused(path);
    assert!(error.message.contains(names.to_str().unwrap()), "{error}");
    let hint = error.hint.unwrap();
    assert!(
        std::process::Command::new("/bin/sh")
            .args(["-c", &hint])
            .status()
            .unwrap()
            .success(),
        "{hint}"
    );
    passes(path);
}

#[test]
fn a_program_that_others_can_change_is_refused() {
    let workshop = Workshop::new();
    let path = workshop.write("kdf", "#!/bin/sh\n", 0o755);
    passes(&path);
    for mode in [0o775, 0o757, 0o777, 0o722] {
        workshop.mode("kdf", mode);
        mended_by_its_hint(&path, &path);
    }
}

#[test]
fn a_program_below_a_folder_that_others_can_change_is_refused() {
    let workshop = Workshop::new();
    fs::create_dir_all(workshop.at("a/b")).unwrap();
    let path = workshop.write("a/b/kdf", "#!/bin/sh\n", 0o755);
    for folder in ["a", "a/b"] {
        for mode in [0o775, 0o777] {
            workshop.mode("a", 0o755);
            workshop.mode("a/b", 0o755);
            passes(&path);
            workshop.mode(folder, mode);
            mended_by_its_hint(&path, &workshop.at(folder));
        }
    }
    workshop.mode("a", 0o1777);
    passes(&path);
}

#[test]
fn a_link_is_as_good_as_what_it_leads_to() {
    let workshop = Workshop::new();
    let path = workshop.write("kdf", "#!/bin/sh\n", 0o755);
    let link = workshop.at("link");
    symlink(&path, &link).unwrap();
    passes(&link);
    workshop.mode("kdf", 0o757);
    mended_by_its_hint(&link, &path);
}

#[test]
fn what_is_no_executable_file_is_refused() {
    let workshop = Workshop::new();
    let path = workshop.write("kdf", "#!/bin/sh\n", 0o644);
    mended_by_its_hint(&path, &path);
    refused(Path::new("/usr/bin"));
    refused(Path::new("/dev/null"));
    assert_eq!(
        check(&program(&workshop.at("absent"))).unwrap_err().code,
        Code::Unavailable
    );
    // Left to execvp, a shell would run it.
    let path = workshop.write("text", "echo hello\n", 0o755);
    assert_eq!(check(&program(&path)).unwrap_err().code, Code::Unsupported);
}

#[test]
fn a_program_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        // Nothing of ours can be given away; what belongs to root and not to us must pass.
        return passes(Path::new("/usr/bin/true"));
    }
    let workshop = Workshop::new();
    let path = workshop.write("kdf", "#!/bin/sh\n", 0o755);
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    mended_by_its_hint(&path, &path);
}

#[test]
fn an_interpreter_goes_through_the_same_checks() {
    let workshop = Workshop::new();
    let interpreter = workshop.copy("/usr/bin/true", "interpreter");
    let path = workshop.write("kdf", &format!("#!{} -x\n", interpreter.display()), 0o755);
    passes(&path);
    workshop.mode("interpreter", 0o757);
    mended_by_its_hint(&path, &interpreter);

    let nested = workshop.write("nested", &format!("#!{}\n", path.display()), 0o755);
    assert!(refused(&nested).message.contains("is a script itself"));
    let error = refused(&workshop.write("env", "#!/usr/bin/env sh\n", 0o755));
    assert_eq!(error.hint.unwrap(), "write it as: #!/usr/bin/sh");
    refused(&workshop.write("relative", "#!sh\n", 0o755));
}

#[test]
fn a_script_gets_its_arguments_as_from_the_kernel() {
    let workshop = Workshop::new();
    let path = workshop.write(
        "kdf",
        "#!/bin/sh -e\necho \"$-|$*\"\nfalse\necho not reached\n",
        0o755,
    );
    let finished = check(&program(&path)).unwrap().call(&CALL).unwrap();
    assert!(!finished.success, "-e was not given");
    let output = String::from_utf8_lossy(finished.output.as_bytes()).into_owned();
    assert_eq!(output, "e|--first second\n");

    let path = workshop.write(
        "python",
        "#!/usr/bin/python3 -I\nimport sys\nprint(sys.argv[1:], sys.flags.isolated)\n",
        0o755,
    );
    assert_eq!(output_of(&path), "['--first', 'second'] 1\n");
}

fn output_of(path: &Path) -> String {
    output(&check(&program(path)).unwrap())
}

/// What was checked is what runs: another file is put in its place in between.
#[test]
fn a_program_that_is_swapped_after_the_check_does_not_run() {
    let workshop = Workshop::new();
    let path = workshop.write("kdf", "#!/bin/sh\necho checked\n", 0o755);
    let (script, binary) = (
        check(&program(&path)).unwrap(),
        workshop.copy("/usr/bin/echo", "binary"),
    );
    let echo = check(&program(&binary)).unwrap();
    let evil = "#!/bin/sh\necho swapped\n";
    for name in ["kdf", "binary"] {
        workshop.write("evil", evil, 0o755);
        fs::rename(workshop.at("evil"), workshop.at(name)).unwrap();
        assert_eq!(
            output_of(&workshop.at(name)),
            "swapped\n",
            "the control: this is what the path now holds"
        );
    }
    assert_eq!(output(&script), "checked\n");
    assert_eq!(output(&echo), "--first second\n");
}

/// A pinned program is a copy: even writing into the checked file changes nothing.
#[test]
fn a_pinned_program_is_what_was_hashed() {
    let workshop = Workshop::new();
    let text = "#!/bin/sh\necho checked\n";
    let path = workshop.write("kdf", text, 0o755);
    let pinned = || program(&path).pinned([[0; 32], Sha256::digest(text).into()]);
    let checked = check(&pinned()).unwrap();
    assert_eq!(output(&checked), "checked\n");

    fs::write(&path, text.replace("checked", "changed")).unwrap();
    assert_eq!(output(&checked), "checked\n");
    assert_eq!(
        output_of(&path),
        "changed\n",
        "the control: without a pin it runs"
    );
    let error = check(&pinned()).unwrap_err();
    assert_eq!(error.code, Code::Insecure);
    assert!(
        error
            .message
            .contains("is not the pinned program: its SHA-256 is"),
        "{error}"
    );
}

#[test]
fn a_pinned_binary_runs_from_memory() {
    let workshop = Workshop::new();
    let path = workshop.copy("/usr/bin/readlink", "cat");
    let hash = Sha256::digest(fs::read(&path).unwrap()).into();
    let checked = check(&program(&path).pinned([hash])).unwrap();
    let finished = checked
        .call(&Call {
            arguments: &["/proc/self/exe"],
            ..CALL
        })
        .unwrap();
    let exe = String::from_utf8_lossy(finished.output.as_bytes()).into_owned();
    assert!(exe.starts_with("/memfd:cat"), "{exe}");
}

#[test]
fn the_environment_is_ours_alone() {
    let workshop = Workshop::new();
    let path = workshop.write(
        "kdf",
        "#!/usr/bin/python3 -I\nimport os\nprint(sorted(os.environb.items()))\n",
        0o755,
    );
    // Cargo sets this for every test: the control.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let tunables = "(b'GLIBC_TUNABLES', b'glibc.malloc.tcache_count=0:glibc.malloc.perturb=165')";
    assert_eq!(
        output_of(&path),
        format!("[{tunables}, (b'LC_ALL', b'C'), (b'PATH', b'/usr/bin:/bin')]\n")
    );

    let more = program(&path).environment("VENDOR_LIBRARY", "/opt/x").unwrap();
    assert!(output(&check(&more).unwrap()).contains("(b'VENDOR_LIBRARY', b'/opt/x')"));
    assert_eq!(
        more.environment("LD_PRELOAD", "/tmp/evil.so").unwrap_err().code,
        Code::InvalidRequest
    );
}

#[test]
fn no_descriptor_leaks() {
    let workshop = Workshop::new();
    let secret = workshop.write("secret", "x", 0o600);
    let leaky = fs::File::open(&secret).unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    let list = "import os\nfor n in os.listdir('/proc/self/fd'):\n  try: print(n, os.readlink('/proc/self/fd/'+n))\n  except OSError: pass\n";

    // The control: a child that is started in the usual way has it.
    let plain = std::process::Command::new("/usr/bin/python3")
        .args(["-Ic", list])
        .output()
        .unwrap();
    let leaked = format!("{} {}\n", leaky.as_raw_fd(), secret.display());
    assert!(String::from_utf8(plain.stdout).unwrap().contains(&leaked));

    let path = workshop.write("kdf", &format!("#!/usr/bin/python3 -I\n{list}"), 0o755);
    let mut others = Vec::new();
    for line in output_of(&path).lines() {
        let (number, target) = line.split_once(' ').unwrap();
        match (number, target) {
            ("0", "/dev/null") => {}
            ("1" | "2", pipe) if pipe.starts_with("pipe:") => {}
            _ => others.push(target.to_owned()),
        }
    }
    // The script itself: the one that its interpreter is told to read, and the one that it reads.
    assert!(!others.is_empty());
    assert!(
        others.iter().all(|target| Path::new(target) == path),
        "{others:?}"
    );
}

#[test]
fn a_program_starts_without_privileges_terminal_or_core_dumps() {
    let workshop = Workshop::new();
    let report = "#!/bin/sh\npwd\necho $$ $(cut -d' ' -f5-7 /proc/$$/stat)\ngrep NoNewPrivs /proc/$$/status\ngrep core /proc/$$/limits\n";
    let output = output_of(&workshop.write("kdf", report, 0o755));
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[0], "/");
    // Its own group, its own session, no terminal (proc(5): pgrp, session, tty_nr).
    let numbers: Vec<_> = lines[1].split(' ').collect();
    assert_eq!(numbers, [numbers[0], numbers[0], numbers[0], "0"]);
    assert_eq!(lines[2], "NoNewPrivs:\t1");
    let limits: Vec<_> = lines[3].split_ascii_whitespace().collect();
    assert!(matches!(limits[4..6], ["1", "1"] | ["0", "0"]), "{limits:?}");
}

#[test]
fn what_cannot_start_says_why() {
    let workshop = Workshop::new();
    let path = workshop.at("kdf");
    // An ELF header and nothing that could run.
    workshop.write("kdf", "\x7fELF nonsense", 0o755);
    let error = check(&program(&path)).unwrap().call(&CALL).unwrap_err();
    assert!(error.message.contains(path.to_str().unwrap()), "{error}");

    let mut binary = fs::read("/usr/bin/true").unwrap();
    let loader = binary.windows(4).position(|window| window == b"/lib").unwrap();
    binary[loader..loader + 4].copy_from_slice(b"/bil");
    fs::write(workshop.at("foreign"), binary).unwrap();
    workshop.mode("foreign", 0o755);
    let error = check(&program(&workshop.at("foreign")))
        .unwrap()
        .call(&CALL)
        .unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(
        error
            .message
            .ends_with("cannot be started: the loader that it names is missing"),
        "{error}"
    );
}
