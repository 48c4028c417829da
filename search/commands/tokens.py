"""`pleach token`: who may call the service."""

from __future__ import annotations

from typing import Any

from search.home import Home
from search.service.tokens import Tokens, rights


def add_token(home: Home, name: str, given: str) -> dict[str, Any]:
    """Make a token; this is the only time that it is shown."""
    may = rights(given)
    return {"name": name, "rights": list(may), "token": Tokens.of(home).add(name, may)}


def list_tokens(home: Home) -> dict[str, Any]:
    """Who may call, and what."""
    return {
        "tokens": [
            {"name": token.name, "rights": list(token.rights), "created": token.created}
            for token in Tokens.of(home).all()
        ]
    }


def revoke_token(home: Home, name: str) -> dict[str, Any]:
    """Let a token open nothing any more; a running service knows at once."""
    Tokens.of(home).revoke(name)
    return {"revoked": name}
