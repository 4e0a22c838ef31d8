//! What the programs of the project must not be like: it reads a secret from stdin and leaves it in memory.
//!
//! `leaky kept FORM` still holds it at its end, `leaky freed FORM` gave the memory back without wiping it. FORM is `raw`,
//! `hex` or `base64`. It has the allocator of the system.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::io::{self, Read};
use std::process::ExitCode;

use base64ct::{Base64, Encoding};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    let mut secret = Vec::new();
    if io::stdin().read_to_end(&mut secret).is_err() {
        return ExitCode::FAILURE;
    }
    let copy = match arguments.get(2).map(String::as_str) {
        Some("raw") => secret.clone(),
        Some("hex") => base16ct::lower::encode_string(&secret).into_bytes(),
        Some("base64") => Base64::encode_string(&secret).into_bytes(),
        _ => return ExitCode::FAILURE,
    };
    // What it was made from is no longer there in any form but this one.
    secret.fill(0);
    black_box(&secret);
    match arguments.get(1).map(String::as_str) {
        Some("kept") => {
            black_box(Box::leak(copy.into_boxed_slice()));
        }
        Some("freed") => {
            black_box(&copy);
            drop(copy);
        }
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}
