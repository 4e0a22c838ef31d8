//! The backend as a whole, on made-up machines.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use kdf_api::{Backend, Code, Error, State};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::testing::{BOARD_SERIAL, MAC, MACHINE_ID, Machine, PRODUCT_SERIAL, UUID};
use crate::{KdfSoftware, enrolment};

const CONTEXT: &str = "test/v1 part=a";

fn kinds(enrolment: &Json) -> Vec<String> {
    serde_json::from_value(enrolment["kinds"].clone()).unwrap()
}

fn code<T>(result: Result<T, Error>) -> Code {
    result.err().expect("an error").code
}

/// All that an error says to whoever reads it.
fn text(error: &Error) -> String {
    format!("{error} {:?} {:?}", error.hint, error.details)
}

fn shown(thing: &impl std::fmt::Debug) -> String {
    format!("{thing:?}")
}

// Keys

#[test]
fn the_same_machine_and_context_give_the_same_key() {
    let machine = Machine::server();
    let enrolment = machine.enroll(&[]).unwrap();
    let key = machine.derive(&enrolment, CONTEXT).unwrap();
    assert!(machine.derive(&enrolment, CONTEXT).unwrap().same_as(&key));
    assert!(
        !machine
            .derive(&enrolment, "test/v1 part=b")
            .unwrap()
            .same_as(&key)
    );
    assert!(!key.is_constant());
}

#[test]
fn two_enrolments_share_nothing() {
    let machine = Machine::server();
    let (one, other) = (machine.enroll(&[]).unwrap(), machine.enroll(&[]).unwrap());
    let key = machine.derive(&one, CONTEXT).unwrap();
    assert!(!machine.derive(&other, CONTEXT).unwrap().same_as(&key));
    for field in ["salt", "subsets", "commitment", "tags"] {
        assert_ne!(one[field], other[field], "{field}");
    }
}

/// Invariant 4: what belongs to one device opens on no other.
#[test]
fn another_machine_never_gives_the_key() {
    let enrolment = Machine::server().enroll(&[]).unwrap();
    let same_values = Machine::server();
    assert!(
        same_values.derive(&enrolment, CONTEXT).is_ok(),
        "the control: values are all there is"
    );
    for (name, value) in [
        ("product_uuid", "b08dfa60-83e7-4567-a190-1bb500035ce2"),
        ("product_serial", "8K2PXQ7S"),
        ("board_serial", "/CN7016351B00AG/"),
    ] {
        let other = Machine::server();
        other.dmi(name, value);
        assert_eq!(
            code(other.derive(&enrolment, CONTEXT)),
            Code::PolicyChanged,
            "{name}"
        );
    }
}

#[test]
fn values_that_change_places_are_another_machine() {
    let enrolment = Machine::server().enroll(&[]).unwrap();
    let other = Machine::server();
    other.dmi("product_serial", BOARD_SERIAL);
    other.dmi("board_serial", PRODUCT_SERIAL);
    assert_eq!(code(other.derive(&enrolment, CONTEXT)), Code::PolicyChanged);
}

#[test]
fn what_is_not_enrolled_may_change() {
    let machine = Machine::server();
    let enrolment = machine.enroll(&[]).unwrap();
    assert_eq!(
        kinds(&enrolment),
        ["dmi-product-uuid", "dmi-product-serial", "dmi-board-serial"]
    );
    let key = machine.derive(&enrolment, CONTEXT).unwrap();
    machine.write("etc/machine-id", "11112222333344445555666677778888\n");
    machine.write("sys/class/net/eno1/address", "3c:fd:fe:00:00:01\n");
    machine.remove("proc/cpuinfo");
    machine.dmi("chassis_serial", "CH4SS15N0");
    machine.dmi("bios_version", "2.0");
    assert!(machine.derive(&enrolment, CONTEXT).unwrap().same_as(&key));
}

#[test]
fn how_a_value_is_printed_does_not_matter() {
    let machine = Machine::server();
    let enrolment = machine.enroll(&[]).unwrap();
    let key = machine.derive(&enrolment, CONTEXT).unwrap();
    machine.dmi("product_uuid", "  B08DFA6083E74567A1901BB500035CE1\0");
    assert!(machine.derive(&enrolment, CONTEXT).unwrap().same_as(&key));
}

// Changes

