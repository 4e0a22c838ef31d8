//! Files that the operator names, where root acts as the service user: in a folder that this user cannot enter they are read
//! and written all the same, and what is written is root's.
//!
//! As root the service user is one of no other use. As anybody else we are that user ourselves, and what is proven is what is
//! left: the commands read and write what is ours alone. It says which.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::people::{Person, is_private, recovery_line};
use unsealer_tests::process::{Finished, bin, run};
use unsealer_tests::site::Site;

use crate::{LIMIT, assert_says, kit_shares, private_folder};

/// A user that has no name here, and nothing but a state folder.
const SERVICE: u32 = 61_234;

fn us() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The service user.
fn service() -> u32 {
    if us() == 0 { SERVICE } else { us() }
}

/// A machine as a package makes it: programs and configuration for all to read, the state folder for the service user alone.
#[expect(clippy::print_stdout, reason = "for who runs the test")]
fn packaged(address: &str, people: &[&Person]) -> Site {
    if us() != 0 {
        println!("not root: the service user is ourselves, and files that are root's alone are not tried");
    }
    let site = Site::new(address);
    fs::set_permissions(site.folder(), Permissions::from_mode(0o755)).unwrap();
    for name in ["unsealer", "kdf-file"] {
        // Another process writes them, as `write_program` explains.
        let mut copy = Command::new("/usr/bin/install");
        copy.arg("--mode=755").arg(bin(name)).arg(site.folder());
        assert!(run(&mut copy, b"", LIMIT).status.success());
    }
    for folder in [site.keys(), site.state()] {
        private_folder(&folder);
        chown(folder, Some(service()), Some(service())).unwrap();
    }
    let (program, keys) = (
        site.folder().join("kdf-file"),
        format!("{}/", site.keys().display()),
    );
    let unsealer = site.folder().join("unsealer");
    let mut site = site
        .slot("file", &program, &[("path", &keys)])
        .slot("spare", &program, &[("path", &keys)])
        .unsealer(unsealer);
    site.rewrite_config(|config| recovery_line(people) + config);
    site
}

/// A folder that its owner alone can enter.
struct Safe(TempDir);

