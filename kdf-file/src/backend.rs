//! The key file as a root of trust.

use kdf_api::error::Result;
use kdf_api::secret::{Key, random_salt};
use kdf_api::{
    Advised, Backend, Binding, Derives, Description, Destroyed, EnrollRequest, Health, Kdf, Parameter, Place,
    Retire, Use,
};
use serde_json::Value;

use crate::enrolment::Enrolment;
use crate::location::Location;
use crate::{derivation, health, mode, store};

/// The setting that says where the key file is.
const PATH: &str = "path";
/// The option that says what the enrolment is.
const MODE: &str = "mode";

/// The root of trust of a key file: derives keys from 32 random bytes in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct KdfFile(());

impl KdfFile {
    /// It holds nothing: where the key file is comes with each call.
    pub const fn new() -> Self {
        Self(())
    }
}

impl Backend for KdfFile {
    /// As it stands in JSON: what comes back is read anew at each call, so that another release's enrolment is told from
    /// an altered one.
    type Enrolment = Value;
    type Role = Derives;

    fn describe(&self) -> Description {
        let path = format!("setting:{PATH}");
        let mut description = Description::new("kdf-file", env!("CARGO_PKG_VERSION"), "file", Binding::File);
        description.options = vec![Parameter::with_default(
            MODE,
            mode::PLAIN,
            "what gives the keys; plain: the key file alone",
        )];
        description.settings = vec![Parameter::required(
            PATH,
            "the key file, or if it ends in / the folder in which it is <id>.key; absolute",
        )];
        description.needs.read = vec![path.clone()];
        description.needs.write = vec![path];
        description
    }

    fn enroll(&mut self, request: &EnrollRequest<'_>) -> Result<Value> {
        mode::check(request.options.get(MODE).unwrap_or(mode::PLAIN))?;
        let location = Location::new(request.place.settings.required(PATH)?, request.id)?;
        let (key, salt) = (Key::random()?, random_salt()?);
        let enrolment = Enrolment {
            id: request.id,
            salt,
            file_check: derivation::file_check(&key, &salt),
        };
        // Last, so that nothing can fail once there is a key file.
        store::create(&location, request.id, &key)?;
        Ok(enrolment.to_json())
    }

    fn health(&mut self, enrolment: &Value, at: &Place<'_>) -> Result<Health> {
        let enrolment = Enrolment::from_json(enrolment)?;
        let location = Location::new(at.settings.required(PATH)?, enrolment.id)?;
        Ok(health::examine(&enrolment, &location))
    }

    fn retire(&mut self, what: Retire<'_, Value>, at: &Place<'_>) -> Result<Destroyed> {
        let id = match what {
            Retire::Enrolment(enrolment) => Enrolment::from_json(enrolment)?.id,
            Retire::Id(id) => id,
        };
        let location = Location::new(at.settings.required(PATH)?, id)?;
        store::destroy(&location, id).map(Destroyed)
    }
}

impl Kdf for KdfFile {
    fn derive(&mut self, enrolment: &Value, at: &Use<'_>) -> Result<Advised<Key>> {
        let enrolment = Enrolment::from_json(enrolment)?;
        let location = Location::new(at.place.settings.required(PATH)?, enrolment.id)?;
        let (id, key) = store::read(&location)?;
        enrolment
            .require_id(id)
            .map_err(|error| error.within(location.file().display()))?;
        enrolment
            .require_key(&key)
            .map_err(|error| error.within(location.file().display()))?;
        Ok(derivation::key(&key, &enrolment.salt, at.context).into())
    }
}
