//! Argon2id (RFC 9106), version 0x13: what makes each guess at a PIN cost memory and time, be the TPM broken.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use kdf_api::hardening::scrubbed;
use kdf_api::{Code, Error, Result, Secret};
use serde::{Deserialize, Serialize};
use sysinfo::{MemoryRefreshKind, ProcessRefreshKind, ProcessesToUpdate, System};
use zeroize::Zeroizing;

/// What one run costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cost {
    /// Memory in KiB.
    m_kib: u32,
    /// Passes over it.
    t: u32,
    /// Lanes.
    p: u32,
}

impl Cost {
    /// RFC 9106, section 4: the second recommended option.
    const RFC_9106_2: Self = Self {
        m_kib: 64 * 1024,
        t: 3,
        p: 4,
    };
    /// For machines with little memory.
    const SMALL: Self = Self {
        m_kib: 19 * 1024,
        t: 2,
        p: 1,
    };
    /// From this much memory on `auto` is `rfc9106-2`.
    const AMPLE: u64 = 256 * 1024 * 1024;

    /// The preset of a name, on a machine with so many bytes of memory. One run may take half of it.
    pub(crate) fn named(name: &str, memory: u64) -> Result<Self> {
        let cost = match name {
            "auto" if memory >= Self::AMPLE => Self::RFC_9106_2,
            "auto" | "small" => Self::SMALL,
            "rfc9106-2" => Self::RFC_9106_2,
            _ => {
                return Err(Error::new(
                    Code::InvalidRequest,
                    "argon2 is none of auto, rfc9106-2, small",
                ));
            }
        };
        let takes = u64::from(cost.m_kib) * 1024;
        if takes > memory / 2 {
            return Err(Error::new(
                Code::InvalidRequest,
                format!(
                    "argon2={name} takes {} MiB at every use, more than half of the {} MiB that there are",
                    takes >> 20,
                    memory >> 20
                ),
            )
            .hint("small takes 19 MiB"));
        }
        Ok(cost)
    }

    /// Refuses a cost from an enrolment that is too low to protect or too high to be ours.
    pub(crate) fn check(self) -> Result<Self> {
        let fits = (8 * 1024..=1024 * 1024).contains(&self.m_kib)
            && (1..=10).contains(&self.t)
            && (1..=16).contains(&self.p);
        if fits {
            Ok(self)
        } else {
            Err(Error::new(
                Code::InvalidRequest,
                "the enrolment's argon2 is out of bounds: m 8 MiB to 1 GiB, t 1 to 10, p 1 to 16",
            ))
        }
    }

    /// 64 bytes of Argon2id.
    pub(crate) fn hash(self, input: &[u8], salt: &[u8; 32]) -> Result<Secret> {
        let refused = |error| Error::new(Code::Internal, format!("Argon2id: {error}"));
        let mut output = Secret::zeroed(64);
        let params = Params::new(self.m_kib, self.t, self.p, Some(64)).map_err(refused)?;
        let mut memory = self.allocate(params.block_count())?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        scrubbed(|| {
            argon2.hash_password_into_with_memory(input, salt, output.expose_mut(), memory.as_mut_slice())
        })
        .map_err(refused)?;
        Ok(output)
    }

    /// Memory that is wiped afterwards. Running short is an error that passes, not the end of the process.
    fn allocate(self, blocks: usize) -> Result<Zeroizing<Vec<Block>>> {
        let mut memory = Zeroizing::new(Vec::new());
        memory.try_reserve_exact(blocks).map_err(|_| {
            Error::new(
                Code::Unavailable,
                format!(
                    "no memory for Argon2id: this enrolment takes {} MiB",
                    self.m_kib.div_ceil(1024)
                ),
            )
        })?;
        memory.resize(blocks, Block::new());
        Ok(memory)
    }
}

/// The memory that this process may use, in bytes: the machine's, or less if its cgroup has less.
pub(crate) fn memory() -> Result<u64> {
    let mut system = System::new().map_err(|error| {
        Error::new(
            Code::Unavailable,
            format!("cannot tell how much memory there is: {error}"),
        )
    })?;
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let limit = sysinfo::get_current_pid().ok().and_then(|pid| {
        system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[pid]),
            false,
            ProcessRefreshKind::nothing(),
        );
        system.process(pid)?.cgroup_limits()
    });
    let total = system.total_memory();
    Ok(limit.map_or(total, |limit| total.min(limit.total_memory)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn auto_goes_by_memory_and_takes_at_most_half_of_it() {
        assert_eq!(Cost::named("auto", 256 * MIB).unwrap(), Cost::RFC_9106_2);
        assert_eq!(Cost::named("auto", 256 * MIB - 1).unwrap(), Cost::SMALL);
        for (name, memory) in [("small", 37), ("rfc9106-2", 127), ("", 1024)] {
            let refused = Cost::named(name, memory * MIB).unwrap_err();
            assert_eq!(refused.code, Code::InvalidRequest, "{name}");
        }
    }

    #[test]
    fn bounds() {
        let cost = |m_kib, t, p| Cost { m_kib, t, p }.check().map_err(|error| error.code);
        assert!(cost(8 * 1024, 1, 1).is_ok());
        assert!(cost(1024 * 1024, 10, 16).is_ok());
        for (m_kib, t, p) in [
            (8 * 1024 - 1, 1, 1),
            (1024 * 1024 + 1, 1, 1),
            (8 * 1024, 0, 1),
            (8 * 1024, 11, 1),
            (8 * 1024, 1, 0),
            (8 * 1024, 1, 17),
        ] {
            assert_eq!(cost(m_kib, t, p), Err(Code::InvalidRequest), "{m_kib} {t} {p}");
        }
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error_that_passes() {
        let error = Cost::SMALL.allocate(usize::MAX / 2048).unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
    }
}
