"""The two pages that are the service's own: the login form, and its calls as a page made from their OpenAPI schema.

Neither runs a script or fetches anything from elsewhere.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

LOGIN = "/login"
LOOK = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 3rem auto; padding: 0 1rem; color: #222 }
input, button { font: inherit; padding: .4rem .6rem }
input { width: 26rem; max-width: 100% }
code { font: 13px/1.5 ui-monospace, monospace; background: #f4f4f2; padding: .1rem .3rem }
h2 { margin-top: 2rem; font-size: 1rem }
td { padding: .1rem .8rem .1rem 0; vertical-align: top }
.verb { color: #06c }
.wrong { color: #b00 }
"""


def login_page(wrong: str = "") -> str:
    """The form that trades a token for a cookie.

    Args:
        wrong: What was wrong with the last try.
    """
    said = f'<p class="wrong">{html.escape(wrong)}</p>' if wrong else ""
    return _page(
        "Pleach",
        f'<h1>Pleach</h1>{said}<form method="post" action="{LOGIN}"><p><label for="token">Token</label></p>'
        '<p><input id="token" name="token" type="password" autocomplete="current-password" autofocus required> '
        "<button>Log in</button></p></form>",
    )


def docs_page(schema: Mapping[str, Any]) -> str:
    """Every call of a service, from its OpenAPI schema."""
    about = schema["info"]
    parts = [
        f"<h1>{html.escape(about['title'])}</h1><p>{html.escape(about.get('description', ''))}</p>",
        '<p>The same for programs: <a href="/openapi.json">openapi.json</a>. <a href="/dashboard/">Dashboard</a></p>',
    ]
    for path, calls in schema["paths"].items():
        parts += [_call(verb, path, call) for verb, call in calls.items()]
    return _page(about["title"], "".join(parts))


def _call(verb: str, path: str, call: Mapping[str, Any]) -> str:
    rows = [
        (
            f"{parameter['name']} ({parameter['in']}{', required' if parameter.get('required') else ''})",
            parameter.get("description", ""),
        )
        for parameter in call.get("parameters", ())
    ]
    if "requestBody" in call:
        rows.append(("body", call["requestBody"].get("description", "JSON")))
    rows += [(code, answer.get("description", "")) for code, answer in sorted(call["responses"].items())]
    table = "".join(f"<tr><td><code>{html.escape(k)}</code></td><td>{html.escape(v)}</td></tr>" for k, v in rows)
    return (
        f'<h2><span class="verb">{verb.upper()}</span> <code>{html.escape(path)}</code></h2>'
        f"<p>{html.escape(call.get('description') or call.get('summary', ''))}</p><table>{table}</table>"
    )


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # No browser then asks for an icon, which the door would not let through.
        '<link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{LOOK}</style></head><body>{body}</body></html>"
    )
