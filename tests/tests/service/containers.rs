//! `packaging/compose`, `packaging/kubernetes` and `packaging/container`: read by the schemas of docker-compose and of the
//! Kubernetes client, and what they promise the daemon tried out: a read-only root, a user by number, one writable folder.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use unsealer::config::{Config, Listen};
use unsealer_tests::openbao::{OpenBao, Storage};
use unsealer_tests::process::{Finished, run};
use unsealer_tests::site::{Site, source};
use unsealer_tests::tree::Tree;
use unsealer_tests::wait;

use crate::manager::Managed;
use crate::{LIMIT, is_root, python, yaml};

/// The user of the image, by number.
const USER: u32 = 64200;
/// The one folder that it may write.
const STATE: &str = "/var/lib/unsealer";

fn text(path: &str) -> String {
    fs::read_to_string(source(path)).unwrap()
}

/// Debian's docker-compose reads the file by the schema of the Compose specification, and prints what it understood.
fn compose(file: &Path) -> Finished {
    let mut command = Command::new("/usr/bin/docker-compose");
    command
        .args(["--file"])
        .arg(file)
        .arg("config")
        .env("TSS_GID", "104");
    run(&mut command, b"", LIMIT)
}

#[test]
fn compose_follows_its_schema_and_gives_the_daemon_little() {
    let finished = compose(&source("packaging/compose/compose.yaml"));
    assert_eq!(
        finished.code(),
        0,
        "run: scripts/setup-debian docker-compose\n{finished:?}"
    );
    let understood = &yaml(&finished.stdout_text())[0]["services"]["unsealer"];
    assert_eq!(understood["user"], format!("{USER}:{USER}"));
    assert_eq!(understood["read_only"], true);
    assert_eq!(understood["cap_drop"], json!(["ALL"]));
    assert_eq!(understood["security_opt"], json!(["no-new-privileges:true"]));
    assert_eq!(understood["devices"], json!(["/dev/tpmrm0:/dev/tpmrm0:rw"]));
    assert_eq!(understood["group_add"], json!(["104"]));
    assert_eq!(understood["environment"], json!({"RUNTIME_DIRECTORY": STATE}));
    assert_eq!(understood.get("privileged"), None);
    let volumes: Vec<_> = understood["volumes"].as_array().unwrap().iter().collect();
    let writable = volumes.iter().filter(|volume| volume.get("read_only").is_none());
    let writable: Vec<_> = writable
        .map(|volume| volume.as_str().unwrap_or_default())
        .filter(|volume| !volume.ends_with(":ro"))
        .collect();
    assert_eq!(writable, [format!("unsealer-state:{STATE}:rw")], "{volumes:?}");

    // Positive control: a word that the schema does not have.
    let folder = tempfile::tempdir().unwrap();
    let misspelt = folder.path().join("compose.yaml");
    let changed = text("packaging/compose/compose.yaml").replace("read_only:", "readonly:");
    fs::write(&misspelt, changed).unwrap();
    let refused = compose(&misspelt);
    assert_ne!(refused.code(), 0);
    assert!(refused.stderr_text().contains("readonly"), "{refused:?}");

    let config = Config::parse(&text("packaging/compose/config/config.toml"), "compose").unwrap();
    is_a_container_configuration(&config);
    // Between containers nothing goes in clear.
    assert!(config.node[0].address.starts_with("https://openbao:"));
}

/// Reads a document by the classes of the Kubernetes client, which are made from the API's own description: a field that is
/// unknown, of another type, or lacking, is an error.
const CHECK: &str = r"
import json, re, sys, yaml
from kubernetes.client import models

SCALARS = {'str': str, 'int': int, 'bool': bool, 'float': float}

def check(value, kind, at):
    if kind.startswith('list['):
        if not isinstance(value, list): raise ValueError(f'{at} is no list')
        return [check(item, kind[5:-1], f'{at}[{i}]') for i, item in enumerate(value)]
    if kind.startswith('dict('):
        if not isinstance(value, dict): raise ValueError(f'{at} is no map')
        inner = kind[5:-1].split(', ', 1)[1]
        return {key: check(item, inner, f'{at}.{key}') for key, item in value.items()}
    if kind in SCALARS:
        # Python has a bool for an int, and Kubernetes has not.
        if type(value) is not SCALARS[kind]: raise ValueError(f'{at} is no {kind}: {value!r}')
        return value
    if kind == 'object':
        return value
    model = getattr(models, kind)
    names = {name: attribute for attribute, name in model.attribute_map.items()}
    if not isinstance(value, dict): raise ValueError(f'{at} is no {kind}')
    for name in value:
        if name not in names: raise ValueError(f'{at} has no field {name}')
    made = {names[name]: check(item, model.openapi_types[names[name]], f'{at}.{name}') for name, item in value.items()}
    return model(**made)

