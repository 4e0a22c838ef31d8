#!/usr/bin/python3
"""Makes the project's own test vectors in docs/vectors, from the texts of docs/wrapped-secret.md, docs/keyring.md and
docs/tpm.md alone.

It shares no code with the project: HKDF and AES-256-GCM are OpenSSL's (python3-cryptography), Argon2id is the reference
implementation's (python3-argon2), and what a TPM would give is made up. All inputs are fixed, so the same files come out
every time.

    make_vectors.py            writes the files
    make_vectors.py --check    says whether the files are what it would write
"""

import base64
import hashlib
import hmac
import itertools
import json
import pathlib
import struct
import sys

from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "vectors"
KEYRING = "0b5c7a2e-6f0d-4c1b-9a51-2f6f1a1c9e77"
FILE_ID = "6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60"
KEEPER_ID = "c0a8f1d2-3b4e-4f5a-8b6c-7d8e9fa0b1c2"
HOOK_ID = "1d2c3b4a-5e6f-4a7b-8c9d-0e1f2a3b4c5d"


def run(first, length=32):
    """Bytes that count up: easy to recognise, and none of them random."""
    return bytes((first + i) % 256 for i in range(length))


def b64(data):
    return base64.b64encode(data).decode()


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def argon2id(password, salt, cost, length):
    return hash_secret_raw(
        password, salt, time_cost=cost["t"], memory_cost=cost["m_kib"], parallelism=cost["p"], hash_len=length,
        type=Type.ID, version=0x13,
    )


def hkdf(ikm, salt, info, length=32):
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(ikm)


def wrap(ikm, context, plaintext, salt, nonce):
    header = b"kdf-wrap/v1\n" + context.encode()
    okm = hkdf(ikm, salt, header, 64)
    return {
        "v": 1,
        "salt": b64(salt),
        "commitment": b64(okm[32:]),
        "nonce": b64(nonce),
        "ciphertext": b64(AESGCM(okm[:32]).encrypt(nonce, plaintext, header)),
    }


def slot_context(slot):
    return f"unsealer/v1 keyring={KEYRING} epoch=1 slot={slot} policy=any"


# --- wrapped secret


def flipped(text):
    """The same base64 with one bit of its first byte changed."""
    data = bytearray(base64.b64decode(text))
    data[0] ^= 1
    return b64(bytes(data))


def wrapped_secret():
    ikm = run(0x40)
    good = []
    for name, context, plaintext in [
        ("one byte", "example/v1", b"\x00"),
        ("a key", "example/v1 purpose=database", run(0xC0)),
        ("as a slot", slot_context("file"), run(0x80)),
        ("more than one block, longest words", f"{'a' * 64}/v999999999 {'k' * 64}={'v' * 64}", run(0, 1000)),
    ]:
        salt, nonce = run(len(good) + 1), run(0x10 * len(good), 12)
        okm = hkdf(ikm, salt, b"kdf-wrap/v1\n" + context.encode(), 64)
        good.append({
            "name": name, "ikm": ikm.hex(), "context": context, "plaintext": plaintext.hex(),
            "key": okm[:32].hex(), "commitment": okm[32:].hex(), "wrapped": wrap(ikm, context, plaintext, salt, nonce),
        })
    context, wrapped = good[1]["context"], good[1]["wrapped"]

    def bad(name, code, changes=None, ikm=ikm, context=context, without=None):
        changed = {**wrapped, **(changes or {})}
        changed.pop(without, None)
        return {"name": name, "ikm": ikm.hex(), "context": context, "wrapped": changed, "code": code}

    return {
        "about": "wrapped secret, version 1: what opens, and what must not open with the code that says why",
        "opens": good,
        "refused": [
            bad("another device", "wrong-device", ikm=run(0x41)),
            bad("another context", "wrong-device", context="example/v1 purpose=backup"),
            bad("altered salt", "wrong-device", {"salt": flipped(wrapped["salt"])}),
            bad("altered commitment", "wrong-device", {"commitment": flipped(wrapped["commitment"])}),
            bad("altered nonce", "tampered", {"nonce": flipped(wrapped["nonce"])}),
            bad("altered ciphertext", "tampered", {"ciphertext": flipped(wrapped["ciphertext"])}),
            bad("another version", "unsupported", {"v": 2}),
            bad("a field more", "invalid-request", {"algorithm": "none"}),
            bad("a field less", "invalid-request", without="nonce"),
            bad("no padding", "invalid-request", {"salt": wrapped["salt"].rstrip("=")}),
            bad("stray bits in base64", "invalid-request", {"commitment": wrapped["commitment"][:-2] + "9="}),
            bad("a salt of 31 bytes", "invalid-request", {"salt": b64(run(0, 31))}),
            bad("a nonce of 16 bytes", "invalid-request", {"nonce": b64(run(0, 16))}),
            bad("no plaintext, a tag alone", "invalid-request", {"ciphertext": b64(run(0, 16))}),
            bad("a number where text belongs", "invalid-request", {"salt": 1}),
        ],
    }


