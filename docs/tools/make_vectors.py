#!/usr/bin/python3
"""Makes the project's own test vectors in docs/vectors, from the texts of docs/wrapped-secret.md, docs/keyring.md and
docs/tpm.md alone.

It shares no code with the project: HKDF and AES-256-GCM are OpenSSL's (python3-cryptography), Argon2id is the reference
implementation's (python3-argon2), age files are made by the program of that name, and what a TPM would give is made up. All
inputs are fixed, so the same files come out every time. What age makes is random, so an age file that is there already is
kept, as long as it opens to what it must hold.

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
import subprocess
import sys
import tempfile

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


DATA_KEY = run(0x80)


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


class State:
    """A keyring at one time: what its keys and contexts follow from."""

    def __init__(self, generation, epoch=1, policy="any", data_key=DATA_KEY):
        self.generation, self.epoch, self.policy, self.data_key = generation, epoch, policy, data_key
        self.label = f"keyring={KEYRING} epoch={epoch}"

    def key(self, use):
        return hkdf(self.data_key, b"", f"unsealer-keyring/v1 {use} {self.label}\n".encode())

    def slot_context(self, slot, x=None):
        share = "" if x is None else f" share={x}"
        return f"unsealer/v1 {self.label} slot={slot} policy={self.policy}{share}"

    def payload_context(self):
        return f"unsealer/v1 {self.label} generation={self.generation} part=payload"

    def file(self, slots, public, payload, recovery=None):
        """The two lines."""
        sealed = wrap(self.key("payload"), self.payload_context(), compact(payload).encode(), run(0x61), run(0x71, 12))
        line = compact({
            "format": "unsealer-keyring", "v": 1, "id": KEYRING, "generation": self.generation, "epoch": self.epoch,
            "policy": self.policy, "slots": slots, "recovery": recovery, "commitment": b64(self.key("commitment")),
            "public": public, "sealed": sealed,
        })
        mac = hmac.new(self.key("mac"), line.encode(), hashlib.sha256).hexdigest()
        seal = compact({"sha256": hashlib.sha256(line.encode()).hexdigest(), "mac": mac})
        return f"{line}\n{seal}\n"

    def vector(self, about, file, payload, slots):
        """What a vector of a whole keyring says."""
        return {
            "about": about,
            "file": file,
            "data_key": self.data_key.hex(),
            "payload_key": self.key("payload").hex(),
            "mac_key": self.key("mac").hex(),
            "commitment": self.key("commitment").hex(),
            "mac": json.loads(file.splitlines()[1])["mac"],
            "payload_context": self.payload_context(),
            "payload": payload,
            "slots": slots,
        }


def slot_context(slot):
    """Of the vectors that need a context like that of a slot."""
    return State(1).slot_context(slot)


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

PUBLIC = {"shares": 5, "threshold": 3, "cluster_id": "5d9b1c64-93a3-4c2b-a1b7-4f7f3c4f0a55", "cluster_name": "example"}
PAYLOAD = {
    "v": 1,
    "active": {"shares": [b64(run(share * 0x25, 33)) for share in range(5)], "threshold": 3, "created": 1767225600},
    "retired": [{"shares": [b64(run(0xF0 + share, 33)) for share in range(3)], "threshold": 2,
                 "created": 1735689600, "retired": 1767225600}],
    "credential": {"kind": "approle", "mount": "unsealer", "role": "unsealer-rotate", "role_id": "example-role-id",
                   "secret_id": "example-secret-id", "accessor": "example-accessor"},
    "pending": None,
}


# Each gives the fields of its slot, the ikm for a context, and what somebody has who opens the slot. What is fresh in each
# epoch is other bytes in each.


def file_device(context, _epoch):
    fields = {"kind": "derive", "program": {"name": "kdf-file", "version": "0.1.0"}, "enrolment_id": FILE_ID,
              "enrolment": file_enrolment()}
    return fields, file_key(context), {"key_file": key_file()}


def vendor_device(context, epoch):
    """docs/examples/vendor-keeper.py."""
    keeper_key, kept_secret, nonce = run(0xB0), run(0xCF + epoch), run(0x6F + epoch, 12)
    kept = AESGCM(keeper_key).encrypt(nonce, kept_secret, context.encode())
    fields = {"kind": "keep", "program": {"name": "vendor-keeper", "version": "1.0.0"}, "enrolment_id": KEEPER_ID,
              "enrolment": {"v": 1, "id": KEEPER_ID}, "kept": {"v": 1, "nonce": b64(nonce), "ciphertext": b64(kept)}}
    return fields, kept_secret, {"keeper_key": keeper_key.hex()}


def hook_device(context, epoch):
    hook, salt = run(0x11), run(0x98 + epoch)
    fields = {"kind": "hook", "program": {"name": "ikm-hook.sh", "version": ""}, "enrolment_id": HOOK_ID, "enrolment": {},
              "salt": b64(salt)}
    return fields, hook_key(hook, salt, context), {"output": hook.hex() + "\n"}


def tpm_device(context, _epoch):
    """A slot of kdf-tpm with all that goes into a key."""
    _, _, p = stretched(TPM_PIN, TPM_SALT, TPM_COST)
    enrolment = tpm_enrolment(TPM_ID, mode="sealed", pin=1, revocable=1, signed=0, pcrs=1)
    fields = {"kind": "derive", "program": {"name": "kdf-tpm", "version": "0.1.0"}, "enrolment_id": TPM_ID,
              "enrolment": enrolment}
    given = {"t": TPM_T.hex(), "n": TPM_N.hex(), "pin": TPM_PIN.hex()}
    return fields, tpm_key("sealed", TPM_T, p, TPM_N, TPM_SALT, context), given


DEVICES = {"file": file_device, "vendor": vendor_device, "hook": hook_device, "tpm": tpm_device}


def fresh(state, number):
    """Salt and nonce of the wrap of a slot."""
    first = 0x11 + 0x10 * state.epoch + number
    return run(first), run(first + 0x10, 12)


def any_slots(state):
    """The slots of a keyring with a slot of each kind, and what opens each."""
    slots, opens = [], []
    for number, name in enumerate(["file", "vendor", "hook"]):
        context = state.slot_context(name)
        fields, ikm, given = DEVICES[name](context, state.epoch)
        slots.append({"name": name, **fields, "wrapped": wrap(ikm, context, state.data_key, *fresh(state, number))})
        opens.append({"name": name, "context": context, "ikm": ikm.hex(), **given})
    return slots, opens


def keyring():
    state = State(3)
    slots, opens = any_slots(state)
    about = "a whole keyring, version 1, with what opens each of its slots"
    return state.vector(about, state.file(slots, PUBLIC, PAYLOAD), PAYLOAD, opens)


# --- shares of the data key: GF(2^8) by logarithms to the base 3, modulo x^8 + x^4 + x^3 + x + 1


def powers_of_3():
    power = 1
    for _ in range(255):
        yield power
        power ^= (power << 1) ^ (0x11B if power & 0x80 else 0)


EXP = list(powers_of_3())
LOG = {power: exponent for exponent, power in enumerate(EXP)}


def times(a, b):
    return EXP[(LOG[a] + LOG[b]) % 255] if a and b else 0


def share_at(x, secret, coefficients):
    """The polynomial of each byte at x: its constant is the secret's byte, then come the coefficients of x, x^2, …"""
    y = bytes(len(secret))
    for row in reversed([secret, *coefficients]):
        y = bytes(times(value, x) ^ byte for value, byte in zip(y, row))
    return y


