"""Passwords in addresses, such as `HF_ENDPOINT=https://user:password@mirror`, hidden in texts."""

import logging
import re
from typing import Any

HIDDEN = "***"
# What stands between the scheme of an address and the last @ before its path.
_IN_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#]*@")


def hide_passwords(text: str) -> str:
    """Return a text in which no address holds a name and a password."""
    return _IN_ADDRESS.sub(rf"\g<1>{HIDDEN}@", text) if "://" in text else text


def record_without_passwords(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """Return a log record without passwords, whichever library writes it.

    For `logging.setLogRecordFactory`: the hub's client names addresses in warnings of its own.
    """
    record = logging.LogRecord(*args, **kwargs)
    try:
        message = record.getMessage()
    except (TypeError, ValueError, KeyError):  # the handler reports arguments that do not fit
        return record
    hidden = hide_passwords(message)
    if hidden != message:
        record.msg, record.args = hidden, ()
    return record