# --- kdf-file

FILE_KEY, FILE_SALT = run(0x00), run(0x20)


def file_key(context):
    return hkdf(FILE_KEY, FILE_SALT, b"kdf-file/v1 mode=plain\n" + context.encode())


def file_enrolment():
    check = hkdf(FILE_KEY, FILE_SALT, b"kdf-file/v1 file\n", 16)
    return {"v": 1, "id": FILE_ID, "mode": "plain", "salt": b64(FILE_SALT), "file_check": b64(check)}


def key_file():
    return f"kdf-file-key/v1 {FILE_ID} {b64(FILE_KEY)} {hashlib.sha256(FILE_KEY).hexdigest()[:8]}\n"


def kdf_file():
    contexts = ["example/v1", "example/v1 purpose=database", slot_context("file")]
    return {
        "about": "kdf-file, version 1, mode plain",
        "file_key": FILE_KEY.hex(),
        "key_file": key_file(),
        "enrolment": file_enrolment(),
        "keys": [{"context": context, "key": file_key(context).hex()} for context in contexts],
    }


# --- kdf-software


def encoded(components):
    """u8 length, kind, u16 length, value; of each component."""
    parts = []
    for kind, value in components:
        parts += [struct.pack(">B", len(kind)), kind.encode(), struct.pack(">H", len(value)), value.encode()]
    return b"".join(parts)


def kdf_software():
    components = [
        ("dmi-product-uuid", "b08dfa60-83e7-4567-a190-1bb50035ce1f\n", "B08DFA6083E74567A1901BB50035CE1F"),
        ("dmi-product-serial", "8K2PXQ7R\n", "8K2PXQ7R"),
        ("dmi-board-serial", "/CN70163 51B00AF/ \n", "/CN7016351B00AF/"),
    ]
    kinds = [kind for kind, _, _ in components]
    values = [(kind, value) for kind, _, value in components]
    secret, salt, subset_salt = run(0x60), run(0xA0), run(0xE0)
    cost = {"m_kib": 19456, "t": 2, "p": 1}
    stretched = argon2id(encoded(values), subset_salt, cost, 32)
    n = len(kinds)
    listed = bytes([n, n]) + b"".join(struct.pack(">B", len(kind)) + kind.encode() for kind in kinds)
    contexts = ["example/v1", slot_context("machine")]
    return {
        "about": "kdf-software, version 1, mode strict: three components, Argon2id with the preset small",
        "components": [{"kind": kind, "raw": raw, "value": value} for kind, raw, value in components],
        "secret": secret.hex(),
        "encoded": encoded(values).hex(),
        "argon2id": stretched.hex(),
        "enrolment": {
            "v": 1, "t": n, "n": n, "kinds": kinds, "salt": b64(salt), "argon2": cost,
            "subsets": [{"salt": b64(subset_salt), "mask": b64(bytes(a ^ b for a, b in zip(secret, stretched)))}],
            "commitment": b64(hkdf(secret, salt, b"kdf-software/v1 commitment\n" + listed)),
            "tags": [b64(hkdf(secret, salt, b"kdf-software/v1 component\n" + encoded([pair]), 4)) for pair in values],
        },
        "keys": [
            {"context": context, "key": hkdf(secret, salt, b"kdf-software/v1\n" + context.encode()).hex()}
            for context in contexts
        ],
    }


