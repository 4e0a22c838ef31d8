//! The command line: what it looks like, and what happens before and after a command.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::app::{App, NodeOverride};
use crate::commands::{adopt, destroy, doctor, hold, init, kdf, keyring, recover, run, slot, status, unseal};
use crate::config::{Config, DEFAULT_PATH, Log};
use crate::credentials::Asking;
use crate::error::Error;
use crate::exit::Exit;
use crate::places;
use crate::report::{self, Format, Progress, Report};

/// What sets the options of every command apart from a command's own.
const GLOBAL: &str = "Options of every command";

/// Keeps Vault and OpenBao servers unsealed, with key shares that only this machine can read.
#[derive(Parser)]
#[command(
    name = "unsealer",
    version,
    disable_help_subcommand = true,
    after_help = "Exit status: 0 done, 1 error, 2 sealed or not all open, 3 held, 4 needs a credential or a person, \
                  5 refused because what stands is ambiguous, 6 another unsealer is at work, 64 usage.\n\
                  State is in $STATE_DIRECTORY or /var/lib/unsealer. VAULT_ADDR, VAULT_CACERT and kin (or BAO_…) are used \
                  where the configuration has no node. UNSEALER_LOG=debug tells more on stderr."
)]
struct CommandLine {
    /// The configuration file.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE", env = "UNSEALER_CONFIG")]
    config: Option<PathBuf>,
    /// How results are written.
    #[arg(long, global = true, help_heading = GLOBAL, value_enum, default_value_t, env = "UNSEALER_OUTPUT")]
    output: Format,
    /// Never ask anybody: what would have to be typed is an error.
    #[arg(long, global = true, help_heading = GLOBAL, env = "UNSEALER_NON_INTERACTIVE")]
    non_interactive: bool,
    /// The one server to use, instead of those in the configuration.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "URL", env = "UNSEALER_ADDRESS")]
    address: Option<String>,
    /// The CA of the server given by --address or VAULT_ADDR.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE", env = "UNSEALER_CA_FILE")]
    ca_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Initialise a fresh server and seal its key shares away in a new keyring.
    Init(init::Arguments),
    /// Open every sealed node once, but those that are held.
    Unseal,
    /// Keep every node unsealed: the daemon. Runs until it is told to end.
    Run,
    /// Hold a node: what is sealed stays sealed, over restarts of the server, the daemon and the machine.
    Hold(hold::Arguments),
    /// End a hold.
    Release {
        /// The node; all of them if left out.
        node: Option<String>,
    },
    /// Take over a server that runs already: its key shares go into a new keyring.
    Adopt(adopt::Arguments),
    /// Open the keyring with a recovery identity, drop the slots that are dead, and enrol this machine.
    Recover(recover::Arguments),
    /// Destroy the keyring: retire all that its slots have on devices, remove its files.
    Destroy(destroy::Arguments),
    /// How the servers are, and what is known of the keyring. Opens nothing.
    ///
    /// A daemon that runs is asked, unless --address names a server: it knows since when a node is as it is. Without one the
    /// servers are asked. A line for each node, with what to do below it: `node NAME (ADDRESS): HOW IT IS`. As JSON each of
    /// `nodes` has name, address, state, open and detail, and `held`, `hint` and `since_s`, which may be null; whatever else it
    /// has may change. Exit status: 0 every node is open, 3 what is not is sealed and held, 2 otherwise.
    Status,
    /// Would the next reboot unseal? Looks at everything that this hangs on, and changes nothing.
    ///
    /// Opens every slot as the daemon would, with nobody there; asks every server; looks at files, recovery, the rotation
    /// credential, and at what earlier commands have left. As JSON each of `findings` has level (ok, warning, problem), check,
    /// name, what, hint and details. Exit status, for cron: 0 it would, with or without warnings; 1 there is a problem; 4 it
    /// would wait for a person.
    Doctor,
    /// The slots of the keyring.
    #[command(subcommand)]
    Slot(slot::Command),
    /// The keyring file.
    #[command(subcommand)]
    Keyring(keyring::Command),
    /// Look at a KDF executable.
    #[command(subcommand)]
    Kdf(kdf::Command),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The whole `main` of the unsealer, once its process is hardened.
pub fn run() -> Exit {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(usage) => {
            // Help and version are errors to clap; it prints them to stdout.
            let _ = usage.print();
            return if usage.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
        }
    };
    let format = command_line.output;
    report::finish(format, execute(command_line))
}

