#!/usr/bin/python3
"""Reads a keyring without unsealer: an independent reader, written from docs/keyring.md, docs/wrapped-secret.md and
docs/tpm.md.

It is for the day when the program is not at hand, and it proves that the specification is enough. It writes nothing. It
needs Python 3 and python3-cryptography, the program age for a recovery identity, and python3-argon2 for the PIN of a TPM's
slot. Secrets come from files or stdin (`-`), never from the command line.

What is public, to get a slot's key by hand (nothing in it is authenticated yet):
    read_keyring.py KEYRING --slots                  the slots, one a line: name, kind, program
    read_keyring.py KEYRING --enrolment SLOT         what the slot's program needs back
    read_keyring.py KEYRING --kept SLOT              what it keeps (kind keep)
    read_keyring.py KEYRING --context SLOT           what the slot's key is for
    read_keyring.py KEYRING --tpm-object SLOT        of kdf-tpm: the object's TPM2B_PUBLIC and TPM2B_PRIVATE, in base64
    read_keyring.py KEYRING --tpm-input SLOT         of kdf-tpm, mode hmac: what the TPM computes its HMAC over, in base64

What is secret, once every check has passed:
    read_keyring.py KEYRING --data-key FILE          with the data key itself
    read_keyring.py KEYRING --slot SLOT --key FILE   with a slot's key: what its program derives for the context (kind
                                                     derive), what it unwraps from what it keeps (kind keep), or the
                                                     line that the hook prints (kind hook)
    read_keyring.py KEYRING --slot SLOT --tpm FILE [--pin FILE]
                                                     with what a TPM gave for a slot of kdf-tpm: T, and on a second line
                                                     N where it is revocable; and with the PIN where it has one
    read_keyring.py KEYRING --slot SLOT --key FILE --slot SLOT --tpm FILE …
                                                     with the keys of several slots, each after its slot: under a policy
                                                     such as 2of3 it takes that many. One that does not open is named and
                                                     passed over, as long as the others are enough
    read_keyring.py KEYRING --identity FILE          with a recovery identity: what `age-keygen` writes, one that belongs
                                                     to a recipient of the keyring. `age -d -i FILE` opens it (stdin is
                                                     taken by then: FILE is never `-`)
Every other FILE holds 32 bytes in base64 or hex (so does each line of a TPM's); for a hook, hex; for a PIN, the PIN. The key
shares come out in base64, one a line, as `bao operator unseal` takes them; with --payload, the whole payload as JSON; with
--reply FILE, what init-reply.json holds: a server's reply to its initialisation that could not be understood.

By hand, for a slot of kdf-file:
    read_keyring.py keyring.json --enrolment file > enrolment.json
    kdf-file derive --enrolment enrolment.json --setting path=/the/key/file \\
        --context "$(read_keyring.py keyring.json --context file)" |
        read_keyring.py keyring.json --slot file --key -
For two slots of 2of3, one key goes to a file first:
    read_keyring.py keyring.json --slot file --key first.key --slot hook --key -
For a slot of kdf-tpm docs/tpm.md has the commands, with and without kdf-tpm.
"""

import argparse
import base64
import hashlib
import hmac
import json
import re
import subprocess
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAX_FILE, MAX_PAYLOAD, MAX_AGE, MAX_DEPTH = 4 * 2**20, 2**20, 2**16, 32
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
# An X25519 recipient of age: bech32 in lower case; whether its checksum fits is for age to say.
RECIPIENT = r"age1[02-9ac-hj-np-z]{58}"
SEAL = rb'\{"sha256":"([0-9a-f]{64})","mac":"([0-9a-f]{64})"\}'
HIDDEN = ("\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
          "\U000e0000-\U000e007f")
KINDS = {"derive": set(), "keep": {"kept"}, "hook": {"salt"}}


class Refusal(Exception):
    """Why the keyring was not read."""


def need(condition, message):
    if not condition:
        raise Refusal(message)


