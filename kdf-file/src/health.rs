//! How a key file is, check by check: the same checks as at every use, but for stopping at the first that fails.

use std::os::fd::OwnedFd;

use kdf_api::error::{Detail, Error, Result};
use kdf_api::{Health, State};

use crate::enrolment::Enrolment;
use crate::folder::Folder;
use crate::location::Location;
use crate::private_file::{self, CHECKS};
use crate::store;

/// Looks at everything that a use of the enrolment needs.
pub(crate) fn examine(enrolment: &Enrolment, location: &Location) -> Health {
    let mut report = Report::default();
    let folders = Folder::trusted(location).map(|folder| match folder {
        Some(_) => "only root and we can change them".to_owned(),
        None => format!("there is no folder {}", location.folder().display()),
    });
    report.note("folders", folders);
    let file = Folder::any(location).and_then(|folder| store::open(location, folder));
    match file {
        Ok(file) => {
            report.note("file", Ok(location.file().display().to_string()));
            if let Err(error) = examine_file(&mut report, &file, enrolment, location) {
                report.note("content", Err(error));
            }
        }
        Err(error) => report.note("file", Err(error)),
    }
    report.into_health()
}

fn examine_file(
    report: &mut Report,
    file: &OwnedFd,
    enrolment: &Enrolment,
    location: &Location,
) -> Result<()> {
    let path = location.file();
    let found = private_file::status(file, &path)?;
    for (name, check) in CHECKS {
        report.note(name, check(&found, &path));
    }
    if private_file::kind(&found, &path).is_err() {
        return Ok(());
    }
    let (id, key) = store::content(file, &path)?;
    report.note("content", Ok("matches its checksum".to_owned()));
    report.note("id", enrolment.require_id(id).map(|()| id.to_string()));
    report.note(
        "key",
        enrolment
            .require_key(&key)
            .map(|()| "the one that was enrolled".to_owned()),
    );
    Ok(())
}

#[derive(Default)]
struct Report {
    details: Vec<Detail>,
    failed: bool,
}

impl Report {
    fn note(&mut self, name: &str, finding: Result<String>) {
        let (value, hint) = match finding {
            Ok(value) => (value, None),
            Err(Error { message, hint, .. }) => {
                self.failed = true;
                (message, hint)
            }
        };
        self.details.push(Detail {
            name: name.to_owned(),
            value,
            hint,
        });
    }

    fn into_health(self) -> Health {
        Health {
            state: if self.failed {
                State::Unavailable
            } else {
                State::Ok
            },
            details: self.details,
        }
    }
}