documents = list(yaml.safe_load_all(sys.stdin))
faults = []
for document in documents:
    try:
        check(document, 'V1' + document['kind'], document['kind'])
    except ValueError as error:
        faults.append(str(error))
json.dump({'documents': documents, 'faults': faults}, sys.stdout)
";

fn kubernetes(text: &str) -> (Vec<Value>, Vec<Value>) {
    let checked = python("python3-kubernetes python3-yaml", CHECK, &[], text);
    let list = |name: &str| checked[name].as_array().unwrap().clone();
    (list("documents"), list("faults"))
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents
        .iter()
        .find(|document| document["kind"] == kind)
        .unwrap()
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut items = list.as_array().unwrap().iter();
    items
        .find(|item| item["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {list}"))
}

#[test]
fn kubernetes_follows_its_schema_and_gives_the_daemon_little() {
    let manifest = text("packaging/kubernetes/openbao.yaml");
    let (documents, faults) = kubernetes(&manifest);
    assert_eq!(faults, Vec::<Value>::new());
    let set = of_kind(&documents, "StatefulSet");
    assert_eq!(
        set["spec"]["selector"]["matchLabels"],
        set["spec"]["template"]["metadata"]["labels"]
    );
    assert_eq!(
        set["spec"]["serviceName"],
        of_kind(&documents, "Service")["metadata"]["name"]
    );
    let pod = &set["spec"]["template"]["spec"];
    // It would make the state folder writable by a group.
    assert_eq!(pod["securityContext"].get("fsGroup"), None);
    let unsealer = named(&pod["containers"], "unsealer");
    let expected = json!({
        "runAsUser": USER, "runAsGroup": USER, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    });
    assert_eq!(unsealer["securityContext"], expected);
    let writable: Vec<_> = unsealer["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|mount| mount["readOnly"] != true)
        .collect();
    assert_eq!(
        writable,
        [&json!({"name": "data", "mountPath": STATE, "subPath": "unsealer"})]
    );
    assert_eq!(named(&unsealer["env"], "RUNTIME_DIRECTORY")["value"], STATE);
    // A plain configMap volume is a folder that everybody can write.
    assert!(named(&pod["volumes"], "config")["projected"].is_object());

    // Positive controls: a field that is misspelt, of another type, lacking.
    for (right, wrong, fault) in [
        (
            "readOnlyRootFilesystem: true",
            "readOnlyRootFileSystem: true",
            "readOnlyRootFileSystem",
        ),
        ("runAsUser: 64200", "runAsUser: \"64200\"", "is no int"),
        ("serviceName: openbao", "replicas: 3", "service_name"),
    ] {
        assert!(manifest.contains(right), "{right}");
        let (_, faults) = kubernetes(&manifest.replacen(right, wrong, 1));
        let said = faults.iter().any(|said| said.as_str().unwrap().contains(fault));
        assert!(said, "{wrong}: {faults:?}");
    }
}

#[test]
fn the_configuration_of_kubernetes_is_read() {
    let (documents, faults) = kubernetes(&text("packaging/kubernetes/config.yaml"));
    assert_eq!(faults, Vec::<Value>::new());
    let ours = documents
        .iter()
        .find(|map| map["metadata"]["name"] == "unsealer")
        .unwrap();
    let config = Config::parse(ours["data"]["config.toml"].as_str().unwrap(), "kubernetes").unwrap();
    is_a_container_configuration(&config);
    // Beside its server: on the pod's own loopback, where nothing has to be encrypted.
    let address = config.node[0].address.strip_prefix("http://").unwrap();
    let server = documents
        .iter()
        .find(|map| map["metadata"]["name"] == "openbao")
        .unwrap();
    let server = server["data"]["server.hcl"].as_str().unwrap();
    assert!(server.contains(&format!("= \"{address}\"")), "{server}");
}

fn is_a_container_configuration(config: &Config) {
    assert!(config.slot.contains_key("tpm"));
    // The port that the manifests ask for its health.
    let listen = Listen::Tcp("127.0.0.1:9460".parse().unwrap());
    assert_eq!(config.daemon.listen, Some(listen));
}

#[test]
fn the_image_has_what_is_installed_and_the_user_that_the_manifests_name() {
    let image = text("packaging/container/Containerfile");
    let line = |start: &str| image.lines().find_map(|line| line.strip_prefix(start));
    assert_eq!(line("USER "), Some(format!("{USER}:{USER}").as_str()));
    assert_eq!(line("ENV "), Some(format!("RUNTIME_DIRECTORY={STATE}").as_str()));
    assert!(
        image.contains(&format!("-m 0700 -o {USER} -g {USER} {STATE}\n")),
        "{image}"
    );
    let staging = tempfile::tempdir().unwrap();
    Tree::new().make("install", "/usr", staging.path());
    let copies = image
        .lines()
        .filter_map(|line| line.strip_prefix("COPY staging/"));
    let copies: Vec<_> = copies.map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(copies.len(), 2);
    for copied in copies {
        assert!(staging.path().join(copied).exists(), "{copied}");
    }
    // What starts it, and what is asked of its health, is where the image has it.
    assert!(image.contains("ENTRYPOINT [\"/usr/bin/unsealer\"]"));
    assert!(staging.path().join("usr/bin/unsealer").exists());
}

/// A container by hand: nothing can be written but one folder, which belongs to a user without a name.
struct Container {
    site: Site,
    state: std::path::PathBuf,
}

impl Container {
    fn new(address: &str) -> Self {
        let site = Site::new(address).file_slot("file");
        fs::set_permissions(site.folder(), Permissions::from_mode(0o755)).unwrap();
        let image = site.folder().join("image");
        Tree::new().make("install", "/usr", &image);
        let state = site.state();
        // The key lies beside the keyring: this is about folders, and not about secrets.
        for folder in [&state, &site.keys()] {
            fs::create_dir_all(folder).unwrap();
            fs::set_permissions(folder, Permissions::from_mode(0o700)).unwrap();
            if is_root() {
                chown(folder, Some(USER), Some(USER)).unwrap();
            }
        }
        let mut site = site
            .unsealer(image.join("usr/bin/unsealer"))
            .environment("RUNTIME_DIRECTORY", state.to_str().unwrap());
        let (built, installed) = (
            unsealer_tests::process::bin("kdf-file"),
            image.join("usr/libexec/unsealer/kdf-file"),
        );
        site.rewrite_config(|config| config.replace(built.to_str().unwrap(), installed.to_str().unwrap()));
        Self { site, state }
    }

    /// A command in the container.
    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let plain = self.site.command(arguments);
        let mut command = Command::new("/usr/bin/unshare");
        if is_root() {
            command
                .args(["--mount", "/bin/sh", "-c", READ_ONLY])
                .args([self.site.folder(), &self.state])
                .args(["/usr/bin/setpriv", "--pdeathsig=KILL", "--clear-groups"])
                .args([format!("--reuid={USER}"), format!("--regid={USER}")])
                .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]);
        } else {
            command = Command::new("/usr/bin/env");
        }
        command
            .arg(program)
            .args(arguments)
            .env_clear()
            .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    fn unsealer(&self, arguments: &[&str]) -> Command {
        let plain = self.site.command(arguments);
        self.command(Path::new(plain.get_program()), arguments)
    }

    fn expect(&self, arguments: &[&str], code: i32) -> Finished {
        let finished = run(&mut self.unsealer(arguments), b"", LIMIT);
        assert_eq!(finished.code(), code, "{finished:?}");
        finished
    }
}

