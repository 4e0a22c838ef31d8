//! A service manager as small as a test can do with: a socket for what the daemon says, and the daemon itself.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use unsealer_tests::process::{Guard, dying_with_us};

use crate::LIMIT;

/// A daemon that is managed.
pub(crate) struct Managed {
    said: UnixDatagram,
    process: Guard,
    log: PathBuf,
}

impl Managed {
    /// Starts `command` with a socket in `folder`, where its log goes, too.
    pub(crate) fn start(plain: &Command, folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let (socket, log) = (folder.join("notify.sock"), folder.join("log"));
        let _ = fs::remove_file(&socket);
        let said = UnixDatagram::bind(&socket).unwrap();
        said.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        // Whoever the daemon runs as.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(&socket, open).unwrap();
        let file = File::create(&log).unwrap();
        let mut command = dying_with_us(plain.get_program().as_ref());
        command
            .args(plain.get_args())
            .env_clear()
            .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let process = Guard::spawn(command);
        Self { said, process, log }
    }

    /// The next message, if there is one within `limit`.
    pub(crate) fn hear(&mut self, limit: Duration) -> Option<String> {
        let deadline = Instant::now() + limit;
        let mut message = [0; 4096];
        while Instant::now() < deadline {
            if let Ok(length) = self.said.recv(&mut message) {
                return Some(String::from_utf8(message[..length].to_vec()).unwrap());
            }
            if let Some(status) = self.process.ended() {
                assert!(status.success(), "the daemon ended ({status}):\n{}", self.log());
            }
        }
        None
    }

    /// The next message with this line; watchdog messages before it are passed over.
    pub(crate) fn wait_for(&mut self, line: &str) -> String {
        loop {
            let message = self.hear(LIMIT);
            let message = message.unwrap_or_else(|| panic!("it never said {line}:\n{}", self.log()));
            if message.lines().any(|other| other == line) {
                return message;
            }
            assert_eq!(message.trim(), "WATCHDOG=1", "said before {line}");
        }
    }

    pub(crate) fn process(&mut self) -> &mut Guard {
        &mut self.process
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}