#[test]
fn a_component_that_is_gone_is_named() {
    for change in [
        |machine: &Machine| machine.remove_dmi("board_serial"),
        |machine: &Machine| machine.dmi("board_serial", "Default string"),
        |machine: &Machine| machine.dmi("board_serial", ""),
    ] {
        let machine = Machine::server();
        let enrolment = machine.enroll(&[]).unwrap();
        change(&machine);
        let error = machine.derive(&enrolment, CONTEXT).unwrap_err();
        assert_eq!(error.code, Code::PolicyChanged);
        assert!(error.message.contains("dmi-board-serial"), "{error}");
        assert!(!error.message.contains("dmi-product"), "{error}");
        assert_eq!(machine.health(&enrolment).unwrap().state, State::Unavailable);
    }
}

#[test]
fn a_component_that_cannot_be_read_has_not_changed() {
    let machine = Machine::server();
    let enrolment = machine.enroll(&[]).unwrap();
    let key = machine.derive(&enrolment, CONTEXT).unwrap();
    machine.close_dmi("product_uuid");
    let error = machine.derive(&enrolment, CONTEXT).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("dmi-product-uuid"), "{error}");
    assert!(error.hint.unwrap().contains("tmpfiles"));
    assert!(
        error
            .details
            .iter()
            .any(|detail| detail.value.contains("not readable")),
        "{:?}",
        error.details
    );
    let health = machine.health(&enrolment).unwrap();
    assert_eq!(health.state, State::Unavailable);
    machine.remove_dmi("product_uuid");
    machine.dmi("product_uuid", UUID);
    assert!(machine.derive(&enrolment, CONTEXT).unwrap().same_as(&key));
}

#[test]
fn without_sysfs_nothing_has_changed() {
    let machine = Machine::server();
    let enrolment = machine.enroll(&[]).unwrap();
    std::fs::remove_dir_all(machine.path("sys")).unwrap();
    let error = machine.derive(&enrolment, CONTEXT).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(text(&error).contains("is sysfs mounted?"), "{error:?}");
    assert_eq!(code(machine.enroll(&[])), Code::Unavailable);
}

#[test]
fn health() {
    let machine = Machine::server();
    let enrolment = machine.enroll(&[]).unwrap();
    let health = machine.health(&enrolment).unwrap();
    assert_eq!(health.state, State::Ok);
    assert_eq!(health.details.len(), 3);
    machine.dmi("board_serial", "CN7016351B00AG");
    let health = machine.health(&enrolment).unwrap();
    assert_eq!(health.state, State::Unavailable);
    assert_eq!(health.details.last().unwrap().name, "policy-changed");
}

#[test]
fn retire_destroys_nothing_because_there_is_nothing() {
    let machine = Machine::server();
    let enrolment = machine.enroll(&[]).unwrap();
    assert_eq!(machine.retire(&enrolment).unwrap().0, Vec::<String>::new());
}

// The floor

#[test]
fn a_bare_virtual_machine_is_refused_and_cannot_be_talked_into() {
    let guest = Machine::kvm_guest();
    for options in [&[][..], &[("allow-weak", "true")], &[("floor-bits", "0")]] {
        let error = guest.enroll(options).unwrap_err();
        assert_eq!(error.code, Code::Insecure);
        assert!(error.message.contains("dmi-product-uuid 0"), "{error}");
        assert!(error.hint.unwrap().contains("key file"));
    }
    for named in ["dmi-product-uuid", "machine-id", "dmi-product-uuid,machine-id"] {
        let options = [("components", named), ("allow-weak", "true")];
        assert_eq!(code(guest.enroll(&options)), Code::Insecure, "{named}");
    }
    // The control: a machine-id of its own leaves the UUID with all its bits.
    guest.write("etc/machine-id", MACHINE_ID);
    assert!(guest.enroll(&[]).is_ok());
}

#[test]
fn nothing_at_all_is_refused() {
    let machine = Machine::bare();
    for options in [&[][..], &[("allow-weak", "true"), ("floor-bits", "0")]] {
        assert_eq!(code(machine.enroll(options)), Code::Insecure);
    }
}

#[test]
fn below_the_floor_the_refusal_says_what_counts() {
    let machine = Machine::bare();
    machine.dmi("product_serial", PRODUCT_SERIAL);
    let error = machine.enroll(&[]).unwrap_err();
    assert_eq!(error.code, Code::Insecure);
    assert!(error.message.contains("dmi-product-serial 32"), "{error}");
    assert!(
        error
            .message
            .contains("32 bits and Argon2id adds 14: 46 in all, below the floor of 64"),
        "{error}"
    );
    assert_eq!(error.details[0].value, "32 bits");
    for options in [&[("allow-weak", "true")], &[("floor-bits", "46")]] {
        assert!(machine.enroll(options).is_ok());
    }
    assert_eq!(code(machine.enroll(&[("floor-bits", "47")])), Code::Insecure);
    assert_eq!(
        code(machine.enroll(&[("floor-bits", "53"), ("argon2", "rfc9106-2")])),
        Code::Insecure
    );
    assert!(
        machine
            .enroll(&[("floor-bits", "52"), ("argon2", "rfc9106-2")])
            .is_ok()
    );
}

