"""Passwords and keys: where they must not stand, and how they are kept out of what people and files see.

Keys come from environment variables and ``credentials.yml``. A text that is shown or written may still hold
one: an address in a library's message, or a server's error that repeats the key. So messages and log lines go
through :func:`redacted`.
"""

import base64
import logging
import re
from collections.abc import Mapping
from urllib.parse import quote

MASK = "***"
_SHORTEST = 8  # characters of a key: "EMPTY" and "none" are given to servers that want none
_NAMES = (
    r"(?:[\w.%-]*[_.-])?(?:api|access|account|secret|private|subscription)?-?"
    r"(?:keys?|tokens?|secrets?|signature|sig|passw(?:or)?d|pwd|pass|credentials?|auth|authorization)"
)
"""Such as api_key, X-Amz-Signature, access_token, sig; not download, version, monkey."""
# What stands before the @ of an address; a password with a slash in it is no port.
_USER = re.compile(r"(?<=://)(?!\*{3}@)(?:[^/?#\s]*|[^/?#\s:]*:(?!\d*/)[^\s@]*)@")
_QUERY = re.compile(rf"([?&;]{_NAMES}=)(?!\*{{3}})[^&;#\s'\"<>]+", re.IGNORECASE)
# Of a parameter, or of a variable of the environment: api_key=, HF_TOKEN=; not pad_token=.
_VARIABLE = re.compile(
    r"(\b(?:(?:\w+[._])?(?i:api_?key|password|passwd|secret)|[A-Z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD))=)"
    r"(?!\*{3})[^\s,]+"
)
_known: set[str] = set()


def keep_out(secrets: Mapping[str, object]) -> None:
    """Have :func:`redacted` take texts out from now on, also as addresses and base64 write them.

    Args:
        secrets: By name. What has another name than a password's or key's stays, such as a region beside it.
    """
    for name, secret in secrets.items():
        if isinstance(secret, str) and len(secret) >= _SHORTEST and re.fullmatch(_NAMES, name, re.IGNORECASE):
            encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
            _known.update((secret, quote(secret, safe=""), encoded))


def redacted(text: str) -> str:
    """The text without the passwords and keys in addresses, and without the keys that are known."""
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _USER.sub(f"{MASK}@", text)
    return _VARIABLE.sub(rf"\1{MASK}", _QUERY.sub(rf"\1{MASK}", text))


def secret_in(text: str) -> str | None:
    """What in a text is a secret, such as a password in an address; None if nothing is."""
    if _USER.search(text):
        return "an address with a user or password"
    found = _VARIABLE.search(text) or ("://" in text and _QUERY.search(text))
    return f"a secret ({found[1].strip('?&;=')})" if found else None


class RedactingFormatter(logging.Formatter):
    """Writes log lines, with the tracebacks under them, as another formatter does, but :func:`redacted`."""

    def __init__(self, other: logging.Formatter | None):
        super().__init__()
        self.other = other or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """As of ``logging.Formatter``."""
        return redacted(self.other.format(record))


def redact_log() -> None:
    """Have what the log writes :func:`redacted`, wherever it writes to."""
    for handler in logging.getLogger().handlers:
        if not isinstance(handler.formatter, RedactingFormatter):
            handler.setFormatter(RedactingFormatter(handler.formatter))