impl Safe {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

/// A command to which a shell gives more.
fn in_shell(site: &Site, script: &str, arguments: &[&str], input: &[u8]) -> Finished {
    let plain = site.command(arguments);
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", script])
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(&mut command, input, LIMIT)
}

/// A pipe of ours as descriptor 3.
const PIPED: &str = "cat | exec \"$0\" \"$@\" 3<&0 0</dev/null";

#[track_caller]
fn assert_owners(site: &Site) {
    for folder in [site.state(), site.keys()] {
        let entries: Vec<_> = fs::read_dir(folder).unwrap().collect();
        assert!(!entries.is_empty());
        for entry in entries {
            let entry = entry.unwrap();
            let uid = entry.metadata().unwrap().uid();
            assert_eq!(uid, service(), "{}", entry.path().display());
        }
    }
}

#[track_caller]
fn assert_ours(file: &str) {
    let metadata = Path::new(file).metadata().unwrap();
    assert_eq!(
        (metadata.uid(), is_private(Path::new(file))),
        (us(), true),
        "{file}"
    );
}

#[test]
fn what_the_caller_names_is_read_and_written_as_the_caller() {
    let (person, host) = (Person::new(), Person::new());
    let server = OpenBao::start(Storage::Inmem);
    let a = packaged(&server.address(), &[&person]);
    a.expect(&["init"], 0);
    let safe = Safe::new();
    let (kit, copy, carried) = (
        safe.path("kit.age"),
        safe.path("keyring.json"),
        safe.path("shares.age"),
    );
    let commands: [&[&str]; 3] = [
        &["keyring", "backup", &copy],
        &["keyring", "kit", "--to", &kit],
        &["keyring", "share", "--to", host.recipient(), "--out", &carried],
    ];
    for (command, file) in commands.into_iter().zip([&copy, &kit, &carried]) {
        a.expect(command, 0);
        assert_ours(file);
        // What is there stays.
        let before = fs::read(file).unwrap();
        assert_says(&a.expect(command, 1), &[file, "it is there already"]);
        assert_eq!(fs::read(file).unwrap(), before);
    }
    assert_eq!(
        safe.files().len(),
        3,
        "and nothing beside them: {:?}",
        safe.files()
    );
    assert_owners(&a);
    assert_eq!(fs::read(&copy).unwrap(), fs::read(a.keyring()).unwrap());
    let in_kit = |kit: &Path| kit_shares(&person.opens(&fs::read(kit).unwrap()).unwrap());
    assert_eq!(in_kit(Path::new(&kit)).lines().count(), 5);
    // The kit in the state folder is the service user's.
    a.expect(&["keyring", "kit"], 0);
    assert_owners(&a);

    // What was written is read again.
    assert_eq!(fs::read_dir(a.keys()).unwrap().count(), 2);
    a.expect(&["keyring", "restore", &copy, "--yes"], 0);
    let b = packaged(&server.address(), &[&person]);
    b.expect(&["adopt", "--from", &carried, "--identity", &host.file_name()], 0);
    b.expect(&["keyring", "kit"], 0);
    assert_eq!(
        in_kit(&b.state().join("recovery-kit.age")),
        in_kit(Path::new(&kit))
    );
    assert_owners(&b);
    // From a pipe, too.
    let identity = host.file_name();
    let again = [
        "adopt",
        "--replace",
        "--from",
        "/dev/fd/3",
        "--identity",
        &identity,
    ];
    let finished = in_shell(&b, PIPED, &again, &fs::read(&carried).unwrap());
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert_says(&finished, &["the keyring has these shares already"]);
    // Both slots are dead.
    for key in fs::read_dir(b.keys()).unwrap() {
        fs::remove_file(key.unwrap().path()).unwrap();
    }
    let recover = ["recover", "--recovery-identity", &person.file_name()];
    b.expect(&recover, 0);
    b.expect(&["keyring", "verify", "--deep"], 0);
    assert_owners(&b);
}

#[test]
fn what_fails_leaves_no_file_and_says_as_whom_it_was_opened() {
    let person = Person::new();
    let server = OpenBao::start(Storage::Inmem);
    let site = packaged(&server.address(), &[&person]);
    site.expect(&["init"], 0);
    let safe = Safe::new();
    let (out, none) = (safe.path("out"), safe.path("none"));
    let as_us = if us() == 0 {
        "as root: ".to_owned()
    } else {
        String::new()
    };
    let recover = ["recover", "--recovery-identity", &none];
    let adopt = ["adopt", "--replace", "--from", &none];
    let restore = ["keyring", "restore", &none, "--yes"];
    for command in [&recover[..], &adopt, &restore] {
        assert_says(
            &site.expect(command, 1),
            &["cannot read ", &format!("{none} {as_us}"), "No such file"],
        );
    }
    let nowhere = safe.path("none/out");
    assert_says(
        &site.expect(&["keyring", "backup", &nowhere], 1),
        &[&format!("{nowhere} {as_us}"), "No such file"],
    );

    // No slot opens: there is nothing to write.
    let away = site.folder().join("away");
    fs::rename(site.keys(), &away).unwrap();
    for command in [
        &["keyring", "backup", &out][..],
        &["keyring", "kit", "--to", &out],
        &["keyring", "share", "--to", person.recipient(), "--out", &out],
    ] {
        site.expect(command, 1);
        assert_eq!(safe.files(), [""; 0].map(PathBuf::from));
    }
    fs::rename(&away, site.keys()).unwrap();
    site.expect(&["keyring", "backup", &out], 0);

    // Not ours to read: nobody is let in who was not before.
    if us() != 0 {
        fs::set_permissions(&out, Permissions::from_mode(0o000)).unwrap();
        let denied = site.expect(&["keyring", "restore", &out, "--yes"], 1);
        assert_says(&denied, &["Permission denied", "as whoever runs the command"]);
    }
}

/// What is not named is the service user's, and an error says who that is.
#[test]
fn what_is_denied_names_the_user_that_is_acted_as() {
    let person = Person::new();
    let server = OpenBao::start(Storage::Inmem);
    let site = packaged(&server.address(), &[&person]);
    site.expect(&["init"], 0);
    fs::set_permissions(site.keyring(), Permissions::from_mode(0o000)).unwrap();
    let denied = site.expect(&["keyring", "verify"], 1);
    let state = site.state().display().to_string();
    assert_says(
        &denied,
        &[
            "Permission denied",
            "unsealer acts as the user ",
            &format!(", who owns the state folder {state}"),
        ],
    );
    let said = denied.stderr_text();
    assert!(!said.contains("run this as root"), "{said}");
    if us() == 0 {
        assert_says(&denied, &[&format!("the user #{SERVICE}, ")]);
    }
}

#[test]
fn a_credential_comes_by_a_pipe_of_the_caller() {
    let person = Person::new();
    let server = OpenBao::start(Storage::Inmem);
    let mut site = packaged(&server.address(), &[&person]);
    site.expect(&["init"], 0);
    site.leave_slot("file");
    let site = site.config("[slot.file.credentials]\npin = \"fd:3\"\n");
    let test = ["slot", "test", "file"];
    let piped = in_shell(&site, PIPED, &test, b"1234\n");
    assert_eq!(piped.code(), 0, "{piped:?}");
    // A file that the caller alone can read, open already.
    let safe = Safe::new();
    let pin = safe.path("pin");
    fs::write(&pin, "1234\n").unwrap();
    fs::set_permissions(&pin, Permissions::from_mode(0o600)).unwrap();
    let opened = in_shell(&site, &format!("exec \"$0\" \"$@\" 3<{pin}"), &test, b"");
    assert_eq!(opened.code(), 0, "{opened:?}");

    // The control: without it there is no credential. What is opened by us is never taken for it, whatever its number.
    let without = in_shell(&site, "exec \"$0\" \"$@\"", &test, b"");
    assert_eq!(without.code(), 4, "{without:?}");
    assert_says(&without, &["the credential pin: descriptor 3 cannot be read"]);
    let copy = safe.path("copy");
    fs::copy(site.keyring(), &copy).unwrap();
    let restore = ["keyring", "restore", &copy, "--yes"];
    let without = in_shell(&site, "exec \"$0\" \"$@\"", &restore, b"");
    assert_eq!(without.code(), 5, "{without:?}");
    assert_says(&without, &["the credential pin: descriptor 3 cannot be read"]);
}
