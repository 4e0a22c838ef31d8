//! For people: what an enrolment would use on this machine, and what one asks of it. Never a value.

use kdf_api::Detail;

use crate::backend::Options;
use crate::components::{Finding, Survey};
use crate::kind::Kind;
use crate::scheme::Scheme;
use crate::selection::{Selection, UNREADABLE_HINT, unreadable_detail};

/// What an enrolment would use, what it would leave out and why, and what it would be worth.
pub(crate) fn enrolment_here(
    survey: &Survey,
    selection: &Selection<'_>,
    options: &Options<'_>,
) -> Vec<Detail> {
    let mut details: Vec<_> = survey
        .kinds()
        .into_iter()
        .map(|kind| component(kind, survey, selection))
        .collect();
    let (bits, argon2) = (selection.bits(), options.argon2);
    details.push(detail("fingerprint", format!("{bits} bits")));
    details.push(detail(
        "argon2",
        format!(
            "{} MiB at each use, worth {} bits",
            argon2.cost.mib(),
            argon2.bits
        ),
    ));
    details.push(verdict(survey, selection, options));
    details
}

fn component(kind: &Kind, survey: &Survey, selection: &Selection<'_>) -> Detail {
    let value = match survey.find(kind) {
        Finding::Present(_) => selection.told(kind),
        Finding::Absent => "not there".to_owned(),
        Finding::Junk => "not used: a placeholder that many machines have".to_owned(),
        Finding::Unreadable(why) => return unreadable_detail(kind, why),
    };
    detail(&kind.to_string(), value)
}

fn verdict(survey: &Survey, selection: &Selection<'_>, options: &Options<'_>) -> Detail {
    let total = selection.bits() + options.argon2.bits;
    let floor = options.floor_bits;
    let (value, hint) = if let Err(error) = options.check(selection, survey) {
        (format!("not possible: {}", error.message), error.hint)
    } else {
        let value = if total < floor {
            format!("possible, as allow-weak is true: {total} bits in all, below the floor of {floor}")
        } else {
            format!("possible: {total} bits in all; the floor is {floor}")
        };
        let more = survey.unreadable_counting().next();
        (value, more.map(|_| UNREADABLE_HINT.to_owned()))
    };
    Detail {
        name: "enrolment".to_owned(),
        value,
        hint,
    }
}

/// What an enrolment asks for.
pub(crate) fn of_enrolment(scheme: &Scheme) -> Vec<Detail> {
    vec![
        detail(
            "mode",
            format!(
                "strict: {} components, each as it was at enrolment",
                scheme.kinds.len()
            ),
        ),
        detail("argon2", format!("{} MiB at each use", scheme.cost.mib())),
    ]
}

fn detail(name: &str, value: String) -> Detail {
    Detail {
        name: name.to_owned(),
        value,
        hint: None,
    }
}
