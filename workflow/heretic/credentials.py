"""Passwords in addresses, such as `HF_ENDPOINT=https://user:password@mirror`, hidden in texts."""

import re

HIDDEN = "***"
# What stands between the scheme of an address and the last @ before its path.
_IN_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#]*@")


def hide_passwords(text: str) -> str:
    """Return a text in which no address holds a name and a password."""
    return _IN_ADDRESS.sub(rf"\g<1>{HIDDEN}@", text) if "://" in text else text
