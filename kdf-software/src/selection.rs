//! Which components an enrolment uses, and whether they are worth it.

use kdf_api::{Code, Detail, Error, Result};

use crate::bits;
use crate::components::{Component, Finding, Survey};
use crate::kind::Kind;
use crate::scheme::MAX_COMPONENTS;

/// What to do where this user may not read what the machine has.
pub(crate) const UNREADABLE_HINT: &str = "the kernel lets only root read serial numbers and the product UUID: let \
     systemd-tmpfiles give the service's group read access to them at boot (`z /sys/class/dmi/id/product_uuid 0440 root \
     GROUP`), and enrol as the user who will derive";

/// Components to enrol with, and the bits of each.
pub(crate) struct Selection<'a> {
    pub(crate) components: Vec<&'a Component>,
    bits: Vec<u32>,
}

impl<'a> Selection<'a> {
    /// All components that count, or exactly those named (`kind,kind`), which may be of kinds with 0 bits.
    pub(crate) fn of(survey: &'a Survey, named: Option<&str>) -> Result<Self> {
        let chosen: Vec<&Component> = match named {
            Some(names) => find_named(survey, names)?,
            None => survey
                .components
                .iter()
                .filter(|component| component.kind.counts())
                .collect(),
        };
        let is_chosen = |component: &Component| chosen.iter().any(|chosen| chosen.kind == component.kind);
        // What the disk shows takes bits from the others, whether it is used or not.
        let weighed: Vec<&Component> = survey
            .components
            .iter()
            .filter(|component| is_chosen(component) || !component.kind.counts())
            .collect();
        let (components, bits) = weighed
            .iter()
            .zip(bits::count(&weighed))
            .filter(|(component, bits)| is_chosen(component) && (named.is_some() || *bits > 0))
            .unzip();
        Ok(Self { components, bits })
    }

    /// Refuses what somebody with a copy of the disk could guess: fewer bits than `floor`, those of Argon2id included.
    pub(crate) fn check(
        &self,
        survey: &Survey,
        argon2_bits: u32,
        floor: u32,
        allow_weak: bool,
    ) -> Result<()> {
        let bits: u32 = self.bits.iter().sum();
        let total = bits + argon2_bits;
        if bits > 0 && (total >= floor || allow_weak) {
            return Ok(());
        }
        let unreadable: Vec<_> = survey.unreadable_counting().collect();
        let mut error = if bits == 0 {
            Error::new(
                if unreadable.is_empty() {
                    Code::Insecure
                } else {
                    Code::Unavailable
                },
                "no component of this machine tells it from a copy of its disk",
            )
        } else {
            Error::new(
                if unreadable.is_empty() {
                    Code::Insecure
                } else {
                    Code::Unavailable
                },
                format!(
                    "the fingerprint has {bits} bits and Argon2id adds {argon2_bits}: {total} in all, below the floor \
                     of {floor}: {self}"
                ),
            )
        };
        error.hint = Some(if unreadable.is_empty() {
            "put a key file that is not on this disk beside it (kdf-file, with a policy that needs both), or use a TPM"
                .to_owned()
        } else {
            UNREADABLE_HINT.to_owned()
        });
        error.details = self.details();
        error.details.extend(
            unreadable
                .into_iter()
                .map(|(kind, why)| unreadable_detail(kind, why)),
        );
        Err(error)
    }

    fn details(&self) -> Vec<Detail> {
        let detail = |(component, bits): (&&Component, &u32)| Detail {
            name: component.kind.to_string(),
            value: format!("{bits} bits"),
            hint: None,
        };
        self.components.iter().zip(&self.bits).map(detail).collect()
    }
}

impl std::fmt::Display for Selection<'_> {
    /// `dmi-board-serial 32, dt-serial 0`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (component, bits)) in self.components.iter().zip(&self.bits).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} {bits}", component.kind)?;
        }
        Ok(())
    }
}

/// What to say of a component that this user cannot read.
pub(crate) fn unreadable_detail(kind: &Kind, why: &str) -> Detail {
    Detail {
        name: kind.to_string(),
        value: format!("not readable: {why}"),
        hint: None,
    }
}

fn find_named<'a>(survey: &'a Survey, names: &str) -> Result<Vec<&'a Component>> {
    let refused = |message: String| {
        let here = survey
            .components
            .iter()
            .map(|component| component.kind.to_string());
        Error::new(Code::InvalidRequest, message)
            .hint(format!("usable here: {}", here.collect::<Vec<_>>().join(", ")))
    };
    let mut chosen: Vec<&Component> = Vec::new();
    for name in names.split(',').map(str::trim) {
        let kind = Kind::parse(name)
            .ok_or_else(|| refused("components names a kind that does not exist".to_owned()))?;
        match survey.find(&kind) {
            Finding::Present(component) if chosen.iter().all(|chosen| chosen.kind != kind) => {
                chosen.push(component)
            }
            Finding::Present(_) => return Err(refused(format!("components names {kind} twice"))),
            Finding::Absent => return Err(refused(format!("this machine has no {kind}"))),
            Finding::Junk => {
                return Err(refused(format!(
                    "this machine's {kind} is a placeholder that many machines have"
                )));
            }
            Finding::Unreadable(why) => {
                return Err(
                    Error::new(Code::Unavailable, format!("{kind} is not readable: {why}"))
                        .hint(UNREADABLE_HINT),
                );
            }
        }
    }
    if chosen.len() > MAX_COMPONENTS {
        return Err(refused(format!("components names more than {MAX_COMPONENTS}")));
    }
    Ok(chosen)
}
