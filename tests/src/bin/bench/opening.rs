//! Opening a keyring with eight slots, beside the slowest slot that its policy needs.
//!
//! A policy that needs one slot or a few is held against the slowest of them, alone. One that needs all eight gives the
//! processors more to do than the slowest alone does, so it is held against the same programs started bare, all at once: of
//! what it takes beyond them, a part is the invocations of the programs, which have a budget of their own.

use std::fs::{self, Permissions};
use std::num::NonZero;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use kdf_api::host::Descriptions;
use kdf_api::{Secret, id};
use unsealer::config::Config;
use unsealer::credentials::Asking;
use unsealer::keyring::{Active, Keyhole, Keyring, Locked, Policy};
use unsealer::open::{self, Lock};
use unsealer::slots::Slots;
use unsealer::state::StateFolder;
use unsealer_tests::opened;
use unsealer_tests::site::{Site, source};
use unsealer_tests::swtpm::Swtpm;

use crate::report::Report;
use crate::rounds::{self, Probe, Spread, Times};
use crate::side_by_side::{Question, ask_all};
use crate::{INVOCATION, Result};

/// How often everything is measured. A round takes a second.
const ROUNDS: usize = 60;
/// What opening may take beyond the slowest slot that is needed.
const BUDGET: Duration = Duration::from_millis(5);
/// The policies.
const POLICIES: [&str; 3] = ["any", "3of8", "8of8"];

/// Machines with the same eight slots under different policies, and their TPM.
pub(crate) struct Openings {
    machines: Vec<Machine>,
    _tpm: Swtpm,
}

/// A machine with a keyring.
struct Machine {
    policy: Policy,
    config: Config,
    state: StateFolder,
    holes: Vec<Keyhole>,
    descriptions: Descriptions,
    /// Holds all of it.
    _site: Site,
}

impl Openings {
    pub(crate) fn new() -> Result<Self> {
        let tpm = Swtpm::new();
        let way = tpm.direct_tcti();
        let machines = POLICIES.map(|policy| Machine::new(policy, &way));
        Ok(Self {
            machines: machines.into_iter().collect::<Result<_>>()?,
            _tpm: tpm,
        })
    }

    /// Measures each slot alone, each keyring, and the bare programs of those that need all, in turn, and judges.
    pub(crate) fn measure(&self, report: &mut Report) -> Result<()> {
        let alone = self.machines.first().ok_or("there are no machines")?;
        let needs_all: Vec<_> = self
            .machines
            .iter()
            .filter(|machine| machine.needs_all())
            .collect();
        let mut probes: Vec<_> = alone.holes.iter().map(|hole| alone.slot(hole)).collect();
        probes.extend(self.machines.iter().map(Machine::whole));
        for machine in &needs_all {
            probes.push(machine.bare()?);
        }
        let samples = rounds::measure(&mut probes, ROUNDS)?;
        drop(probes);
        let (slots, rest) = samples.split_at(alone.holes.len());
        let (keyrings, bare) = rest.split_at(self.machines.len());
        let mut quickest: Vec<_> = alone.holes.iter().zip(slots).collect();
        quickest.sort_by_key(|(_, samples)| Spread::of_samples(samples).median);
        for (hole, samples) in &quickest {
            report.slot(&hole.slot.name, Spread::of_samples(samples));
        }
        for (machine, samples) in self.machines.iter().zip(keyrings) {
            let needed = quickest.get(machine.policy.needed() - 1);
            let (hole, needed) = needed.ok_or("the policy asks for more slots than there are")?;
            report.keyring(
                &format!("{}, beyond {} alone", machine.policy, hole.slot.name),
                Times::of(samples, needed),
                (!machine.needs_all()).then_some(BUDGET),
            );
        }
        let opened = self.machines.iter().zip(keyrings);
        let opened = opened.filter(|(machine, _)| machine.needs_all());
        for ((machine, samples), bare) in opened.zip(bare) {
            report.keyring(
                &format!("{}, beyond the bare programs", machine.policy),
                Times::of(samples, bare),
                Some(BUDGET + shared(INVOCATION, machine.holes.len())),
            );
        }
        Ok(())
    }
}