# --- IKM hook


def hook_key(hook, salt, context):
    return hkdf(hook, salt, b"kdf-hook/v1\n" + context.encode())


def ikm_hook():
    cases = [
        ("16 bytes, the least", run(0x01, 16), slot_context("hook")),
        ("32 bytes", bytes.fromhex("64acd82883269a5e46b8b0426d5a18e2b006f7d79041a68a4efa5339f25aba80"), slot_context("hook")),
        ("100 bytes", run(0x33, 100), "example/v1"),
    ]
    return {
        "about": "IKM hook: from what a hook prints to the input keying material of a slot",
        "cases": [
            {"name": name, "output": hook.hex() + "\n", "salt": b64(run(0x55)), "context": context,
             "key": hook_key(hook, run(0x55), context).hex()}
            for name, hook, context in cases
        ],
        "refused": ["", "\n", run(1, 15).hex() + "\n", run(1, 16).hex() + "0\n", "0x" + run(1, 16).hex() + "\n",
                    run(1, 16).hex() + "\r\n", " " + run(1, 16).hex() + "\n", "7" * 64 + "\n",
                    run(1, 16).hex() + "\n" + run(1, 16).hex() + "\n"],
    }


# --- keyring

DATA_KEY = run(0x80)


def keyring_key(use):
    return hkdf(DATA_KEY, b"", f"unsealer-keyring/v1 {use} keyring={KEYRING} epoch=1\n".encode())


def payload_context(generation):
    return f"unsealer/v1 keyring={KEYRING} epoch=1 generation={generation} part=payload"


def keyring_file(generation, slots, public, payload):
    """The two lines, and the MAC in the second."""
    sealed = wrap(keyring_key("payload"), payload_context(generation), compact(payload).encode(), run(0x61), run(0x71, 12))
    line = compact({
        "format": "unsealer-keyring", "v": 1, "id": KEYRING, "generation": generation, "epoch": 1, "policy": "any",
        "slots": slots, "recovery": None, "commitment": b64(keyring_key("commitment")), "public": public, "sealed": sealed,
    })
    mac = hmac.new(keyring_key("mac"), line.encode(), hashlib.sha256).hexdigest()
    seal = compact({"sha256": hashlib.sha256(line.encode()).hexdigest(), "mac": mac})
    return f"{line}\n{seal}\n", mac