# --- strict JSON: no key twice, no float, no integer of 2^53 or more, bounded depth


def parse(text, what):
    def pairs(items):
        need(len(dict(items)) == len(items), f"{what} has a key twice in one object")
        return dict(items)

    def integer(digits):
        need(len(digits) < 18 and abs(int(digits)) < 2**53, f"{what} has an integer of 2^53 or more")
        return int(digits)

    def refuse(_):
        raise Refusal(f"{what} has a number that is not an integer")

    def depth(value):
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + max(map(depth, inner), default=0) if isinstance(value, (dict, list)) else 0

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=pairs, parse_int=integer, parse_float=refuse,
                           parse_constant=refuse)
        need(depth(value) <= MAX_DEPTH, f"{what} is nested too deeply")
    except (ValueError, RecursionError):
        raise Refusal(f"{what} is not JSON")
    return value


def fields(value, names, what):
    """An object with exactly these fields: others belong to another version."""
    need(isinstance(value, dict), f"{what} is not an object")
    missing, unknown = set(names) - set(value), set(value) - set(names)
    need(not missing, f"{what} lacks {', '.join(sorted(missing))}")
    need(not unknown, f"{what} has {len(unknown)} unknown fields: it may be of another version")
    return value


def binary(text, what, length=None):
    """Canonical standard base64 with padding."""
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:
        data = None
    need(data is not None and base64.b64encode(data).decode() == text, f"{what} is not canonical base64")
    need(length is None or len(data) == length, f"{what} does not have {length} bytes")
    return data


def counting(value, what):
    need(type(value) is int and value >= 1, f"{what} is not a number from 1")


def text(value, form, what):
    need(isinstance(value, str) and re.fullmatch(form, value), f"{what} is malformed")
    return value


def showable(value, longest, what):
    text(value, f"[^{HIDDEN}]*", what)
    need(len(value.encode("utf-8", "surrogatepass")) <= longest, f"{what} is longer than {longest} bytes")


# --- the wrapped secret, version 1


def hkdf(ikm, salt, info, length=32):
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(ikm)


def check_wrapped(wrapped, what, longest):
    need(isinstance(wrapped, dict) and type(wrapped.get("v")) is int, f"{what} has no version")
    need(wrapped["v"] == 1, f"{what} is of another version")
    fields(wrapped, ["v", "salt", "commitment", "nonce", "ciphertext"], what)
    for name, length in [("salt", 32), ("commitment", 32), ("nonce", 12), ("ciphertext", None)]:
        data = binary(wrapped[name], f"the {name} of {what}", length)
    need(16 < len(data) <= longest + 16, f"the ciphertext of {what} has a wrong length")


def unwrap(ikm, context, wrapped, what):
    salt, commitment, nonce, ciphertext = (
        base64.b64decode(wrapped[name]) for name in ("salt", "commitment", "nonce", "ciphertext")
    )
    header = b"kdf-wrap/v1\n" + context.encode()
    okm = hkdf(ikm, salt, header, 64)
    need(hmac.compare_digest(okm[32:], commitment),
         f"the key does not open {what}: it is of another device or context, or the file was altered")
    try:
        return AESGCM(okm[:32]).decrypt(nonce, ciphertext, header)
    except InvalidTag:
        raise Refusal(f"{what} was altered: the key is right, and it does not authenticate")


# --- shares of the data key: GF(2^8) modulo x^8 + x^4 + x^3 + x + 1, byte by byte


def times(a, b):
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = (a << 1) ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def inverse(a):
    """a to the 254th power, since a to the 255th is 1."""
    power = 1
    for _ in range(254):
        power = times(power, a)
    return power


