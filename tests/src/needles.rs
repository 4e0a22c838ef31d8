//! Secrets in every form in which they may turn up somewhere: raw, hex, base64, as JSON, URLs and debug output spell them.

use std::collections::BTreeMap;
use std::fmt;

use aho_corasick::AhoCorasick;
use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding};

/// The shortest piece that is looked for: 128 bits do not turn up by chance.
const PIECE: usize = 16;

/// What is to be found nowhere: secrets by name, each in all its forms.
#[derive(Default)]
pub struct Needles {
    /// Each byte string, and what it is.
    forms: BTreeMap<Vec<u8>, String>,
}

/// Something that was found where it must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Which secret, which piece of it, and in which form.
    pub what: String,
    /// Where, in bytes from the start of what was searched.
    pub at: usize,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {:#x}", self.what, self.at)
    }
}

impl Needles {
    /// Nothing to look for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a secret: whole, and where it is long enough also its first and last 16 bytes, which stay behind when
    /// something else overwrites a part of it.
    pub fn add(&mut self, name: &str, secret: &[u8]) {
        assert!(
            secret.len() >= PIECE,
            "{name} is so short that it could turn up by chance"
        );
        self.add_piece(name, secret);
        if let (Some(first), Some(last)) = (secret.first_chunk::<PIECE>(), secret.last_chunk::<PIECE>()) {
            self.add_piece(&format!("the beginning of {name}"), first);
            self.add_piece(&format!("the end of {name}"), last);
        }
    }

    fn add_piece(&mut self, name: &str, piece: &[u8]) {
        for (form, bytes) in forms(piece) {
            self.forms
                .entry(bytes)
                .or_insert_with(|| format!("{name}, {form}"));
        }
    }

    /// Everything that is in there, in the order of places.
    pub fn find(&self, haystack: &[u8]) -> Vec<Hit> {
        self.finder().find(haystack)
    }

    /// For more than one search: to make one takes longer than most searches.
    pub fn finder(&self) -> Finder<'_> {
        assert!(!self.forms.is_empty(), "there is nothing to look for");
        Finder {
            searcher: AhoCorasick::new(self.forms.keys()).expect("a few thousand short patterns"),
            names: self.forms.values().map(String::as_str).collect(),
        }
    }
}

/// All needles at once, ready to search.
pub struct Finder<'a> {
    searcher: AhoCorasick,
    names: Vec<&'a str>,
}

impl Finder<'_> {
    /// Everything that is in there, in the order of places.
    pub fn find(&self, haystack: &[u8]) -> Vec<Hit> {
        let found = self.searcher.find_overlapping_iter(haystack);
        found
            .map(|found| Hit {
                what: self.names[found.pattern().as_usize()].to_owned(),
                at: found.start(),
            })
            .collect()
    }
}

/// Every spelling of some bytes.
fn forms(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut forms = vec![
        ("raw".to_owned(), bytes.to_vec()),
        (
            "in hex".to_owned(),
            base16ct::lower::encode_string(bytes).into_bytes(),
        ),
        (
            "in upper-case hex".to_owned(),
            base16ct::upper::encode_string(bytes).into_bytes(),
        ),
        ("as a list of numbers".to_owned(), numbers(bytes, ", ")),
        ("as a JSON list of numbers".to_owned(), numbers(bytes, ",")),
    ];
    for alignment in 0..3 {
        let plain = base64_inside(bytes, alignment, Base64Unpadded::encode_string);
        let form = |spelling: &str| format!("in base64{spelling} (alignment {alignment})");
        forms.push((form(""), plain.clone().into_bytes()));
        for (spelling, text) in [
            (
                " for URLs",
                base64_inside(bytes, alignment, Base64UrlUnpadded::encode_string),
            ),
            (", percent-encoded", respell(&plain, "%2B", "%2F")),
            (", percent-encoded in lower case", respell(&plain, "%2b", "%2f")),
            (", JSON-escaped", respell(&plain, "+", "\\/")),
            (
                ", JSON-escaped by code points",
                respell(&plain, "\\u002b", "\\u002f"),
            ),
            (", JSON-escaped as for HTML", respell(&plain, "\\u002b", "/")),
        ] {
            forms.push((form(spelling), text.into_bytes()));
        }
    }
    forms
}

/// The base64 text of bytes that begin `alignment` bytes (modulo 3) into a stream: the characters that they alone decide.
/// Alignment 0 is also the text on its own, without the last character where that depends on padding.
fn base64_inside(bytes: &[u8], alignment: usize, encode: impl Fn(&[u8]) -> String) -> String {
    let stream = [&[0; 2][..alignment], bytes].concat();
    let text = encode(&stream);
    let (first, end) = ((alignment * 8).div_ceil(6), stream.len() * 8 / 6);
    text[first..end].to_owned()
}

fn respell(base64: &str, plus: &str, slash: &str) -> String {
    base64.replace('+', plus).replace('/', slash)
}

fn numbers(bytes: &[u8], between: &str) -> Vec<u8> {
    let texts: Vec<_> = bytes.iter().map(u8::to_string).collect();
    texts.join(between).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: [u8; 33] = *b"\xfb\xff\xbf0123456789abcdefghijklmnop\xff\xfe\xfd\xfb";

    fn found(haystack: &[u8]) -> bool {
        let mut needles = Needles::new();
        needles.add("the secret", &SECRET);
        needles
            .find(haystack)
            .iter()
            .any(|hit| hit.what.starts_with("the secret,"))
    }

    /// The positive control of every search: each spelling, as somebody else's code writes it, is found.
    #[test]
    fn every_spelling_is_found() {
        use base64ct::{Base64, Base64Url};
        let plain = Base64::encode_string(&SECRET);
        assert!(plain.contains('+') && plain.contains('/'));
        for text in [
            base16ct::lower::encode_string(&SECRET),
            base16ct::upper::encode_string(&SECRET),
            plain.clone(),
            Base64Url::encode_string(&SECRET),
            format!("{SECRET:?}"),
            serde_json::to_string(&SECRET.to_vec()).unwrap(),
            plain.replace('/', "\\/"),
            plain.replace('+', "\\u002b"),
            plain.replace('+', "%2B").replace('/', "%2F"),
            plain.replace('+', "%2b").replace('/', "%2f"),
        ] {
            assert!(found(format!("before {text} after").as_bytes()), "{text}");
        }
        for before in 0..7 {
            for after in 0..4 {
                let stream = [&vec![0x5a; before], SECRET.as_slice(), &vec![0xa5; after]].concat();
                assert!(found(&stream));
                assert!(
                    found(Base64::encode_string(&stream).as_bytes()),
                    "{before} {after}"
                );
            }
        }
    }

    #[test]
    fn a_piece_is_found_and_another_secret_is_not() {
        let mut needles = Needles::new();
        needles.add("it", &SECRET);
        let hit = |bytes: &[u8]| {
            needles
                .find(bytes)
                .into_iter()
                .map(|hit| (hit.what, hit.at))
                .next()
        };
        let half = [&SECRET[..16], &[0; 17]].concat();
        assert_eq!(hit(&half), Some(("the beginning of it, raw".to_owned(), 0)));
        let half = [&[0; 17], &SECRET[17..]].concat();
        assert_eq!(hit(&half), Some(("the end of it, raw".to_owned(), 17)));
        assert_eq!(hit(&SECRET[1..16]), None);
        assert_eq!(hit(&[0x11; 100]), None);
    }
}
