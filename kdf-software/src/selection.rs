//! Which components an enrolment uses, and whether they are worth it.

use std::fmt;

use kdf_api::{Code, Detail, Error, Result};

use crate::bits;
use crate::components::{Component, Finding, Survey};
use crate::kind::Kind;
use crate::scheme::MAX_COMPONENTS;

/// What to do where this user may not read what the machine has.
pub(crate) const UNREADABLE_HINT: &str = "the kernel lets only root read serial numbers and the product UUID: let \
     systemd-tmpfiles give the service's group read access to them at boot (`z /sys/class/dmi/id/product_uuid 0440 root \
     GROUP`), and enrol as the user who will derive";

/// What to do where a machine has too little of its own.
const WEAK_HINT: &str = "put a key file that is not on this disk beside it (kdf-file, under a policy that needs both), or \
     use a TPM";

/// Components to enrol with, and what they are worth.
pub(crate) struct Selection<'a> {
    /// Those that were considered, with their bits. By default those with 0 bits are left out.
    considered: Vec<(&'a Component, u32)>,
    by_name: bool,
}

impl<'a> Selection<'a> {
    /// All components that count, or exactly those named (`kind,kind`), which may be of kinds with 0 bits.
    pub(crate) fn of(survey: &'a Survey, only: Option<&str>) -> Result<Self> {
        let chosen: Vec<&Component> = match only {
            Some(names) => find_named(survey, names)?,
            None => survey
                .components
                .iter()
                .filter(|component| component.kind.counts())
                .collect(),
        };
        let is_chosen = |component: &Component| chosen.iter().any(|chosen| chosen.kind == component.kind);
        // What the disk shows takes bits from the others, whether it is used or not.
        let mut weighed: Vec<&Component> = survey.components.iter().collect();
        weighed.retain(|component| is_chosen(component) || !component.kind.counts());
        let bits = bits::count(&weighed);
        let considered = weighed
            .into_iter()
            .zip(bits)
            .filter(|(component, _)| is_chosen(component));
        Ok(Self {
            considered: considered.collect(),
            by_name: only.is_some(),
        })
    }

    /// The components to enrol with, in the order of their kinds.
    pub(crate) fn components(&self) -> Vec<&'a Component> {
        let used = self.considered.iter().filter(|(_, bits)| self.uses(*bits));
        used.map(|(component, _)| *component).collect()
    }

    const fn uses(&self, bits: u32) -> bool {
        self.by_name || bits > 0
    }

    /// What an enrolment makes of a component that is there, in words.
    pub(crate) fn told(&self, kind: &Kind) -> String {
        let considered = self
            .considered
            .iter()
            .find(|(component, _)| component.kind == *kind);
        match considered {
            Some((_, bits)) if self.uses(*bits) => format!("used, {bits} bits"),
            Some(_) => "not used, 0 bits: other values of this machine tell it".to_owned(),
            None if kind.counts() => "not used: the option components does not name it".to_owned(),
            None => "not used, 0 bits: a copy of the disk holds it or shows it".to_owned(),
        }
    }

    /// How many bits somebody with a copy of the disk does not know, without those of Argon2id.
    pub(crate) fn bits(&self) -> u32 {
        self.considered.iter().map(|(_, bits)| bits).sum()
    }

    /// Refuses what somebody with a copy of the disk could guess: fewer bits than `floor`, those of Argon2id included.
    pub(crate) fn check(
        &self,
        survey: &Survey,
        argon2_bits: u32,
        floor: u32,
        allow_weak: bool,
    ) -> Result<()> {
        let bits = self.bits();
        let total = bits + argon2_bits;
        if bits > 0 && (total >= floor || allow_weak) {
            return Ok(());
        }
        let message = if bits == 0 {
            format!("nothing here tells this machine from a copy of its disk: {self}")
        } else {
            format!(
                "the fingerprint has {bits} bits and Argon2id adds {argon2_bits}: {total} in all, below the floor of \
                 {floor}: {self}"
            )
        };
        let unreadable: Vec<_> = survey.unreadable_counting().collect();
        // What this user cannot read might be enough.
        let mut error = if unreadable.is_empty() {
            Error::new(Code::Insecure, message).hint(WEAK_HINT)
        } else {
            Error::new(Code::Unavailable, message).hint(UNREADABLE_HINT)
        };
        error
            .details
            .extend(self.considered.iter().map(|(component, bits)| Detail {
                name: component.kind.to_string(),
                value: format!("{bits} bits"),
                hint: None,
            }));
        error.details.extend(
            unreadable
                .into_iter()
                .map(|(kind, why)| unreadable_detail(kind, why)),
        );
        Err(error)
    }
}

impl fmt::Display for Selection<'_> {
    /// `dmi-product-serial 32, dmi-board-serial 0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self
            .considered
            .iter()
            .map(|(component, bits)| format!("{} {bits}", component.kind));
        match each.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => f.write_str("no component that counts"),
            some => f.write_str(&some),
        }
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
                chosen.push(component);
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