def combine(k, shares):
    """The secret of pairs (x, y), by the first k of them: Lagrange's interpolation at 0."""
    xs = [x for x, _ in shares]
    need(all(type(x) is int and 1 <= x <= 255 for x in xs), "the x of a share is not a number from 1 to 255")
    need(len(set(xs)) == len(xs), "two shares have the same x")
    need(len({len(y) for _, y in shares}) <= 1, "two shares differ in length")
    need(len(shares) >= k, f"{len(shares)} of {k} shares are there")
    secret = bytes(len(shares[0][1]))
    for x, y in shares[:k]:
        weight = 1
        for other in xs[:k]:
            if other != x:
                weight = times(weight, times(other, inverse(other ^ x)))
        secret = bytes(byte ^ times(weight, part) for byte, part in zip(secret, y))
    return secret


# --- the keyring, version 1


class Keyring:
    """A keyring whose hash holds and whose body is well formed; nothing in it is authenticated yet."""

    def __init__(self, content):
        need(len(content) <= MAX_FILE, "the file is longer than 4 MiB")
        parts = content.split(b"\n")
        need(len(parts) == 3 and parts[2] == b"", "the file is not exactly two lines, each ended by a newline")
        self.line, seal = parts[0], re.fullmatch(SEAL, parts[1])
        need(seal, "the second line is damaged")
        sha256, self.mac = seal[1].decode(), bytes.fromhex(seal[2].decode())
        need(hashlib.sha256(self.line).hexdigest() == sha256, "the first line is damaged: its SHA-256 differs")
        self.body = parse(self.line, "the body")
        self.check_body()

    def check_body(self):
        body = self.body
        need(isinstance(body, dict) and body.get("format") == "unsealer-keyring", "this is not a keyring")
        need(body.get("v") is not True and body.get("v") == 1, "the keyring is of another version than 1")
        fields(body, ["format", "v", "id", "generation", "epoch", "policy", "slots", "recovery", "commitment",
                      "public", "sealed"], "the body")
        text(body["id"], UUID, "the keyring's id")
        counting(body["generation"], "the generation")
        counting(body["epoch"], "the epoch")
        if body["recovery"] is not None:
            self.check_recovery(body["recovery"])
        binary(body["commitment"], "the commitment", 32)
        fields(body["public"], ["shares", "threshold", "cluster_id", "cluster_name"], "the public part")
        for name in ("cluster_id", "cluster_name"):
            if body["public"][name] is not None:
                showable(body["public"][name], 128, f"the {name}")
        check_wrapped(body["sealed"], "the payload", MAX_PAYLOAD)
        need(isinstance(body["slots"], list) and 1 <= len(body["slots"]) <= 32, "there are not 1 to 32 slots")
        self.threshold = self.checked_policy(body["policy"], len(body["slots"]))
        for slot in body["slots"]:
            self.check_slot(slot)
        names = [slot["name"] for slot in body["slots"]]
        need(len(set(names)) == len(names), "two slots have the same name")
        if self.threshold:
            xs = [slot["share"]["x"] for slot in body["slots"]]
            need(len(set(xs)) == len(xs), "two slots have a share with the same x")

    @staticmethod
    def checked_policy(policy, slots):
        """How many shares it takes; none under any, where every slot holds the data key itself."""
        if policy == "any":
            return None
        text(policy, r"[1-9][0-9]?of[1-9][0-9]?", "the policy")
        k, n = map(int, policy.split("of"))
        need(2 <= k <= n <= 32, f"the policy {policy} is out of bounds")
        need(n == slots, f"the policy is {policy}, and there are {slots} slots")
        return k

    @staticmethod
    def check_recovery(recovery):
        fields(recovery, ["recipients", "age"], "the recovery")
        recipients = recovery["recipients"]
        need(isinstance(recipients, list) and 1 <= len(recipients) <= 16, "there are not 1 to 16 recovery recipients")
        for recipient in recipients:
            text(recipient, RECIPIENT, "a recovery recipient")
        need(len(set(recipients)) == len(recipients), "a recovery recipient comes twice")
        sealed = binary(recovery["age"], "the age file of the recovery")
        need(len(sealed) <= MAX_AGE, "the age file of the recovery is longer than 64 KiB")
        need(sealed.startswith(b"age-encryption.org/v1\n"), "the age file of the recovery is not one in binary form")

    def check_slot(self, slot):
        need(isinstance(slot, dict) and slot.get("kind") in KINDS, "a slot is not an object, or is of an unknown kind")
        shared = {"share"} if self.threshold else set()
        fields(slot, {"name", "kind", "program", "enrolment_id", "enrolment", "wrapped"} | KINDS[slot["kind"]] | shared,
               "a slot")
        name = text(slot["name"], r"[a-z0-9][a-z0-9-]{0,31}", "a slot's name")
        fields(slot["program"], ["name", "version"], f"the program of slot {name}")
        for value in slot["program"].values():
            showable(value, 64, f"the program of slot {name}")
        text(slot["enrolment_id"], UUID, f"the enrolment id of slot {name}")
        need(isinstance(slot["enrolment"], dict), f"the enrolment of slot {name} is not an object")
        need(isinstance(slot.get("kept", {}), dict), f"what slot {name} keeps is not an object")
        if "salt" in slot:
            binary(slot["salt"], f"the salt of slot {name}", 32)
        if shared:
            x = fields(slot["share"], ["x", "commitment"], f"the share of slot {name}")["x"]
            need(type(x) is int and 1 <= x <= 255, f"the x of the share of slot {name} is not a number from 1 to 255")
            binary(slot["share"]["commitment"], f"the commitment of the share of slot {name}", 32)
        check_wrapped(slot["wrapped"], f"slot {name}", 33 if shared else 32)

    def slot(self, name):
        slots = {slot["name"]: slot for slot in self.body["slots"]}
        need(name in slots, f"there is no slot {name}; there is: {', '.join(slots)}")
        return slots[name]

    def label(self):
        return f"keyring={self.body['id']} epoch={self.body['epoch']}"

    def context(self, slot):
        share = f" share={slot['share']['x']}" if self.threshold else ""
        return f"unsealer/v1 {self.label()} slot={slot['name']} policy={self.body['policy']}{share}"

    def key(self, data_key, use):
        return hkdf(data_key, b"", f"unsealer-keyring/v1 {use} {self.label()}\n".encode())

    def is_committed(self, data_key):
        return hmac.compare_digest(self.key(data_key, "commitment"), base64.b64decode(self.body["commitment"]))

    def part(self, slot, material):
        """What a slot holds: the data key, or its share as x and y. It is compared with what the keyring commits to."""
        name = slot["name"]
        if slot["kind"] == "hook":
            salt = base64.b64decode(slot["salt"])
            material = hkdf(material, salt, b"kdf-hook/v1\n" + self.context(slot).encode())
        held = unwrap(material, self.context(slot), slot["wrapped"], f"slot {name}")
        if self.threshold is None:
            need(len(held) == 32, f"slot {name} holds something that is not a data key")
            need(self.is_committed(held), f"slot {name} does not hold the keyring's data key: its commitment differs")
            return held
        x = slot["share"]["x"]
        need(len(held) == 33 and held[0] == x, f"slot {name} holds something that is not its share")
        commitment = hkdf(held[1:], b"", f"unsealer-keyring/v1 share {self.label()} x={x}\n".encode())
        need(hmac.compare_digest(commitment, base64.b64decode(slot["share"]["commitment"])),
             f"slot {name} does not hold the share that the keyring commits to")
        return x, held[1:]

    def by_slots(self, openings):
        """The data key, by what was given for some slots."""
        slots = [self.slot(opening["slot"]) for opening in openings]
        need(len({slot["name"] for slot in slots}) == len(slots), "a slot was given twice")
        parts, faults = [], []
        for slot, opening in zip(slots, openings):
            try:
                parts.append(self.part(slot, self.material(slot, opening)))
            except Refusal as refusal:
                faults.append(str(refusal))
        if len(parts) < (self.threshold or 1):
            count = f"the policy {self.body['policy']} takes {self.threshold} slots, and {len(parts)} of those given opened"
            raise Refusal("; ".join([*faults, *([count] if self.threshold else [])]))
        for fault in faults:
            print(f"read_keyring: passed over: {fault}", file=sys.stderr)
        return combine(self.threshold, parts) if self.threshold else parts[0]

    def material(self, slot, opening):
        """A slot's key, or what its hook printed."""
        if "tpm" in opening:
            pin = read_pin(opening["pin"]) if "pin" in opening else None
            return TpmEnrolment(slot["enrolment"]).key(self.context(slot), read_tpm(opening["tpm"]), pin)
        return read_key(opening["key"], slot["kind"] == "hook")

    def by_identity(self, path):
        """The data key, by a recovery identity: the keyring's age file holds one line."""
        recovery = self.body["recovery"]
        need(recovery is not None, "the keyring has no recovery recipients")
        line = age(path, base64.b64decode(recovery["age"]), recovery["recipients"])
        form = rf"unsealer-recovery/v1 (keyring={UUID} epoch=[1-9][0-9]*) key=([A-Za-z0-9+/]{{43}}=)\n"
        match = re.fullmatch(form, line.decode("ascii", "replace"))
        need(match, "the age file of the recovery opens, and holds something that is not a data key")
        need(match[1] == self.label(), f"the age file of the recovery is of {match[1]}, and the file of {self.label()}")
        return binary(match[2], "the data key in the age file of the recovery", 32)

    def reply(self, data_key, sealed):
        """A reply to sys/init that could not be understood, as it came. The commitment comes first."""
        self.payload(data_key)
        check_wrapped(sealed, "the reply", MAX_PAYLOAD)
        key = self.key(data_key, "payload")
        return unwrap(key, f"unsealer/v1 {self.label()} part=init-reply", sealed, "the reply").decode("utf-8", "replace")

    def payload(self, data_key):
        """Commitment, MAC, payload, in this order: nothing is believed before the MAC holds."""
        need(self.is_committed(data_key), "this is not the keyring's data key: its commitment differs")
        mac = hmac.new(self.key(data_key, "mac"), self.line, hashlib.sha256).digest()
        need(hmac.compare_digest(mac, self.mac),
             "the MAC does not hold: the keyring was altered by somebody without its data key")
        context = f"unsealer/v1 {self.label()} generation={self.body['generation']} part=payload"
        clear = unwrap(self.key(data_key, "payload"), context, self.body["sealed"], "the payload")
        payload = parse(clear, "the payload")
        need(isinstance(payload, dict) and payload.get("v") is not True and payload.get("v") == 1,
             "the payload is of another version than 1")
        fields(payload, ["v", "active", "retired", "credential", "pending"], "the payload")
        if payload["active"] is not None:
            active = fields(payload["active"], ["shares", "threshold", "created"], "the active shares")
            need(isinstance(active["shares"], list), "the active shares are not a list")
            for share in active["shares"]:
                binary(share, "a share")
        return payload


