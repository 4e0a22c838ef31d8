//! A vendor's KDF executable, whole: the device here is a file, where yours has a chip.

use std::process::ExitCode;

use kdf_api::{
    Advised, Backend, Binding, Code, Derives, Description, Destroyed, EnrollRequest, Error, Kdf, Key,
    Parameter, Place, Result, Retire, Use, Values, hkdf,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

struct Vendor;

/// What the host keeps and hands back. Public, and to be taken for hostile.
#[derive(Serialize, Deserialize)]
struct Enrolment {
    id: Uuid,
}

/// Stands in for the secret that your hardware does not give away.
fn device_secret(settings: &Values) -> Result<Vec<u8>> {
    let path = settings.required("device")?;
    std::fs::read(path).map_err(|error| Error::new(Code::Unavailable, format!("the device {path}: {error}")))
}

impl Backend for Vendor {
    type Enrolment = Enrolment;
    type Role = Derives;

    fn describe(&self) -> Description {
        let mut description = Description::new("kdf-vendor", "1.0.0", "example", Binding::Vendor);
        description
            .settings
            .push(Parameter::required("device", "where the device is"));
        description
    }

    fn enroll(&mut self, request: &EnrollRequest<'_>) -> Result<Enrolment> {
        device_secret(request.place.settings)?;
        Ok(Enrolment { id: request.id })
    }

    fn retire(&mut self, _: Retire<'_, Enrolment>, _: &Place<'_>) -> Result<Destroyed> {
        Ok(Destroyed::default()) // Nothing lies on the device for one enrolment.
    }
}

impl Kdf for Vendor {
    fn derive(&mut self, enrolment: &Enrolment, at: &Use<'_>) -> Result<Advised<Key>> {
        let secret = device_secret(at.place.settings)?;
        let info: [&[u8]; 2] = [b"kdf-vendor/v1\n", at.context.as_bytes()];
        Ok(hkdf::sha256(&secret, enrolment.id.as_bytes(), &info).into())
    }
}

fn main() -> ExitCode {
    kdf_api::plugin::run(Vendor)
}
