//! The programs of slots, started bare and all at once: what a machine takes for all of them, without any host.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kdf_api::{Key, Secret};
use serde_json::{Value, json};
use unsealer::config::Config;
use unsealer::keyring::Keyhole;

use crate::Result;

/// What every program is given (docs/protocol.md). That programs in C wipe what they free has its price, whoever starts them.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("PATH", "/usr/bin:/bin"),
    ("LC_ALL", "C"),
    (
        "GLIBC_TUNABLES",
        "glibc.malloc.tcache_count=0:glibc.malloc.perturb=165",
    ),
];

/// What one slot's program is asked.
pub(crate) struct Question<'a> {
    hole: &'a Keyhole,
    command: Command,
    request: Vec<u8>,
}

impl<'a> Question<'a> {
    /// A derivation, as the unsealer asks for it, prepared before the clock runs.
    pub(crate) fn new(config: &Config, hole: &'a Keyhole) -> Result<Self> {
        let name = &hole.slot.name;
        let slot = config.slot.get(name).ok_or("the slot is not configured")?;
        let settings: serde_json::Map<_, _> = slot
            .settings
            .iter()
            .map(|(name, value)| (name.to_owned(), Value::from(value)))
            .collect();
        let request = json!({
            "verb": "derive",
            "enrolment": hole.slot.enrolment,
            "context": hole.context.as_str(),
            "settings": settings,
            "credentials": {},
        });
        let mut command = Command::new(&slot.program);
        command
            .arg("--kdf-protocol=1")
            .env_clear()
            .envs(ENVIRONMENT)
            .envs(&slot.env)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Ok(Self {
            hole,
            command,
            request: serde_json::to_vec(&request)?,
        })
    }

    fn ask(&mut self) -> Result<Child> {
        let mut child = self.command.spawn()?;
        let mut stdin = child.stdin.take().ok_or("it has no pipe")?;
        stdin.write_all(&self.request)?;
        Ok(child)
    }

    /// The answer must open the slot, or nothing was measured.
    fn judge(&self, answer: &[u8]) -> Result<()> {
        let answer: Value = serde_json::from_slice(answer)?;
        let key = answer.pointer("/ok/key").and_then(Value::as_str);
        let key = key.and_then(Secret::from_base64).and_then(Key::new);
        let key = key.ok_or_else(|| format!("{} gave no key: {answer}", self.hole.slot.name))?;
        self.hole.open(&key)?;
        Ok(())
    }
}

/// Starts them one after the other, and waits until the last has answered and ended.
pub(crate) fn ask_all(questions: &mut [Question<'_>]) -> Result<Duration> {
    let start = Instant::now();
    let children: Vec<_> = questions.iter_mut().map(Question::ask).collect::<Result<_>>()?;
    let mut answers = Vec::with_capacity(children.len());
    for mut child in children {
        let mut answer = Vec::new();
        child
            .stdout
            .take()
            .ok_or("it has no pipe")?
            .read_to_end(&mut answer)?;
        child.wait()?;
        answers.push(answer);
    }
    let time = start.elapsed();
    for (question, answer) in questions.iter().zip(&answers) {
        question.judge(answer)?;
    }
    Ok(time)
}
