"""A GPU check's JSON as markdown."""

from typing import Any

_EXACT = 1000


def markdown(found: dict[str, Any]) -> str:
    """The check's parts as tables, in the order they ran in, with what failed and what wasn't reached."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"{found['device']}, shape {found['shape']}, {found['date']}, commit {found['commit']}; {versions}.",
        f"The whole took {found['seconds']:.0f} s of {found['budget']:.0f} s.",
    ]
    for part in found["parts"]:
        lines += ["", f"**{part['name']}**: {part['about']}", ""]
        lines += _table(part["rows"])
        lines += [f"Not done: {part['error']}"] if part["error"] else []
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows with a column for each title that one of them has."""
    titles = list(dict.fromkeys(title for row in rows for title in row))
    if not titles:
        return []
    body = ["| " + " | ".join(_shown(row.get(title)) for title in titles) + " |" for row in rows]
    return ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles), *body, ""]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= _EXACT else f"{value:.3g}"
    return str(value)