/// The folder that is given first is read-only, but for the second.
const READ_ONLY: &str = r#"
set -e
mount --make-rprivate /
mount --bind "$0" "$0"
mount --bind "$1" "$1"
mount -o remount,bind,ro "$0"
! touch "$0/written" 2>/dev/null
shift
exec "$@"
"#;

#[test]
fn it_runs_on_a_read_only_root_as_a_number_with_one_writable_folder() {
    let mut server = OpenBao::start(Storage::Raft);
    let container = Container::new(&server.address());
    // A key file has to be made before the root is closed; then, as in a container, the user is only a number.
    container.site.init();

    let mut daemon = Managed::start(
        &container.unsealer(&["run"]),
        &container.site.folder().join("manager"),
    );
    daemon.wait_for("READY=1");
    server.kill_9();
    server.restart();
    wait::until("it is unsealed", LIMIT, || !server.is_sealed());
    assert!(!daemon.log().contains("no control socket"), "{}", daemon.log());
    let socket = container.state.join("control.sock").metadata().unwrap();
    if is_root() {
        assert_eq!(socket.uid(), USER);
    }

    // The health check of compose.yaml, which the daemon answers.
    let compose = &yaml(&text("packaging/compose/compose.yaml"))[0]["services"]["unsealer"];
    let check: Vec<_> = compose["healthcheck"]["test"]
        .as_array()
        .unwrap()
        .iter()
        .collect();
    assert_eq!(check[..2], [&json!("CMD"), &json!("/usr/bin/unsealer")]);
    let arguments: Vec<_> = check[2..].iter().map(|word| word.as_str().unwrap()).collect();
    wait::until("the daemon sees it, too", LIMIT, || {
        run(&mut container.unsealer(&arguments), b"", LIMIT).code() == 0
    });
    let said = container.expect(&arguments, 0);
    assert!(said.stdout_text().contains("daemon: it runs"), "{said:?}");
}

