#!/usr/bin/python3
"""A KDF executable that derives, with nothing but what Python brings. The protocol is in docs/protocol.md.

The "device" is a file of 32 random bytes (`head -c 32 /dev/urandom`). It stands where a vendor has fuses or a security
chip. This is an example: a file is not hardware, and who copies it has every key.
"""

import base64, hashlib, hmac, json, os, re, stat, sys

DESCRIPTION = {
    "name": "vendor-kdf", "version": "1.0.0", "protocols": [1], "root_of_trust": "example-file", "binding": "vendor",
    "verbs": ["describe", "enroll", "derive", "health", "retire"], "options": [], "credentials": [],
    "settings": [{"name": "device-key", "help": "the file that plays the device", "default": None, "required": True}],
    "needs": {"devices": [], "read": ["setting:device-key"], "write": [], "sockets": [], "network": False},
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


def values(request, kind):
    """Options or settings. An unknown one is refused: it might say what this program must not do."""
    given = request.get(kind, {})
    need(isinstance(given, dict), "invalid-request", f"the {kind} are not an object")
    need(set(given) <= {known["name"] for known in DESCRIPTION[kind]}, "unsupported", f"unknown name among the {kind}")
    return given


def device_key(request):
    path = field(values(request, "settings"), "device-key", r"/[^\0]+")
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            private = stat.S_ISREG(found.st_mode) and not found.st_mode & 0o177 and found.st_uid == os.geteuid()
            need(private, "insecure", f"{path} is not a file of ours with mode 0600")
            key = file.read(33)
    except OSError as error:
        raise Refusal("unavailable", f"{path}: {error.strerror}")
    need(len(key) == 32, "unavailable", f"{path} does not hold exactly 32 bytes")
    return key


def mac(key, *parts):
    return hmac.new(key, "\n".join(["vendor-kdf/v1", *parts]).encode(), hashlib.sha256).digest()


def answer(request):
    verb = field(request, "verb", r".*")
    need(verb in DESCRIPTION["verbs"], "unsupported", "this program does not know the verb")
    if verb == "describe":
        return DESCRIPTION
    if verb == "enroll":
        values(request, "options")
        id = field(request, "id", UUID)
        # The check tells another device from this one, and says nothing of the key.
        return {"enrolment": {"v": 1, "id": id, "check": mac(device_key(request), "check", id).hex()}}
    if verb == "retire":
        # Nothing is stored for an enrolment, so nothing is destroyed, and the answer says so.
        values(request, "settings")
        need("enrolment" in request or field(request, "id", UUID), "invalid-request", "neither enrolment nor id")
        return {"destroyed": []}
    # The enrolment comes back as anybody may have altered it: it chooses no file, and its check comes first.
    enrolment = request.get("enrolment")
    need(isinstance(enrolment, dict) and enrolment.get("v") == 1, "invalid-request", "the enrolment is not one of ours")
    id = field(enrolment, "id", UUID)
    if verb == "derive":
        context = field(request, "context", CONTEXT)
        names = re.findall(r" ([^=]+)=", context)
        need(len(set(names)) == len(names), "invalid-request", "the context has a key twice")
    key = device_key(request)
    ours = enrolment.get("check") == mac(key, "check", id).hex()
    need(ours, "wrong-device", "the enrolment is not one of this device, or was altered")
    if verb == "health":
        return {"state": "ok", "details": []}
    return {"key": base64.b64encode(mac(key, "derive", id, context)).decode()}


def main():
    try:
        need(sys.argv[1:] == ["--kdf-protocol=1"], "unsupported", "this program speaks version 1 of the KDF protocol")
        message = {"ok": answer(read_request())}
    except Refusal as refusal:
        message = {"error": dict(zip(("code", "message"), refusal.args))}
    except Exception as error:
        message = {"error": {"code": "internal", "message": type(error).__name__}}
    json.dump(message, sys.stdout)
    return 0 if "ok" in message else 1


if __name__ == "__main__":
    sys.exit(main())