def shamir():
    split_of = [
        ("one byte, 2 of 3, by hand: y = 42 + x", b"\x42", [b"\x01"], [1, 2, 3]),
        ("one byte, every coefficient 0, which is as likely as any other", b"\x42", [b"\x00", b"\x00"], [1, 2, 3]),
        ("one byte, 3 of 5", b"\x00", [b"\x8e", b"\xff"], [1, 2, 3, 4, 5]),
        ("one byte, 2 of 4, the ends of the range of x", b"\xff", [b"\x80"], [255, 1, 254, 2]),
        ("32 bytes, 2 of 2", run(0x80), [run(0x03)], [1, 2]),
        ("32 bytes, 2 of 3", run(0x80), [run(0xC5)], [1, 2, 3]),
        ("32 bytes, 3 of 5", run(0xF0), [run(0x1B), run(0x5A)], [1, 2, 3, 4, 5]),
        ("32 bytes, 4 of 4", bytes(32), [run(0x01), run(0x55), run(0xAA)], [1, 2, 3, 4]),
    ]
    splits = [
        {"name": name, "k": len(coefficients) + 1, "n": len(xs), "secret": secret.hex(),
         "coefficients": [row.hex() for row in coefficients],
         "shares": [{"x": x, "y": share_at(x, secret, coefficients).hex()} for x in xs]}
        for name, secret, coefficients, xs in split_of
    ]
    good = splits[5]["shares"]

    def refused(name, *shares):
        return {"name": name, "k": 2, "shares": list(shares)}

    # The first two and the fourth are examples of FIPS 197, sections 4.2 and 4.2.1.
    products = [(0x57, 0x83), (0x57, 0x13), (0x53, 0xCA), (0x57, 0x02), (0x80, 0x02), (0xFF, 0xFF), (0x01, 0xA5), (0, 0xA5)]
    return {
        "about": "shares of a secret: GF(2^8) modulo 11b, byte by byte; any k shares of a split, in any order, give its secret",
        "products": [{"a": f"{a:02x}", "b": f"{b:02x}", "product": f"{times(a, b):02x}"} for a, b in products],
        "splits": splits,
        "refused": [
            refused("one share too few", good[0]),
            refused("no share"),
            refused("the same x twice", good[0], good[0]),
            refused("the same x with another y", good[0], {**good[1], "x": good[0]["x"]}),
            refused("the same x twice beside enough others", good[0], good[1], good[1]),
            refused("x = 0, where the secret is", {"x": 0, "y": good[0]["y"]}, good[1]),
            refused("x = 256", {"x": 256, "y": good[0]["y"]}, good[1]),
            refused("shares of two lengths", good[0], {"x": 2, "y": good[1]["y"][:-2]}),
        ],
    }


