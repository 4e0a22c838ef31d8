#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, fuzz/corpus/TARGET/, from docs/vectors and from the samples below.

A new form of a format: add a sample where its target is, and run this. What a name begins with `real-` came from a program or
a server as it is, and is left alone; everything else there is written anew.
"""

import base64
import copy
import json
import pathlib
import struct

ROOT = pathlib.Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz" / "corpus"
# What no refusal may repeat: CANARY in fuzz/src/lib.rs.
CANARY = "Hunter2"
# What no server's refusal may get into our messages: ECHOED in fuzz/fuzz_targets/vault_refusal.rs.
SHARE_BASE64 = "q80SNFZ4kKvN7xI0VniQq83vEjRWeJCrze8SNFZ4kKvN"
SHARE_HEX = "abcd1234567890abcdef1234567890abcdef1234567890abcdef1234567890abcd"


def vectors(name):
    return json.loads((ROOT / "docs" / "vectors" / name).read_text())


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def b64(data):
    return base64.b64encode(data).decode()


def changed(value, **changes):
    """A copy with other fields; None takes a field out."""
    value = copy.deepcopy(value)
    for name, other in changes.items():
        if other is None:
            value.pop(name)
        else:
            value[name] = other
    return value


def write(target, seeds):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if not old.name.startswith("real-"):
            old.unlink()
    for name, seed in seeds.items():
        (folder / name).write_bytes(seed if isinstance(seed, bytes) else seed.encode())


KEYRING = vectors("keyring.json")
WRAPPED = vectors("wrapped-secret.json")
FILE = vectors("kdf-file.json")
SOFTWARE = vectors("kdf-software.json")
TPM = vectors("kdf-tpm.json")
HOOK = vectors("ikm-hook.json")

SHARED = vectors("keyring-2of3.json")
SHARED_MORE = vectors("keyring-3of4.json")
RECOVERY = vectors("keyring-recovery.json")
SHAMIR = vectors("shamir.json")


def body(vector):
    return json.loads(vector["file"].split("\n")[0])


BODY = body(KEYRING)
TPM_BODY = body(TPM["keyring"])
TPM_ENROLMENTS = {slot["name"]: slot["enrolment"] for slot in TPM_BODY["slots"]}
ID = "6f2b1c0e-8a55-4d0b-9c3e-2f7a1b9d4e60"
CONTEXT = "unsealer/v1 keyring=0b5c7a2e-6f0d-4c1b-9a51-2f6f1a1c9e77 epoch=1 slot=file policy=any"


def json_reader():
    return {
        "object": '{"a":[1,{"b":null}],"c":"x","d":-9007199254740991,"e":true}',
        "key-twice": '{"a":1,"b":{"c":1,"\\u0063":2}}',
        "deep": "[[[[[[[[1]]]]]]]]",
        "float": '{"a":1.5,"b":1e3}',
        "large": "[9007199254740992,99999999999999999999999]",
        "smuggled": '{"a":{"$serde_json::private::RawValue":"{\\"a\\":1.5}"}}',
        "escapes": '{"a":"\\u00e9\\ud83d\\ude00\\n\\"","' + CANARY + '":"' + CANARY + '"}',
        "not-json": CANARY,
    }


def context():
    return {
        "slot": CONTEXT,
        "share": CONTEXT.replace("any", "2of3") + " share=1",
        "payload": KEYRING["payload_context"],
        "short": "a/v1",
        "word": "A/v999999999 k=a+b:c._-",
        "twice": "a/v1 k=v k=w",
        "canary": f"a/v1 {CANARY}=v={CANARY}",
    }


def wrapped():
    seeds = {f"opens-{number}": compact(vector["wrapped"]) for number, vector in enumerate(WRAPPED["opens"])}
    seeds["canary"] = compact(changed(WRAPPED["opens"][0]["wrapped"], salt=CANARY))
    return seeds


def request():
    enrolment = FILE["enrolment"]
    place = {"settings": {"path": "/k/"}, "credentials": {"pin": b64(b"1234")}}
    seeds = {
        "describe": {"verb": "describe"},
        "enroll": {"verb": "enroll", "id": ID, "options": {"mode": "plain"}, **place},
        "derive": {"verb": "derive", "enrolment": enrolment, "context": CONTEXT, **place},
        "wrap": {"verb": "wrap", "enrolment": {}, "context": "a/v1", "secret": b64(b"share"), **place},
        "unwrap": {
            "verb": "unwrap",
            "enrolment": {},
            "context": "a/v1 k=v",
            "wrapped": WRAPPED["opens"][0]["wrapped"],
        },
        "health": {"verb": "health", "enrolment": enrolment, "settings": {"tcti": "device:/dev/tpmrm0"}},
        "retire": {"verb": "retire", "enrolment": enrolment},
        "retire-id": {"verb": "retire", "id": ID},
        "unknown-verb": {"verb": CANARY},
        "canary": {"verb": "wrap", "enrolment": {}, "context": "a/v1", "secret": CANARY},
        "canary-credential": {"verb": "health", "enrolment": {}, "credentials": {"pin": CANARY}},
    }
    return {name: compact(seed) for name, seed in seeds.items()}


def answer():
    key, advice = FILE["keys"][0]["key"], {"re_enroll": True, "reason": "1 of 6 components changed: disk"}
    error = {
        "code": "credential-wrong",
        "message": "the PIN is wrong",
        "hint": "ask",
        "retry_after_ms": 7000,
        "credential": "pin",
        "tries_left": 2,
        "details": [{"name": "pcr 7", "value": "changed", "hint": "\u202e"}],
    }
    parameter = {"name": "path", "help": "the file", "default": None, "required": True}
    describe = {
        "name": "vendor-kdf",
        "version": "1.0.0",
        "protocols": [1],
        "verbs": ["describe", "enroll", "wrap", "unwrap", "health", "retire"],
        "root_of_trust": "tee",
        "binding": "vendor",
        "options": [parameter],
        "settings": [{"name": "a", "help": "b\x1b[2J"}],
        "credentials": [{"name": "pin", "help": "the PIN", "verbs": ["derive"]}],
        "timeouts_ms": {"enroll": 120000},
        "max_secret": 64,
        "needs": {"devices": ["/dev/tee0"], "read": [], "write": [], "sockets": [], "network": False},
    }
    kept = {"v": 1, "blob": b64(bytes(range(40)))}
    seeds = {
        "describe": ("describe 0", {"ok": describe}),
        "enroll": ("enroll 0", {"ok": {"enrolment": kept}}),
        "derive": ("derive 0", {"ok": {"key": b64(bytes.fromhex(key)), "advice": advice}}),
        "wrap": ("wrap 0", {"ok": {"wrapped": kept}}),
        "unwrap": ("unwrap 0", {"ok": {"secret": b64(b"a share"), "advice": None}}),
        "health": ("health 0", {"ok": {"state": "degraded", "details": error["details"]}}),
        "retire": ("retire 0", {"ok": {"destroyed": ["nv 0x01800001"]}}),
        "error": ("unwrap 1", {"error": error}),
        "both": ("derive 0", {"ok": {"key": CANARY}, "error": error}),
        "constant": ("derive 0", {"ok": {"key": b64(bytes(32))}}),
        "canary": ("unwrap 0", {"ok": {"secret": CANARY}}),
        "array": ("derive 0", {"ok": [b64(bytes.fromhex(key)), [False, "x"]]}),
    }
    return {name: f"{asked}\n{compact(message)}" for name, (asked, message) in seeds.items()}


def hook():
    seeds = {f"reads-{number}": case["output"] for number, case in enumerate(HOOK["cases"])}
    seeds |= {f"refuses-{number}": text for number, text in enumerate(HOOK["refused"]) if len(text) < 500}
    return seeds | {"canary": f"{CANARY}{CANARY}{CANARY}{CANARY}{CANARY}\n"}


def keyring():
    # What is refused needs no more than a slot.
    small = changed(BODY, slots=BODY["slots"][:1])
    twice = changed(small, slots=small["slots"] * 2)
    shared = body(SHARED)
    recovery = body(RECOVERY)["recovery"]
    same_x = changed(shared, slots=shared["slots"][:2])
    same_x["slots"][1]["share"]["x"] = 1
    public = changed(BODY["public"], cluster_name=CANARY + "\u202e")
    bodies = {
        "any": BODY,
        "tpm": changed(TPM_BODY, slots=TPM_BODY["slots"][:2]),
        "recovery": body(RECOVERY),
        "recovery-other-epoch": changed(small, recovery=recovery, epoch=2),
        "recovery-no-age": changed(small, recovery=changed(recovery, age=b64(b"age-encryption.org/v1\n"))),
        "recovery-canary": changed(small, recovery=changed(recovery, recipients=[CANARY])),
        "2of3": shared,
        "2of3-file-and-hook": changed(shared, slots=[shared["slots"][index] for index in (0, 2)], policy="2of2"),
        "2of3-same-x": same_x,
        "3of4": body(SHARED_MORE),
        "3of2": changed(small, policy="3of2"),
        "02of3": changed(small, policy="02of3"),
        "any-with-share": changed(shared, policy="any", slots=shared["slots"][:1]),
        "slot-twice": twice,
        "version-2": changed(small, v=2),
        "epoch-2": changed(small, epoch=2),
        "canary": changed(small, public=public),
        "unknown-field": changed(small, **{CANARY: CANARY}),
    }
    seeds = {name: compact(body) for name, body in bodies.items()}
    return seeds | {"file": KEYRING["file"], "file-cut": KEYRING["file"][:-20] + "\n"}


def payload():
    whole = KEYRING["payload"]
    token = {"kind": "token", "token": "s.example"}
    seeds = {
        "whole": whole,
        "nothing": {"v": 1, "active": None, "retired": [], "credential": None, "pending": None},
        "token": changed(whole, credential=token),
        "pending": changed(whole, pending={"root_token": "s.example", "step": "setup"}),
        "no-such-threshold": changed(whole, active=changed(whole["active"], threshold=9)),
        "canary": changed(whole, active=changed(whole["active"], shares=[CANARY])),
        "canary-token": changed(whole, credential=changed(token, kind=CANARY)),
    }
    return {name: compact(seed) for name, seed in seeds.items()}


def policy():
    texts = "any 2of2 2of3 10of12 32of32 1of3 3of2 2of33 02of3 +2of3 2of of3 2of3of4 Any".split()
    return {f"policy-{number}": text for number, text in enumerate([*texts, "", "2of3 ", "2 of 3"])}


def shamir():
    """Shares of 33 bytes one behind the other, and which splits of the first to try."""

    def shares(vector):
        return b"".join(bytes([share["x"]]) + bytes.fromhex(share["y"]) for share in vector["shares"])

    def whole(vector):
        return all(len(share["y"]) == 64 and share["x"] < 256 for share in vector["shares"])

    given = [shares(vector) for vector in SHAMIR["splits"] if whole(vector)]
    refused = [shares(vector) for vector in SHAMIR["refused"] if whole(vector)]
    seeds = {f"split-{number}": seed for number, seed in enumerate(given)}
    seeds |= {f"refused-{number}": seed for number, seed in enumerate(refused)}
    return seeds | {"split-again": given[0] + b"\1\2\1"}


def keyhole():
    """How many slots are needed; and of each what is odd, where its share is said to stand, and what it holds."""
    short, uncommitted, other_key, other_slot = 1, 2, 4, 8
    held = [bytes.fromhex(slot["plaintext"]) for slot in SHARED["slots"]]
    data_key = bytes.fromhex(SHARED["data_key"])

    def slot(plain, odd=0, x=None):
        return bytes([odd, plain[0] if x is None else x]) + plain

    odd = [slot(held[0], kind) for kind in (short, uncommitted, other_key, other_slot)]
    return {
        "two": bytes([2]) + slot(held[0], uncommitted) + slot(held[2], uncommitted),
        "three": bytes([2]) + b"".join(slot(plain) for plain in held),
        "odd": bytes([2]) + b"".join(odd),
        "other-share": bytes([2]) + slot(held[0]) + slot(held[1][:-1] + b"\0"),
        "same-place": bytes([2]) + slot(held[0]) * 2,
        "at-zero": bytes([2]) + slot(bytes([0]) + held[0][1:]) + slot(held[1]),
        "elsewhere": bytes([2]) + slot(held[0], x=9) + slot(held[1]),
        "any": bytes([0]) + slot(b"\0" + data_key, short) + slot(held[0], short),
        "any-long": bytes([0]) + slot(data_key + b"\0"),
    }


def identity():
    key = RECOVERY["identities"][0]
    seeds = {
        "alone": key + "\n",
        "age-keygen": f"# created: 2024-01-01T00:00:00Z\r\n# public key: {RECOVERY['recipients'][0]}\r\n\r\n{key}\r\n",
        "lower": key.lower(),
        "two": f"{key}\n{RECOVERY['identities'][1]}\n",
        "public": RECOVERY["recipients"][0],
        "mistyped": key.replace("W834", "W843"),
        "encrypted": "age-encryption.org/v1\n-> scrypt x 18\n",
        "ssh": "-----BEGIN OPENSSH PRIVATE KEY-----\n",
        "others": "AGE-SECRET-KEY-PQ-1QQQQ",
        "plugin": "AGE-PLUGIN-YUBIKEY-1QQQQ",
        "canary": f"# {CANARY}\n{CANARY}",
    }
    return seeds | {"bytes": b"\0" + bytes(range(32)), "bytes-cut": b"\0" + bytes(20)}


def recipients():
    one, two = RECOVERY["recipients"]
    kinds = ["ssh-ed25519 AAAA", "ecdsa-sha2-nistp256 A", "age1pq1qqqq", "age1tag1qqqq", "age1yubikey1q0000"]
    seeds = {
        "one": one,
        "two": f"{two}\n{one}",
        "twice": f"{one}\n{one}",
        "many": "\n".join([one] * 17),
        "mistyped": one.replace("age1s", "age1q"),
        "upper": one.upper(),
        "private": RECOVERY["identities"][0],
        "canary": CANARY,
    }
    seeds |= {f"kind-{number}": kind for number, kind in enumerate(kinds)}
    # The last of them are of low order: https://cr.yp.to/ecdh.html
    points = {
        "points": bytes(range(9, 41)) + bytes([9]) + bytes(31),
        "point-0": bytes(32),
        "point-1": bytes([1]) + bytes(31),
        "point-8": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        "point-p": bytes([0xED]) + bytes([0xFF] * 30) + bytes([0x7F]),
    }
    return seeds | {name: b"\0" + point for name, point in points.items()}


def recovery_line():
    line = RECOVERY["recovery_line"]
    return {
        "good": line,
        "two-lines": line + line,
        "no-end": line[:-1],
        "other-keyring": line.replace("0b5c7a2e", "1b5c7a2e"),
        "other-epoch": line.replace("epoch=1", "epoch=18446744073709551615"),
        "epoch-01": line.replace("epoch=1", "epoch=01"),
        "version-2": line.replace("/v1", "/v2"),
        "canary": line.replace("gIGCg4S", CANARY),
    }


def age():
    """An age file beside the real ones, and what is none."""
    file = base64.b64decode(body(RECOVERY)["recovery"]["age"])
    armor = "-----{} AGE ENCRYPTED FILE-----\n"
    lines = "".join(b64(file[at : at + 48]) + "\n" for at in range(0, len(file), 48))
    return {
        "vector": file,
        "armored": armor.format("BEGIN") + lines + armor.format("END"),
        "armored-cut": armor.format("BEGIN") + lines,
        "cut": file[:-1],
        "header-cut": file[:100],
        "no-recipient": file[: file.index(b"-> ")] + file[file.index(b"--- ") :],
        "version-2": file.replace(b"/v1", b"/v2"),
        "passphrase": "age-encryption.org/v1\n-> scrypt rF0/NwblUHHTpgQgRpe5CQ 22\n" + "A" * 43 + "\n--- " + "A" * 43 + "\n",
        "canary": CANARY,
    }


def age_header():
    stanza = "-> X25519 " + "A" * 43 + "\n" + "A" * 43 + "\n"
    texts = {
        "nothing": "",
        "grease": "-> x-grease a b c\n" + "A" * 64 + "\nAAAA\n",
        "stanza": stanza,
        "stanzas": stanza * 3,
        "no-body": "-> x\n\n",
        "scrypt": "-> scrypt rF0/NwblUHHTpgQgRpe5CQ 22\n" + "A" * 43 + "\n",
        "ends": "--- " + "A" * 43 + "\n",
        "long-lines": "-> x\n" + ("A" * 64 + "\n") * 10 + "\n",
        "canary": f"-> {CANARY}\n",
    }
    return {f"{place}-{name}": sign + text for name, text in texts.items() for place, sign in [("before", "b"), ("behind", "a")]}


def share():
    shares = {"shares": [b64(bytes([number] * 33)) for number in (1, 2, 3)], "threshold": 2, "created": 1790000000}
    whole = {
        "format": "unsealer-share",
        "v": 1,
        "keyring": BODY["id"],
        "active": shares,
        "retired": [changed(shares, threshold=1, retired=1790000001)],
        "cluster_id": "5d9b1c64-93a3-4c2b-a1b7-4f7f3c4f0a55",
        "cluster_name": None,
    }
    seeds = {
        "whole": whole,
        "short": changed(whole, active={"shares": [b64(bytes(16))], "threshold": 1, "created": 0}, retired=[]),
        "threshold": changed(whole, active=changed(shares, threshold=4)),
        "twice": changed(whole, active=changed(shares, shares=shares["shares"][:1] * 3)),
        "version-2": changed(whole, v=2),
        "keyring": changed(whole, format="unsealer-keyring"),
        "steers": changed(whole, cluster_name="a\u202e\u001b[2J"),
        "canary": changed(whole, active=changed(shares, shares=[CANARY])),
        "canary-field": changed(whole, **{CANARY: CANARY}),
    }
    return {name: compact(seed) + "\n" for name, seed in seeds.items()}


def imported():
    shares = [bytes([number] * 33) for number in (10, 176, 204)]
    hexes, base64s = [share.hex() for share in shares], [b64(share) for share in shares]
    operator = {
        "unseal_keys_b64": base64s,
        "unseal_keys_hex": hexes,
        "unseal_shares": 3,
        "unseal_threshold": 2,
        "recovery_keys_b64": [],
        "recovery_keys_hex": [],
        "recovery_keys_shares": 0,
        "recovery_keys_threshold": 0,
        "root_token": "s.example",
    }
    seeds = {
        "operator": operator,
        "operator-hex": changed(operator, unseal_keys_b64=None, root_token=None),
        "reply": {"keys": hexes, "keys_base64": base64s, "root_token": ""},
        "reply-upper": {"keys": [text.upper() for text in hexes], "keys_base64": []},
        "both": operator | {"keys": hexes},
        "differ": operator | {"keys": hexes[:2]},
        "edgex": {"encrypted_keys": ["3b0328866293735050dbda49e67ef7c49fb318b8"], "nonces": ["a0" * 12]},
        "unseals-itself": {"unseal_keys_b64": [], "recovery_keys_b64": base64s, "recovery_keys_base64": base64s},
        "pgp": {"keys_base64": [b64(bytes(300))]},
        "twice": {"keys": hexes[:1] * 2},
        "short": {"keys": ["0011"]},
        "threshold": changed(operator, unseal_threshold=4),
        "canary": {"keys": [CANARY], "keys_base64": [CANARY], "root_token": CANARY},
        "canary-token": changed(operator, root_token=CANARY),
    }
    return {name: compact(seed) + "\n" for name, seed in seeds.items()}


def key_share():
    good = bytes(range(1, 34))
    texts = [good.hex(), good.hex().upper(), b64(good), f" {b64(good)}\r\n", "ab" * 16, "ab" * 34, "a" * 44, "ab" * 15 + "a", CANARY]
    return {f"share-{number}": text for number, text in enumerate(texts)}


CONFIG = """\
keyring = "/var/lib/unsealer/keyring.json"
keyring-id = "0b5c7a2e-6f0d-4c1b-9a51-2f6f1a1c9e77"
policy = "any"
program-dirs = ["/opt/vendor/bin"]

