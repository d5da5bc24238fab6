"""Reads what the senders sent with libraries that share no code with Hearth.

    independent.py subscribe            prints the keys of a browser
    independent.py check < cases.json   prints, for each case, what was read of it, or null when it does not hold
"""

import base64
import json
import sys

import http_ece
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from py_vapid import Vapid02


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def subscribe():
    key = ec.generate_private_key(ec.SECP256R1())
    point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return {
        "private": encode(key.private_numbers().private_value.to_bytes(32, "big")),
        "p256dh": encode(point),
        "auth": encode(b"0123456789abcdef"),
    }


def decrypt(case):
    private = ec.derive_private_key(int.from_bytes(decode(case["private"]), "big"), ec.SECP256R1())
    body = decode(case["body"])
    return http_ece.decrypt(body, private_key=private, auth_secret=decode(case["auth"]), version="aes128gcm").decode()


def vapid(case):
    """py_vapid wants the two fields without the space that RFC 8292 has between them."""
    value = case["authorization"]
    if not Vapid02.verify(value.replace(", k=", ",k=")):
        raise ValueError("signature")
    return json.loads(decode(value.split("t=")[1].split(",")[0].split(".")[1]))


def token(case):
    """A JWT under ES256 or RS256, by the key of whoever made it."""
    signed, signature = case["token"].rsplit(".", 1)
    key = serialization.load_pem_private_key(case["key"].encode(), None).public_key()
    header, claims = (json.loads(decode(part)) for part in signed.split("."))
    signature = decode(signature)
    if header["alg"] == "ES256":
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        key.verify(utils.encode_dss_signature(r, s), signed.encode(), ec.ECDSA(hashes.SHA256()))
    elif header["alg"] == "RS256":
        key.verify(signature, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    else:
        raise ValueError("algorithm")
    return {"header": header, "claims": claims}


def check(case):
    try:
        return {"decrypt": decrypt, "vapid": vapid, "token": token}[case["what"]](case)
    except (http_ece.ECEException, InvalidSignature, ValueError, KeyError):
        return None


if __name__ == "__main__":
    answer = subscribe() if sys.argv[1] == "subscribe" else [check(case) for case in json.load(sys.stdin)]
    print(json.dumps(answer))