/// The liveness probe of Kubernetes is run from within, by a shell of the image.
#[test]
fn the_probe_says_whether_the_daemon_works_and_nothing_of_the_server() {
    let server = OpenBao::start(Storage::Inmem);
    server.init_by_hand(1, 1);
    let mut site = Site::new(&server.address()).file_slot("file");
    let mut daemon = site.daemon();
    let (documents, _) = kubernetes(&text("packaging/kubernetes/openbao.yaml"));
    let pod = &of_kind(&documents, "StatefulSet")["spec"]["template"]["spec"];
    let probe = &named(&pod["containers"], "unsealer")["livenessProbe"];
    let port = daemon.metrics().split(':').next_back().unwrap().to_owned();
    let command: Vec<_> = probe["exec"]["command"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap().replace("9460", &port))
        .collect();
    let seconds = probe["timeoutSeconds"].as_u64().unwrap().to_string();
    let probe = || {
        let mut timed = Command::new("/usr/bin/timeout");
        run(timed.arg(&seconds).args(&command), b"", LIMIT).code()
    };
    wait::until("it is seen sealed", LIMIT, || {
        crate::is_in(&daemon.metrics(), "one", "sealed")
    });
    assert_eq!(probe(), 0);
    daemon.process().pause();
    assert_ne!(probe(), 0, "it hangs");
    drop(daemon);
    assert_ne!(probe(), 0, "it is gone");
}

/// The one thing that is done as root: with the capabilities that it is given there, and no others.
#[test]
fn the_folders_of_kubernetes_are_made_with_two_capabilities() {
    let (documents, _) = kubernetes(&text("packaging/kubernetes/openbao.yaml"));
    let pod = &of_kind(&documents, "StatefulSet")["spec"]["template"]["spec"];
    let folders = named(&pod["initContainers"], "folders");
    let capabilities = &folders["securityContext"]["capabilities"];
    assert_eq!(capabilities["drop"], json!(["ALL"]));
    let added = capabilities["add"].as_array().unwrap().iter();
    let added: Vec<_> = added
        .map(|name| format!("+{}", name.as_str().unwrap().to_lowercase()))
        .collect();
    let volume = tempfile::tempdir().unwrap();
    let words = folders["command"].as_array().unwrap().iter();
    let mut words: Vec<_> = words
        .map(|word| {
            word.as_str()
                .unwrap()
                .replace("/volume", volume.path().to_str().unwrap())
        })
        .collect();
    let mut command = Command::new("/usr/bin/setpriv");
    if is_root() {
        command.arg(format!("--bounding-set=-all,{}", added.join(",")));
        command.arg("--no-new-privs");
    } else {
        // Nobody else can give a folder away: what is left is that the words make sense.
        let us = rustix::process::geteuid().as_raw().to_string();
        let group = rustix::process::getegid().as_raw().to_string();
        for (owner, by) in [
            ("-o 64200", &us),
            ("-o 100", &us),
            ("-g 64200", &group),
            ("-g 1000", &group),
        ] {
            words[2] = words[2].replace(owner, &format!("{} {by}", &owner[..2]));
        }
    }
    let finished = run(command.arg("--").args(&words), b"", LIMIT);
    assert_eq!(finished.code(), 0, "{finished:?}");
    let made = volume.path().join("unsealer").metadata().unwrap();
    assert_eq!(made.mode() & 0o7777, 0o700);
    if is_root() {
        assert_eq!((made.uid(), made.gid()), (USER, USER));
    }
}
