//! What is derived from what the TPM gives. The labels are frozen.
//!
//! ```text
//! T   = TPM2_HMAC over SHA-256("kdf-tpm/v1 hmac\n" + context), or the sealed 32 bytes
//! key = HKDF-SHA256(T [+ P] [+ N], salt, "kdf-tpm/v1 mode=<mode> pin=<0 or 1> revocable=<0 or 1>\n" + context)
//! ```

use kdf_api::{Context, Key, Secret, hkdf};

use crate::key::Mode;
use crate::name::sha256;

/// What the TPM computes its HMAC over.
pub(crate) fn hmac_input(context: &Context) -> [u8; 32] {
    sha256(&[b"kdf-tpm/v1 hmac\n", context.as_bytes()])
}

/// The key of a context, from what the TPM, the PIN and the NV index gave.
pub(crate) fn key(
    mode: Mode,
    from_tpm: &Secret,
    from_pin: Option<&Key>,
    from_nv: Option<&Secret>,
    salt: &[u8; 32],
    context: &Context,
) -> Key {
    let parts = [
        Some(from_tpm.expose()),
        from_pin.map(|key| key.expose().as_slice()),
        from_nv.map(Secret::expose),
    ];
    let mut ikm = Secret::zeroed(parts.iter().flatten().map(|part| part.len()).sum());
    let mut rest = ikm.expose_mut();
    for part in parts.into_iter().flatten() {
        let (place, after) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = after;
    }
    let label = format!(
        "kdf-tpm/v1 mode={} pin={} revocable={}\n",
        mode.name(),
        u8::from(from_pin.is_some()),
        u8::from(from_nv.is_some())
    );
    hkdf::sha256(ikm.expose(), salt, &[label.as_bytes(), context.as_bytes()])
}