fn execute(command_line: CommandLine) -> Result<Report, Error> {
    let CommandLine {
        config,
        output,
        non_interactive,
        address,
        ca_file,
        command,
    } = command_line;
    let mut refusal = None;
    let state = places::state_folder();
    match command {
        Command::Completions { shell } => return Ok(completions(shell)),
        // They touch no state, so whoever runs them may.
        Command::Kdf(_) => {}
        // They only look: no folder is made for them.
        Command::Status | Command::Doctor if !state.exists() => {}
        Command::Status => match places::act_as_owner(&state) {
            Err(error @ Error::WrongUser { .. }) => refusal = Some(error),
            outcome => outcome?,
        },
        _ => places::act_as_owner(&state)?,
    }
    // After the change of user, which would undo it.
    kdf_api::hardening::harden_process()
        .and_then(|()| kdf_api::host::become_subreaper())
        .map_err(|error| Error::file("harden the process", Path::new("/proc/self"), error))?;
    let runs = matches!(command, Command::Run);
    let config_file = config.clone().unwrap_or_else(|| DEFAULT_PATH.into());
    if !runs {
        start_log(output, "error");
    }
    let config = match &config {
        Some(path) => Config::load(path, true),
        None => Config::load(Path::new(DEFAULT_PATH), false),
    };
    let asking = if non_interactive {
        Asking::Forbidden
    } else {
        Asking::Allowed
    };
    let over = NodeOverride { address, ca_file };
    let put_together = |config| App::new(config, over, Progress::new(output), asking);
    if let Some(refusal) = refusal {
        return status::run_for_others(config.and_then(put_together), refusal);
    }
    let config = config?;
    if runs {
        // Only the configuration says how the daemon's log is written.
        let format = match config.daemon.log {
            Log::Json => Format::Json,
            Log::Text => output,
        };
        start_log(format, "info");
    }
    let app = put_together(config)?;
    match command {
        Command::Init(arguments) => init::run(&app, &arguments),
        Command::Unseal => unseal::run(&app),
        Command::Run => run::run(app, config_file),
        Command::Hold(arguments) => hold::hold(&app, &arguments),
        Command::Release { node } => hold::release(&app, node.as_deref()),
        Command::Adopt(arguments) => adopt::run(&app, &arguments),
        Command::Recover(arguments) => recover::run(&app, &arguments),
        Command::Destroy(arguments) => destroy::run(&app, &arguments),
        Command::Status => status::run(&app),
        Command::Doctor => doctor::run(&app, &config_file),
        Command::Slot(command) => slot::run(&app, &command),
        Command::Keyring(command) => keyring::run(&app, &command),
        Command::Kdf(command) => kdf::run(&app, command),
        Command::Completions { shell } => Ok(completions(shell)),
    }
}

fn completions(shell: clap_complete::Shell) -> Report {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), "unsealer", &mut script);
    let script = String::from_utf8_lossy(&script).trim_end().to_owned();
    Report::done(script.clone(), script.into())
}

/// Logs go to stderr, where a service manager picks them up; by default only what an operator should look at.
fn start_log(format: Format, usual: &str) {
    let filter = EnvFilter::try_from_env("UNSEALER_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second subscriber cannot be set; the first one then serves.
    let _ = match format {
        Format::Text => log.with_ansi(false).try_init(),
        Format::Json => log.json().try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }
}
