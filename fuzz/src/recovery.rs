//! The recovery identity of the published vectors, and an age file for it whose file key is known.

use base64ct::{Base64, Base64Unpadded, Encoding as _};
use kdf_api::hkdf;
use kdf_api::protocol::SecretBuffer;
use unsealer::recovery::{Identity, Recipients};

use crate::keyring::hmac;
use crate::vectors::{RECOVERY, list, text};

/// Of the age file in the vectors: what its recipients' stanzas hold.
const FILE_KEY: [u8; 16] = [
    0xAC, 0x2F, 0x96, 0x79, 0xFD, 0x63, 0xC4, 0x00, 0xFB, 0x2E, 0x40, 0xE9, 0x9E, 0x82, 0x37, 0x5D,
];

/// Text in the buffer in which secrets are read.
pub fn buffer(text: &[u8]) -> SecretBuffer {
    let mut buffer = SecretBuffer::new();
    buffer.append(text);
    buffer
}

/// An identity that opens the vectors.
pub fn identity() -> Identity {
    Identity::parse(&buffer(text(&list(&RECOVERY["identities"])[0]).as_bytes())).expect("an identity")
}

/// One that does not.
pub fn stranger() -> Identity {
    Identity::parse(&buffer(text(&RECOVERY["stranger"]).as_bytes())).expect("an identity")
}

/// Those of the vectors.
pub fn recipients() -> Recipients {
    let names = list(&RECOVERY["recipients"]).iter().map(text).map(str::to_owned);
    Recipients::parse(&names.collect::<Vec<_>>()).expect("recipients")
}

/// What the age file in the vectors holds.
pub fn line() -> &'static str {
    text(&RECOVERY["recovery_line"])
}

/// The age file in the vectors.
pub fn age() -> Vec<u8> {
    let line1 = text(&RECOVERY["file"]).lines().next().expect("a first line");
    let body: serde_json::Value = serde_json::from_str(line1).expect("JSON");
    Base64::decode_vec(text(&body["recovery"]["age"])).expect("base64")
}

/// The same with more in its header, before or behind the recipients' stanzas, and a MAC that fits
/// (<https://c2sp.org/age>, "Header MAC").
pub fn age_with(more: &[u8], before: bool) -> Vec<u8> {
    const VERSION: &[u8] = b"age-encryption.org/v1\n";
    let file = age();
    let at = |what: &[u8]| file.windows(what.len()).position(|bytes| bytes == what);
    let end = at(b"\n--- ").expect("the header's last line") + 1;
    let payload = end + b"--- \n".len() + Base64Unpadded::encode_string(&[0; 32]).len();
    let (first, second) = if before {
        (more, &b""[..])
    } else {
        (&b""[..], more)
    };
    let stanzas = &file[VERSION.len()..end];
    let header = [VERSION, first, stanzas, second, b"---"].concat();
    let mac = hmac(&hkdf::sha256(&FILE_KEY, b"", &[b"header"]), &header);
    let mac = Base64Unpadded::encode_string(&mac);
    [&header, &b" "[..], mac.as_bytes(), b"\n", &file[payload..]].concat()
}