[slot.file]
program = "kdf-file"
sha256 = ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
timeout = "20s"
env = { LANG = "C" }
options = { mode = "plain" }
settings = { path = "/k/", allow-simulator = true, port = 5 }
credentials = { pin = "credential:pin", passphrase = "fd:3", more = "file:/run/x", last = "prompt" }

[slot.hook]
program = "/opt/vendor/hook"
kind = "ikm-hook"

[[node]]
name = "one"
address = "https://127.0.0.1:8200"
ca-file = "/etc/ca.pem"
server-name = "vault"
client-cert = "/etc/c.pem"
client-key = "/etc/k.pem"

[[node]]
name = "two"
address = "http://10.0.0.2:8200"
plaintext = "accepted"

[init]
shares = 5
threshold = 3
credential = "none"
setup = "/etc/unsealer/setup"
"""


def config():
    later = f'policy = "2of3"\nrecovery = ["{RECOVERY["recipients"][0]}"]\n'
    return {
        "whole": CONFIG,
        "empty": "",
        "later": later + CONFIG.split("\n", 3)[3],
        "misspelt": "kerying = '/x'\n[slot.a]\nprogramme = 'x'\n",
        "nodes": "[[node]]\nname = 'a'\naddress = 'x'\n[[node]]\nname = 'a'\naddress = 'y'\n",
        "threshold": "[init]\nshares = 2\nthreshold = 3\n",
        "steers": '"\\u001b[2J\\u202e" = 1\n',
        "steers-slot": '[slot."\\u001b\\u202e"]\nprogram = "x"\n',
        "steers-node": '[[node]]\nname = "\\u202e"\naddress = "x"\n[[node]]\nname = "\\u202e"\naddress = "y"\n',
    }


def config_value():
    values = ["48151623", "0x2debc07", "4815.1623", "true", "1979-05-27T07:32:00Z", "07:32:00", f"'{CANARY}'"]
    values += [f"['{CANARY}']", f"{{ x = '{CANARY}' }}", f"'{CANARY}, expected `{CANARY}`'", CANARY, f"'{CANARY}"]
    values += [f'"{CANARY}"', f'"""{CANARY}"""', "'500ms'", "'credential:pin'", "'fd:3'", f"'fd:{CANARY}'", "'prompt'"]
    return {f"value-{number}": value for number, value in enumerate(values)}


def journal():
    def line(**changes):
        record = {"v": 1, "op": "init", "op_id": ID, "step": "planned", "slot": None, "enrolment_id": None}
        return compact(record | changes) + "\n"

    steps = "planned enrolling enrolled proven init-sent saved unsealed credential setup revoked retired done abandoned"
    return {
        "steps": "".join(line(step=step) for step in steps.split()),
        "enrolment": line(step="enrolling", slot="file", enrolment_id=ID),
        "torn": line() + line(step="saved")[:40],
        "version-2": line(v=2),
        "canary": line(step=CANARY),
        "slots": "".join(line(op=op) for op in ["slot-add", "slot-remove", "slot-rotate", "rekey", "policy", "recover"]),
    }


def seen():
    entry = {"sha256": "0" * 64, "generation": 3, "epoch": 1, "commitment": BODY["commitment"]}
    record = {"v": 1, "id": BODY["id"], "accept": [entry]}
    seeds = {
        "one": record,
        "two": changed(record, accept=[entry, changed(entry, generation=4)]),
        "three": changed(record, accept=[entry] * 3),
        "canary": changed(record, **{CANARY: CANARY}),
    }
    return {name: compact(seed) + "\n" for name, seed in seeds.items()}


def proven():
    boot = {"boot_id": "f74c9d98-a4df-40b3-b207-68b5f42f410a"}
    seeds = {"two": {"v": 1, "slots": {"file": boot, "tpm": boot}}, "empty": {"v": 1, "slots": {}}}
    return {name: compact(seed) + "\n" for name, seed in seeds.items()}


STATUS = {
    "type": "shamir",
    "initialized": True,
    "sealed": True,
    "t": 3,
    "n": 5,
    "progress": 0,
    "nonce": "",
    "version": "1.21.0",
    "migration": False,
    "recovery_seal": False,
    "removed_from_cluster": False,
    "storage_type": "raft",
}


def vault_status():
    seeds = {
        "migration": changed(STATUS, migration=True),
        "auto-unseal": changed(STATUS, type="awskms\u001b[2J", recovery_seal=True, sealed=False),
        "contradiction": changed(STATUS, initialized=False, sealed=False),
        "no-sealed": changed(STATUS, sealed=None),
        "refusal": {"errors": ["permission denied"]},
        "canary": changed(STATUS, t=CANARY),
    }
    return {name: compact(seed) for name, seed in seeds.items()}


def vault_health():
    body = {"initialized": True, "sealed": False, "standby": False, "performance_standby": False, "cluster_id": "x"}
    seeds = {
        "200": (200, body),
        "429": (429, changed(body, standby=True)),
        "472": (472, body),
        "473": (473, changed(body, performance_standby=True)),
        "474": (474, changed(body, standby=True)),
        "501": (501, changed(body, initialized=False, sealed=True)),
        "503": (503, changed(body, sealed=True)),
        "530": (530, changed(body, removed_from_cluster=True)),
        "503-of-a-proxy": (503, body),
        "200-sealed": (200, changed(body, sealed=True)),
    }
    return {name: f"{code}\n{compact(seed)}" for name, (code, seed) in seeds.items()}


def vault_init():
    shares = [bytes([number] * 16 + list(range(17))) for number in range(3)]
    hexes, base64s = [share.hex() for share in shares], [b64(share) for share in shares]
    seeds = {
        "both": {"keys": hexes, "keys_base64": base64s, "root_token": "s.root"},
        "hex": {"keys": hexes, "root_token": "s.root"},
        "base64": {"keys": None, "keys_base64": base64s, "root_token": "s.root"},
        "twice": {"keys": [hexes[0], hexes[1], hexes[0]], "root_token": "s.root"},
        "differ": {"keys": [*hexes[:2], "00" * 33], "keys_base64": base64s, "root_token": "s.root"},
        "short": {"keys": ["00", "01", "02"], "root_token": "s.root"},
        "canary": {"keys": [CANARY, *hexes[:2]], "root_token": CANARY},
    }
    return {name: f"3\n{compact(seed)}" for name, seed in seeds.items()}


def vault_refusal():
    def errors(*texts):
        return compact({"errors": texts})

    return {
        "two": errors("invalid key: failed to decrypt keys from storage", "permission denied"),
        "none": errors(),
        "steers": errors("a\n\t* b\u001b[31mc\u202ed\u0000"),
        "long": errors("word " * 100),
        "echo-base64": errors(f'bad request: {{"key":"{SHARE_BASE64}"}}'),
        "echo-hex": errors(f"key={SHARE_HEX} at /{SHARE_HEX}."),
        "echo-not-json": f"<html>{SHARE_BASE64} {SHARE_HEX}</html>",
        "wants-tls": "Client sent an HTTP request to an HTTPS server.\n",
    }


def address():
    texts = ["https://vault.example.com:8200", "https://Vault.Example.com/", "http://127.0.0.1:8200", "http://localhost"]
    texts += ["https://[::1]:8200", "https://[2001:db8::1]", "unix:///run/openbao/api.sock", "https://host/v1?x=1#y"]
    texts += [f"https://user:{CANARY}@host:8200", f"{CANARY}@host", "https://2130706433", "https://[fe80::1%eth0]:1"]
    return {f"address-{number}": text for number, text in enumerate(texts)}


def file_enrolment():
    good = FILE["enrolment"]
    seeds = {
        "plain": good,
        "passphrase": changed(good, mode="passphrase", argon2={"m_kib": 65536, "t": 3, "p": 4}, check=good["file_check"]),
        "credential": changed(good, mode="credential"),
        "version-2": changed(good, v=2),
        "canary": changed(good, id=CANARY),
    }
    return {name: compact(seed) for name, seed in seeds.items()}


def file_key():
    good = FILE["key_file"]
    return {
        "good": good,
        "version-2": good.replace("v1", "v2"),
        "bit": good.replace("630d", "630c"),
        "canary": good.replace("AAEC", CANARY),
        "cut": good[:60],
    }


def software_enrolment():
    good = SOFTWARE["enrolment"]
    everywhere = changed(good, kinds=["dt-serial", "mac@pci-0000:00:1f.6", "disk@pci-0000:00:17.0-ata-1"])
    seeds = {
        "strict": good,
        "other-kinds": everywhere,
        "tolerant": changed(good, t=2, subsets=good["subsets"] * 3),
        "unknown-kind": changed(good, kinds=[CANARY, "cpu", "machine-id"]),
        "kind-twice": changed(good, kinds=["cpu", "cpu", "machine-id"]),
        "dear": changed(good, argon2={"m_kib": 2**30, "t": 10, "p": 16}),
        "canary": changed(good, salt=CANARY),
    }
    return {name: compact(seed) for name, seed in seeds.items()}


def tpm_enrolment():
    seeds = {f"vector-{name}": enrolment for name, enrolment in TPM_ENROLMENTS.items()}
    good = next(iter(TPM_ENROLMENTS.values()))
    seeds |= {
        "pcr-24": changed(good, pcrs={"bank": "sha256", "values": {"24": "00" * 32}}),
        "sha1": changed(good, pcrs={"bank": "sha1", "values": {"7": "00" * 20}}),
        "canary": changed(good, policy_key=CANARY),
    }
    return {name: compact(seed) for name, seed in seeds.items()}


def tpm_object():
    publics = {enrolment["object"]["public"] for enrolment in TPM_ENROLMENTS.values()}
    return {f"public-{number}": base64.b64decode(text) for number, text in enumerate(sorted(publics))}


def tpm_signatures():
    entry = {
        "pcrs": [11],
        "pkfp": TPM["policy_key"]["fingerprint"],
        "pol": TPM["policies"]["pcrs"]["11"],
        "sig": b64(bytes(range(256))),
    }
    seeds = {
        "one": {"sha256": [entry]},
        "two": {"sha256": [entry, changed(entry, pcrs=[7, 11])], "sha1": [entry]},
        "others": {"sha256": [changed(entry, pkfp="00" * 32, sig="AAAA")]},
        "short": {"sha256": [changed(entry, sig="AAAA")]},
        "pcr-24": {"sha256": [changed(entry, pcrs=[24])]},
        "none": {},
        "canary": {"sha256": [changed(entry, pol=CANARY)]},
    }
    return {name: compact(seed) for name, seed in seeds.items()}


def tpm_policy_key():
    good = TPM["policy_key"]["pem"]
    return {
        "good": good,
        "one-line": good.replace("\n", ""),
        "crlf": good.replace("\n", "\r\n"),
        "private": good.replace("PUBLIC", "PRIVATE"),
        "canary": good.replace("MIIB", CANARY),
    }


def tpm_settings():
    texts = ["device:/dev/tpmrm0", "swtpm:host=127.0.0.1,port=2321", "swtpm:port=4711", "swtpm:path=/run/swtpm.sock"]
    texts += ["tabrmd:bus_name=com.intel.tss2.Tabrmd,bus_type=session", "tabrmd:", "pcap:device:/dev/tpmrm0"]
    texts += ["sha256:7,11", "sha256:0,23", "sha256:24", "sha1:7", f"swtpm:host={CANARY}?,port=1", f"device:{CANARY}", "swtpm:host=127.0.0.1,port=04711"]
    return {f"setting-{number}": text for number, text in enumerate(texts)}


def tpm_events():
    """Logs as firmware writes them: TCG PC Client Platform Firmware Profile, section 10."""
    header = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 0, 2) + struct.pack("<IHH", 1, 11, 32) + b"\0"
    first = struct.pack("<II20sI", 0, 3, bytes(20), len(header)) + header

    def event(register, kind, content):
        return struct.pack("<IIIH32sI", register, kind, 1, 11, bytes(32), len(content)) + content

    def variable(name):
        text = name.encode("utf-16-le")
        return bytes(16) + struct.pack("<QQ", len(name), 1) + text + b"\1"

    secure = event(7, 0x80000001, variable("SecureBoot")) + event(7, 0x800000E0, variable("db"))
    return {
        "secure-boot": first + secure + event(7, 4, bytes(4)),
        "separators": first + b"".join(event(register, 4, bytes(4)) for register in range(8)),
        "hides": first + event(0, 0x80000002, variable("Boot\u202e\x1b")),
        "cut": (first + secure)[:-9],
        "no-log": b"Spec ID Event02\0",
    }


TARGETS = {
    "json": json_reader,
    "context": context,
    "wrapped": wrapped,
    "request": request,
    "answer": answer,
    "hook": hook,
    "keyring": keyring,
    "payload": payload,
    "policy": policy,
    "shamir": shamir,
    "keyhole": keyhole,
    "identity": identity,
    "recipients": recipients,
    "recovery_line": recovery_line,
    "age": age,
    "age_header": age_header,
    "share": share,
    "import": imported,
    "key_share": key_share,
    "config": config,
    "config_value": config_value,
    "journal": journal,
    "seen": seen,
    "proven": proven,
    "vault_status": vault_status,
    "vault_health": vault_health,
    "vault_init": vault_init,
    "vault_refusal": vault_refusal,
    "address": address,
    "file_enrolment": file_enrolment,
    "file_key": file_key,
    "software_enrolment": software_enrolment,
    "tpm_enrolment": tpm_enrolment,
    "tpm_object": tpm_object,
    "tpm_signatures": tpm_signatures,
    "tpm_policy_key": tpm_policy_key,
    "tpm_settings": tpm_settings,
    "tpm_events": tpm_events,
}

if __name__ == "__main__":
    for target, seeds in TARGETS.items():
        write(target, seeds())
