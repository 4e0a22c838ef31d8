//! Enrol, derive, wrap, retire: what the key file is there for.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use kdf_api::{
    Binding, Code, Context, Credentials, Device as _, Place, Retire, Secret, State, Use, Values, id,
};
use serde_json::{Value, json};
use support::{a_file, a_folder, device, id_of, set_mode, with};

#[test]
fn the_same_key_every_time_and_for_any_other_context_or_enrolment_another() {
    for site in [a_file(), a_folder()] {
        let enrolment = site.enroll();
        let key = site.derive(&enrolment).unwrap();
        assert!(key.same_as(&site.derive(&enrolment).unwrap()));
        assert!(!key.is_constant());
        assert!(!key.same_as(&site.derive_for(&enrolment, "test/v1 use=b").unwrap()));

        let other = a_file();
        let other_enrolment = other.enroll();
        assert!(!key.same_as(&other.derive(&other_enrolment).unwrap()));
    }
}

#[test]
fn a_key_file_that_was_moved_gives_the_same_key() {
    let (old, new) = (a_folder(), a_file());
    let enrolment = old.enroll();
    let key = old.derive(&enrolment).unwrap();
    fs::rename(old.key_file(), &new.path).unwrap();
    assert!(key.same_as(&new.derive(&enrolment).unwrap()));
}

/// The published vectors, from the key file's text to the key.
#[test]
fn known_answers() {
    let vectors: Vec<Value> = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let bytes = |text: &Value| -> Vec<u8> {
        let text = text.as_str().unwrap();
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    };
    let base64 = |text: &Value| Secret::take(bytes(text)).to_base64().to_string();
    assert!(!vectors.is_empty());
    for vector in vectors {
        let site = a_file();
        fs::write(&site.path, vector["key_file"].as_str().unwrap()).unwrap();
        set_mode(&site.path, 0o600);
        let enrolment = json!({
            "v": 1,
            "id": vector["id"],
            "mode": "plain",
            "salt": base64(&vector["salt"]),
            "file_check": base64(&vector["file_check"]),
        });
        let key = site
            .derive_for(&enrolment, vector["context"].as_str().unwrap())
            .unwrap();
        assert_eq!(key.expose().to_vec(), bytes(&vector["key"]));
        // The salt is bound into the key: with another one not even the check holds.
        let salted = with(&enrolment, "salt", json!(base64(&vector["file_key"])));
        site.refused(&salted, Code::WrongDevice);
    }
}

#[test]
fn the_enrolment_is_public_and_exactly_five_fields() {
    let site = a_file();
    let enrolment = site.enroll();
    let names: Vec<_> = enrolment
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(names.len(), 5);
    assert!(
        ["v", "id", "mode", "salt", "file_check"]
            .iter()
            .all(|name| names.contains(name))
    );
    assert_eq!(
        (enrolment["v"].as_u64(), enrolment["mode"].as_str()),
        (Some(1), Some("plain"))
    );
    // Nothing of the key file's secret stands in it.
    let line = fs::read_to_string(&site.path).unwrap();
    let mut words = line.split_whitespace();
    assert_eq!(words.nth(1).unwrap(), enrolment["id"].as_str().unwrap());
    let secret = words.next().unwrap();
    assert!(line.contains(secret) && !enrolment.to_string().contains(secret));
}

#[test]
fn two_enrolments_share_nothing() {
    let site = a_folder();
    let (one, other) = (site.enroll(), site.enroll());
    for field in ["id", "salt", "file_check"] {
        assert_ne!(one[field], other[field]);
    }
    assert_eq!(site.names().len(), 2);
    assert!(!site.derive(&one).unwrap().same_as(&site.derive(&other).unwrap()));
}