# --- kdf-tpm, version 1: from what a TPM gave to the slot's key


class TpmEnrolment:
    """The record of kdf-tpm, as far as it goes into the key. What it asks of the TPM, the TPM enforces."""

    def __init__(self, enrolment):
        need(enrolment.get("v") is not True and enrolment.get("v") == 1, "the enrolment is of another version than 1")
        fields(enrolment, ["v", "mode", "salt", "parent", "object", "pcrs", "policy_key", "pin", "nv"],
               "the slot's enrolment, if it is one of kdf-tpm,")
        self.mode = text(enrolment["mode"], "hmac|sealed", "the enrolment's mode")
        self.salt = binary(enrolment["salt"], "the enrolment's salt", 32)
        self.cost = self.checked_cost(enrolment["pin"])
        self.revocable = enrolment["nv"] is not None
        parts = fields(enrolment["object"], ["public", "private"], "the enrolment's object")
        self.object = [binary(parts[name], f"the object's {name} part") for name in ("public", "private")]
        need(all(1 <= len(part) <= 1024 for part in self.object), "the enrolment's object is too long or empty")

    @staticmethod
    def checked_cost(pin):
        if pin is None:
            return None
        cost = fields(fields(pin, ["argon2"], "the enrolment's pin")["argon2"], ["m_kib", "t", "p"], "its argon2")
        for name, least, most in [("m_kib", 8192, 2**20), ("t", 1, 10), ("p", 1, 16)]:
            need(type(cost[name]) is int and least <= cost[name] <= most, "the cost of a PIN is out of bounds")
        return cost

    def hmac_input(self, context):
        need(self.mode == "hmac", "in mode sealed the TPM is asked for what it keeps: there is no input")
        return hashlib.sha256(b"kdf-tpm/v1 hmac\n" + context.encode()).digest()

    def key(self, context, given, pin):
        need(len(given) == 1 + self.revocable,
             f"the TPM's file does not hold {'T and N, a line each' if self.revocable else 'T alone, on one line'}")
        need((pin is None) == (self.cost is None),
             "the slot has a PIN: --pin" if pin is None else "the slot has no PIN, and --pin gives one")
        parts = [given[0], *([] if pin is None else [self.part_of(pin)]), *given[1:]]
        label = f"kdf-tpm/v1 mode={self.mode} pin={int(pin is not None)} revocable={int(self.revocable)}\n"
        return hkdf(b"".join(parts), self.salt, (label + context).encode())

    def part_of(self, pin):
        try:
            from argon2.low_level import Type, hash_secret_raw
        except ImportError:
            raise Refusal("a PIN needs the Python module argon2: apt install python3-argon2")
        x = hash_secret_raw(pin, self.salt, self.cost["t"], self.cost["m_kib"], self.cost["p"], 64, Type.ID, 0x13)
        return hkdf(x, self.salt, b"kdf-tpm/v1 pin\n")