/// What this many programs may cost beyond a bare start, shared by the processors.
fn shared(each: Duration, programs: usize) -> Duration {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let turns = programs.div_ceil(processors);
    each.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX))
}

impl Machine {
    fn new(policy: &str, way: &str) -> Result<Self> {
        // Nobody asks the server.
        let mut site = Site::new("http://127.0.0.1:8200").policy(policy);
        for number in 1..=5 {
            site = site.file_slot(&format!("file-{number}"));
        }
        let device_key = site.folder().join("device.key");
        fs::write(&device_key, Secret::random(32)?.expose())?;
        fs::set_permissions(&device_key, Permissions::from_mode(0o600))?;
        let vendor = site.copy_program(&source("docs/examples/vendor-kdf.py"));
        let site = site
            .software_slot("fingerprint")
            .slot(
                "vendor",
                &vendor,
                &[("device-key", &device_key.display().to_string())],
            )
            .tpm_slot("tpm", way, "options = { persist = \"true\" }");

        let config = opened::config(&site);
        let policy = config.policy.unwrap_or_default();
        let mut keyring = Keyring::create(policy)?;
        let names: Vec<_> = config.slot.keys().map(String::as_str).collect();
        let slots = Slots::new(&config, Asking::Forbidden, false);
        for seat in keyring.seats(&names)? {
            keyring.body.slots.push(slots.enroll(&seat, id::random()?)?);
        }
        drop(slots);
        let shares = (0..5)
            .map(|_| Secret::random(33))
            .collect::<kdf_api::Result<_>>()?;
        keyring.payload.active = Some(Active {
            shares,
            threshold: 3,
            created: 0,
        });
        let state = StateFolder::open_or_create(&site.state(), None)?;
        let bytes = keyring.seal()?.bytes;
        fs::write(state.keyring(), &bytes)?;
        let locked = Locked::parse(&bytes)?;
        let holes = locked.body.slots.iter().map(|slot| locked.body.keyhole(slot));
        Ok(Self {
            policy,
            holes: holes.collect::<kdf_api::Result<_>>()?,
            descriptions: Descriptions::default(),
            config,
            state,
            _site: site,
        })
    }

    fn needs_all(&self) -> bool {
        self.policy.needed() == self.holes.len()
    }

    fn slots(&self) -> Slots<'_> {
        Slots::new(&self.config, Asking::Forbidden, false).sharing(&self.descriptions)
    }

    /// One slot gives what it holds, in a process that knows its program, as a daemon does.
    fn slot<'a>(&'a self, hole: &'a Keyhole) -> Probe<'a> {
        Box::new(|| {
            let slots = self.slots();
            let start = Instant::now();
            slots.open(hole)?;
            Ok(start.elapsed())
        })
    }

    /// The programs of all slots do the same work with nobody in between.
    fn bare(&self) -> Result<Probe<'_>> {
        let questions = self.holes.iter().map(|hole| Question::new(&self.config, hole));
        let mut questions: Vec<_> = questions.collect::<Result<_>>()?;
        Ok(Box::new(move || ask_all(&mut questions)))
    }

    /// The keyring is opened, likewise. What was called off ends before the next probe begins.
    fn whole(&self) -> Probe<'_> {
        Box::new(|| {
            let slots = self.slots();
            let shared = self.state.lock_shared()?;
            let start = Instant::now();
            let opened = open::open(&self.state, &self.config, &slots, Lock::Shared(&shared))?;
            let time = start.elapsed();
            if opened.by.len() == self.policy.needed() && opened.failed.is_empty() {
                Ok(time)
            } else {
                Err(format!("a slot failed: {opened:?}").into())
            }
        })
    }
}
