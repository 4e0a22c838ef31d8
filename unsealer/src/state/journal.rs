//! The journal: what an operation is about to do, one durable line before each step, so that whatever kills it leaves
//! a trace of all that lies on devices and servers.

use std::path::PathBuf;

use kdf_api::json::{self, Limits};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{StateFolder, durable};
use crate::error::Error;
use crate::fault;

/// The journal as a whole, and one line of it.
const MAX_JOURNAL: usize = 4 * 1024 * 1024;
const LINE_LIMITS: Limits = Limits {
    bytes: 4096,
    depth: 2,
};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    v: u64,
    /// The operation: `init`, `slot add`.
    pub op: String,
    /// Which one of them.
    #[serde(deserialize_with = "kdf_api::id::deserialize")]
    pub op_id: Uuid,
    /// What is about to be done, or was done.
    pub step: Step,
    /// The slot it is about, if any.
    pub slot: Option<String>,
    /// The enrolment it is about, if any: the name of what may lie on a device.
    pub enrolment_id: Option<Uuid>,
}

impl Record {
    /// Whether it names what may lie on a device.
    fn names_material(&self) -> bool {
        matches!(self.step, Step::Enrolling | Step::Retiring)
    }
}

/// The steps of `init`, in their order, and how an enrolment or an operation may end otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Step {
    /// The operation began; nothing was touched yet.
    Planned,
    /// A slot is about to be enrolled.
    Enrolling,
    /// A slot was enrolled.
    Enrolled,
    /// The keyring was written, read back, and opened by every slot.
    Proven,
    /// The server is about to be initialised.
    InitSent,
    /// The shares are in the keyring, durably.
    Saved,
    /// The server is open.
    Unsealed,
    /// The rotation credential is in the keyring.
    Credential,
    /// The set-up program ended well.
    Setup,
    /// The root token is dead.
    Revoked,
    /// All is done.
    Done,
    /// An enrolment goes once the keyring without it is in its place.
    Retiring,
    /// An enrolment's material was destroyed.
    Retired,
    /// The operation was given up.
    Abandoned,
}