def keyring():
    """A whole keyring, with a slot of each kind: kdf-file's vectors, docs/examples/vendor-keeper.py, an IKM hook."""
    keeper_key, kept_secret, keeper_nonce = run(0xB0), run(0xD0), run(0x70, 12)
    hook, hook_salt = run(0x11), run(0x99)
    kept = AESGCM(keeper_key).encrypt(keeper_nonce, kept_secret, slot_context("vendor").encode())
    ikms = {"file": file_key(slot_context("file")), "vendor": kept_secret,
            "hook": hook_key(hook, hook_salt, slot_context("hook"))}
    common = {
        "file": {"kind": "derive", "program": {"name": "kdf-file", "version": "0.1.0"}, "enrolment_id": FILE_ID,
                 "enrolment": file_enrolment()},
        "vendor": {"kind": "keep", "program": {"name": "vendor-keeper", "version": "1.0.0"}, "enrolment_id": KEEPER_ID,
                   "enrolment": {"v": 1, "id": KEEPER_ID},
                   "kept": {"v": 1, "nonce": b64(keeper_nonce), "ciphertext": b64(kept)}},
        "hook": {"kind": "hook", "program": {"name": "ikm-hook.sh", "version": ""}, "enrolment_id": HOOK_ID,
                 "enrolment": {}, "salt": b64(hook_salt)},
    }
    slots = [
        {"name": name, **fields, "wrapped": wrap(ikms[name], slot_context(name), DATA_KEY, run(0x21 + i), run(0x31 + i, 12))}
        for i, (name, fields) in enumerate(common.items())
    ]
    payload = {
        "v": 1,
        "active": {"shares": [b64(run(share * 0x25, 33)) for share in range(5)], "threshold": 3, "created": 1767225600},
        "retired": [{"shares": [b64(run(0xF0 + share, 33)) for share in range(3)], "threshold": 2,
                     "created": 1735689600, "retired": 1767225600}],
        "credential": {"kind": "approle", "mount": "unsealer", "role": "unsealer-rotate", "role_id": "example-role-id",
                       "secret_id": "example-secret-id", "accessor": "example-accessor"},
        "pending": None,
    }
    public = {"shares": 5, "threshold": 3, "cluster_id": "5d9b1c64-93a3-4c2b-a1b7-4f7f3c4f0a55", "cluster_name": "example"}
    file, mac = keyring_file(3, slots, public, payload)
    return {
        "about": "a whole keyring, version 1, with what opens each of its slots",
        "file": file,
        "data_key": DATA_KEY.hex(),
        "payload_key": keyring_key("payload").hex(),
        "mac_key": keyring_key("mac").hex(),
        "commitment": keyring_key("commitment").hex(),
        "mac": mac,
        "payload_context": payload_context(3),
        "payload": payload,
        "slots": [
            {"name": "file", "context": slot_context("file"), "ikm": ikms["file"].hex(), "key_file": key_file()},
            {"name": "vendor", "context": slot_context("vendor"), "ikm": kept_secret.hex(), "keeper_key": keeper_key.hex()},
            {"name": "hook", "context": slot_context("hook"), "ikm": ikms["hook"].hex(), "output": hook.hex() + "\n"},
        ],
    }


# --- kdf-tpm

TPM_ID = "6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60"
TPM_SALT, TPM_T, TPM_N, TPM_PIN = run(0x40), run(0x60), run(0xA0), b"correct horse battery staple"
TPM_COST = {"m_kib": 8192, "t": 1, "p": 1}
TPM_PCRS = {7: run(0x07), 11: run(0x11)}
# TPM_CC: what a policy allows, and the policies themselves.
HMAC, UNSEAL, NV_READ = 0x155, 0x15E, 0x14E
# A modulus that nobody has the factors of: the key is only named.
PKCS1 = bytes.fromhex("3082010a0282010100") + b"\xc5" + run(0x01, 255) + bytes.fromhex("0203010001")
SPKI = bytes.fromhex("30820122300d06092a864886f70d01010105000382010f00") + PKCS1


def stretched(pin, salt, cost):
    """X, the authValue, P."""
    x = argon2id(pin, salt, cost, 64)
    auth = bytearray(hkdf(x, salt, b"kdf-tpm/v1 auth\n"))
    auth[-1] |= 1
    return x, bytes(auth), hkdf(x, salt, b"kdf-tpm/v1 pin\n")


def tpm_key(mode, t, p, n, salt, context):
    label = f"kdf-tpm/v1 mode={mode} pin={int(p is not None)} revocable={int(n is not None)}\n"
    return hkdf(t + (p or b"") + (n or b""), salt, (label + context).encode())


def policy_key_name():
    """TPMT_PUBLIC: RSA, SHA-256, userWithAuth decrypt sign, no policy, symmetric and scheme null, 2048 bits, exponent 0."""
    modulus = PKCS1[9:-5]
    head = struct.pack(">HHIHHHHIH", 0x0001, 0x000B, 0x00060040, 0, 0x0010, 0x0010, 2048, 0, len(modulus))
    return b"\x00\x0b" + sha256(head, modulus)


