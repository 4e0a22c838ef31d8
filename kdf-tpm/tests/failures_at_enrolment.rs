//! What goes wrong with TPMs when somebody enrols: each with the code, the words and what to do about it, and with nothing left
//! behind.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use kdf_api::{Code, Retire, id};
use sha2::{Digest as _, Sha256};
use support::faults::{DEFINE, EVICT, NV_READ_PUBLIC, PCR_READ, answers, code_of};
use support::{Machine, response_code};

/// What goes wrong when somebody enrols: how the TPM is spoiled, what is asked for, and what it says.
struct Refused {
    what: &'static str,
    spoil: fn(&mut Machine),
    options: &'static [(&'static str, &'static str)],
    code: Code,
    words: &'static str,
    hint: &'static str,
}

const AT_ENROLMENT: &[Refused] = &[
    Refused {
        what: "no TPM2_HMAC",
        spoil: without_hmac,
        options: &[("mode", "hmac")],
        code: Code::Unsupported,
        words: "this TPM has no TPM2_HMAC",
        hint: "leave mode out",
    },
    Refused {
        what: "an owner with a password",
        spoil: |machine| drop(machine.tool(&["tpm2_changeauth", "-c", "owner", "password"])),
        options: &[],
        code: Code::CredentialNeeded,
        words: "the TPM's owner has a password",
        hint: "as the credential owner-auth, with persist=true",
    },
    Refused {
        what: "the owner's part switched off",
        spoil: |machine| drop(machine.tool(&["tpm2_hierarchycontrol", "-C", "p", "shEnable", "clear"])),
        options: &[],
        code: Code::Unavailable,
        words: "(storage hierarchy) is switched off",
        hint: "firmware's set-up",
    },
    Refused {
        what: "low NV space",
        spoil: fill_up,
        options: &[("revocable", "true")],
        code: Code::Unavailable,
        words: "the TPM's memory is full (making room for the revocable secret)",
        hint: "tpm2_getcap handles-nv-index",
    },
    Refused {
        what: "no room for a persistent key",
        spoil: |machine| answers(machine, EVICT, 0x14b),
        options: &[("persist", "true")],
        code: Code::Unavailable,
        words: "the TPM's memory is full (making the storage root key persistent)",
        hint: "enrol without persist",
    },
    Refused {
        what: "firmware that lets nobody make keys persistent",
        spoil: |machine| answers(machine, EVICT, 0x143),
        options: &[("persist", "true")],
        code: Code::Unsupported,
        words: "making the storage root key persistent",
        hint: "enrol without persist",
    },
    Refused {
        what: "no bank of SHA-256",
        spoil: |machine| {
            machine.tool(&["tpm2_pcrallocate", "sha1:all+sha256:none"]);
            machine.reboot();
        },
        options: &[("pcrs", "sha256:7")],
        code: Code::Unsupported,
        words: "this TPM has no bank sha256",
        hint: "tpm2_pcrallocate",
    },
    Refused {
        what: "other registers than were asked for",
        spoil: |machine| {
            machine.recorder().meddle(|said, forward| {
                let mut answer = forward(said);
                // PCR_Read: the selection's three bytes, then say register 8 instead of 7.
                if code_of(said) == PCR_READ {
                    answer[21..24].copy_from_slice(&[0, 1, 0]);
                }
                Some(answer)
            });
        },
        options: &[("pcrs", "sha256:7")],
        code: Code::Unsupported,
        words: "not all of the PCRs that were asked for",
        hint: "tpm2_getcap pcrs",
    },
];

/// `GetCapability` of commands: what was 0x155 is the next one.
fn without_hmac(machine: &mut Machine) {
    machine.recorder().meddle(|said, forward| {
        let mut answer = forward(said);
        if said[6..14] == [0, 0, 1, 0x7a, 0, 0, 0, 2] {
            answer[22] = 0x56;
        }
        Some(answer)
    });
}

