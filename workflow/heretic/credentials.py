"""Removal of passwords in addresses, such as `HF_ENDPOINT=https://user:password@mirror`."""

import re

HIDDEN = "***"
# The part between the scheme of an address and the last @ before its path.
_IN_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#]*@")


def hide_passwords(text: str) -> str:
    """Return a text without names and passwords in its addresses."""
    return _IN_ADDRESS.sub(rf"\g<1>{HIDDEN}@", text) if "://" in text else text