#[test]
fn wraps_and_unwraps_by_way_of_the_derived_key() {
    let site = a_file();
    let enrolment = site.enroll();
    let settings = Values::from_iter([("path", &site.path)]);
    let place = Place {
        settings: &settings,
        credentials: &Credentials::new(),
    };
    let context = Context::parse("test/v1 use=wrap").unwrap();
    let at = Use {
        context: &context,
        place,
    };
    let wrapped = device()
        .wrap(&enrolment, &at, &Secret::copy_of(b"a share"))
        .unwrap();
    assert_eq!(
        device().unwrap(&enrolment, &at, &wrapped).unwrap().value.expose(),
        b"a share"
    );
    let other = Context::parse("test/v1 use=other").unwrap();
    let at = Use {
        context: &other,
        place,
    };
    assert_eq!(
        device().unwrap(&enrolment, &at, &wrapped).unwrap_err().code,
        Code::WrongDevice
    );
}

#[test]
fn says_what_it_is() {
    let described = device().describe().unwrap();
    let description = &described.description;
    assert_eq!(
        (description.name.as_str(), description.root_of_trust.as_str()),
        ("kdf-file", "file")
    );
    assert_eq!(
        (description.version.as_str(), description.binding),
        (env!("CARGO_PKG_VERSION"), Binding::File)
    );
    let options: Vec<_> = description
        .options
        .iter()
        .map(|option| (option.name.as_str(), option.default.as_deref()))
        .collect();
    assert_eq!(options, [("mode", Some("plain"))]);
    assert_eq!(description.settings.len(), 1);
    assert!(description.settings[0].name == "path" && description.settings[0].required);
    assert_eq!(description.needs.read, ["setting:path"]);
    assert_eq!(description.needs.write, ["setting:path"]);
}

#[test]
fn other_modes_are_not_in_this_release() {
    let site = a_file();
    let mode = |mode: &str| Values::from_iter([("mode", mode)]);
    for later in ["passphrase", "credential", "else"] {
        let error = site.enroll_with(id::random().unwrap(), &mode(later)).unwrap_err();
        assert_eq!(error.code, Code::Unsupported, "{error}");
        assert!(error.message.contains("this release, which has plain"), "{error}");
    }
    assert!(site.names().is_empty());
    // An option that belongs to those modes is none of this release's either.
    let argon2 = Values::from_iter([("argon2", "small")]);
    assert_eq!(
        site.enroll_with(id::random().unwrap(), &argon2).unwrap_err().code,
        Code::Unsupported
    );
    site.enroll_with(id::random().unwrap(), &mode("plain")).unwrap();
}

#[test]
fn retire_destroys_by_enrolment_or_by_id_and_again_without_error() {
    for site in [a_file(), a_folder()] {
        for by_id in [false, true] {
            let enrolment = site.enroll();
            let retire = || {
                site.retire(if by_id {
                    Retire::Id(id_of(&enrolment))
                } else {
                    Retire::Enrolment(&enrolment)
                })
            };
            let path = site.key_file();
            site.derive(&enrolment).unwrap();
            assert_eq!(retire().unwrap(), [format!("key file {}", path.display())]);
            assert!(site.names().is_empty());
            site.refused(&enrolment, Code::NotEnrolled);
            assert!(retire().unwrap().is_empty());
        }
    }
}

/// A second name, be it somebody else's, shows what is left of the bytes.
#[test]
fn retire_overwrites_before_it_unlinks() {
    let site = a_file();
    let enrolment = site.enroll();
    let elsewhere = site.at("elsewhere");
    fs::hard_link(&site.path, &elsewhere).unwrap();
    let before = fs::read(&elsewhere).unwrap();
    site.retire(Retire::Enrolment(&enrolment)).unwrap();
    let after = fs::read(&elsewhere).unwrap();
    assert_eq!(before.len(), after.len());
    // 44 characters of the key and 8 of its checksum, now random: some will agree by chance.
    let same = before[53..]
        .iter()
        .zip(&after[53..])
        .filter(|(old, new)| old == new)
        .count();
    assert!(same < 12, "{same} bytes of the key are as they were");
}

