//! Argon2id (RFC 9106), version 0x13: what makes each guess at a PIN, a passphrase or a fingerprint cost memory and time.
//!
//! A [`Preset`] is chosen once, at enrolment, by the option `argon2`; the [`Cost`] of it stands in the enrolment, and is
//! checked when that is read.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Deserializer, Serialize};
use sysinfo::{MemoryRefreshKind, ProcessRefreshKind, ProcessesToUpdate, System};
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::hardening::scrubbed;
use crate::json;
use crate::secret::Secret;

/// What one run costs; never too little to protect, nor more than is ever ours. In JSON `{"m_kib","t","p"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Memory in KiB.
    m_kib: u32,
    /// Passes over it.
    t: u32,
    /// Lanes.
    p: u32,
}

/// A cost to enrol with, and what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// What each run costs.
    pub cost: Cost,
    /// A guess takes as long as 2^bits guesses without it.
    pub bits: u32,
}

impl Preset {
    /// RFC 9106, section 4: the second recommended option.
    const RFC_9106_2: Self = Self {
        cost: Cost {
            m_kib: 64 * 1024,
            t: 3,
            p: 4,
        },
        bits: 20,
    };
    /// For machines with little memory.
    const SMALL: Self = Self {
        cost: Cost {
            m_kib: 19 * 1024,
            t: 2,
            p: 1,
        },
        bits: 14,
    };
    /// From this much memory on `auto` is `rfc9106-2`.
    const AMPLE: u64 = 256 * 1024 * 1024;

    /// The preset of a name (`auto`, `rfc9106-2`, `small`), on a machine with so many bytes of [`memory`]. One run may take
    /// half of it.
    pub fn named(name: &str, memory: u64) -> Result<Self> {
        let preset = match name {
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
        let takes = u64::from(preset.cost.m_kib) * 1024;
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
        Ok(preset)
    }
}

impl Cost {
    /// How many MiB a run takes.
    pub const fn mib(self) -> u32 {
        self.m_kib.div_ceil(1024)
    }

    /// So many bytes of Argon2id, from 4 on.
    pub fn hash(self, input: &[u8], salt: &[u8; 32], length: usize) -> Result<Secret> {
        let refused = |error| Error::new(Code::Internal, format!("Argon2id: {error}"));
        let mut output = Secret::zeroed(length);
        let params = Params::new(self.m_kib, self.t, self.p, Some(length)).map_err(refused)?;
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
                format!("no memory for Argon2id: this enrolment takes {} MiB", self.mib()),
            )
        })?;
        memory.resize(blocks, Block::new());
        Ok(memory)
    }
}

impl<'de> Deserialize<'de> for Cost {
    /// An enrolment comes back from anybody: a cost out of bounds would wear down a fingerprint, or the machine.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let Fields { m_kib, t, p } = json::object(deserializer)?;
        let fits =
            (8 * 1024..=1024 * 1024).contains(&m_kib) && (1..=10).contains(&t) && (1..=16).contains(&p);
        if fits {
            Ok(Self { m_kib, t, p })
        } else {
            Err(json::refused(
                "has an argon2 out of bounds: m 8 MiB to 1 GiB, t 1 to 10, p 1 to 16",
            ))
        }
    }
}

/// A [`Cost`] as it stands in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    m_kib: u32,
    t: u32,
    p: u32,
}

/// The memory that this process may use, in bytes: the machine's, or less if its cgroup has less. Beyond that the kernel
/// does not refuse, it kills; so a unit's or a container's limit decides as much as the machine does.
pub fn memory() -> Result<u64> {
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
    use serde_json::json;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// RFC 9106 has its vector for a key and data besides, which nothing here uses. These are of the reference implementation
    /// (`argon2 saltsaltsaltsaltsaltsaltsaltsalt -id -t 2 -k 19456 -p 1 -l LENGTH -r`).
    #[test]
    fn as_the_reference_implementation() {
        let known = [
            "bef17ae184dbe55fe927bd239304af1482c22f43cc688dc957306ce24aa1516d",
            "3930f9989d83e3091749c5d8a4a0d56634ead07ce0ef0ad360ce4ea86a2b357a\
             945053bc8017e9003bc82930a3a53a33b9014ba34e835c917472f3d94a6d09fb",
        ];
        for (length, known) in [32, 64].into_iter().zip(known) {
            let output = Preset::SMALL
                .cost
                .hash(b"password", b"saltsaltsaltsaltsaltsaltsaltsalt", length)
                .unwrap();
            assert_eq!(base16ct::lower::encode_string(output.expose()), known);
        }
    }

    #[test]
    fn auto_goes_by_memory() {
        assert_eq!(Preset::named("auto", 256 * MIB).unwrap(), Preset::RFC_9106_2);
        assert_eq!(Preset::named("auto", 256 * MIB - 1).unwrap(), Preset::SMALL);
    }

    #[test]
    fn a_run_takes_at_most_half_of_the_memory() {
        assert!(Preset::named("small", 38 * MIB).is_ok());
        for (name, memory) in [
            ("small", 38 * MIB - 2),
            ("rfc9106-2", 127 * MIB),
            ("", 1024 * MIB),
        ] {
            let refused = Preset::named(name, memory).unwrap_err();
            assert_eq!(refused.code, Code::InvalidRequest, "{name}");
        }
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(memory().unwrap() > 32 * MIB);
    }

    #[test]
    fn what_is_written_is_read() {
        for preset in [Preset::RFC_9106_2, Preset::SMALL] {
            let written = serde_json::to_value(preset.cost).unwrap();
            assert_eq!(json::from_value::<Cost>(&written).unwrap(), preset.cost);
        }
    }

    #[test]
    fn bounds() {
        let read = |m_kib, t, p| json::from_value::<Cost>(&json!({"m_kib": m_kib, "t": t, "p": p})).map(drop);
        assert_eq!(read(8 * 1024, 1, 1), Ok(()));
        assert_eq!(read(1024 * 1024, 10, 16), Ok(()));
        for (m_kib, t, p) in [
            (8 * 1024 - 1, 1, 1),
            (1024 * 1024 + 1, 1, 1),
            (8 * 1024, 0, 1),
            (8 * 1024, 11, 1),
            (8 * 1024, 1, 0),
            (8 * 1024, 1, 17),
            (u32::MAX, u32::MAX, u32::MAX),
        ] {
            let fault = read(m_kib, t, p).unwrap_err().to_string();
            assert!(
                fault.starts_with("has an argon2 out of bounds"),
                "{m_kib} {t} {p}: {fault}"
            );
        }
        for other in [
            json!([8 * 1024, 1, 1]),
            json!({"m_kib": 8 * 1024, "t": 1}),
            json!({"m_kib": 8 * 1024, "t": 1, "p": 1, "x": 1}),
        ] {
            assert!(json::from_value::<Cost>(&other).is_err(), "{other}");
        }
    }

    #[test]
    fn memory_that_cannot_be_had_is_an_error_that_passes() {
        let error = Preset::SMALL.cost.allocate(usize::MAX / 2048).unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
    }
}