# --- age, whose own format is at age-encryption.org/v1


def age(identity, sealed, recipients):
    """What an age file holds, by the program of that name. It asks for the passphrase of an identity by itself."""
    try:
        done = subprocess.run(["age", "-d", "-i", identity], input=sealed, capture_output=True)
    except OSError:
        raise Refusal("a recovery identity needs the program age: apt install age")
    said = (done.stderr.decode("utf-8", "replace").splitlines() or ["it says nothing"])[0]
    need(done.returncode == 0, f"age does not open the recovery, which is for {', '.join(recipients)}: {said}")
    return done.stdout


# --- the command line


def read_file(path, longest):
    try:
        if path == "-":
            data = sys.stdin.buffer.read(longest + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(longest + 1)
    except OSError as error:
        raise Refusal(f"{path}: {error.strerror}")
    need(len(data) <= longest, f"{path} is longer than {longest} bytes")
    return data


def read_key(path, is_hook):
    """32 bytes in base64 or hex; what a hook prints is hex, of any length from 16 bytes."""
    line = read_file(path, 4096).decode("ascii", "replace").rstrip("\r\n")
    if is_hook and re.fullmatch(r"([0-9a-fA-F]{2}){16,}", line):
        return bytes.fromhex(line)
    need(not is_hook, f"{path} does not hold one line of hex, at least 16 bytes of it")
    return read_32(line, path)


def read_32(line, path):
    if re.fullmatch(r"[0-9a-fA-F]{64}", line):
        return bytes.fromhex(line)
    need(re.fullmatch(r"[A-Za-z0-9+/]{43}=", line), f"{path} does not hold 32 bytes in base64 or hex")
    return binary(line, f"the key in {path}", 32)


def read_tpm(path):
    """T, or T and N."""
    return [read_32(line, path) for line in read_file(path, 4096).decode("ascii", "replace").splitlines()]


def read_pin(path):
    """One line end goes, as an editor leaves it; nothing else."""
    pin = re.sub(rb"\r?\n\Z", b"", read_file(path, 4096))
    need(pin, f"{path} holds no PIN")
    return pin


class OfSlot(argparse.Action):
    """--slot begins what is given for a slot, and --key, --tpm and --pin belong to the --slot before them."""

    def __call__(self, parser, given, value, option=None):
        if given.slot is None:
            given.slot = []
        if self.dest == "slot":
            given.slot.append({"slot": value})
        elif not given.slot or self.dest in given.slot[-1]:
            parser.error(f"{option} comes once after its --slot")
        else:
            given.slot[-1][self.dest] = value


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keyring", metavar="KEYRING")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--slots", action="store_true")
    for public in ("context", "enrolment", "kept", "tpm-object", "tpm-input"):
        what.add_argument(f"--{public}", metavar="SLOT")
    what.add_argument("--slot", metavar="SLOT", action=OfSlot)
    for name in ("key", "tpm", "pin"):
        parser.add_argument(f"--{name}", metavar="FILE", action=OfSlot)
    what.add_argument("--data-key", metavar="FILE")
    what.add_argument("--identity", metavar="FILE")
    parser.add_argument("--payload", action="store_true")
    parser.add_argument("--reply", metavar="FILE")
    given = parser.parse_args()
    for opening in given.slot or []:
        if ("key" in opening) == ("tpm" in opening):
            parser.error("--slot and one of --key and --tpm belong together")
        if "pin" in opening and "tpm" not in opening:
            parser.error("--pin belongs to --tpm")
    if given.identity == "-":
        parser.error("--identity names a file: stdin is taken by what age opens")
    files = [given.keyring, given.data_key, given.reply]
    files += [opening.get(name) for opening in given.slot or [] for name in ("key", "tpm", "pin")]
    if files.count("-") > 1:
        parser.error("one FILE alone can be stdin")
    return given


