//! A KDF executable that only wraps and unwraps, with one key file an enrolment in the folder that plays the device.
//!
//! It does what `docs/examples/vendor-keeper.py` does, forty times as fast: the crash tests run it thousands of times.
#![forbid(unsafe_code)]

use std::alloc::System;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use kdf_api::wrap::MAX_SECRET;
use kdf_api::{
    Advised, Backend, Binding, Code, Description, Destroyed, EnrollRequest, Error, Keeps, Key, Parameter,
    Place, Result, Retire, Secret, SecretStorage, Use, Wrapped,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use zeroizing_alloc::ZeroAlloc;

#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

struct Keeper;

#[derive(Serialize, Deserialize)]
struct Enrolment {
    id: Uuid,
}

fn main() -> ExitCode {
    kdf_api::plugin::run(Keeper)
}

fn key_file(id: Uuid, place: &Place<'_>) -> Result<PathBuf> {
    Ok(PathBuf::from(place.settings.required("folder")?).join(format!("{id}.key")))
}

fn key(enrolment: &Enrolment, place: &Place<'_>) -> Result<Key> {
    let path = key_file(enrolment.id, place)?;
    let missing = |error| Error::new(Code::NotEnrolled, format!("{}: {error}", path.display()));
    Key::new(Secret::take(std::fs::read(&path).map_err(missing)?))
        .ok_or_else(|| Error::new(Code::Tampered, format!("{} is not 32 bytes", path.display())))
}

impl Backend for Keeper {
    type Enrolment = Enrolment;
    type Role = Keeps;

    fn describe(&self) -> Description {
        let mut description = Description::new("file-keeper", "1.0.0", "test-folder", Binding::Vendor);
        description
            .settings
            .push(Parameter::required("folder", "the folder that plays the device"));
        description
    }

    fn enroll(&mut self, request: &EnrollRequest<'_>) -> Result<Enrolment> {
        let path = key_file(request.id, &request.place)?;
        let created = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let failed = |error| Error::new(Code::Unavailable, format!("{}: {error}", path.display()));
        created
            .and_then(|mut file| file.write_all(Key::random().map_err(std::io::Error::other)?.expose()))
            .map_err(failed)?;
        Ok(Enrolment { id: request.id })
    }

    fn retire(&mut self, what: Retire<'_, Enrolment>, at: &Place<'_>) -> Result<Destroyed> {
        let id = match what {
            Retire::Enrolment(enrolment) => enrolment.id,
            Retire::Id(id) => id,
        };
        let path = key_file(id, at)?;
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(Destroyed(vec![format!("key file {}", path.display())])),
            // Gone already; but a device that is not there proves nothing.
            Err(_) if path.parent().is_some_and(std::path::Path::is_dir) => Ok(Destroyed::default()),
            Err(error) => Err(Error::new(
                Code::Unavailable,
                format!("{}: {error}", path.display()),
            )),
        }
    }
}

impl SecretStorage for Keeper {
    type Wrapped = Value;

    fn wrap(&mut self, enrolment: &Enrolment, at: &Use<'_>, secret: &Secret) -> Result<Value> {
        Ok(Wrapped::seal(&key(enrolment, &at.place)?, at.context, secret, MAX_SECRET)?.to_json())
    }

    fn unwrap(&mut self, enrolment: &Enrolment, at: &Use<'_>, wrapped: &Value) -> Result<Advised<Secret>> {
        let wrapped = Wrapped::from_json(wrapped, MAX_SECRET)?;
        Ok(wrapped.open(&key(enrolment, &at.place)?, at.context)?.into())
    }
}
