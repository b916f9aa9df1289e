"""Decoding of prompt files, with the detection of files in UTF-16 and UTF-32."""

import codecs
from pathlib import Path

from heretic.errors import PromptError

BYTE_ORDER_MARK = "\ufeff"
DEFAULT = "utf-8-sig"
# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SAMPLE_BYTES = 65_536
# Minimum share of NUL bytes in UTF-16 text that consists mainly of Latin letters.
LATIN_SHARE = 0.2


def decode_text(path: Path, encoding: str | None) -> str:
    """Return the text of a file without byte order mark, with line breaks as `\\n`.

    Args:
        path: existing file.
        encoding: Python codec; None for UTF-8.

    Raises:
        PromptError: the file is not in this encoding; the message names the encoding it appears to
            be in, if detected.
    """
    content = path.read_bytes()
    if encoding is None:
        _reject_wide(path, content)
    try:
        text = content.decode(encoding or DEFAULT)
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        line = content.count(b"\n", 0, start) + 1
        if encoding is not None:
            raise PromptError(
                f"{path} line {line} is not {encoding}; correct `encoding` of its prompt set"
            ) from error
        wide = _unmarked_utf16(content, share=0.0)
        if wide:
            raise _looks_like(path, wide) from error
        raise PromptError(
            f"{path} line {line} is not UTF-8; save the file as UTF-8, or set `encoding` of its "
            "prompt set, such as cp1252 for files of Windows programs"
        ) from error
    text = text.removeprefix(BYTE_ORDER_MARK)
    # Not splitlines(): a prompt may contain U+2028 or a form feed, which do not end a line here.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _reject_wide(path: Path, content: bytes) -> None:
    for mark, name in MARKS.items():
        if content.startswith(mark):
            raise PromptError(
                f"{path} is {name.upper()}; save it as UTF-8, or set `encoding: {name}` in its "
                "prompt set"
            )
    wide = _unmarked_utf16(content, share=LATIN_SHARE)
    if wide:
        raise _looks_like(path, wide)


def _looks_like(path: Path, encoding: str) -> PromptError:
    return PromptError(
        f"{path} looks like UTF-16 without a byte order mark; set `encoding: {encoding}` in its "
        "prompt set, or save it as UTF-8"
    )


def _unmarked_utf16(content: bytes, share: float) -> str | None:
    """Return the codec of UTF-16 text without a byte order mark, or None.

    The high bytes of Latin letters and of line breaks are NUL: those at odd places are
    little-endian, those at even places big-endian.

    Args:
        content: bytes of a file.
        share: minimum share of such bytes.
    """
    if len(content) % 2:
        return None
    sample = content[:SAMPLE_BYTES]
    first, second = sample[::2].count(0), sample[1::2].count(0)
    if (first and second) or max(first, second) <= share * len(sample) / 2:
        return None
    encoding = "utf-16-le" if second else "utf-16-be"
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return None
    return encoding