/// Defines indexes of others until there is no room for the smallest.
fn fill_up(machine: &mut Machine) {
    let mut handle = 0x0150_0000;
    for size in [2048, 256, 1] {
        // NV_DefineSpace by the owner with an empty password: ownerwrite, ownerread.
        while response_code(&machine.raw(&format!(
            "80020000002d{DEFINE:08x}4000000100000009400000090000010000\
             0000000e{handle:08x}000b000200020000{size:04x}"
        ))) == 0
        {
            handle += 1;
        }
    }
    assert!(handle > 0x0150_0004, "nothing was defined");
}

#[test]
fn each_failure_of_an_enrolment_has_its_code_and_words() {
    for row in AT_ENROLMENT {
        let what = row.what;
        let mut machine = Machine::new();
        (row.spoil)(&mut machine);
        let kept = [machine.handles(0x01), machine.handles(0x81)];
        let error = machine.try_enroll(row.options).unwrap_err();
        assert_eq!(error.code, row.code, "{what}: {error}");
        assert!(error.message.contains(row.words), "{what}: {error}");
        let hint = error.hint.unwrap_or_default();
        assert!(hint.contains(row.hint), "{what}: {hint}");
        machine.recorder().leave_alone();
        machine.assert_clean();
        assert_eq!([machine.handles(0x01), machine.handles(0x81)], kept, "{what}");
    }
}

/// The control of the row without `TPM2_HMAC`, and what is done instead.
#[test]
fn a_tpm_without_hmac_seals() {
    let mut machine = Machine::new();
    without_hmac(&mut machine);
    assert_eq!(machine.enroll(&[])["mode"], "sealed");
    machine.recorder().leave_alone();
    assert_eq!(machine.enroll(&[])["mode"], "hmac");
}

/// At enrolment there is nothing yet that pins the TPM, so it is asked who made it.
#[test]
fn a_simulator_is_told_by_its_maker_too() {
    let mut machine = Machine::new();
    machine.settings.set("allow-simulator", "false");
    let error = machine.try_enroll(&[]).unwrap_err();
    assert_eq!(error.code, Code::Insecure);
    assert!(error.message.contains("\"IBM\""), "{error}");
}

/// Who stands on the bus changes the attributes of the object that the TPM made, so that a password would get around its
/// policy: the session notices.
#[test]
fn an_answer_that_was_changed_on_its_way_is_noticed() {
    for byte in 0..4 {
        let machine = Machine::new();
        machine.recorder().meddle(move |said, forward| {
            let mut answer = forward(said);
            if said[6..10] == [0, 0, 1, 0x53] {
                // Response code, parameter size, TPM2B_PRIVATE, then type, nameAlg and attributes of the public part.
                let private = usize::from(u16::from_be_bytes([answer[14], answer[15]]));
                answer[16 + private + 2 + 4 + byte] ^= 0x40;
            }
            Some(answer)
        });
        let error = machine.try_enroll(&[]).unwrap_err();
        assert_eq!(error.code, Code::Tampered, "{error}");
        assert!(error.message.contains("does not authenticate"), "{error}");
    }
}

/// Or he shows the NV index as one that its owner can read, under the Name that such a one has. No session guards that answer.
#[test]
fn an_index_with_other_rules_is_noticed() {
    let machine = Machine::new();
    machine.recorder().meddle(|said, forward| {
        let mut answer = forward(said);
        if code_of(said) == NV_READ_PUBLIC && response_code(&answer) == 0 {
            // Size, then handle, nameAlg, attributes, …; after it the Name: size, nameAlg, digest.
            let end = 12 + usize::from(u16::from_be_bytes([answer[10], answer[11]]));
            // OWNERREAD, bit 17.
            answer[19] |= 1 << 1;
            let name = Sha256::digest(&answer[12..end]);
            answer[end + 4..end + 36].copy_from_slice(&name);
        }
        Some(answer)
    });
    let number = id::random().unwrap();
    let error = machine.enroll_as(number, &[("revocable", "true")]).unwrap_err();
    assert_eq!(error.code, Code::Insecure, "{error}");
    assert!(error.message.contains("another NV index"), "{error}");
    machine.recorder().leave_alone();
    machine.assert_clean();
    // Under that Name it could not be removed; by the id it can.
    machine.retire(Retire::Id(number)).unwrap();
    assert!(machine.handles(0x01).is_empty());
}
