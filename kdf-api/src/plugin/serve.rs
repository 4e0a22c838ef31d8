//! One request of the KDF protocol, read from stdin and answered on stdout.

use std::os::fd::AsFd;
use std::process::ExitCode;

use crate::backend::{EnrollRequest, Place, Retire, Use};
use crate::device::Device;
use crate::error::{Code, Error, Result};
use crate::protocol::{Answer, Asked, Incoming, MAX_MESSAGE, SecretBuffer, VERSION, write_answer};

/// Answers one request in the version of the protocol that was asked for.
pub(super) fn serve(device: &mut dyn Device, version: &str) -> ExitCode {
    let outcome = read(version).and_then(|request| answer(device, request));
    let status = if outcome.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    match super::say(&write_answer(&outcome)) {
        ExitCode::SUCCESS => status,
        failure => failure,
    }
}

fn read(version: &str) -> Result<Incoming> {
    if version != VERSION.to_string() {
        return Err(Error::new(
            Code::Unsupported,
            "this program speaks version 1 of the KDF protocol only",
        ));
    }
    let message = SecretBuffer::read_all(std::io::stdin().as_fd(), MAX_MESSAGE)
        .map_err(|error| Error::new(Code::Internal, format!("the request cannot be read: {error}")))?
        .ok_or_else(|| Error::new(Code::InvalidRequest, "the request is longer than 1 MiB"))?;
    Incoming::read(message.as_bytes())
}

fn answer(device: &mut dyn Device, request: Incoming) -> Result<Answer> {
    let Incoming {
        asked,
        settings,
        credentials,
    } = request;
    let place = Place {
        settings: &settings,
        credentials: &credentials,
    };
    Ok(match asked {
        Asked::Describe => Answer::Described(Box::new(device.describe()?)),
        Asked::Enroll { id, options } => Answer::Enrolled(device.enroll(&EnrollRequest {
            id,
            options: &options,
            place,
        })?),
        Asked::Derive { enrolment, context } => Answer::Derived(device.derive(
            &enrolment,
            &Use {
                context: &context,
                place,
            },
        )?),
        Asked::Wrap {
            enrolment,
            context,
            secret,
        } => Answer::Wrapped(device.wrap(
            &enrolment,
            &Use {
                context: &context,
                place,
            },
            &secret,
        )?),
        Asked::Unwrap {
            enrolment,
            context,
            wrapped,
        } => Answer::Unwrapped(device.unwrap(
            &enrolment,
            &Use {
                context: &context,
                place,
            },
            &wrapped,
        )?),
        Asked::Health { enrolment } => Answer::Health(device.health(&enrolment, &place)?),
        Asked::Retire { enrolment } => {
            Answer::Destroyed(device.retire(Retire::Enrolment(&enrolment), &place)?)
        }
        Asked::RetireId { id } => Answer::Destroyed(device.retire(Retire::Id(id), &place)?),
    })
}