def policy_digest(signed, pcrs, pin, command):
    digest = bytes(32)
    if signed:  # TPM2_PolicyAuthorize starts anew; policyRef is empty.
        digest = sha256(sha256(bytes(32), struct.pack(">I", 0x16A), policy_key_name()))
    if pcrs:  # TPM2_PolicyPCR
        bits = sum(1 << register for register in TPM_PCRS).to_bytes(3, "little")
        selection = struct.pack(">IHB", 1, 0x000B, 3) + bits
        values = sha256(*(TPM_PCRS[register] for register in sorted(TPM_PCRS)))
        digest = sha256(digest, struct.pack(">I", 0x17F), selection, values)
    if pin:  # TPM2_PolicyAuthValue
        digest = sha256(digest, struct.pack(">I", 0x16B))
    if not (signed or pcrs or pin):  # TPM2_PolicyCommandCode
        digest = sha256(digest, struct.pack(">II", 0x16C, command))
    return digest


def key_public(mode, pin, policy, unique):
    """TPMT_PUBLIC of a key object."""
    attributes = {"hmac": 0x000404B2, "sealed": 0x00000492}[mode] & ~(0x400 if pin else 0)
    scheme = {"hmac": struct.pack(">HH", 0x0005, 0x000B), "sealed": struct.pack(">H", 0x0010)}[mode]
    return struct.pack(">HHIH", 0x0008, 0x000B, attributes, 32) + policy + scheme + struct.pack(">H", 32) + unique


def nv_handle(number):
    return 0x01800000 + int.from_bytes(sha256(b"kdf-tpm/v1 nv\n", number.encode())[:4], "big") % 0x3FFFF8


def nv_name(handle, policy):
    """Of a written index (TPMS_NV_PUBLIC): OWNERWRITE POLICYREAD NO_DA WRITTEN, 32 bytes."""
    return b"\x00\x0b" + sha256(struct.pack(">IHIH", handle, 0x000B, 0x22080002, 32), policy, struct.pack(">H", 32))


def policy_key_pem():
    text = b64(SPKI)
    lines = [text[at:at + 64] for at in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])


# What the slots of the keyring ask, so that each combination of what goes into a key comes once.
TPM_SLOTS = {
    f"{mode}{'-pin' * pin}{'-revocable' * revocable}":
        {"mode": mode, "pin": pin, "revocable": revocable, "signed": pin != revocable, "pcrs": bool(revocable)}
    for mode, pin, revocable in itertools.product(["hmac", "sealed"], [0, 1], [0, 1])
}


def tpm_enrolment(number, mode, pin, revocable, signed, pcrs):
    command = {"hmac": HMAC, "sealed": UNSEAL}[mode]
    handle = nv_handle(number)
    return {
        "v": 1, "mode": mode, "salt": b64(TPM_SALT),
        "parent": {"name": (b"\x00\x0b" + run(0xB0)).hex(), "template": "tcg-ecc-p256"},
        "object": {
            "public": b64(key_public(mode, pin, policy_digest(signed, pcrs, pin, command), run(0xD0))),
            "private": b64(run(0x33, 126)),
        },
        "pcrs": {"bank": "sha256", "values": {str(r): value.hex() for r, value in TPM_PCRS.items()}} if pcrs else None,
        "policy_key": policy_key_pem() if signed else None,
        "pin": {"argon2": TPM_COST} if pin else None,
        "nv": {"handle": handle, "name": nv_name(handle, policy_digest(signed, pcrs, False, NV_READ)).hex()}
        if revocable else None,
    }


