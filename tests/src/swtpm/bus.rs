//! Somebody who listens on the bus: reads what is in clear, and decrypts what is encrypted under a key that all can compute.
//!
//! Of a session that is neither salted nor bound the key is empty, and all else that goes into the encryption stands in clear
//! beside it (TPM 2.0 Library, part 1, sections 19.6 and 21). The listener takes every session for such a one.

use std::collections::HashMap;

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt as _, KeyInit as _};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::recorder::Exchange;

/// What the listener has.
#[derive(Default)]
pub struct Heard {
    /// All bytes, in clear.
    pub clear: Vec<Vec<u8>>,
    /// What came out of decrypting first parameters with an empty key.
    pub decrypted: Vec<Vec<u8>>,
    /// Sessions started.
    pub sessions: usize,
    /// How many of them had a salt.
    pub salted: usize,
}

impl Heard {
    /// Listens to all of it.
    pub fn of(exchanges: &[Exchange]) -> Self {
        let mut heard = Self::default();
        let mut nonces: HashMap<u32, (Vec<u8>, Vec<u8>)> = HashMap::new();
        for exchange in exchanges {
            heard.clear.push(exchange.command.clone());
            heard.clear.push(exchange.answer.clone());
            if exchange.code() == 0x176 && exchange.succeeded() {
                heard.start(exchange, &mut nonces);
            } else if exchange.command[..2] == [0x80, 0x02] {
                heard.use_of(exchange, &mut nonces);
            }
        }
        heard
    }

    /// Whether some bytes can be had from it.
    pub fn has(&self, needle: &[u8]) -> bool {
        assert!(needle.len() >= 8, "too short to mean anything");
        let within = |all: &[Vec<u8>]| {
            all.iter()
                .any(|bytes| bytes.windows(needle.len()).any(|part| part == needle))
        };
        within(&self.clear) || within(&self.decrypted)
    }

    fn start(&mut self, exchange: &Exchange, nonces: &mut HashMap<u32, (Vec<u8>, Vec<u8>)>) {
        let mut command = Reader(&exchange.command[10..]);
        let (_key, _bind) = (command.u32(), command.u32());
        let caller = command.sized().to_vec();
        let salt = command.sized();
        self.sessions += 1;
        self.salted += usize::from(salt.len() > 32);
        let mut answer = Reader(&exchange.answer[10..]);
        let handle = answer.u32();
        nonces.insert(handle, (caller, answer.sized().to_vec()));
    }

    fn use_of(&mut self, exchange: &Exchange, nonces: &mut HashMap<u32, (Vec<u8>, Vec<u8>)>) {
        let (handles, handles_back) = match exchange.code() {
            // CreatePrimary and Load give a handle.
            0x131 | 0x157 => (1, 1),
            // Create, HMAC, Unseal, NV_DefineSpace.
            0x153 | 0x155 | 0x15e | 0x12a => (1, 0),
            // NV_Write, NV_Read, NV_UndefineSpace, EvictControl.
            0x137 | 0x14e | 0x122 | 0x120 => (2, 0),
            other => panic!("a command with sessions that the listener does not know: {other:#x}"),
        };
        let mut command = Reader(&exchange.command[10..]);
        command.take(4 * handles);
        let length = command.u32() as usize;
        let mut area = Reader(command.take(length));
        let mut sessions = Vec::new();
        while !area.0.is_empty() {
            let (handle, nonce, attributes, _) =
                (area.u32(), area.sized().to_vec(), area.take(1)[0], area.sized());
            sessions.push((handle, nonce, attributes));
        }
        for (handle, nonce, attributes) in &sessions {
            if let Some((caller, tpm)) = nonces.get_mut(handle) {
                caller.clone_from(nonce);
                if attributes & 0x20 != 0 {
                    let first = Reader(command.0).sized();
                    self.decrypted.push(decrypt(caller, tpm, first));
                }
            }
        }
        if !exchange.succeeded() {
            return;
        }
        let mut answer = Reader(&exchange.answer[10..]);
        answer.take(4 * handles_back);
        let length = answer.u32() as usize;
        let parameters = answer.take(length);
        for (handle, _, attributes) in &sessions {
            let fresh = answer.sized().to_vec();
            answer.take(1);
            answer.sized();
            if let Some((caller, tpm)) = nonces.get_mut(handle) {
                *tpm = fresh;
                if attributes & 0x40 != 0 {
                    self.decrypted
                        .push(decrypt(tpm, caller, Reader(parameters).sized()));
                }
            }
        }
    }
}

/// AES-128 in CFB mode with key and IV from KDFa over an empty session key.
fn decrypt(newer: &[u8], older: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut kdf = Hmac::<Sha256>::new_from_slice(&[]).unwrap();
    for part in [
        &1_u32.to_be_bytes()[..],
        b"CFB\0",
        newer,
        older,
        &256_u32.to_be_bytes(),
    ] {
        kdf.update(part);
    }
    let output = kdf.finalize().into_bytes();
    let cipher = Aes128::new_from_slice(&output[..16]).unwrap();
    let mut register: [u8; 16] = output[16..32].try_into().unwrap();
    let mut plain = Vec::new();
    for chunk in bytes.chunks(16) {
        let mut block = register.into();
        cipher.encrypt_block(&mut block);
        plain.extend(chunk.iter().zip(block.iter()).map(|(byte, key)| byte ^ key));
        register[..chunk.len()].copy_from_slice(chunk);
    }
    plain
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().unwrap())
    }

    fn sized(&mut self) -> &'a [u8] {
        let length = u16::from_be_bytes(self.take(2).try_into().unwrap());
        self.take(length.into())
    }
}
