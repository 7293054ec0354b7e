"""What must not be shown: passwords and tokens in database URLs, connection strings and other programs' messages.

Everything that shows a storage asks here. A URL is taken apart as its writer meant it, with `@`, `/` and `?` unescaped
in the password, and in doubt too much is hidden rather than too little.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, unquote_plus

STORAGE_VARIABLE = "AUTOPEFT_STORAGE"
"""The environment variable that stands for ``--storage``; workers are told their database by it."""

HIDDEN = "***"

_NAMES = (
    r"(?:ssl|db|database|user|client|bind)?[_.-]?(?:password|passwd|passphrase|passcode|passfile|pwd|pass|secret)"
    r"|(?:(?:access|auth|refresh|id|api|hf|session|bearer)[_.-]?)?token|api[_.-]?key|odbc_connect|credentials?"
)
_SECRET_KEY = re.compile(_NAMES, re.IGNORECASE)
_HARMLESS = frozenset(
    "user username uid host hostaddr port dbname database db options service servicefile sslmode sslcert sslkey "
    "sslrootcert sslcrl ssl application_name connect_timeout keepalives keepalives_idle keepalives_interval "
    "target_session_attrs client_encoding gssencmode channel_binding krbsrvname charset unix_socket driver timeout "
    "mode immutable uri cache".split()
)
_MAY_HOLD_AT = re.compile(r"[\w.+-]+@[\w.-]+")
_WHOLE = re.compile(r"(?:[^@/?]*@)?(?:\[[^\]]*\]|[^:/@\[\]]*)(?::\d*)?(?:/[^@]*)?")
_NO_PORT = re.compile(r"((?:\[[^\]]*\]|[^:/\[\]]*):)(?!\d*(?:/|$))[^/]*")
_URL_IN_TEXT = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"<>]+")
_PAIR_IN_TEXT = re.compile(
    # Whether a word is followed by `=` is seen much sooner than whether it is one of the names.
    rf"((?<![\w.-])(?:(?=[\w.-]+\s*=)(?:{_NAMES})\s*=\s*|[\"'](?:{_NAMES})[\"']\s*[:,=]\s*))"
    r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s&;,)\]}'\"]+)",
    re.IGNORECASE,
)
_NAMED_INSIDE = re.compile(rf"(?:{_NAMES})\s*=", re.IGNORECASE)
_SHORT = 4
"""Secrets with fewer letters are hidden where they stand as words of their own, or ordinary words would be torn."""


@dataclass(frozen=True)
class UrlParts:
    """A database URL as its writer meant it; every part as it was written, percent signs and all.

    Args:
        user, password: None where there is none.
        place: host, port and name of the database.
        query: what follows the question mark, or None.
    """

    scheme: str
    user: str | None
    password: str | None = field(repr=False)
    place: str
    query: str | None = field(repr=False)

    def normalised(self) -> str:
        """The same URL with user and password percent-encoded, which every reader cuts at the same places."""
        who = "" if self.user is None else quote(self.user, safe="%")
        secret = "" if self.password is None else f":{quote(self.password, safe='%')}"
        at = "" if self.user is None else "@"
        query = "" if self.query is None else f"?{self.query}"
        return f"{self.scheme}://{who}{secret}{at}{self.place}{query}"

    def pairs(self) -> Iterator[tuple[str, str | None]]:
        """Keys and values of the query, as they were written; a fragment without ``=`` has no value."""
        for part in (self.query or "").split("&") if self.query is not None else ():
            key, equals, value = part.partition("=")
            yield key, value if equals else None


def parts_of(url: str) -> UrlParts:
    """A URL of the form ``scheme://user:password@place?query``, cut at the last ``@`` that can end a password."""
    scheme, _, rest = url.partition("://")
    head, query = _cut_query(rest)
    # Nobody's name begins with a slash: that is the path of a file or of a database on the usual host.
    who, at, place = ("", "", head) if head.startswith("/") else head.rpartition("@")
    user, colon, password = who.partition(":")
    return UrlParts(scheme, user if at else None, password if colon else None, place, query)


def masked(url: str) -> str:
    """`url` with ``***`` in place of its password and of whatever its query says under a secret's name.

    A text without ``://`` is a path and stays as it is, unless it holds ``password=`` or the like.
    """
    if "://" not in url:
        return _PAIR_IN_TEXT.sub(rf"\1{HIDDEN}", url)
    parts = parts_of(url)
    scheme = parts.scheme if re.fullmatch(r"[\w+. -]{0,40}", parts.scheme) else HIDDEN
    who = "" if parts.user is None else parts.user if re.fullmatch(r"[\w.+%-]*", parts.user) else HIDDEN
    who += "" if parts.password is None else f":{HIDDEN}"
    at = "" if parts.user is None else "@"
    no_port = _NO_PORT.match(parts.place)  # it may be a password whose host was forgotten
    place = parts.place if no_port is None else f"{no_port[1]}{HIDDEN}{parts.place[no_port.end() :]}"
    query = "" if parts.query is None else f"?{_masked_query(parts)}"
    return f"{scheme}://{who}{at}{place}{query}"


