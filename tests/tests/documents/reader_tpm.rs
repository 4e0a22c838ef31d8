//! `docs/tools/read_keyring.py` on slots of kdf-tpm: from what a TPM gave to the key shares, by the text alone.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::reader::Desk;
use crate::{hex, list, require_python, text, vectors};

/// The keyring of `docs/vectors/kdf-tpm.json`, and what a TPM would give for each of its slots.
fn desk() -> (Desk, Vec<Slot>) {
    require_python("argon2");
    let desk = Desk::with(vectors("kdf-tpm")["keyring"].clone());
    let slots: Vec<_> = list(&desk.vectors["slots"]).iter().map(Slot::of).collect();
    assert_eq!(slots.len(), 8);
    (desk, slots)
}

struct Slot {
    name: String,
    context: String,
    pin: Option<Vec<u8>>,
    /// T, and N if the slot is revocable.
    given: Vec<String>,
}

impl Slot {
    fn of(row: &Value) -> Self {
        let given = [&row["t"], &row["n"]];
        let given = given.iter().filter_map(|part| part.as_str().map(str::to_owned));
        Self {
            name: text(&row["name"]).to_owned(),
            context: text(&row["context"]).to_owned(),
            pin: (!row["pin"].is_null()).then(|| hex(&row["pin"])),
            given: given.collect(),
        }
    }

    /// The reader's arguments, with this PIN in a file.
    fn arguments(&self, desk: &Desk, pin: Option<&[u8]>) -> Vec<String> {
        let mut arguments: Vec<_> = ["--slot", &self.name, "--tpm", "-"].map(str::to_owned).into();
        if let Some(pin) = pin {
            let file = desk.put("pin", pin).display().to_string();
            arguments.extend(["--pin".to_owned(), file]);
        }
        arguments
    }

    fn opens(&self, desk: &Desk, pin: Option<&[u8]>, given: &str) -> String {
        let arguments = self.arguments(desk, pin);
        desk.prints(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), given)
    }

    fn refuses(&self, desk: &Desk, pin: Option<&[u8]>, given: &str, because: &str) {
        let arguments = self.arguments(desk, pin);
        desk.refuses(
            &arguments.iter().map(String::as_str).collect::<Vec<_>>(),
            given,
            because,
        );
    }
}

/// One hexadecimal digit is another.
fn altered(text: &str) -> String {
    let last = if text.ends_with('0') { "1" } else { "0" };
    format!("{}{last}", &text[..text.len() - 1])
}

#[test]
fn what_a_tpm_gave_opens_every_slot() {
    let (desk, slots) = desk();
    let shares: Vec<_> = list(&desk.vectors["shares"]).iter().map(text).collect();
    for slot in &slots {
        let pin = slot.pin.as_deref();
        assert_eq!(
            slot.opens(&desk, pin, &slot.given.join("\n")),
            shares.join("\n"),
            "{}",
            slot.name
        );
        // As tpm2-tools and editors leave it: base64, line ends.
        let base64 = slot.given.iter().map(|part| {
            let bytes = base16ct::lower::decode_vec(part).unwrap();
            kdf_api::Secret::take(bytes).to_base64().to_string()
        });
        let base64 = base64.collect::<Vec<_>>().join("\n") + "\n";
        let pin = pin.map(|pin| [pin, b"\n"].concat());
        assert_eq!(slot.opens(&desk, pin.as_deref(), &base64), shares.join("\n"));
    }
}