#[test]
fn what_could_count_and_is_closed_is_told() {
    let machine = Machine::bare();
    machine.dmi("product_serial", PRODUCT_SERIAL);
    machine.dmi("product_uuid", UUID);
    assert!(machine.enroll(&[]).is_ok(), "the control");
    machine.close_dmi("product_uuid");
    let error = machine.enroll(&[]).unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.hint.as_ref().unwrap().contains("tmpfiles"));
    assert!(text(&error).contains("product_uuid"), "{error:?}");
    // With enough beside it, or on the operator's word, enrolment goes on without.
    machine.dmi("board_serial", BOARD_SERIAL);
    assert_eq!(
        kinds(&machine.enroll(&[]).unwrap()),
        ["dmi-product-serial", "dmi-board-serial"]
    );
    machine.remove_dmi("board_serial");
    assert!(machine.enroll(&[("allow-weak", "true")]).is_ok());
}

// Options

#[test]
fn named_components_are_used_and_no_others() {
    let machine = Machine::server();
    let named =
        "machine-id, dmi-product-uuid,mac@pci-0000:00:1f.6,disk@pci-0000:00:17.0-ata-2-scsi-0:0:0,cpu";
    let enrolment = machine.enroll(&[("components", named)]).unwrap();
    assert_eq!(
        kinds(&enrolment),
        [
            "dmi-product-uuid",
            "mac@pci-0000:00:1f.6",
            "disk@pci-0000:00:17.0-ata-2-scsi-0:0:0",
            "cpu",
            "machine-id"
        ]
    );
    let key = machine.derive(&enrolment, CONTEXT).unwrap();
    machine.remove_dmi("product_serial");
    assert!(machine.derive(&enrolment, CONTEXT).unwrap().same_as(&key));
    for (file, original, changed) in [
        ("etc/machine-id", MACHINE_ID, "0d5b0e6a1f6a4f7f9d3c2b1a09f8e7d7\n"),
        ("sys/class/net/eno1/address", MAC, "3c:fd:fe:12:34:57\n"),
    ] {
        machine.write(file, changed);
        assert_eq!(
            code(machine.derive(&enrolment, CONTEXT)),
            Code::PolicyChanged,
            "{file}"
        );
        machine.write(file, original);
        assert!(machine.derive(&enrolment, CONTEXT).is_ok());
    }
}

