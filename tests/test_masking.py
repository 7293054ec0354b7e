"""No password is shown: not of a URL, not in a message of a driver, not where a person wrote it carelessly."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus

import hypothesis
import pytest
import sqlalchemy
from hypothesis import HealthCheck, example, given, seed
from hypothesis import strategies as st
from optuna.exceptions import StorageInternalError

from autopeft.cli.terminal import DiscreetFormatter
from autopeft.errors import AutopeftError, StorageError
from autopeft.masking import HIDDEN, Secrets, mask_text, masked, parts_of
from autopeft.study.database import Store, storage_errors
from autopeft.study.location import server_url
from autopeft.study.opening import open_store
from fuzzing import N_CASES, at_once
from small_case import call

SHOWN = [
    ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
    ("postgresql+psycopg://postgres:pa@S3cretPW@host/db", "postgresql+psycopg://postgres:***@host/db"),
    ("postgresql:///db?user=postgres&password=S3cretPW", "postgresql:///db?user=postgres&password=***"),
    ("postgresql:///db?%70assWord=S3cretPW&sslmode=require", "postgresql:///db?%70assWord=***&sslmode=require"),
    ("postgresql://host/db?passfile=/home/me/.pgpass", "postgresql://host/db?passfile=***"),
    ("postgresql://host/db?password=a&b&c=d&sslmode=prefer", "postgresql://host/db?password=***&sslmode=prefer"),
    ("postgresql://host/db?user=me@server&token=abc", "postgresql://host/db?user=me@server&token=***"),
    ("postgresql://me:a/b?c=d@host/db?sslmode=require", "postgresql://me:***@host/db?sslmode=require"),
    ("postgresql://me:secret/db", "postgresql://me:***/db"),  # the host was forgotten
    ("mssql+pyodbc://?odbc_connect=DRIVER%3Dx%3BPWD%3Dsecret", "mssql+pyodbc://?odbc_connect=***"),
    ("postgresql://host/db?options=-c%20x.password%3Dsecret", "postgresql://host/db?options=***"),
    ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db"),
    ("postgresql://host/db", "postgresql://host/db"),
    ("sqlite:////home/me@work/a.db?mode=ro", "sqlite:////home/me@work/a.db?mode=ro"),
    ("runs/mine@home/study.db", "runs/mine@home/study.db"),
    ("host=h user=me password='a b' dbname=d", "host=h user=me password=*** dbname=d"),
]


@pytest.mark.parametrize(("url", "shown"), SHOWN)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert masked(url) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("to postgresql://a:b@c@d/e now", "to postgresql://a:***@d/e now"),
        ("{'password': 'x y', 'host': 'h'}", "{'password': ***, 'host': 'h'}"),
        ("connect(host='h', password = \"x\")", "connect(host='h', password = ***)"),
        ('{"access_token": "abc"}', '{"access_token": ***}'),
        ("fe_sendauth: no password supplied", "fe_sendauth: no password supplied"),
        ("Unknown token: abc", "Unknown token: abc"),
        ("see https://docs.sqlalchemy.org/en/20/core.html#x", "see https://docs.sqlalchemy.org/en/20/core.html#x"),
    ],
)
def test_secrets_in_other_programs_texts(text: str, shown: str) -> None:
    assert mask_text(text) == shown


def test_secrets_are_not_in_a_repr() -> None:
    assert "S3cret" not in repr(Secrets.of("postgresql://me:S3cret@host/db"))
    assert "S3cret" not in repr(parts_of("postgresql://me:S3cret@host/db?password=S3cret"))


def test_a_careless_password_is_read_as_it_was_meant() -> None:
    url = sqlalchemy.make_url(server_url("postgresql+psycopg://me:p@/{0}?%40#x:y@host:5432/db"))
    assert (url.username, url.password, url.host, url.port) == ("me", "p@/{0}?@#x:y", "host", 5432)


# -- what a program says ---------------------------------------------------------------------------------------

USELESS = [
    ("postgresql+psycopg://me:S3cret{0}PW@127.0.0.1:1/db", "cannot be opened"),
    ("postgresql+psycopg://me:S3cretPW@127.0.0.1:port/db", "the port must be a number"),
    ("postgresql+psycopg://me:S3cretPW@127.0.0.1:99999/db", "the port must be a number"),
    ("postgresql+psycopg://me:S3cretPW\0@127.0.0.1/db", "holds a NUL"),
    ("postgresql+psycopg://me:S3cretPW\n@127.0.0.1/db", "control character"),
    ("nosuch://me:S3cretPW@127.0.0.1/db", "Install the driver"),
    ("https://me:S3cretPW@127.0.0.1/db", "Install the driver"),
    ("postgresql+nosuch://me:S3cretPW@127.0.0.1/db", "driver"),
    ("postgresql+psycopg://127.0.0.1:1/db?user=postgres&password=S3cretPW", "cannot be opened"),
    ("postgresql+psycopg://me:pa@S3cretPW@127.0.0.1:1/db", "cannot be opened"),
    ("postgresql+psycopg://127.0.0.1:1/db?nosuchoption=1&password=S3cretPW", "cannot be opened"),
    ("://me:S3cretPW@host", "cannot be read"),
    ("postgresql:me:S3cretPW@host/db", "cannot be read"),
    ("host=127.0.0.1 user=me password=S3cretPW", "cannot be read"),
]


@pytest.mark.parametrize(("url", "says"), USELESS)
def test_a_url_that_cannot_be_used_is_one_message_at_once(url: str, says: str, tmp_path: Path) -> None:
    if "psycopg" in url:
        pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    with at_once():
        found = call("front", tmp_path, "--storage", url)
    assert found.code == 2, found.err
    assert says in found.err.replace("\n", " ")
    assert "S3cret" not in found.out + found.err
    assert "Traceback" not in found.err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError) as caught:
        open_store(url, is_new_allowed=True)
    assert not any("S3cret" in str(error) for error in chain(caught.value))


def chain(error: BaseException) -> list[BaseException]:
    """An error and what Python shows as its causes."""
    found: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None:
        found.append(seen)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return found


def test_a_failing_database_does_not_tell_its_password(tmp_path: Path) -> None:
    secrets = Secrets.of("postgresql://me:S3cretPW@host/db")
    with closing(open_store(tmp_path / "study.db", is_new_allowed=True)) as store:
        discreet = Store(store.backend, "postgresql://me:***@host/db", secrets)
        with pytest.raises(AutopeftError) as caught, storage_errors(discreet, "reading"):
            raise StorageInternalError("x") from RuntimeError('bad connection string "me S3cretPW host"')
    assert not any("S3cretPW" in str(error) for error in chain(caught.value))


def test_log_lines_and_unexpected_tracebacks_are_discreet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = "postgresql://me:S3cretPW@host/db"
    monkeypatch.setattr(sys, "argv", ["autopeft", "front", "--storage", url])
    try:
        raise RuntimeError("it said S3cretPW")
    except RuntimeError:
        record = logging.LogRecord("x", 30, "f", 1, "with %s", (url,), sys.exc_info())
    text = DiscreetFormatter("%(message)s").format(record)
    assert "S3cretPW" not in text
    assert "it said ***" in text

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"connection to {url} with S3cretPW")

    monkeypatch.setattr("autopeft.study.study.Study.open", broken)
    found = call("front", tmp_path, "--storage", url)
    assert (found.code, "Traceback" in found.err) == (1, True)
    assert "S3cretPW" not in found.err


# -- fuzz ------------------------------------------------------------------------------------------------------

# Letters that are in nothing else of the URLs and messages, so that finding a password means finding it.
WORDS = st.text(st.sampled_from("QXZJ09@:/?#&=%+;{}[]()\\'\"$!*~^|<>, éß€") | st.characters(exclude_categories=["C"]))
PASSWORDS = WORDS.map(lambda text: f"Q{text}Z")
KEYS = st.sampled_from(["password", "PASSWORD", "passwd", "pwd", "sslpassword", "token", "secret", "p%61ssword"])


def check_is_hidden(password: str, url: str) -> None:
    secrets, shown = Secrets.of(url), masked(url)
    texts = [
        shown,
        mask_text(f"before {shown} after"),
        secrets.hide(f"cannot connect to {url}"),
        secrets.hide(f"password authentication with {password!r} or {json.dumps(password)} or {password} failed"),
        secrets.hide(f"host=h password='{password}'"),
    ]
    try:
        server_url(url)
    except StorageError as error:
        texts += [str(item) for item in chain(error)]
    for text in texts:
        assert password not in text.replace(HIDDEN, ""), (password, url, text)


def check_all_forms(password: str, key: str) -> None:
    """Raw and encoded, before the host and in the query; raw there, an `&` ends it."""
    encoded = {quote(password, safe=""), quote_plus(password)}  # the same but for blanks
    for form in (password, *sorted(encoded)):
        check_is_hidden(form, f"postgresql+psycopg://me:{form}@host:5432/db")
        check_is_hidden(form, f"postgresql+psycopg://me:{form}@host/db?sslmode=require")
    for form in (password.replace("&", "").replace("#", ""), *sorted(encoded)):
        check_is_hidden(form, f"postgresql+psycopg://host/db?user=me&{key}={form}&sslmode=require")


@given(PASSWORDS, KEYS)
@example("Qa@b?x=1@Z", "password")
@example("Q?user=x@yZ", "password")
@hypothesis.settings(max_examples=200)
def test_no_generated_password_is_ever_shown(password: str, key: str) -> None:
    check_all_forms(password, key)


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@seed(20261127)
@given(PASSWORDS, KEYS)
@hypothesis.settings(max_examples=N_CASES, database=None, suppress_health_check=list(HealthCheck))
def test_no_password_of_a_hundred_thousand_is_ever_shown(password: str, key: str) -> None:
    check_all_forms(password, key)


@given(st.text(max_size=60), st.sampled_from(["", "postgresql://", "sqlite:///", "mysql+pymysql://", "x://a:b@"]))
@hypothesis.settings(max_examples=300)
def test_any_text_is_masked_once_and_for_all_and_refused_by_a_typed_error(text: str, scheme: str) -> None:
    shown = masked(scheme + text)
    assert masked(shown) == shown
    try:
        server_url(scheme + text)
    except StorageError:
        pass