#[test]
fn retire_leaves_what_is_not_its_own() {
    let site = a_file();
    let enrolment = site.enroll();
    let before = fs::read(&site.path).unwrap();

    assert!(site.retire(Retire::Id(id::random().unwrap())).unwrap().is_empty());
    let other = with(&enrolment, "id", json!(id::random().unwrap().to_string()));
    assert!(site.retire(Retire::Enrolment(&other)).unwrap().is_empty());
    assert_eq!(fs::read(&site.path).unwrap(), before);

    // Not even where the file has the id's name and another's content.
    let folder = a_folder();
    let id = id::random().unwrap();
    let renamed = folder.at(&format!("{id}.key"));
    fs::write(&renamed, &before).unwrap();
    assert!(folder.retire(Retire::Id(id)).unwrap().is_empty());
    assert_eq!(fs::read(&renamed).unwrap(), before);

    // A file that does not say whose it is stays, and one is told.
    fs::write(&site.path, "something else").unwrap();
    let error = site.retire(Retire::Enrolment(&enrolment)).unwrap_err();
    assert_eq!(error.code, Code::Tampered, "{error}");
    assert_eq!(fs::read(&site.path).unwrap(), b"something else");
}

#[test]
fn retire_destroys_what_is_damaged_too_if_it_says_or_its_name_says_whose_it_is() {
    let site = a_file();
    let enrolment = site.enroll();
    let mut line = fs::read(&site.path).unwrap();
    line[60] ^= 1;
    fs::write(&site.path, &line).unwrap();
    site.refused(&enrolment, Code::Tampered);
    assert_eq!(site.retire(Retire::Enrolment(&enrolment)).unwrap().len(), 1);
    assert!(site.names().is_empty());

    let folder = a_folder();
    let enrolment = folder.enroll();
    fs::write(folder.key_file(), "").unwrap();
    folder.refused(&enrolment, Code::Tampered);
    // Of a file without end only the beginning is overwritten.
    fs::OpenOptions::new()
        .write(true)
        .open(folder.key_file())
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert_eq!(folder.retire(Retire::Id(id_of(&enrolment))).unwrap().len(), 1);
    assert!(folder.names().is_empty());
}

/// What others can reach is destroyed all the same; only a use of it is refused.
#[test]
fn retire_does_not_spare_what_is_insecure() {
    let site = a_file();
    let enrolment = site.enroll();
    set_mode(&site.path, 0o666);
    set_mode(site.folder(), 0o777);
    site.refused(&enrolment, Code::Insecure);
    assert_eq!(site.retire(Retire::Enrolment(&enrolment)).unwrap().len(), 1);
    assert!(site.names().is_empty());
}

#[test]
fn health_tells_every_check() {
    let site = a_file();
    let enrolment = site.enroll();
    let named = |names: &[&str]| -> Vec<String> {
        site.health(&enrolment)
            .details
            .into_iter()
            .filter(|detail| names.contains(&detail.name.as_str()))
            .map(|detail| detail.value)
            .collect()
    };
    let health = site.health(&enrolment);
    assert_eq!(health.state, State::Ok, "{health:?}");
    let checks: Vec<_> = health.details.iter().map(|detail| detail.name.as_str()).collect();
    assert_eq!(
        checks,
        [
            "folders", "file", "kind", "owner", "mode", "links", "content", "id", "key"
        ]
    );
    let uid = fs::metadata(&site.path).unwrap().uid();
    assert_eq!(
        named(&["owner", "mode", "links"]),
        [format!("uid {uid}"), "0600".to_owned(), "1".to_owned()]
    );

    // All that is wrong is told at once, each with what mends it.
    set_mode(&site.path, 0o640);
    fs::hard_link(&site.path, site.at("other")).unwrap();
    let health = site.health(&enrolment);
    assert_eq!(health.state, State::Unavailable);
    let wrong: Vec<_> = health
        .details
        .iter()
        .filter(|detail| detail.hint.is_some())
        .map(|detail| detail.name.as_str())
        .collect();
    assert_eq!(wrong, ["mode", "links"]);
    assert!(
        !format!("{health:?}").contains(fs::read_to_string(&site.path).unwrap().split(' ').nth(2).unwrap())
    );

    fs::remove_file(&site.path).unwrap();
    let health = site.health(&enrolment);
    assert_eq!(health.state, State::Unavailable);
    assert!(named(&["file"])[0].contains("there is no key file"), "{health:?}");
}