#[test]
fn components_that_make_no_sense_are_refused() {
    let machine = Machine::server();
    machine.close_dmi("board_serial");
    for (named, expected) in [
        ("", Code::InvalidRequest),
        ("everything", Code::InvalidRequest),
        ("dmi-product-uuid,", Code::InvalidRequest),
        ("dmi-product-uuid,dmi-product-uuid", Code::InvalidRequest),
        ("dt-serial", Code::InvalidRequest),
        ("dmi-chassis-serial", Code::InvalidRequest),
        ("mac@../../etc", Code::InvalidRequest),
        ("dmi-board-serial", Code::Unavailable),
    ] {
        assert_eq!(
            code(machine.enroll(&[("components", named)])),
            expected,
            "{named:?}"
        );
    }
    let error = machine.enroll(&[("components", "dt-serial")]).unwrap_err();
    assert!(
        error.hint.unwrap().contains("dmi-product-uuid"),
        "says what there is"
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let machine = Machine::server();
    assert_eq!(code(machine.enroll(&[("mode", "tolerant")])), Code::Unsupported);
    for option in [
        ("mode", "lax"),
        ("argon2", "scrypt"),
        ("floor-bits", "-1"),
        ("floor-bits", "257"),
        ("floor-bits", "many"),
        ("allow-weak", "yes"),
    ] {
        assert_eq!(
            code(machine.enroll(&[option])),
            Code::InvalidRequest,
            "{option:?}"
        );
    }
    assert!(machine.enroll(&[("mode", "strict")]).is_ok());
}

#[test]
fn the_description_has_what_the_backend_reads() {
    let description = KdfSoftware.describe();
    let names: Vec<_> = description
        .options
        .iter()
        .map(|option| option.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["mode", "components", "argon2", "floor-bits", "allow-weak"]
    );
    assert_eq!(description.settings[0].default.as_deref(), Some("/"));
    assert!(description.credentials.is_empty() && !description.needs.network);
}

// What is stored and said

#[test]
fn no_raw_value_is_stored_or_shown() {
    let machine = Machine::server();
    let enrolment = machine
        .enroll(&[("components", "dmi-product-uuid,dmi-board-serial,machine-id")])
        .unwrap();
    let mut said = serde_json::to_string(&enrolment).unwrap();
    said.push_str(&shown(&(&enrolment, machine.health(&enrolment).unwrap())));
    machine.dmi("board_serial", "CN7016351B00AG");
    said.push_str(&shown(&machine.health(&enrolment).unwrap()));
    said += &text(&machine.derive(&enrolment, CONTEXT).unwrap_err());
    said += &text(&machine.enroll(&[("floor-bits", "256")]).unwrap_err());
    said += &text(&machine.enroll(&[("components", "dt-serial")]).unwrap_err());
    let said = said.to_uppercase();
    assert!(said.contains("DMI-BOARD-SERIAL"), "the control");
    for value in [UUID, PRODUCT_SERIAL, "CN7016351B00A", MACHINE_ID, MAC] {
        let value = value.trim().to_uppercase();
        assert!(!said.contains(&value), "{value}");
        assert!(!said.contains(&value.replace(['-', ':'], "")), "{value}");
    }
}

// Enrolments from strangers

fn server() -> (Machine, Json) {
    let machine = Machine::server();
    let enrolment = machine.enroll(&[]).unwrap();
    (machine, enrolment)
}

/// What comes of an altered enrolment.
fn derive(machine: &Machine, enrolment: &Json) -> Result<kdf_api::Key, Error> {
    machine.derive(enrolment, CONTEXT)
}

#[test]
fn malformed_enrolments_are_refused() {
    let (machine, good) = server();
    assert!(derive(&machine, &good).is_ok(), "the control");
    let salt = |length: usize| {
        use base64ct::{Base64, Encoding};
        json!(Base64::encode_string(&vec![7; length]))
    };
    let many: Vec<String> = (0..40).map(|index| format!("mac@pci-{index}")).collect();
    let cases = [
        ("/v", json!(2), Code::Unsupported),
        ("/v", json!(0), Code::Unsupported),
        ("/v", json!("1"), Code::InvalidRequest),
        ("/t", json!(0), Code::InvalidRequest),
        ("/t", json!(2), Code::Unsupported),
        ("/t", json!(4), Code::InvalidRequest),
        ("/n", json!(0), Code::InvalidRequest),
        ("/n", json!(2), Code::InvalidRequest),
        ("/n", json!(4), Code::InvalidRequest),
        ("/n", json!(300), Code::InvalidRequest),
        ("/kinds", json!([]), Code::InvalidRequest),
        ("/kinds", json!(many), Code::InvalidRequest),
        ("/kinds/0", json!("dmi-product-serial"), Code::InvalidRequest),
        ("/kinds/0", json!("/etc/shadow"), Code::InvalidRequest),
        ("/kinds/0", json!("mac@../../../etc/shadow"), Code::InvalidRequest),
        ("/salt", salt(31), Code::InvalidRequest),
        ("/salt", salt(33), Code::InvalidRequest),
        ("/salt", json!(""), Code::InvalidRequest),
        ("/subsets", json!([]), Code::InvalidRequest),
        (
            "/subsets",
            json!([good["subsets"][0], good["subsets"][0]]),
            Code::InvalidRequest,
        ),
        ("/subsets/0/salt", salt(31), Code::InvalidRequest),
        ("/subsets/0/mask", salt(33), Code::InvalidRequest),
        ("/commitment", salt(16), Code::InvalidRequest),
        ("/commitment", json!("!"), Code::InvalidRequest),
        ("/tags", json!([]), Code::InvalidRequest),
        ("/tags/0", salt(5), Code::InvalidRequest),
        ("/argon2/m_kib", json!(8 * 1024 - 1), Code::InvalidRequest),
        ("/argon2/m_kib", json!(1024 * 1024 + 1), Code::InvalidRequest),
        ("/argon2/m_kib", json!(u64::MAX), Code::InvalidRequest),
        ("/argon2/t", json!(0), Code::InvalidRequest),
        ("/argon2/t", json!(11), Code::InvalidRequest),
        ("/argon2/p", json!(17), Code::InvalidRequest),
        ("/argon2", json!(null), Code::InvalidRequest),
    ];
    for (pointer, value, expected) in cases {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value.clone();
        assert_eq!(code(derive(&machine, &bad)), expected, "{pointer} {value}");
    }
    let newer = json!({"v": 2, "another": "form"});
    assert_eq!(code(derive(&machine, &newer)), Code::Unsupported);
    assert_eq!(code(derive(&machine, &json!([]))), Code::InvalidRequest);
    let mut bad = good.clone();
    bad["path"] = json!("/etc/shadow");
    assert_eq!(code(derive(&machine, &bad)), Code::InvalidRequest);
    for field in good.as_object().unwrap().keys() {
        let mut bad = good.clone();
        bad.as_object_mut().unwrap().remove(field);
        assert_eq!(
            code(derive(&machine, &bad)),
            Code::InvalidRequest,
            "without {field}"
        );
    }
}

#[test]
fn an_altered_enrolment_gives_no_key() {
    use base64ct::{Base64, Encoding};
    let (machine, good) = server();
    for (pointer, expected) in [
        ("/salt", Code::PolicyChanged),
        ("/subsets/0/salt", Code::PolicyChanged),
        ("/subsets/0/mask", Code::PolicyChanged),
        ("/commitment", Code::PolicyChanged),
        ("/tags/2", Code::Tampered),
    ] {
        let mut altered = good.clone();
        let field = altered.pointer_mut(pointer).unwrap();
        let mut bytes = Base64::decode_vec(field.as_str().unwrap()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        *field = json!(Base64::encode_string(&bytes));
        assert_eq!(code(derive(&machine, &altered)), expected, "{pointer}");
    }
    let mut swapped = good.clone();
    swapped["kinds"] = json!(["dmi-product-uuid", "dmi-board-serial", "dmi-product-serial"]);
    assert_eq!(code(derive(&machine, &swapped)), Code::PolicyChanged);
    let mut cheaper = good;
    cheaper["argon2"]["t"] = json!(1);
    assert_eq!(code(derive(&machine, &cheaper)), Code::PolicyChanged);
}

/// Invariant 3. One bit in 23, which walks through all eight places in a byte: a run of Argon2id for each would take minutes.
#[test]
fn flipped_bits_are_detected() {
    let (machine, good) = server();
    let text = serde_json::to_vec(&good).unwrap();
    let mut parsed = 0;
    for bit in (0..text.len() * 8).step_by(23) {
        let mut flipped = text.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok(value) = serde_json::from_slice::<Json>(&flipped) else {
            continue;
        };
        parsed += 1;
        assert!(derive(&machine, &value).is_err(), "bit {bit}");
    }
    assert!(parsed > 50, "{parsed}");
}

/// Any JSON of moderate size.
fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        "[A-Za-z0-9+/=@:. -]{0,60}".prop_map(Json::from),
        any::<String>().prop_map(Json::from),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| {
            use base64ct::{Base64, Encoding};
            Json::from(Base64::encode_string(&bytes))
        }),
    ];
    leaf.prop_recursive(3, 40, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..40).prop_map(Json::from),
            proptest::collection::btree_map("[a-z0-9_]{0,6}", inner, 0..6)
                .prop_map(|entries| entries.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

fn good_form() -> Json {
    let vectors: Json = serde_json::from_str(include_str!("../tests/vectors/kdf-software.json")).unwrap();
    vectors["vectors"][1]["enrolment"].clone()
}

proptest! {
    #[test]
    fn any_json_is_parsed_or_refused_without_panic(value in any_json()) {
        let _ = enrolment::read(&value);
    }

    #[test]
    fn so_is_an_enrolment_with_anything_in_any_place(
        pointer in prop::sample::select(vec![
            "/v", "/t", "/n", "/kinds", "/kinds/0", "/salt", "/argon2", "/argon2/m_kib", "/argon2/t", "/argon2/p",
            "/subsets", "/subsets/0", "/subsets/0/salt", "/subsets/0/mask", "/commitment", "/tags", "/tags/5",
        ]),
        value in any_json(),
    ) {
        let mut altered = good_form();
        *altered.pointer_mut(pointer).unwrap() = value;
        if let Ok(scheme) = enrolment::read(&altered) {
            prop_assert_eq!(enrolment::write(&scheme).unwrap(), altered);
        }
    }
}
