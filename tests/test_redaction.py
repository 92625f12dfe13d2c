"""Passwords and keys are taken out of what is shown, and nothing else is."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.redaction import RedactingFormatter, keep_out, redacted, secret_in


@pytest.mark.parametrize(
    "address",
    [
        "http://user:hidden@host/v1",
        "https://hidden@host",
        "http://user:hid/den@host/v1",
        "s3://hidden:hidden@bucket/key",
        "postgresql+psycopg://user:hidden@db/runs",
        "https://host/a?api_key=hidden",
        "https://host/a?b=1&X-Amz-Signature=hidden&X-Amz-Credential=hidden%2F1&c=2",
        "https://host/a?sv=1&sig=hidden%3D",
        "https://host/a?access_token=hidden;Password=hidden#b",
        "https://host/a?subscription-key=hidden",
    ],
)
def test_secrets_of_addresses(address: str) -> None:
    assert secret_in(address)
    for text in (address, f"Can't read '{address}' twice.", f"{address} {address}"):
        assert "hid" not in redacted(text) and "***" in redacted(text)
        assert redacted(redacted(text)) == redacted(text) and not secret_in(redacted(text))


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/v1",
        "http://host:80/a@b",
        "https://host/a.zip?download=true&version=3&monkey=4&author=5",
        "mail me@example.org",
        "the key='pool-17' of a row; pad_token='<pad>'",
        "sqlite:///data/mlflow.db",
        "http://***@host/?token=***",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text and secret_in(text) is None


def test_a_key_that_stands_where_no_key_belongs() -> None:
    said = redacted("--params models.judge.api_key=[sk-hidden: the value cannot be read")
    assert said == "--params models.judge.api_key=*** the value cannot be read"


@pytest.mark.parametrize(
    "text", ["env HF_TOKEN=hidden torchrun", "WANDB_API_KEY=hidden", "db.password=hidden, more"]
)
def test_variables_of_the_environment(text: str) -> None:
    assert "hidden" not in redacted(text) and secret_in(text) and not secret_in(redacted(text))


def test_known_keys_in_any_form() -> None:
    keep_out({"store.api_key": "known+key/17", "key": "EMPTY", "token": None, "region": "us-east-17"})
    said = redacted("known+key/17, known%2Bkey%2F17, a25vd24ra2V5LzE3, EMPTY, us-east-17")
    assert said == "***, ***, ***, EMPTY, us-east-17"


@given(st.text())
def test_any_text_is_redacted_once(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)


def test_messages_and_log_lines_are_redacted() -> None:
    assert str(UserError("no http://user:hidden@host")) == "no http://***@host"
    try:
        raise RuntimeError("Cannot connect to proxy http://user:hidden@proxy:3128")
    except RuntimeError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "see %s", ("http://u:hidden@h",), None)
        record.exc_info = (RuntimeError, error, error.__traceback__)
    said = RedactingFormatter(logging.Formatter("%(levelname)s %(message)s")).format(record)
    assert said.startswith("ERROR see http://***@h\nTraceback") and "hidden@" not in said
