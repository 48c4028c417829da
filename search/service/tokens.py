"""Who may call the service: named tokens with rights, kept as hashes in a file that only its owner reads.

A token is 256 random bits, so one round of SHA-256 hides it: there is nothing to guess that a slow hash would protect.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from search.home import Home, read_json, storing
from search.service.folder import made_private, write_private
from spaces.errors import RequestError, StorageError
from spaces.policy import nearest

Right = Literal["read", "launch"]
RIGHTS: tuple[Right, ...] = get_args(Right)
PREFIX = "pleach_"
SCHEMA = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Token:
    """Who calls.

    Args:
        name: What the operator calls the holder.
        rights: ``read`` looks and downloads, ``launch`` starts, stops and resumes; neither contains the other.
        digest: SHA-256 of the token, in hexadecimal digits.
        created: Seconds since 1970.
    """

    name: str
    rights: tuple[Right, ...]
    digest: str
    created: float


class Tokens:
    """The tokens of a home; a change of the file holds from the next call on.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._known: tuple[Token, ...] = ()

    @classmethod
    def of(cls, home: Home) -> Tokens:
        return cls(home.root / "service" / "tokens.json")

    def all(self) -> tuple[Token, ...]:
        """Every token, in the order in which they were added.

        Raises:
            StorageError: If the file cannot be read, or others than its owner may read it.
        """
        with self._lock:
            try:
                found = self.path.stat()
            except FileNotFoundError:
                self._seen, self._known = (), ()
                return ()
            except OSError as error:
                raise StorageError(f"{self.path} cannot be read ({error.strerror}): permit it") from None
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise StorageError(
                    f"the tokens must be their owner's alone, but {self.path} has the mode "
                    f"{stat.S_IMODE(found.st_mode):04o}: chmod 600 {self.path}"
                )
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                self._known = _read(self.path)
                self._seen = seen
            return self._known

    def find(self, secret: str) -> Token | None:
        """Whose token it is; takes as long for a wrong one as for a right one."""
        digest, found = _digest(secret), None
        for token in self.all():
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found

    def holds(self, token: Token) -> bool:
        """Whether a token is still one."""
        return any(hmac.compare_digest(token.digest, known.digest) for known in self.all())

    def add(self, name: str, rights: tuple[Right, ...]) -> str:
        """Make a token; what is returned is kept nowhere.

        Raises:
            RequestError: If the name is none, or taken.
            StorageError: If the file cannot be written.
        """
        if not NAME.fullmatch(name):
            raise RequestError(
                f"a token's name must be letters, digits, '.', '_' and '-', at most 64, but is {name!r}: rename it"
            )
        secret = PREFIX + secrets.token_urlsafe(32)
        with self._changing() as known:
            if any(token.name == name for token in known):
                raise RequestError(
                    f"a token's name must be new, but {name!r} has one: revoke it first, or take another name"
                )
            known.append(Token(name, rights, _digest(secret), time.time()))
        return secret

    def revoke(self, name: str) -> None:
        """Let a token open nothing any more.

        Raises:
            RequestError: If there is none of that name.
            StorageError: If the file cannot be written.
        """
        with self._changing() as known:
            kept = [token for token in known if token.name != name]
            if len(kept) == len(known):
                names = [token.name for token in known]
                remedy = nearest(name, names) if names else "there are no tokens"
                raise RequestError(f"there is no token {name!r}: {remedy}")
            known[:] = kept

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """The tokens as a list that is written back; one change at a time, whoever makes them."""
        made_private(self.path.parent)
        with storing(self.path), self.path.with_name("tokens.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = list(self.all())
            yield known
            text = json.dumps({"schema": SCHEMA, "tokens": [asdict(token) for token in known]}, indent=1)
            write_private(self.path, f"{text}\n")


def rights(text: str) -> tuple[Right, ...]:
    """Rights as an option names them: ``read``, ``launch`` or both with a comma.

    Raises:
        RequestError: If one is none.
    """
    named = [part.strip() for part in text.split(",") if part.strip()]
    for name in named:
        if name not in RIGHTS:
            raise RequestError(f"a right must be {' or '.join(RIGHTS)}, but is {name!r}: {nearest(name, RIGHTS)}")
    if not named:
        raise RequestError(f"a token must have a right, but is given none: use --rights {','.join(RIGHTS)}")
    return tuple(right for right in RIGHTS if right in named)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _read(path: Path) -> tuple[Token, ...]:
    data: Mapping[str, Any] = read_json(path)
    try:
        return tuple(
            Token(str(t["name"]), cast("tuple[Right, ...]", tuple(t["rights"])), str(t["digest"]), float(t["created"]))
            for t in data["tokens"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} holds no tokens ({error}): restore it, or remove it and add them anew") from None