def answer(given):
    keyring = Keyring(read_file(given.keyring, MAX_FILE))
    if given.slots:
        return "\n".join(f"{s['name']} {s['kind']} {s['program']['name']}" for s in keyring.body["slots"])
    if given.context is not None:
        return keyring.context(keyring.slot(given.context))
    if given.enrolment is not None:
        return json.dumps(keyring.slot(given.enrolment)["enrolment"])
    if given.kept is not None:
        slot = keyring.slot(given.kept)
        need(slot["kind"] == "keep", f"slot {slot['name']} is of kind {slot['kind']}: its program keeps nothing")
        return json.dumps(slot["kept"])
    if given.tpm_object is not None:
        parts = TpmEnrolment(keyring.slot(given.tpm_object)["enrolment"]).object
        return "\n".join(base64.b64encode(len(part).to_bytes(2, "big") + part).decode() for part in parts)
    if given.tpm_input is not None:
        slot = keyring.slot(given.tpm_input)
        return base64.b64encode(TpmEnrolment(slot["enrolment"]).hmac_input(keyring.context(slot))).decode()
    if given.data_key is not None:
        data_key = read_key(given.data_key, False)
    elif given.identity is not None:
        data_key = keyring.by_identity(given.identity)
    else:
        data_key = keyring.by_slots(given.slot)
    if given.reply is not None:
        return keyring.reply(data_key, parse(read_file(given.reply, MAX_FILE), "the reply"))
    payload = keyring.payload(data_key)
    if given.payload:
        return json.dumps(payload, indent=1)
    need(payload["active"] is not None, "every check passed, and there are no shares in it: init was interrupted")
    return "\n".join(payload["active"]["shares"])


if __name__ == "__main__":
    try:
        print(answer(arguments()))
    except Refusal as refusal:
        sys.exit(f"read_keyring: {refusal}")
