//! The backend: options and settings in, enrolments and keys out.

use std::path::Path;

use kdf_api::argon2id::{Preset, memory};
use kdf_api::{
    Advised, Backend, Binding, Code, Derives, Description, Destroyed, Detail, EnrollRequest, Error, Health,
    Kdf, Key, Needs, Parameter, Place, Result, Retire, State, Use, Values,
};

use serde_json::Value;

use crate::components::{Component, Finding, Survey, Wanted};
use crate::kind::Kind;
use crate::scheme::Scheme;
use crate::selection::{Selection, UNREADABLE_HINT, unreadable_detail};
use crate::sysroot::Sysroot;
use crate::{enrolment, preview};

/// The highest floor that makes sense: keys have 256 bits.
const MAX_FLOOR: u32 = 256;

/// The fingerprint of the machine that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct KdfSoftware;

impl KdfSoftware {
    /// Nothing is read before it is asked for.
    pub const fn new() -> Self {
        Self
    }

    /// What an enrolment with these options would use here, how many bits it is worth, and whether it is possible. For people:
    /// never a value.
    pub fn preview(options: &Values, at: &Place<'_>) -> Result<Vec<Detail>> {
        let options = Options::read(options)?;
        let survey = Survey::of(&sysroot(at)?, Wanted::Everything);
        let selection = Selection::of(&survey, options.components)?;
        Ok(preview::enrolment_here(&survey, &selection, &options))
    }

    /// What an enrolment uses, and whether it opens here now or what changed. For people: never a value.
    pub fn explain(&mut self, enrolment: &Value, at: &Place<'_>) -> Result<Health> {
        let mut details = preview::of_enrolment(&enrolment::read(enrolment)?);
        let health = self.health(enrolment, at)?;
        details.extend(health.details);
        Ok(Health {
            state: health.state,
            details,
        })
    }
}

impl Backend for KdfSoftware {
    /// As it stands in JSON: what comes back is read anew at each call, with an error of its own for each fault.
    type Enrolment = Value;
    type Role = Derives;

    fn describe(&self) -> Description {
        let mut description = Description::new(
            "kdf-software",
            env!("CARGO_PKG_VERSION"),
            "fingerprint",
            Binding::Fingerprint,
        );
        description.options = vec![
            Parameter::with_default(
                "mode",
                "strict",
                "strict: every component must be as it was at enrolment. The only mode of this release; a later one adds \
                 tolerant",
            ),
            Parameter::optional(
                "components",
                "exactly these kinds, separated by commas, as dmi-product-uuid,dmi-board-serial; without it all that \
                 count here",
            ),
            Parameter::with_default(
                "argon2",
                "auto",
                "cost of a guess: rfc9106-2 (64 MiB), small (19 MiB), auto (rfc9106-2 from 256 MiB of memory on)",
            ),
            Parameter::with_default(
                "floor-bits",
                "64",
                "refuse a fingerprint that somebody with a copy of the disk guesses in fewer than 2^n steps",
            ),
            Parameter::with_default("allow-weak", "false", "true: enrol below the floor all the same"),
        ];
        description.settings = vec![Parameter::with_default(
            "sysroot",
            "/",
            "the folder below which sys, proc and etc of this machine are",
        )];
        description.needs = Needs {
            read: [
                "/sys/class/dmi/id",
                "/sys/firmware/devicetree/base/serial-number",
                "/sys/class/net",
                "/sys/block",
                "/sys/devices",
                "/sys/fs/cgroup",
                "/proc",
                "/etc/machine-id",
            ]
            .map(str::to_owned)
            .into(),
            ..Needs::default()
        };
        description
    }

    fn enroll(&mut self, request: &EnrollRequest<'_>) -> Result<Value> {
        let options = Options::read(request.options)?;
        let survey = Survey::of(&sysroot(&request.place)?, Wanted::Everything);
        let selection = Selection::of(&survey, options.components)?;
        options.check(&selection, &survey)?;
        enrolment::write(&Scheme::bind(&selection.components(), options.argon2.cost)?)
    }

