//! What fuzz targets reach beside the public interface: parsers of untrusted bytes that are private.
//!
//! Only with the feature `fuzzing`, which nothing but the workspace `fuzz/` turns on. Nothing here does more than what it
//! calls: what was read is written again, so that a target can compare.

use serde::Deserialize;

use crate::error::{Code, Error, Result};
use crate::protocol::{
    Answer, Asked, DerivedAnswer, DescribedAnswer, DestroyedAnswer, EnrolledAnswer, HealthAnswer, Incoming,
    Outgoing, SecretBuffer, UnwrappedAnswer, Verb, WrappedAnswer, read_answer, write_answer,
};
use crate::secret::Secret;

/// A program reads a request, and a host writes the same again.
pub fn request(message: &[u8]) -> Result<SecretBuffer> {
    let Incoming {
        asked,
        settings,
        credentials,
    } = Incoming::read(message)?;
    let verb = match asked {
        Asked::Describe => return Outgoing::new(Verb::Describe).to_message(),
        Asked::Enroll { .. } => Verb::Enroll,
        Asked::Derive { .. } => Verb::Derive,
        Asked::Wrap { .. } => Verb::Wrap,
        Asked::Unwrap { .. } => Verb::Unwrap,
        Asked::Health { .. } => Verb::Health,
        Asked::Retire { .. } | Asked::RetireId { .. } => Verb::Retire,
    };
    let common = Outgoing {
        settings: Some(&settings),
        credentials: Some(&credentials),
        ..Outgoing::new(verb)
    };
    match &asked {
        Asked::Describe => common,
        Asked::Enroll { id, options } => Outgoing {
            id: Some(*id),
            options: Some(options),
            ..common
        },
        Asked::Derive { enrolment, context } => Outgoing {
            enrolment: Some(enrolment),
            context: Some(context.as_str()),
            ..common
        },
        Asked::Wrap {
            enrolment,
            context,
            secret,
        } => Outgoing {
            enrolment: Some(enrolment),
            context: Some(context.as_str()),
            secret: Some(secret),
            ..common
        },
        Asked::Unwrap {
            enrolment,
            context,
            wrapped,
        } => Outgoing {
            enrolment: Some(enrolment),
            context: Some(context.as_str()),
            wrapped: Some(wrapped),
            ..common
        },
        Asked::Health { enrolment } | Asked::Retire { enrolment } => Outgoing {
            enrolment: Some(enrolment),
            ..common
        },
        Asked::RetireId { id } => Outgoing {
            id: Some(*id),
            ..common
        },
    }
    .to_message()
}

/// A host reads a program's answer to a verb, and a program writes the same again. The error that a program itself
/// answered with is written again too; what breaks the protocol is [`Code::BrokenProgram`].
pub fn answer(verb: Verb, message: &[u8], succeeded: bool) -> Result<SecretBuffer> {
    let outcome = match verb {
        Verb::Describe => accept(message, succeeded, |answer: DescribedAnswer| {
            Ok(Answer::Described(Box::new(answer.accept()?)))
        }),
        Verb::Enroll => accept(message, succeeded, |answer: EnrolledAnswer| {
            Ok(Answer::Enrolled(answer.accept()?))
        }),
        Verb::Derive => accept(message, succeeded, |answer: DerivedAnswer| {
            Ok(Answer::Derived(answer.accept()?))
        }),
        Verb::Wrap => accept(message, succeeded, |answer: WrappedAnswer| {
            Ok(Answer::Wrapped(answer.wrapped))
        }),
        Verb::Unwrap => accept(message, succeeded, |answer: UnwrappedAnswer| {
            Ok(Answer::Unwrapped(answer.accept()))
        }),
        Verb::Health => accept(message, succeeded, |answer: HealthAnswer| {
            Ok(Answer::Health(answer.accept()))
        }),
        Verb::Retire => accept(message, succeeded, |answer: DestroyedAnswer| {
            Ok(Answer::Destroyed(answer.accept()))
        }),
    }?;
    Ok(write_answer(&outcome))
}

fn accept<'a, T: Deserialize<'a>>(
    message: &'a [u8],
    succeeded: bool,
    answer: impl FnOnce(T) -> std::result::Result<Answer, &'static str>,
) -> Result<Result<Answer>> {
    let broken = |what: String| Error::new(Code::BrokenProgram, what);
    match read_answer::<T>(message, succeeded).map_err(broken)? {
        Ok(read) => answer(read).map(Ok).map_err(|what| broken(what.to_owned())),
        Err(error) => Ok(Err(error)),
    }
}

/// A host reads what an IKM hook printed.
pub fn hook(output: &[u8]) -> std::result::Result<Secret, &'static str> {
    crate::host::read_line(output)
}
