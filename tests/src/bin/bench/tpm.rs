//! Opening a secret with a TPM: kdf-tpm, the floor, and what a user would pick instead, all on one software TPM.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use kdf_api::Secret;
use unsealer_tests::swtpm::Swtpm;

use crate::Result;
use crate::invocation::SECRET;
use crate::report::{Bound, Report};
use crate::rivals::{Rival, Rivals};
use crate::rounds::{self, Probe, Spread, Times};
use crate::start;
use crate::unwrap::{Ask, Host, Kind};

/// How often everything is measured. A round takes half a second.
const ROUNDS: usize = 100;

const MODES: [&str; 2] = ["hmac", "sealed"];
const POLICIES: [&[Ask]; 6] = [
    &[],
    &[Ask::Pcrs],
    &[Ask::Signed],
    &[Ask::Pin],
    &[Ask::Revocable],
    &[Ask::Pcrs, Ask::Signed, Ask::Revocable],
];
/// What the floor can do, and what the rivals do.
const PLAIN: &[Ask] = &[];
const BOUND: &[Ask] = &[Ask::Pcrs];

/// How long an unwrap may take, in percent of what the minimal program takes.
const OF_THE_FLOOR: Bound = Bound::AtMost(120);
/// How long the others must take, in percent of what an unwrap takes.
const OF_CLEVIS: Bound = Bound::AtLeast(800);
const OF_THE_OTHERS: Bound = Bound::AtLeast(101);

/// `TPM_RC_RETRY`: the TPM wants to hear the same again, and that is not ours to save.
const RETRY: [u8; 4] = [0x00, 0x00, 0x09, 0x22];

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Unwrap(Kind),
    Floor(Kind),
    Rival(Rival),
}

impl What {
    fn name(self) -> String {
        match self {
            Self::Unwrap(kind) => format!("kdf-tpm unwrap, {}", kind.name()),
            Self::Floor(kind) => format!("a minimal program, {}", kind.name()),
            Self::Rival(rival) => rival.name().to_owned(),
        }
    }
}

/// Opens a secret over a way to the TPM, and says how long it took.
type Open<'a> = Box<dyn FnMut(&str) -> Result<Duration> + 'a>;

struct Contender<'a> {
    what: What,
    open: Open<'a>,
    /// How many TPM commands it takes.
    commands: usize,
}

/// All of them, with secrets on the same TPM.
pub(crate) struct Contest<'a> {
    contenders: Vec<Contender<'a>>,
    /// Past the recorder.
    way: String,
}

impl<'a> Contest<'a> {
    /// Has everybody keep a secret, and counts what opening it takes.
    pub(crate) fn new(tpm: &'a Swtpm, host: &'a Host, minimal: &Path) -> Result<Self> {
        // systemd takes a register that has nothing in it for one that is not there.
        tpm.extend(7, [0x77; 32]);
        let recorded = tpm.tcti();
        let secret = Secret::random(SECRET)?;

        let mut all: Vec<(What, Open<'a>)> = Vec::new();
        for mode in MODES {
            for policy in POLICIES {
                let kind = Kind { mode, policy };
                let mut wrapped = host.wrap(&recorded, kind, &secret)?;
                if [PLAIN, BOUND].contains(&policy) {
                    let floor = wrapped.floor(&recorded, minimal)?;
                    all.push((What::Floor(kind), Box::new(move |way| floor.open(way))));
                }
                all.push((What::Unwrap(kind), Box::new(move |way| wrapped.unwrap(way))));
            }
        }
        let rivals = Rc::new(Rivals::new(tpm, secret)?);
        for rival in Rival::ALL {
            let rivals = Rc::clone(&rivals);
            all.push((What::Rival(rival), Box::new(move |way| rivals.open(rival, way))));
        }

        let mut contenders = Vec::new();
        for (what, mut open) in all {
            tpm.recorded();
            open(&recorded)?;
            let said = tpm.recorded();
            let counts = said
                .iter()
                .filter(|one| one.answer.get(6..10) != Some(&RETRY[..]));
            let commands = counts.count();
            contenders.push(Contender { what, open, commands });
        }
        Ok(Self {
            contenders,
            way: tpm.direct_tcti(),
        })
    }

    /// Measures everybody, and judges.
    pub(crate) fn measure(&mut self, empty: &Path, report: &mut Report) -> Result<()> {
        let mut probes: Vec<Probe<'_>> = vec![start::to_end(empty), start::to_end(empty)];
        let way = &self.way;
        for contender in &mut self.contenders {
            probes.push(Box::new(|| (contender.open)(way)));
        }
        let samples = rounds::measure(&mut probes, ROUNDS)?;
        drop(probes);
        let [floor, again, samples @ ..] = samples.as_slice() else {
            return Err("nothing was measured".into());
        };
        report.noise(Times::of(again, floor));

        let spreads: Vec<_> = samples.iter().map(Spread::of_samples).collect();
        for (contender, spread) in self.contenders.iter().zip(&spreads) {
            let most = match contender.what {
                What::Unwrap(kind) => Some(kind.most_commands()),
                What::Floor(_) | What::Rival(_) => None,
            };
            report.opening(&contender.what.name(), *spread, contender.commands, most);
        }

        let median = |what: What| {
            let found = self
                .contenders
                .iter()
                .zip(&spreads)
                .find(|(contender, _)| contender.what == what);
            let (_, spread) = found.ok_or_else(|| format!("{} was not measured", what.name()))?;
            Result::Ok(spread.median)
        };
        let mut compare = |one: What, other: What, bound| {
            let what = format!("{} / {}", one.name(), other.name());
            report.ratio(&what, (median(one)?, median(other)?), bound);
            Result::Ok(())
        };
        for mode in MODES {
            for policy in [PLAIN, BOUND] {
                let kind = Kind { mode, policy };
                compare(What::Unwrap(kind), What::Floor(kind), Some(OF_THE_FLOOR))?;
            }
        }
        for mode in MODES {
            let unwrap = What::Unwrap(Kind { mode, policy: BOUND });
            for rival in Rival::ALL {
                let bound = match rival {
                    Rival::Clevis => Some(OF_CLEVIS),
                    Rival::SystemdCreds | Rival::ColdTools => Some(OF_THE_OTHERS),
                    // Its object lies on the TPM already.
                    Rival::UnsealAlone => None,
                };
                compare(What::Rival(rival), unwrap, bound)?;
            }
        }
        Ok(())
    }
}