/// Invariant 4: what another TPM, another PIN, or an index made anew gives opens nothing.
#[test]
fn anything_else_opens_none() {
    let (desk, slots) = desk();
    for slot in &slots {
        let pin = slot.pin.as_deref();
        for part in 0..slot.given.len() {
            let mut given = slot.given.clone();
            given[part] = altered(&given[part]);
            slot.refuses(&desk, pin, &given.join("\n"), "does not open slot");
        }
        let given = slot.given.join("\n");
        let wrong_count = "the TPM's file does not hold";
        slot.refuses(&desk, pin, "", wrong_count);
        slot.refuses(
            &desk,
            pin,
            &format!("{given}\n{}", altered(&slot.given[0])),
            wrong_count,
        );
        slot.refuses(&desk, pin, "not hex", "does not hold 32 bytes");
        if pin.is_some() {
            slot.refuses(&desk, Some(b"wrong"), &given, "does not open slot");
            slot.refuses(&desk, None, &given, "the slot has a PIN");
            slot.refuses(&desk, Some(b"\n"), &given, "holds no PIN");
        } else {
            slot.refuses(&desk, Some(b"1234"), &given, "the slot has no PIN");
        }
    }
}

/// Invariant 3: an enrolment that somebody altered, with a hash that fits, opens nothing.
#[test]
fn an_altered_enrolment_opens_none() {
    let (desk, slots) = desk();
    for (number, slot) in slots.iter().enumerate().step_by(7) {
        let other_mode = if slot.name.starts_with("hmac") {
            "sealed"
        } else {
            "hmac"
        };
        let revoked = match slot.given.len() {
            1 => json!({"handle": 0x0180_0000, "name": "00"}),
            _ => Value::Null,
        };
        let with_pin = match slot.pin {
            None => json!({"argon2": {"m_kib": 8192, "t": 1, "p": 1}}),
            Some(_) => Value::Null,
        };
        for (field, value, because) in [
            (
                "salt",
                json!("QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl4="),
                "does not open slot",
            ),
            ("mode", json!(other_mode), "does not open slot"),
            ("nv", revoked, "the TPM's file does not hold"),
            ("pin", with_pin, "the slot has"),
            ("mode", json!("none"), "malformed"),
            ("salt", json!("QEFC"), "does not have 32 bytes"),
            ("v", json!(2), "another version"),
            ("v", json!(true), "another version"),
            ("more", json!(1), "unknown fields"),
            (
                "pin",
                json!({"argon2": {"m_kib": 1 << 30, "t": 1, "p": 1}}),
                "out of bounds",
            ),
        ] {
            let forged = desk.forged(|line| {
                let mut body: Value = serde_json::from_str(line).unwrap();
                body["slots"][number]["enrolment"][field] = value;
                body.to_string()
            });
            desk.put("keyring.json", &forged);
            slot.refuses(&desk, slot.pin.as_deref(), &slot.given.join("\n"), because);
        }
        desk.put("keyring.json", text(&desk.vectors["file"]).as_bytes());
        slot.opens(&desk, slot.pin.as_deref(), &slot.given.join("\n"));
    }
}

/// What a TPM is asked, as the vectors have it.
#[test]
fn what_tpm2_tools_need_is_printed() {
    let (desk, slots) = desk();
    let base64 = |bytes: &[u8]| kdf_api::Secret::copy_of(bytes).to_base64().to_string();
    for slot in &slots {
        let object = desk.prints(&["--tpm-object", &slot.name], "");
        let parts: Vec<_> = object
            .lines()
            .map(|line| kdf_api::Secret::from_base64(line).unwrap().expose().to_vec())
            .collect();
        let [public, private] = &parts[..] else {
            panic!("{object}")
        };
        let enrolment: Value = serde_json::from_str(&desk.prints(&["--enrolment", &slot.name], "")).unwrap();
        for (part, name) in [(public, "public"), (private, "private")] {
            assert_eq!(
                usize::from(u16::from_be_bytes([part[0], part[1]])),
                part.len() - 2
            );
            assert_eq!(base64(&part[2..]), text(&enrolment["object"][name]));
        }
        if slot.name.starts_with("hmac") {
            let input = desk.prints(&["--tpm-input", &slot.name], "");
            assert_eq!(
                input,
                base64(&Sha256::digest(format!("kdf-tpm/v1 hmac\n{}", slot.context)))
            );
        } else {
            desk.refuses(&["--tpm-input", &slot.name], "", "there is no input");
        }
    }
    let file = Desk::with(vectors("keyring"));
    file.refuses(&["--tpm-input", "file"], "", "if it is one of kdf-tpm");
}