def threshold_keyring(state, coefficients, xs):
    """A whole keyring under k of n: a slot for each x, in the order of DEVICES."""
    slots, opens = [], []
    for number, (x, name) in enumerate(zip(xs, DEVICES)):
        context = state.slot_context(name, x)
        fields, ikm, given = DEVICES[name](context, state.epoch)
        y = share_at(x, state.data_key, coefficients)
        commitment = hkdf(y, b"", f"unsealer-keyring/v1 share {state.label} x={x}\n".encode())
        wrapped = wrap(ikm, context, bytes([x]) + y, *fresh(state, number))
        slots.append({"name": name, **fields, "share": {"x": x, "commitment": b64(commitment)}, "wrapped": wrapped})
        opens.append({"name": name, "context": context, "ikm": ikm.hex(), **given, "x": x, "y": y.hex(),
                      "plaintext": (bytes([x]) + y).hex(), "share_commitment": commitment.hex()})
    about = f"a whole keyring, version 1, under {state.policy}, with what opens each of its slots, and each slot's share"
    vector = state.vector(about, state.file(slots, PUBLIC, PAYLOAD), PAYLOAD, opens)
    return {**vector, "policy": state.policy, "k": len(coefficients) + 1, "n": len(xs),
            "coefficients": [row.hex() for row in coefficients]}


def keyring_2of3():
    """What keyring.json becomes by a change of policy: another epoch, another data key."""
    return threshold_keyring(State(4, 2, "2of3", run(0xA1)), [run(0x47)], [1, 2, 3])


def keyring_3of4():
    """Then with a TPM. Another writer may number its shares like this."""
    return threshold_keyring(State(5, 3, "3of4", run(0xC3)), [run(0x1D), run(0x72)], [1, 2, 7, 255])


# --- recovery

# Made by age-keygen for this file: two that the keyring is wrapped to, and a stranger.
IDENTITIES = [
    "AGE-SECRET-KEY-1W834W2CMW5XP4AKD73YAD0GNFGKL234G3SC3JY708423GFFWDGES4RG98C",
    "AGE-SECRET-KEY-1ENVEYFD0PX30EGPJ77AQ52JTZYN7WX2HCP2L6AETD960E4A3EN2QHLJCUD",
    "AGE-SECRET-KEY-15JTLXRYRJSS5PM8RWEWV3WEVHR9RVDEEE30033FHPT7KUJ29SWWQTLRG5R",
]


def age(arguments, identity, given):
    """What age makes of its input, with an identity in a file; none where it refuses."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"{identity}\n")
        file.flush()
        try:
            done = subprocess.run([*arguments, *([file.name] if identity else [])], input=given, capture_output=True)
        except FileNotFoundError:
            sys.exit("make_vectors: there is no age here: apt install age")
    return done.stdout if done.returncode == 0 else None


def recipient(identity):
    return age(["age-keygen", "-y"], identity, b"").decode().strip()


def sealed_to(recipients, identities, line, stored):
    """The stored age file if it opens to the line by each identity and for nobody else, or else a fresh one."""
    opens = all(age(["age", "-d", "-i"], one, stored) == line for one in identities)
    if opens and stored.count(b"\n-> X25519 ") == len(recipients):
        return stored
    return age(["age", *(word for one in recipients for word in ("-r", one))], "", line)


def stored_recovery(name):
    """The age file in a vector that is there already."""
    try:
        body = json.loads(json.loads((FOLDER / name).read_text())["file"].splitlines()[0])
        return base64.b64decode(body["recovery"]["age"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return b""


def keyring_recovery():
    """What keyring.json becomes when recipients are named: the next generation of the same epoch."""
    state = State(4)
    *identities, stranger = IDENTITIES
    recipients = [recipient(identity) for identity in identities]
    line = f"unsealer-recovery/v1 {state.label} key={b64(state.data_key)}\n"
    sealed = sealed_to(recipients, identities, line.encode(), stored_recovery("keyring-recovery.json"))
    slots, opens = any_slots(state)
    file = state.file(slots, PUBLIC, PAYLOAD, {"recipients": recipients, "age": b64(sealed)})
    about = "a whole keyring, version 1, with recovery recipients, the identities that open it, and one that does not"
    return {**state.vector(about, file, PAYLOAD, opens), "recipients": recipients, "identities": identities,
            "stranger": stranger, "recovery_line": line}


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
    file = State(1).file(slots, public, payload)
    return {"file": file, "data_key": DATA_KEY.hex(), "shares": payload["active"]["shares"], "slots": opens}


FILES = {
    "wrapped-secret.json": wrapped_secret, "kdf-file.json": kdf_file, "kdf-software.json": kdf_software,
    "ikm-hook.json": ikm_hook, "keyring.json": keyring, "kdf-tpm.json": kdf_tpm, "shamir.json": shamir,
    "keyring-2of3.json": keyring_2of3, "keyring-3of4.json": keyring_3of4, "keyring-recovery.json": keyring_recovery,
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
