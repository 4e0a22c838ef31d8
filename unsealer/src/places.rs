//! Where things are, and as whom we act.
//!
//! State belongs to one user, usually the service user `unsealer`. A command that root runs acts as the owner of the state
//! folder, so that no file in it ever belongs to somebody else; anybody else is told the `sudo -u` line. Files that the
//! command line names are the caller's all the same ([`crate::files`]).

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::process::{Gid, Uid};

use crate::error::Error;

const DEFAULT_STATE: &str = "/var/lib/unsealer";
/// The service user that packages create.
const SERVICE_USER: &str = "unsealer";

/// The state folder: `$STATE_DIRECTORY` as a service manager sets it (the first, if it names several), or
/// `/var/lib/unsealer`.
pub fn state_folder() -> PathBuf {
    let from_environment = std::env::var_os("STATE_DIRECTORY").filter(|value| !value.is_empty());
    from_environment.map_or_else(
        || DEFAULT_STATE.into(),
        |value| match value.to_str().and_then(|text| text.split(':').next()) {
            Some(first) => first.into(),
            None => value.into(),
        },
    )
}

/// A user as `/etc/passwd` has it. Users of a directory service are known by number only.
#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

fn users() -> Vec<User> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(User { name, uid, gid })
        })
        .collect()
}

/// The groups of which a user is a member, its own among them.
fn groups_of(user: &User) -> Vec<Gid> {
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let listed = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let gid: u32 = fields.nth(2)?.parse().ok()?;
        fields
            .next()?
            .split(',')
            .any(|member| member == user.name)
            .then_some(gid)
    });
    std::iter::once(user.gid)
        .chain(listed)
        .map(Gid::from_raw)
        .collect()
}

/// A user as people know it: by name, or `#` and the number where there is none.
pub(crate) fn user_name(uid: u32) -> String {
    let user = users().into_iter().find(|user| user.uid == uid);
    user.map_or_else(|| format!("#{uid}"), |user| user.name)
}

/// The state folder whose owner we are, or have become.
static OWNED: OnceLock<PathBuf> = OnceLock::new();

/// As whom we act, for somebody to whom something was denied.
pub(crate) fn acting_as() -> String {
    let user = user_name(rustix::process::geteuid().as_raw());
    match OWNED.get() {
        Some(state) => format!(
            "unsealer acts as the user {user}, who owns the state folder {}, also where root runs it: give that user access",
            state.display()
        ),
        None => {
            format!("unsealer acts as the user {user}: run this as root, or as the owner of the folder")
        }
    }
}

/// Becomes the owner of the state folder if we are root; refuses if we are somebody else. Linux changes the user of a
/// thread: threads that are started later are that owner, one that was started before stays who it was. So this comes
/// before all others but that of [`crate::files`].
///
/// As root and without a folder, it is made for the service user if there is one.
pub fn act_as_owner(state: &Path) -> Result<(), Error> {
    let us = rustix::process::geteuid().as_raw();
    let owner = match state.metadata() {
        Ok(metadata) => metadata.uid(),
        Err(error) if error.kind() == io::ErrorKind::NotFound && us == 0 => {
            match users().into_iter().find(|user| user.name == SERVICE_USER) {
                Some(user) => make_for(state, &user)?,
                None => us,
            }
        }
        // Making or opening it fails with a message of its own.
        Err(_) => return Ok(()),
    };
    if owner == us {
        let _ = OWNED.set(state.to_owned());
        return Ok(());
    }
    let owner = users()
        .into_iter()
        .find(|user| user.uid == owner)
        .unwrap_or_else(|| User {
            name: format!("#{owner}"),
            uid: owner,
            gid: state.metadata().map_or(owner, |metadata| metadata.gid()),
        });
    if us != 0 {
        return Err(Error::WrongUser {
            path: state.to_owned(),
            owner: owner.name,
            uid: us,
        });
    }
    become_user(&owner).map_err(|error| Error::file("act as the owner of", state, error))?;
    let _ = OWNED.set(state.to_owned());
    Ok(())
}

fn make_for(state: &Path, user: &User) -> Result<u32, Error> {
    make_folders_above(state)
        .and_then(|()| std::fs::DirBuilder::new().mode(0o700).create(state))
        .and_then(|()| chown(state, Some(user.uid), Some(user.gid)))
        .map_err(|error| Error::file("make the state folder", state, error))?;
    Ok(user.uid)
}

/// Makes what is missing above a folder. Everybody may pass there, whatever the umask: the service user has to.
fn make_folders_above(folder: &Path) -> io::Result<()> {
    let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) else {
        return Ok(());
    };
    if above.try_exists()? {
        return Ok(());
    }
    make_folders_above(above)?;
    std::fs::create_dir(above)?;
    std::fs::set_permissions(above, Permissions::from_mode(0o755))
}

fn become_user(user: &User) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_groups(&groups_of(user))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_service_user_can_reach_a_folder_that_root_made_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let user = User {
            name: "us".to_owned(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        let mode = |path: &str| folder.path().join(path).metadata().unwrap().mode() & 0o7777;
        let before = mode(".");
        assert_eq!(
            make_for(&folder.path().join("a/b/state"), &user).unwrap(),
            user.uid
        );
        assert_eq!((mode("a"), mode("a/b"), mode("a/b/state")), (0o755, 0o755, 0o700));
        assert_eq!(mode("."), before, "what was there stays as it was");
        make_for(&folder.path().join("state"), &user).unwrap();
        assert_eq!(mode("state"), 0o700);
    }
}
