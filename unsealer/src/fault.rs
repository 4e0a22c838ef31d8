//! Places where a test may stop the process or make a step fail.
//!
//! The product installs nothing here, so a point costs one atomic load. The crash tests have an executable of their own
//! that installs a hook and is otherwise this program.

use std::io;
use std::sync::OnceLock;

/// Called at each point with its name; an error fails the step.
pub type Hook = fn(&str) -> io::Result<()>;

static HOOK: OnceLock<Hook> = OnceLock::new();

/// Installs the hook of a test. The first one stays.
pub fn install(hook: Hook) {
    let _ = HOOK.set(hook);
}

/// Passes a point.
pub(crate) fn point(name: &str) -> io::Result<()> {
    HOOK.get().map_or(Ok(()), |hook| hook(name))
}
