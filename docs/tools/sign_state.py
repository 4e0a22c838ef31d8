#!/usr/bin/python3
"""Signs a state of PCRs for kdf-tpm, and adds it to a file as systemd-measure writes it.

    sign_state.py --key PRIVATE.pem --pcrs 7,11 --values FILE --into SIGNATURES.json

FILE holds the values of these registers of the SHA-256 bank, 32 bytes each, in ascending order, as `tpm2_pcrread -o FILE
sha256:7,11` writes them. For unified kernel images use systemd-measure itself, which computes the value of PCR 11 that an
image will bring; this is for other registers. Run it where the private key is, not on the machine that the state is of.
It needs Python 3 and python3-cryptography.
"""

import argparse
import base64
import hashlib
import json
import os
import pathlib
import struct
import sys

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def policy(registers, values):
    """What a fresh policy session has after TPM2_PolicyPCR (TPM 2.0 Library, part 3, section 23.7)."""
    bits = sum(1 << register for register in registers).to_bytes(3, "little")
    selection = struct.pack(">IHB", 1, 0x000B, 3) + bits
    parts = bytes(32) + struct.pack(">I", 0x17F) + selection + hashlib.sha256(values).digest()
    return hashlib.sha256(parts).digest()


def read_key(path):
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size != 2048 or key.public_key().public_numbers().e != 65537:
        sys.exit(f"sign_state: {path} is not an RSA key of 2048 bits with the exponent 65537")
    return key


def signed(key, registers, values):
    pkcs1 = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    digest = policy(registers, values)
    signature = key.sign(digest, padding.PKCS1v15(), hashes.SHA256())
    return {"pcrs": registers, "pkfp": hashlib.sha256(pkcs1).hexdigest(), "pol": digest.hex(),
            "sig": base64.b64encode(signature).decode()}


def add(entry, path):
    """Written beside it and renamed, so that nobody reads half a file."""
    states = json.loads(path.read_text()) if path.exists() else {}
    entries = states.setdefault("sha256", [])
    if entry not in entries:
        entries.append(entry)
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(states) + "\n")
    os.replace(beside, path)
    return len(entries)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("key", "values", "into"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--pcrs", type=lambda text: sorted({int(word) for word in text.split(",")}), required=True)
    given = parser.parse_args()
    if not all(0 <= register < 24 for register in given.pcrs):
        parser.error("registers are numbers from 0 to 23")
    values = given.values.read_bytes()
    if len(values) != 32 * len(given.pcrs):
        sys.exit(f"sign_state: {given.values} does not hold 32 bytes for each of {len(given.pcrs)} registers")
    count = add(signed(read_key(given.key), given.pcrs, values), given.into)
    print(f"{given.into}: {count} signed {'state' if count == 1 else 'states'}")


if __name__ == "__main__":
    main()
