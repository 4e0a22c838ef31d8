//! A key that signs PCR states, and the files that systemd-measure writes with one.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::hex;

/// A key and the folder where its files are.
pub struct Signer {
    folder: TempDir,
    fingerprint: String,
    /// The public key, as PEM text.
    pub public: String,
}

impl Default for Signer {
    fn default() -> Self {
        Self::new()
    }
}

impl Signer {
    /// A new key.
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let private = folder.path().join("private.pem");
        openssl(&["genrsa", "-out", private.to_str().unwrap(), "2048"]);
        let public = openssl(&["rsa", "-in", private.to_str().unwrap(), "-pubout"]);
        Self {
            fingerprint: fingerprint(&private),
            folder,
            public: String::from_utf8(public).unwrap(),
        }
    }

    /// An entry for registers with these values, in ascending order.
    pub fn sign(&self, registers: &[(u8, [u8; 32])]) -> Value {
        let mut bits = [0_u8; 3];
        let mut values = Sha256::new();
        for (register, value) in registers {
            bits[usize::from(register / 8)] |= 1 << (register % 8);
            values.update(value);
        }
        let mut policy = Sha256::new();
        policy.update([0; 32]);
        policy.update([0, 0, 1, 0x7f, 0, 0, 0, 1, 0, 0x0b, 3]);
        policy.update(bits);
        policy.update(values.finalize());
        let policy = policy.finalize();
        let path = self.folder.path().join("pol");
        std::fs::write(&path, policy).unwrap();
        let key = self.folder.path().join("private.pem");
        let signature = openssl(&[
            "dgst",
            "-sha256",
            "-sign",
            key.to_str().unwrap(),
            path.to_str().unwrap(),
        ]);
        let registers: Vec<u8> = registers.iter().map(|(register, _)| *register).collect();
        json!({
            "pcrs": registers,
            "pkfp": self.fingerprint,
            "pol": hex(&policy),
            "sig": Base64::encode_string(&signature),
        })
    }

    /// Writes a file with these entries.
    pub fn file(&self, entries: &[Value]) -> PathBuf {
        let path = self.folder.path().join("tpm2-pcr-signature.json");
        std::fs::write(&path, json!({"sha256": entries}).to_string()).unwrap();
        path
    }

    /// The file with the private key.
    pub fn private(&self) -> PathBuf {
        self.folder.path().join("private.pem")
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// SHA-256 of the key in the form of PKCS #1, computed by OpenSSL.
fn fingerprint(private: &Path) -> String {
    let private = private.to_str().unwrap();
    let der = openssl(&["rsa", "-in", private, "-RSAPublicKey_out", "-outform", "DER"]);
    hex(&Sha256::digest(der))
}

/// What a register has after it was extended.
pub fn extended(old: [u8; 32], what: [u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(old);
    hash.update(what);
    hash.finalize().into()
}

fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl")
        .args(arguments)
        .output()
        .expect("apt install openssl");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
