//! A pinned program: copied into memory while it is hashed, so that what was hashed is what runs.
//!
//! Comparing a file's hash and then running the file would leave a moment in between. The copy is sealed: nobody, not even
//! we, can change it afterwards (`memfd_create(2)`, `F_ADD_SEALS` in fcntl(2)).

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::error::{Code, Error, Result};

const CHUNK: usize = 64 * 1024;

/// A sealed copy of the file, if its SHA-256 is one of `pins`.
pub(super) fn pinned_copy(file: &OwnedFd, path: &Path, pins: &[[u8; 32]]) -> Result<OwnedFd> {
    let copy = memory_file(path)?;
    let failed = |error: Errno| {
        let message = format!(
            "{} cannot be copied into memory: {}",
            path.display(),
            std::io::Error::from(error)
        );
        Error::new(Code::Unavailable, message)
    };
    let hash = copy_hashed(file, &copy).map_err(failed)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals).map_err(failed)?;
    if pins.contains(&hash) {
        return Ok(copy);
    }
    let hash = hex(&hash);
    Err(Error::new(
        Code::Insecure,
        format!(
            "{} is not the pinned program: its SHA-256 is {hash}",
            path.display()
        ),
    )
    .hint("if it was updated on purpose, add that hash to the configured sha256"))
}

fn copy_hashed(file: &OwnedFd, copy: &OwnedFd) -> rustix::io::Result<[u8; 32]> {
    let mut chunk = vec![0; CHUNK];
    let mut hasher = Sha256::new();
    let mut offset = 0;
    loop {
        let count = rustix::io::retry_on_intr(|| rustix::io::pread(file, chunk.as_mut_slice(), offset))?;
        let mut rest = chunk.get(..count).unwrap_or_default();
        if rest.is_empty() {
            return Ok(hasher.finalize().into());
        }
        hasher.update(rest);
        offset += count as u64;
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(copy, rest))?;
            rest = rest.get(written..).unwrap_or_default();
        }
    }
}

fn memory_file(path: &Path) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // The name is seen in /proc/PID/exe.
    let name = path.file_name().unwrap_or_default();
    rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC)
        // Before Linux 6.3 every memory file can be executed, and the flag is not known.
        .or_else(|error| {
            if error == Errno::INVAL {
                rustix::fs::memfd_create(name, flags)
            } else {
                Err(error)
            }
        })
        .map_err(|error| {
            let reason = std::io::Error::from(error);
            let message = format!(
                "there is no executable memory for the pinned {}: {reason}",
                path.display()
            );
            let error_is_policy = error == Errno::ACCESS;
            let error = Error::new(Code::Unavailable, message);
            if error_is_policy {
                error.hint("the system forbids it: sysctl vm.memfd_noexec=1 allows it")
            } else {
                error
            }
        })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_copy_is_whole_and_nobody_can_change_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &content).unwrap();
        let file: OwnedFd = std::fs::File::open(&path).unwrap().into();
        let hash = Sha256::digest(&content).into();

        let copy = pinned_copy(&file, &path, &[[0; 32], hash]).unwrap();
        let mut read = vec![0; content.len() + 1];
        assert_eq!(
            rustix::io::pread(&copy, read.as_mut_slice(), 0).unwrap(),
            content.len().min(read.len())
        );
        assert!(read.starts_with(&content));
        assert_eq!(rustix::io::pwrite(&copy, b"x", 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&copy, 0), Err(Errno::PERM));
        assert_eq!(
            rustix::fs::fcntl_add_seals(&copy, SealFlags::WRITE),
            Err(Errno::PERM)
        );

        let error = pinned_copy(&file, &path, &[[0; 32]]).unwrap_err();
        assert_eq!(error.code, Code::Insecure);
        assert!(error.message.ends_with(&hex(&hash)), "{error}");
    }
}