    fn health(&mut self, enrolment: &Value, at: &Place<'_>) -> Result<Health> {
        let scheme = enrolment::read(enrolment)?;
        let survey = Survey::of(&sysroot(at)?, Wanted::Only(&scheme.kinds));
        let opened = present(&scheme, &survey).and_then(|components| scheme.open(&components).map(drop));
        match opened {
            Ok(()) => Ok(Health {
                state: State::Ok,
                details: found(&scheme.kinds, &survey, "as enrolled"),
            }),
            Err(error) if matches!(error.code, Code::PolicyChanged | Code::Unavailable) => {
                let mut details = found(
                    &scheme.kinds,
                    &survey,
                    "present; whether it changed cannot be told",
                );
                details.push(Detail {
                    name: error.code.to_string(),
                    value: error.message,
                    hint: error.hint,
                });
                Ok(Health {
                    state: State::Unavailable,
                    details,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// There is nothing on the device: without its enrolment a fingerprint gives no key.
    fn retire(&mut self, _: Retire<'_, Value>, _: &Place<'_>) -> Result<Destroyed> {
        Ok(Destroyed::default())
    }
}

impl Kdf for KdfSoftware {
    fn derive(&mut self, enrolment: &Value, at: &Use<'_>) -> Result<Advised<Key>> {
        let scheme = enrolment::read(enrolment)?;
        let survey = Survey::of(&sysroot(&at.place)?, Wanted::Only(&scheme.kinds));
        let components = present(&scheme, &survey)?;
        Ok(scheme.open(&components)?.key(at.context).into())
    }
}

/// What an enrolment shall be.
pub(crate) struct Options<'a> {
    pub(crate) components: Option<&'a str>,
    pub(crate) argon2: Preset,
    pub(crate) floor_bits: u32,
    pub(crate) allow_weak: bool,
}

impl<'a> Options<'a> {
    fn read(options: &'a Values) -> Result<Self> {
        match options.get("mode") {
            None | Some("strict") => {}
            Some("tolerant") => {
                return Err(Error::new(
                    Code::Unsupported,
                    "mode=tolerant is not in this release; it has strict",
                ));
            }
            Some(_) => return Err(Error::new(Code::InvalidRequest, "mode is not strict")),
        }
        let floor_bits = match options.get("floor-bits") {
            None => 64,
            Some(text) => text
                .parse()
                .ok()
                .filter(|floor| *floor <= MAX_FLOOR)
                .ok_or_else(|| {
                    Error::new(
                        Code::InvalidRequest,
                        format!("floor-bits is not a number from 0 to {MAX_FLOOR}"),
                    )
                })?,
        };
        Ok(Self {
            components: options.get("components"),
            argon2: Preset::named(options.get("argon2").unwrap_or("auto"), memory()?)?,
            floor_bits,
            allow_weak: options.flag("allow-weak")?,
        })
    }

    /// Refuses a selection that is not worth it.
    pub(crate) fn check(&self, selection: &Selection<'_>, survey: &Survey) -> Result<()> {
        selection.check(survey, self.argon2.bits, self.floor_bits, self.allow_weak)
    }
}

fn sysroot(at: &Place<'_>) -> Result<Sysroot> {
    let path = at.settings.get("sysroot").unwrap_or("/");
    if Path::new(path).is_absolute() {
        Ok(Sysroot::new(path))
    } else {
        Err(Error::new(
            Code::InvalidRequest,
            "sysroot is not an absolute path",
        ))
    }
}

/// The enrolled components, in the enrolment's order; or which are missing, which takes no secret to see.
fn present<'a>(scheme: &Scheme, survey: &'a Survey) -> Result<Vec<&'a Component>> {
    let mut components = Vec::with_capacity(scheme.kinds.len());
    let mut gone = Vec::new();
    let mut unreadable = Vec::new();
    for kind in &scheme.kinds {
        match survey.find(kind) {
            Finding::Present(component) => components.push(component),
            Finding::Absent | Finding::Junk => gone.push(kind.to_string()),
            Finding::Unreadable(_) => unreadable.push(kind.to_string()),
        }
    }
    if !gone.is_empty() {
        let mut error = Error::new(
            Code::PolicyChanged,
            format!(
                "the machine changed: {} of the enrolment is gone",
                gone.join(", ")
            ),
        )
        .hint("if a part was replaced, open with another slot or a recovery identity and enrol anew");
        error.details = found(&scheme.kinds, survey, "present");
        return Err(error);
    }
    if !unreadable.is_empty() {
        let mut error = Error::new(
            Code::Unavailable,
            format!(
                "{} of the enrolment is not readable by this user",
                unreadable.join(", ")
            ),
        )
        .hint(UNREADABLE_HINT);
        error.details = found(&scheme.kinds, survey, "present");
        return Err(error);
    }
    Ok(components)
}

/// A finding for each kind; never a value.
fn found(kinds: &[Kind], survey: &Survey, present: &str) -> Vec<Detail> {
    let detail = |kind: &Kind| {
        let value = match survey.find(kind) {
            Finding::Present(_) => present,
            Finding::Absent => "gone",
            Finding::Junk => "gone: a placeholder is in its place",
            Finding::Unreadable(why) => return unreadable_detail(kind, why),
        };
        Detail {
            name: kind.to_string(),
            value: value.to_owned(),
            hint: None,
        }
    };
    kinds.iter().map(detail).collect()
}
