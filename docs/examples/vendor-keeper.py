#!/usr/bin/python3
"""A KDF executable that only wraps and unwraps: its keys stay inside. The protocol is in docs/protocol.md.

The "device" is a folder with one key file an enrolment. It stands where a vendor has a security chip that encrypts with
keys it does not give away. This is an example: a file is not hardware, and who copies the folder has every key. It needs
python3-cryptography.
"""

import base64, json, os, re, stat, sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DESCRIPTION = {
    "name": "vendor-keeper", "version": "1.0.0", "protocols": [1], "root_of_trust": "example-keeper", "binding": "vendor",
    "verbs": ["describe", "enroll", "wrap", "unwrap", "health", "retire"], "options": [], "credentials": [],
    "settings": [{"name": "folder", "help": "the folder that plays the device", "default": None, "required": True}],
    "max_secret": 4096,
    "needs": {"devices": [], "read": [], "write": ["setting:folder"], "sockets": [], "network": False},
}
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
CONTEXT = r"(?=.{1,512}$)W/v[1-9][0-9]{0,8}( W=W)*".replace("W", "[A-Za-z0-9._:+-]{1,64}")


class Refusal(Exception):
    """An error of the protocol: a code, and a message that never holds a secret."""


def need(condition, code, message):
    if not condition:
        raise Refusal(code, message)


def without_duplicates(pairs):
    need(len(dict(pairs)) == len(pairs), "invalid-request", "the request has a key twice in one object")
    return dict(pairs)


def read_request():
    text = sys.stdin.buffer.read(2**20 + 1)
    need(len(text) <= 2**20, "invalid-request", "the request is longer than 1 MiB")
    try:
        request = json.loads(text.decode(), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError):
        raise Refusal("invalid-request", "the request is not JSON")
    need(isinstance(request, dict), "invalid-request", "the request is not an object")
    return request


def field(object, name, form):
    """A text in its exact form. Fields that nobody asks for are ignored: a newer host may send them."""
    value = object.get(name)
    need(isinstance(value, str) and re.fullmatch(form, value), "invalid-request", f"{name} is missing or malformed")
    return value


def binary(object, name):
    """Canonical base64: one text for one byte string."""
    text = field(object, name, r"[A-Za-z0-9+/]*={0,2}")
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = b""
    need(data and base64.b64encode(data).decode() == text, "invalid-request", f"{name} is not canonical base64")
    return data


def values(request, kind):
    """Options or settings. An unknown one is refused: it might say what this program must not do."""
    given = request.get(kind, {})
    need(isinstance(given, dict), "invalid-request", f"the {kind} are not an object")
    need(set(given) <= {known["name"] for known in DESCRIPTION[kind]}, "unsupported", f"unknown name among the {kind}")
    return given


def create(path):
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise Refusal("invalid-request", f"{path} exists already: choose a fresh id")


def read(path):
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            private = stat.S_ISREG(found.st_mode) and not found.st_mode & 0o177 and found.st_uid == os.geteuid()
            need(private, "insecure", f"{path} is not a file of ours with mode 0600")
            key = file.read(33)
    except FileNotFoundError:
        raise Refusal("not-enrolled", f"there is no {path}")
    need(len(key) == 32, "tampered", f"{path} does not hold exactly 32 bytes")
    return key


def answer(request):
    verb = field(request, "verb", r".*")
    need(verb in DESCRIPTION["verbs"], "unsupported", "this program does not know the verb")
    if verb == "describe":
        return DESCRIPTION
    # The enrolment comes back as anybody may have altered it: its id names one of our own files, and nothing else.
    enrolment = request.get("enrolment")
    if verb == "enroll" or verb == "retire" and enrolment is None:
        id = field(request, "id", UUID)
    else:
        need(isinstance(enrolment, dict) and enrolment.get("v") == 1, "invalid-request", "the enrolment is not ours")
        id = field(enrolment, "id", UUID)
    folder = field(values(request, "settings"), "folder", r"/[^\0]+")
    need(os.path.isdir(folder), "unavailable", f"there is no folder {folder}")
    path = os.path.join(folder, f"{id}.key")
    if verb == "enroll":
        values(request, "options")
        create(path)
        return {"enrolment": {"v": 1, "id": id}}
    if verb == "retire":
        there = os.path.lexists(path)
        if there:
            os.unlink(path)
        return {"destroyed": [f"key file {path}"] if there else []}
    if verb == "health":
        read(path)
        return {"state": "ok", "details": []}
    context = field(request, "context", CONTEXT)
    names = re.findall(r" ([^=]+)=", context)
    need(len(set(names)) == len(names), "invalid-request", "the context has a key twice")
    if verb == "wrap":
        secret = binary(request, "secret")
        need(len(secret) <= DESCRIPTION["max_secret"], "invalid-request", "the secret is too long")
        nonce = os.urandom(12)
        ciphertext = AESGCM(read(path)).encrypt(nonce, secret, context.encode())
        fields = {"nonce": nonce, "ciphertext": ciphertext}
        return {"wrapped": {"v": 1, **{name: base64.b64encode(data).decode() for name, data in fields.items()}}}
    wrapped = request.get("wrapped")
    form = isinstance(wrapped, dict) and set(wrapped) == {"v", "nonce", "ciphertext"} and wrapped["v"] == 1
    need(form, "invalid-request", "the wrapped secret is not one of ours")
    nonce, ciphertext = binary(wrapped, "nonce"), binary(wrapped, "ciphertext")
    need(len(nonce) == 12 and len(ciphertext) > 16, "invalid-request", "the wrapped secret has a wrong length")
    try:
        secret = AESGCM(read(path)).decrypt(nonce, ciphertext, context.encode())
    except InvalidTag:
        # AES-GCM alone cannot tell these apart.
        raise Refusal("wrong-device", "wrapped by another device, for another context, or altered")
    return {"secret": base64.b64encode(secret).decode()}


def main():
    try:
        need(sys.argv[1:] == ["--kdf-protocol=1"], "unsupported", "this program speaks version 1 of the KDF protocol")
        message = {"ok": answer(read_request())}
    except Refusal as refusal:
        message = {"error": dict(zip(("code", "message"), refusal.args))}
    except OSError as error:
        message = {"error": {"code": "unavailable", "message": f"{error.filename}: {error.strerror}"}}
    except Exception as error:
        message = {"error": {"code": "internal", "message": type(error).__name__}}
    json.dump(message, sys.stdout)
    return 0 if "ok" in message else 1


if __name__ == "__main__":
    sys.exit(main())