/// The journal of a state folder.
#[derive(Clone, Debug)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The journal of a state folder, whether it exists yet or not.
    pub fn of(state: &StateFolder) -> Self {
        Self {
            path: state.file("journal.jsonl"),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// All lines. A torn one, as a power cut leaves at the end, is passed over.
    pub fn read(&self) -> Result<Vec<Record>, Error> {
        let Some(text) = durable::read(&self.path, MAX_JOURNAL)? else {
            return Ok(Vec::new());
        };
        parse(&text).map_err(|what| Error::MalformedState {
            path: self.path.clone(),
            what,
        })
    }

    /// The lines of the newest operation, if that is still under way.
    pub fn unfinished(&self) -> Result<Option<Operation>, Error> {
        let records = self.read()?;
        let Some(last) = records.last() else {
            return Ok(None);
        };
        let (op, op_id) = (last.op.clone(), last.op_id);
        let records: Vec<_> = records
            .into_iter()
            .filter(|record| record.op_id == op_id)
            .collect();
        let over = records
            .iter()
            .any(|record| matches!(record.step, Step::Done | Step::Abandoned));
        Ok((!over).then(|| Operation {
            journal: self.clone(),
            op,
            op_id,
            records,
        }))
    }

    /// Begins an operation.
    pub fn begin(&self, op: &str) -> Result<Operation, Error> {
        self.shorten()?;
        let op_id = kdf_api::id::random()?;
        let mut operation = Operation {
            journal: self.clone(),
            op: op.to_owned(),
            op_id,
            records: Vec::new(),
        };
        operation.note(Step::Planned)?;
        Ok(operation)
    }

    /// Drops what is over and leaves no trace on any device, so that no number of failed operations fills the journal.
    fn shorten(&self) -> Result<(), Error> {
        let records = self.read()?;
        let retired: Vec<_> = records
            .iter()
            .filter(|r| r.step == Step::Retired)
            .filter_map(|r| r.enrolment_id)
            .collect();
        // One line is enough for each, however often somebody failed to remove it: that which says that it was a slot's, if any.
        let stands = |record: &Record| {
            let mut its = records
                .iter()
                .filter(|other| other.names_material() && other.enrolment_id == record.enrolment_id);
            let first = its.clone().next();
            let line = its.find(|other| other.step == Step::Retiring).or(first);
            record.names_material()
                && record.enrolment_id.is_some_and(|id| !retired.contains(&id))
                && line == Some(record)
        };
        let kept: Vec<_> = records
            .iter()
            .filter(|record| {
                let ends = matches!(record.step, Step::Done | Step::Abandoned);
                stands(record)
                    || ends
                        && records
                            .iter()
                            .any(|other| other.op_id == record.op_id && stands(other))
            })
            .collect();
        if kept.len() == records.len() {
            return Ok(());
        }
        let lines: Vec<_> = kept
            .iter()
            .map(|record| serde_json::to_string(record).unwrap_or_default() + "\n")
            .collect();
        durable::replace(&self.path, lines.concat().as_bytes())
    }

    /// The enrolments that a step was ever noted of, as far as the journal goes back.
    pub fn named(&self, step: Step) -> Result<Vec<Uuid>, Error> {
        let records = self.read()?;
        let noted = records.iter().filter(|record| record.step == step);
        Ok(noted.filter_map(|record| record.enrolment_id).collect())
    }

    /// Every enrolment that was begun and neither retired nor, by `owned`, in a keyring: its id and slot.
    pub fn orphans(&self, owned: &[Uuid]) -> Result<Vec<(Uuid, String)>, Error> {
        let records = self.read()?;
        let retired: Vec<_> = records
            .iter()
            .filter(|record| record.step == Step::Retired)
            .filter_map(|r| r.enrolment_id)
            .collect();
        let mut orphans: Vec<(Uuid, String)> = Vec::new();
        for record in records.iter().filter(|record| record.names_material()) {
            if let (Some(id), Some(slot)) = (record.enrolment_id, &record.slot)
                && !owned.contains(&id)
                && !retired.contains(&id)
                && !orphans.iter().any(|(known, _)| *known == id)
            {
                orphans.push((id, slot.clone()));
            }
        }
        Ok(orphans)
    }
}

/// An operation under way.
#[derive(Debug)]
pub struct Operation {
    journal: Journal,
    op: String,
    op_id: Uuid,
    records: Vec<Record>,
}

impl Operation {
    /// Whether all that it enrolled is retired.
    pub fn is_taken_back(&self) -> bool {
        let retired = self.named(Step::Retired);
        self.enrolments().iter().all(|begun| retired.contains(begun))
    }

    /// Notes a step, durably, before going on.
    pub fn note(&mut self, step: Step) -> Result<(), Error> {
        self.write(step, None, None)
    }

    /// Notes a step of a slot's enrolment.
    pub fn note_slot(&mut self, step: Step, slot: &str, enrolment_id: Uuid) -> Result<(), Error> {
        self.write(step, Some(slot.to_owned()), Some(enrolment_id))
    }

    fn write(&mut self, step: Step, slot: Option<String>, enrolment_id: Option<Uuid>) -> Result<(), Error> {
        let record = Record {
            v: 1,
            op: self.op.clone(),
            op_id: self.op_id,
            step,
            slot,
            enrolment_id,
        };
        let name = step.name();
        let fault = |error| Error::file("write", &self.journal.path, error);
        fault::point(&format!("before {name}")).map_err(fault)?;
        let line = serde_json::to_string(&record).unwrap_or_default();
        // Noted even if the write fails: the line may stand all the same, and what it names must be taken back.
        self.records.push(record);
        durable::append_line(&self.journal.path, &line)?;
        fault::point(&format!("after {name}")).map_err(fault)
    }

    /// The operation's name: `init`, `slot add`.
    pub fn op(&self) -> &str {
        &self.op
    }

    /// Whether a step was noted.
    pub fn reached(&self, step: Step) -> bool {
        self.records.iter().any(|record| record.step == step)
    }

    /// The newest step.
    pub fn last(&self) -> Option<Step> {
        self.records.last().map(|record| record.step)
    }

    /// The enrolments that this operation began: id and slot.
    pub fn enrolments(&self) -> Vec<(Uuid, String)> {
        self.named(Step::Enrolling)
    }

    /// The enrolments that a step was noted of: id and slot.
    pub fn named(&self, step: Step) -> Vec<(Uuid, String)> {
        let noted = self.records.iter().filter(|record| record.step == step);
        noted
            .filter_map(|record| Some((record.enrolment_id?, record.slot.clone()?)))
            .collect()
    }
}

impl Step {
    /// Its name in the journal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Enrolling => "enrolling",
            Self::Enrolled => "enrolled",
            Self::Proven => "proven",
            Self::InitSent => "init-sent",
            Self::Saved => "saved",
            Self::Unsealed => "unsealed",
            Self::Credential => "credential",
            Self::Setup => "setup",
            Self::Revoked => "revoked",
            Self::Done => "done",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Reads all lines; the error says what is wrong with one of them.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match json::parse::<Record>(line, LINE_LIMITS) {
            Ok(record) if record.v == 1 => records.push(record),
            Ok(record) => return Err(format!("has a line of version {}", record.v)),
            // Only what is not even JSON can be a torn line; anything else was not written by us.
            Err(_) if serde_json::from_slice::<serde::de::IgnoredAny>(line).is_err() => {}
            Err(fault) => return Err(format!("has a line that {fault}")),
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn journal() -> (tempfile::TempDir, Journal) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::open_or_create(&folder.path().join("state"), None).unwrap();
        (folder, Journal::of(&state))
    }

    #[test]
    fn an_operation_is_unfinished_until_it_says_so() {
        let (_folder, journal) = journal();
        assert!(journal.unfinished().unwrap().is_none());
        let mut operation = journal.begin("init").unwrap();
        let id = kdf_api::id::random().unwrap();
        operation.note_slot(Step::Enrolling, "tpm", id).unwrap();
        let found = journal.unfinished().unwrap().unwrap();
        assert_eq!(
            (found.op(), found.last(), found.enrolments()),
            ("init", Some(Step::Enrolling), vec![(id, "tpm".to_owned())])
        );
        assert_eq!(journal.orphans(&[]).unwrap(), [(id, "tpm".to_owned())]);
        assert!(journal.orphans(&[id]).unwrap().is_empty());
        operation.note_slot(Step::Retired, "tpm", id).unwrap();
        assert!(journal.orphans(&[]).unwrap().is_empty());
        operation.note(Step::Abandoned).unwrap();
        assert!(journal.unfinished().unwrap().is_none());
    }

    #[test]
    fn what_is_over_is_dropped_and_what_stands_is_kept() {
        let (_folder, journal) = journal();
        let id = kdf_api::id::random().unwrap();
        let mut done = journal.begin("init").unwrap();
        done.note_slot(Step::Enrolling, "tpm", id).unwrap();
        done.note_slot(Step::Enrolled, "tpm", id).unwrap();
        done.note(Step::Done).unwrap();
        for _ in 0..3 {
            let gone = kdf_api::id::random().unwrap();
            let mut given_up = journal.begin("init").unwrap();
            given_up.note_slot(Step::Enrolling, "tpm", gone).unwrap();
            given_up.note_slot(Step::Retired, "tpm", gone).unwrap();
            given_up.note(Step::Abandoned).unwrap();
        }
        journal.shorten().unwrap();
        assert_eq!(journal.read().unwrap().len(), 2);
        assert!(journal.unfinished().unwrap().is_none());
        assert_eq!(journal.orphans(&[]).unwrap(), [(id, "tpm".to_owned())]);
    }

    #[test]
    fn a_removal_that_fails_again_and_again_does_not_fill_the_journal() {
        let (_folder, journal) = journal();
        let id = kdf_api::id::random().unwrap();
        for _ in 0..5 {
            let mut failed = journal.begin("slot remove").unwrap();
            failed.note_slot(Step::Retiring, "tpm", id).unwrap();
            failed.note(Step::Abandoned).unwrap();
        }
        journal.shorten().unwrap();
        assert_eq!(journal.read().unwrap().len(), 2);
        assert_eq!(journal.orphans(&[]).unwrap(), [(id, "tpm".to_owned())]);
    }

    #[test]
    fn a_torn_line_is_passed_over_and_a_foreign_one_is_not() {
        let (_folder, journal) = journal();
        journal.begin("init").unwrap();
        let mut text = std::fs::read_to_string(&journal.path).unwrap();
        text.push_str(r#"{"v":1,"op":"in"#);
        std::fs::write(&journal.path, &text).unwrap();
        assert_eq!(journal.read().unwrap().len(), 1);
        journal.unfinished().unwrap().unwrap().note(Step::Done).unwrap();
        assert_eq!(journal.read().unwrap().len(), 2);
        std::fs::write(&journal.path, "{\"v\":1}\n").unwrap();
        assert!(journal.read().is_err());
    }

    #[test]
    fn step_names_are_those_of_the_format() {
        for step in [Step::Planned, Step::InitSent, Step::Done, Step::Abandoned] {
            assert_eq!(
                serde_json::to_string(&step).unwrap(),
                format!("\"{}\"", step.name())
            );
        }
    }
}
