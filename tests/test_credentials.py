"""A password in an address reaches neither the terminal nor a log nor a file."""

import logging

import pytest

from heretic.console import log, start_logging
from heretic.credentials import hide_passwords
from heretic.errors import HereticError, UploadError, one_line


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("https://user:pass@host/x", "https://***@host/x"),
        (
            "at https://token@host:80, twice https://a:b@c",
            "at https://***@host:80, twice https://***@c",
        ),
        ("HTTP://u:p@ss@host", "HTTP://***@host"),
        ("https://u:%40%2F@host?q=a@b", "https://***@host?q=a@b"),
        ("socks5://u:p@[::1]:8", "socks5://***@[::1]:8"),
    ],
)
def test_passwords_are_hidden(text: str, hidden: str) -> None:
    assert hide_passwords(text) == hidden
    assert str(UploadError(f"cannot reach {text}")) == f"cannot reach {hidden}"
    assert one_line(ValueError(text)) == hidden


@pytest.mark.parametrize(
    "text", ["https://host/a@b", "mail a@b.c", "https://host?x=a@b", "a://b c@d", "owner/name"]
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert hide_passwords(text) == str(HereticError(text)) == text


def test_lines_of_all_libraries_are_without_passwords(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = logging.getLogRecordFactory()
    try:
        start_logging()
        other = logging.getLogger("some.library")
        other.addHandler(handler := logging.StreamHandler())
        other.warning("thrown while requesting %s %s", "HEAD", "http://user:s3cret@host/x")
        other.removeHandler(handler)
        log.info("from %s", "http://user:s3cret@host/x")
        log.info("100 %")  # no argument, so no format
    finally:
        logging.setLogRecordFactory(before)
    said = capsys.readouterr().err
    assert "HEAD http://***@host/x" in said
    assert "100 %" in said
    assert "s3cret" not in said
