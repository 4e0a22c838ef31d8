#!/usr/bin/python3
"""Known answers for kdf-tpm, computed without its code.

Argon2id is the reference implementation's (python3-argon2), HKDF is Python's own HMAC (RFC 5869), and the TPM's part is
simulated: TPM2_HMAC with a known key is HMAC-SHA256. All inputs are fixed, so the same file comes out every time.
"""

import hashlib
import hmac
import itertools
import json
import struct
import sys

from argon2.low_level import Type, hash_secret_raw


def hkdf(ikm: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    prk = hmac.new(salt, ikm, hashlib.sha256).digest()
    output, block = b"", b""
    for counter in range(1, 256):
        block = hmac.new(prk, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
        if len(output) >= length:
            return output[:length]
    raise ValueError(length)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def run(first: int, length: int = 32) -> bytes:
    return bytes((first + step) % 256 for step in range(length))


def pins():
    for pin, cost in [
        (b"1234", {"m_kib": 19456, "t": 2, "p": 1}),
        (b"correct horse battery staple", {"m_kib": 65536, "t": 3, "p": 4}),
        (b"\x00\xff", {"m_kib": 8192, "t": 1, "p": 1}),
    ]:
        salt = run(0x20)
        x = hash_secret_raw(pin, salt, cost["t"], cost["m_kib"], cost["p"], 64, Type.ID, 0x13)
        auth = bytearray(hkdf(x, salt, b"kdf-tpm/v1 auth\n"))
        auth[-1] |= 1
        yield {
            "pin": pin.hex(),
            "salt": salt.hex(),
            "argon2": cost,
            "x": x.hex(),
            "auth": bytes(auth).hex(),
            "p": hkdf(x, salt, b"kdf-tpm/v1 pin\n").hex(),
        }


def keys():
    salt, t, p, n = run(0x40), run(0x60), run(0x80), run(0xA0)
    context = "unsealer/v1 keyring=6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60 epoch=1 slot=tpm policy=any"
    for mode, with_pin, revocable in itertools.product(["hmac", "sealed"], [0, 1], [0, 1]):
        ikm = t + (p if with_pin else b"") + (n if revocable else b"")
        info = f"kdf-tpm/v1 mode={mode} pin={with_pin} revocable={revocable}\n{context}".encode()
        yield {
            "mode": mode,
            "context": context,
            "salt": salt.hex(),
            "t": t.hex(),
            "p": p.hex() if with_pin else None,
            "n": n.hex() if revocable else None,
            "key": hkdf(ikm, salt, info).hex(),
        }


def policies():
    """Digests by TPM 2.0 Library, part 3: PolicyPCR 0x17F, PolicyAuthorize 0x16A, PolicyAuthValue 0x16B, PolicyCommandCode
    0x16C; commands HMAC 0x155, Unseal 0x15E, NV_Read 0x14E."""
    zero = bytes(32)
    values = {7: run(0x07), 11: run(0x11)}
    bits = sum(1 << register for register in values)
    selection = struct.pack(">IHB", 1, 0x000B, 3) + bits.to_bytes(3, "little")
    pcr = sha256(*(values[register] for register in sorted(values)))

    def policy_pcr(old):
        return sha256(old, struct.pack(">I", 0x17F), selection, pcr)

    def policy_auth_value(old):
        return sha256(old, struct.pack(">I", 0x16B))

    def policy_command(old, command):
        return sha256(old, struct.pack(">II", 0x16C, command))

    return {
        "pcrs": {str(register): value.hex() for register, value in values.items()},
        "digests": [
            {"pcrs": False, "pin": False, "command": "hmac", "digest": policy_command(zero, 0x155).hex()},
            {"pcrs": False, "pin": False, "command": "unseal", "digest": policy_command(zero, 0x15E).hex()},
            {"pcrs": False, "pin": False, "command": "nv-read", "digest": policy_command(zero, 0x14E).hex()},
            {"pcrs": True, "pin": False, "command": "hmac", "digest": policy_pcr(zero).hex()},
            {"pcrs": False, "pin": True, "command": "hmac", "digest": policy_auth_value(zero).hex()},
            {"pcrs": True, "pin": True, "command": "hmac", "digest": policy_auth_value(policy_pcr(zero)).hex()},
        ],
    }


def signing_key():
    """A modulus that nobody has the private key of: it is only named."""
    modulus = bytes([0xC5]) + run(0x01, 255)
    pkcs1 = bytes.fromhex("3082010a0282010100") + modulus + bytes.fromhex("0203010001")
    spki = bytes.fromhex("30820122300d06092a864886f70d01010105000382010f00") + pkcs1
    # TPMT_PUBLIC: RSA, SHA-256, userWithAuth decrypt sign, no policy, symmetric and scheme null, 2048 bits, exponent 0.
    public = (
        struct.pack(">HHIH", 0x0001, 0x000B, 0x00060040, 0)
        + struct.pack(">HHHI", 0x0010, 0x0010, 2048, 0)
        + struct.pack(">H", 256)
        + modulus
    )
    name = b"\x00\x0b" + sha256(public)
    inner = sha256(bytes(32), struct.pack(">I", 0x16A), name)
    return {
        "spki": spki.hex(),
        "fingerprint": sha256(pkcs1).hex(),
        "name": name.hex(),
        "policy": sha256(inner).hex(),
    }


def places():
    for number in ["6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60", "00000000-0000-4000-8000-000000000000"]:
        first = struct.unpack(">I", sha256(b"kdf-tpm/v1 nv\n", number.encode())[:4])[0]
        yield {"id": number, "handle": 0x01800000 + first % 0x3FFFF8}


def hmac_inputs():
    for context in ["test/v1 use=a", "unsealer/v1 keyring=6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60 epoch=1 slot=tpm policy=any"]:
        yield {"context": context, "input": sha256(b"kdf-tpm/v1 hmac\n", context.encode()).hex()}


def main():
    vectors = {
        "about": "kdf-tpm/v1; computed with python3-argon2 and Python's hmac and hashlib",
        "pins": list(pins()),
        "hmac_inputs": list(hmac_inputs()),
        "keys": list(keys()),
        "policies": policies(),
        "signing_key": signing_key(),
        "nv_places": list(places()),
    }
    json.dump(vectors, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
