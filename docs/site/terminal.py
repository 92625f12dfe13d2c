"""Draws what a command does in the terminal: ``python docs/site/terminal.py run.svg kedro run``.

The command runs in a real terminal of its own; what it shows is kept with its time, and played back in the
picture, so many times as fast that all takes about half a minute.
"""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from html import escape
from itertools import groupby
from pathlib import Path

import pyte

COLUMNS, ROWS = 110, 30
FRAMES, SECONDS, LAST = 60, 0.45, 8.0
"""How many screens are drawn at most, how long each is shown, and the last one."""
CELL, LINE, EDGE = 7.8, 17, 14
"""Pixels: the width of a character, the height of a line, the border."""
COLOURS = {
    "black": "#6e7681",
    "red": "#ff7b72",
    "green": "#7ee787",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
}

Line = list[tuple[str, str, bool]]  # texts with their colour, and whether they are bold


def record(command: list[str]) -> list[tuple[float, bytes]]:
    """Runs a command in a terminal.

    Returns:
        What it wrote, with the seconds since its start.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    started, written = time.monotonic(), []
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, close_fds=True) as process:
        os.close(its)
        while text := _read(ours):
            written.append((time.monotonic() - started, text))
    os.close(ours)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return written


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux says so that the other side is closed
        return b""


def screens(written: list[tuple[float, bytes]], title: str) -> list[list[Line]]:
    """What the terminal showed, at even distances in time and at the end; screens that are the same once."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream, shown = pyte.ByteStream(screen), []
    stream.feed(f"$ {title}\r\n".encode())
    step = written[-1][0] / FRAMES
    for moment, text in written:
        while len(shown) * step < moment:
            shown.append(lines(screen))
        stream.feed(text)
    shown.append(lines(screen))
    return [screen for screen, _ in groupby(shown)]


def lines(screen: pyte.Screen) -> list[Line]:
    """The lines of a screen."""
    rows = ([screen.buffer[y][x] for x in range(COLUMNS)] for y in range(ROWS))
    return [
        [("".join(c.data for c in cells), *style) for style, cells in groupby(row, _style)] for row in rows
    ]


def _style(cell: pyte.screens.Char) -> tuple[str, bool]:
    return cell.fg, cell.bold


def drawn(shown: list[list[Line]], title: str) -> str:
    """The screens, one after the other, as an SVG that needs no script and no font of its own.

    Who wants no motion, or can't have it, sees the last.
    """
    width, height = COLUMNS * CELL + 2 * EDGE, ROWS * LINE + 2 * EDGE
    length, last = (len(shown) - 1) * SECONDS + LAST, len(shown) - 1
    styles, groups = [], []
    for number, screen in enumerate(shown):
        start, end = (100 * n * SECONDS / length for n in (number, number + 1))
        moments = f"0%{{opacity:0}}{start:.2f}%{{opacity:1}}" + (f"{end:.2f}%{{opacity:0}}" * (number < last))
        styles.append(f"@keyframes f{number}{{{moments}}}#f{number}{{animation-name:f{number}}}")
        content = "".join(map(row, range(ROWS), screen))
        groups.append(f'<g id="f{number}" opacity="{int(number == last)}">{content}</g>')
    font = "13px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">'
        f"<title>{escape(title)}</title><style>text{{font:{font};fill:#e6edf3;white-space:pre}}"
        f"g{{animation:{length:.1f}s step-end infinite}}{''.join(styles)}"
        "@media(prefers-reduced-motion){g{animation:none!important}}</style>"
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>{"".join(groups)}</svg>\n'
    )


def row(number: int, line: Line) -> str:
    """One line of a screen."""
    spans = "".join(map(span, line)).rstrip()
    y = EDGE + LINE * (number + 0.8)
    return f'<text x="{EDGE}" y="{y:.0f}" xml:space="preserve">{spans}</text>' if spans else ""


def span(part: tuple[str, str, bool]) -> str:
    """A piece of a line in one colour."""
    text, name, bold = part
    style = colour(name) + (' font-weight="bold"' if bold else "")
    return f"<tspan{style}>{escape(text)}</tspan>" if style and text.strip() else escape(text)


def colour(name: str) -> str:
    """The attribute for a terminal's colour, empty for the usual one."""
    known = COLOURS.get(name.removeprefix("bright"), "" if name == "default" else f"#{name}")
    return f' fill="{known}"' if len(known) == 7 else ""


if __name__ == "__main__":
    target, *command = sys.argv[1:]
    name = " ".join(command)
    Path(target).write_text(drawn(screens(record(command), name), name), encoding="utf-8")
