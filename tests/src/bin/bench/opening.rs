//! Opening a keyring with eight slots, beside the slowest slot that its policy needs, alone.

use std::fs::{self, Permissions};
use std::num::NonZero;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

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

use crate::Result;
use crate::report::Report;
use crate::rounds::{self, Probe, Samples, Spread, Times};

/// How often everything is measured. A round takes a second.
const ROUNDS: usize = 60;
/// What opening may take beyond the slowest slot that is needed.
const BUDGET: Duration = Duration::from_millis(5);
/// The policies, and what each may cost. One that needs every slot costs what all of them cost the processors that there
/// are, a Python interpreter and an Argon2id among them: that is told beside what it takes, for information.
const POLICIES: [(&str, Option<Duration>); 3] =
    [("any", Some(BUDGET)), ("3of8", Some(BUDGET)), ("8of8", None)];

/// Machines with the same eight slots under different policies, and their TPM.
pub(crate) struct Openings {
    machines: Vec<Machine>,
    _tpm: Swtpm,
}

/// A machine with a keyring.
struct Machine {
    policy: Policy,
    budget: Option<Duration>,
    config: Config,
    state: StateFolder,
    holes: Vec<Keyhole>,
    /// Holds all of it.
    _site: Site,
}

impl Openings {
    pub(crate) fn new() -> Result<Self> {
        let tpm = Swtpm::new();
        let way = tpm.direct_tcti();
        let machines = POLICIES.map(|(policy, budget)| Machine::new(policy, budget, &way));
        Ok(Self {
            machines: machines.into_iter().collect::<Result<_>>()?,
            _tpm: tpm,
        })
    }

    /// Measures each slot alone and each keyring in turn, and judges.
    pub(crate) fn measure(&self, report: &mut Report) -> Result<()> {
        let alone = self.machines.first().ok_or("there are no machines")?;
        let mut probes: Vec<_> = alone.holes.iter().map(|hole| alone.slot(hole)).collect();
        probes.extend(self.machines.iter().map(Machine::whole));
        let samples = rounds::measure(&mut probes, ROUNDS)?;
        drop(probes);
        let (slots, keyrings) = samples.split_at(alone.holes.len());
        let mut quickest: Vec<_> = alone.holes.iter().zip(slots).collect();
        quickest.sort_by_key(|(_, samples)| Spread::of_samples(samples).median);
        for (hole, samples) in &quickest {
            report.slot(&hole.slot.name, Spread::of_samples(samples));
        }
        for (machine, samples) in self.machines.iter().zip(keyrings) {
            let needed = quickest.get(machine.policy.needed() - 1);
            let (hole, needed) = needed.ok_or("the policy asks for more slots than there are")?;
            report.keyring(
                &format!("{} (slowest needed: {})", machine.policy, hole.slot.name),
                Times::of(samples, needed),
                machine.budget,
            );
            if machine.budget.is_none() {
                let all: Vec<_> = quickest.iter().take(machine.policy.needed()).collect();
                let work = shared(&all);
                report.keyring(
                    &format!("{} (the work of all, shared by the processors)", machine.policy),
                    Times::of(samples, &work),
                    None,
                );
            }
        }
        Ok(())
    }
}

/// How long the processors of this machine are busy in each round with what these slots take one after the other.
fn shared(slots: &[&(&Keyhole, &Samples)]) -> Samples {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let processors = u32::try_from(processors).unwrap_or(1);
    (0..ROUNDS)
        .map(|round| {
            let times = slots.iter().filter_map(|(_, samples)| samples.get(round));
            times.sum::<Duration>() / processors
        })
        .collect()
}

impl Machine {
    fn new(policy: &str, budget: Option<Duration>, way: &str) -> Result<Self> {
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
            .config("[slot.fingerprint.options]\nargon2 = \"small\"\n")
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
            budget,
            holes: holes.collect::<kdf_api::Result<_>>()?,
            config,
            state,
            _site: site,
        })
    }

    /// One slot gives what it holds, in a process that knows nothing of its program yet.
    fn slot<'a>(&'a self, hole: &'a Keyhole) -> Probe<'a> {
        Box::new(|| {
            let slots = Slots::new(&self.config, Asking::Forbidden, false);
            let start = Instant::now();
            slots.open(hole)?;
            Ok(start.elapsed())
        })
    }

    /// The keyring is opened, likewise. What was called off ends before the next probe begins.
    fn whole(&self) -> Probe<'_> {
        Box::new(|| {
            let slots = Slots::new(&self.config, Asking::Forbidden, false);
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