def mask_text(text: str) -> str:
    """A message, log line or traceback with every URL in it `masked`, and every ``password=...`` hidden."""
    found = _URL_IN_TEXT.sub(lambda match: _masked_in_text(match.group()), text)
    return _PAIR_IN_TEXT.sub(rf"\1{HIDDEN}", found)


@dataclass(frozen=True)
class Secrets:
    """Texts that are known to be secret; never shown, not even by `repr`."""

    values: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, *storages: str) -> Secrets:
        """The secrets of database URLs, in every form in which a driver may repeat them."""
        found = {form for storage in storages for secret in _secrets_in(storage) for form in _forms(secret)}
        # The longest first: a shorter form inside of a longer one would leave the rest of it to be read.
        return cls(tuple(sorted(found, key=len, reverse=True)))

    @classmethod
    def of_process(cls, arguments: Sequence[str], environment: Mapping[str, str]) -> Secrets:
        """Those of a command line and an environment: ``--storage``, its variable, and PostgreSQL's own."""
        given = [argument for argument in arguments if "://" in argument]
        urls = [argument.partition("=")[2] if argument.startswith("--") else argument for argument in given]
        known = cls.of(*urls, environment.get(STORAGE_VARIABLE, ""))
        own = environment.get("PGPASSWORD")
        return known if not own else cls((*known.values, own))

    def hide(self, text: str) -> str:
        """`text` without any of the secrets, and with `mask_text`."""
        for value in self.values:
            if len(value) >= _SHORT:
                text = text.replace(value, HIDDEN)
            else:  # a short one stands inside other words by chance
                text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", HIDDEN, text)
        return mask_text(text)

    def shown_cause(self, error: BaseException) -> BaseException | None:
        """`error`, to be named as the cause of another; None when it or its own causes would show a secret."""
        seen: BaseException | None = error
        while seen is not None:
            if self.hide(str(seen)) != str(seen):
                return None
            # Python prints the whole chain, and a driver's own exception may name what the wrapper around it does not.
            seen = seen.__cause__ or seen.__context__
        return error


def _cut_query(rest: str) -> tuple[str, str | None]:
    """Head and query. A question mark before the last ``@`` is one of the password, unless the query reads as one."""
    head, mark, query = rest.partition("?")
    if not mark:
        return rest, None
    # Some options of a query may hold an at sign themselves, such as a user's name at a cloud's database.
    if "@" not in query or (_WHOLE.fullmatch(head) and all(map(_is_plausible, query.split("&")))):
        return head, query
    end = rest.find("?", rest.rfind("@"))
    return (rest, None) if end < 0 else (rest[:end], rest[end + 1 :])


def _is_plausible(pair: str) -> bool:
    key, equals, value = pair.partition("=")
    key = unquote_plus(key).lower()
    if "@" not in pair or _SECRET_KEY.fullmatch(key):
        return True
    return bool(equals) and key in _HARMLESS and _MAY_HOLD_AT.fullmatch(value) is not None


def _masked_query(parts: UrlParts) -> str:
    shown, is_after_secret = [], False
    for key, value in parts.pairs():
        name = unquote_plus(key)
        if _is_secret(name, value):
            shown.append(f"{key}={HIDDEN}")
            is_after_secret = True
        elif not is_after_secret or name.lower() in _HARMLESS:
            shown.append(key if value is None else f"{key}={value}")
        # else: an unescaped `&` in the secret before it
    return "&".join(shown)


def _is_secret(name: str, value: str | None) -> bool:
    """Whether a pair of a query is not to be shown: by its name, or because a secret is named inside its value."""
    inside = unquote_plus(value or "")
    is_named_inside = "=" in inside and _NAMED_INSIDE.search(inside) is not None
    return bool(_SECRET_KEY.fullmatch(name)) or is_named_inside or mask_text(inside) != inside


def _masked_in_text(url: str) -> str:
    return masked(url) if "@" in url or "?" in url else url


def _secrets_in(storage: str) -> Iterator[str]:
    if "://" not in storage:
        yield from (match.group(2).strip("'\"") for match in _PAIR_IN_TEXT.finditer(storage))
        return
    parts = parts_of(storage)
    if parts.password:
        yield parts.password
    is_after_secret = False
    for key, value in parts.pairs():
        name = unquote_plus(key)
        if _is_secret(name, value):
            is_after_secret = True
        if value and (_is_secret(name, value) or (is_after_secret and name.lower() not in _HARMLESS)):
            yield value


def _forms(secret: str) -> Iterator[str]:
    """A secret as it is written, as it is meant, and as URLs, connection strings, Python and JSON quote it."""
    for text in {secret, unquote(secret), unquote_plus(secret)}:
        yield text
        yield quote(text, safe="", errors="replace")
        yield repr(text)[1:-1]
        yield json.dumps(text)[1:-1]
        yield text.replace("\\", "\\\\").replace("'", "\\'")