def kdf_tpm():
    def pins():
        for pin, cost in [(b"1234", {"m_kib": 19456, "t": 2, "p": 1}), (TPM_PIN, {"m_kib": 65536, "t": 3, "p": 4}),
                          (b"\x00\xff", TPM_COST)]:
            x, auth, p = stretched(pin, run(0x20), cost)
            yield {"pin": pin.hex(), "salt": run(0x20).hex(), "argon2": cost, "x": x.hex(), "auth": auth.hex(), "p": p.hex()}

    def keys():
        p = run(0x80)
        for mode, pin, revocable in itertools.product(["hmac", "sealed"], [0, 1], [0, 1]):
            parts = {"t": TPM_T, "p": p if pin else None, "n": TPM_N if revocable else None}
            key = tpm_key(mode, *parts.values(), TPM_SALT, slot_context("tpm"))
            yield {"mode": mode, "context": slot_context("tpm"), "salt": TPM_SALT.hex(),
                   **{name: part and part.hex() for name, part in parts.items()}, "key": key.hex()}

    def digests():
        commands = {"hmac": HMAC, "unseal": UNSEAL, "nv-read": NV_READ}
        for signed, pcrs, pin in itertools.product([False, True], repeat=3):
            for name, command in commands.items() if not (signed or pcrs or pin) else [("hmac", HMAC)]:
                yield {"signed": signed, "pcrs": pcrs, "pin": pin, "command": name,
                       "digest": policy_digest(signed, pcrs, pin, command).hex()}

    contexts = ["example/v1 purpose=database", slot_context("tpm")]
    ids = [TPM_ID, "00000000-0000-4000-8000-000000000000"]
    return {
        "about": "kdf-tpm, version 1: what can be fixed without a TPM, and a keyring whose slots open with what one would give",
        "pins": list(pins()),
        "hmac_inputs": [{"context": c, "input": sha256(b"kdf-tpm/v1 hmac\n", c.encode()).hex()} for c in contexts],
        "keys": list(keys()),
        "policies": {"pcrs": {str(r): value.hex() for r, value in TPM_PCRS.items()}, "digests": list(digests())},
        "policy_key": {"pem": policy_key_pem(), "fingerprint": sha256(PKCS1).hex(), "name": policy_key_name().hex()},
        "nv_handles": [{"id": number, "handle": nv_handle(number)} for number in ids],
        "keyring": tpm_keyring(),
    }


def tpm_keyring():
    """The file of a keyring with a slot for each combination, and what opens each."""
    _, _, p = stretched(TPM_PIN, TPM_SALT, TPM_COST)
    slots, opens = [], []
    for i, (name, asks) in enumerate(TPM_SLOTS.items()):
        context = slot_context(name)
        key = tpm_key(asks["mode"], TPM_T, p if asks["pin"] else None, TPM_N if asks["revocable"] else None, TPM_SALT, context)
        number = TPM_ID[:-1] + str(i)
        slots.append({
            "name": name, "kind": "derive", "program": {"name": "kdf-tpm", "version": "0.1.0"}, "enrolment_id": number,
            "enrolment": tpm_enrolment(number, **asks),
            "wrapped": wrap(key, context, DATA_KEY, run(0x21 + i), run(0x31 + i, 12)),
        })
        opens.append({
            "name": name, "context": context, "t": TPM_T.hex(), "pin": TPM_PIN.hex() if asks["pin"] else None,
            "n": TPM_N.hex() if asks["revocable"] else None, "ikm": key.hex(),
        })
    payload = {"v": 1, "active": {"shares": [b64(run(share, 33)) for share in (1, 2, 3)], "threshold": 2, "created": 1767225600},
               "retired": [], "credential": None, "pending": None}
    public = {"shares": 3, "threshold": 2, "cluster_id": None, "cluster_name": None}
    file, _ = keyring_file(1, slots, public, payload)
    return {"file": file, "data_key": DATA_KEY.hex(), "shares": payload["active"]["shares"], "slots": opens}


FILES = {
    "wrapped-secret.json": wrapped_secret, "kdf-file.json": kdf_file, "kdf-software.json": kdf_software,
    "ikm-hook.json": ikm_hook, "keyring.json": keyring, "kdf-tpm.json": kdf_tpm,
}


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit("usage: make_vectors.py [--check]")
    stale = []
    for name, make in FILES.items():
        path, text = FOLDER / name, json.dumps(make(), indent=1, ensure_ascii=False) + "\n"
        if sys.argv[1:] == []:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(name)
    if stale:
        sys.exit("not what make_vectors.py makes: " + ", ".join(stale))


if __name__ == "__main__":
    main()
