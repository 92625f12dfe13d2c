"""How a trial ends: the run is started again, what its messages advise is done, and what is there then is
compared with the uninterrupted run.
"""

import json
import random
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from forked import start
from ground import Files, Ground, artifacts, compared, copy, differences, files

SAME, NAMED, OTHER = "same bytes", "named", "other"
ROUNDS = 5
"""Messages that may have to be followed until a run ends."""

_COMMAND = re.compile(r"(?:rm -rf? |kedro run|kedro runs |rlaifv )[^`\n]*")
_PATH = re.compile(r"(?:/[\w.@%+-]+)*/?data/[\w./@%+-]*[\w-]")
_PROSE = re.compile(r"\b[Dd]elete (it|them|this one file|what is left of it|the file)\b")
_NAMED = re.compile(rf"\b[Dd]elete ({_PATH.pattern})")


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    ``end`` is :data:`SAME`, :data:`NAMED` (a message named the file, and whoever followed it came to the same
    bytes) or :data:`OTHER`, with the reason. ``blows`` counts the kills or damages of the trial, ``notes`` says
    what was done.
    """

    end: str
    blows: int
    notes: tuple[str, ...]
    why: str = ""
    seconds: float = 0.0

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def read(text: str) -> "Outcome":
        """What :meth:`text` has written."""
        told = json.loads(text)
        return Outcome(**{**told, "notes": tuple(told["notes"])})


@dataclass
class Trial:
    """One trial under way: its copy of the project, and what has been done to it."""

    project: Path
    logs: Path
    blows: int = 0
    notes: list[str] = field(default_factory=list)

    def begin(self, ground: Ground, chance: random.Random) -> int:
        """Copies the project as it is at some point of the run; the file operations that are left, about."""
        place, left = chance.choice(ground.begun)
        copy(place, self.project)
        self.note(f"begun at {place.name}")
        return left

    def log(self) -> Path:
        """A new file for the output of the next command."""
        return self.logs / f"{len(list(self.logs.iterdir())):02}.log"

    def note(self, words: str) -> None:
        """Adds to what was done."""
        self.notes.append(words)

    def run(self, argv: list[str]) -> tuple[int | None, str]:
        """Runs a command to its end: its exit status and what the terminal showed."""
        started = start(self.project, argv, self.log())
        status = started.wait()
        if status is None:
            started.kill()
        self.note(f"{shlex.join(argv)} -> {status}")
        return status, started.output()

    def ends(self, why: str = "", named: bool = False) -> Outcome:
        """The outcome; with a reason it is the third thing, which must never be."""
        end = NAMED if named else SAME
        return Outcome(OTHER if why else end, self.blows, tuple(self.notes), why)


def settle(
    trial: Trial,
    argv: list[str],
    expected: Mapping[str, str],
    run_id: str,
    damaged: tuple[str, ...] = (),
    kept: Files | None = None,
) -> Outcome:
    """Starts a run until it ends well, doing what its messages advise, and compares.

    Args:
        expected: The artifacts that the run has to end with; see :func:`ground.artifacts`.
        damaged: Files one of which the first message has to name.
        kept: Files that a refused start has to leave as they are, with their times.
    """
    named = False
    for number in range(ROUNDS):
        status, output = trial.run(argv)
        wrong = fault_of(status, output)
        if wrong:
            return trial.ends(wrong)
        if status == 0:
            found = artifacts(files(trial.project), run_id)
            differing = differences(expected, found)
            return trial.ends(f"finished, but {listed(differing)}" if differing else "", named)
        message = message_of(output)
        if number == 0 and damaged and not any(_names(message, path) for path in damaged):
            return trial.ends(f"no damaged file is named: {message}")
        if number == 0 and kept is not None:
            changed = _changed(kept, files(trial.project))
            if changed:
                return trial.ends(f"refused, but {listed(changed)}")
        named = True
        if not follow(trial, message):
            return trial.ends(f"the message advises nothing that can be followed: {message}")
    return trial.ends(f"after {ROUNDS} messages followed: {message}")


def listed(words: list[str]) -> str:
    """The first words of a list, and how many more there are."""
    return "; ".join(words[:4]) + (f"; and {len(words) - 4} more" if len(words) > 4 else "")


def message_of(output: str) -> str:
    """The one message of a command that was refused."""
    return output.rpartition("Error: ")[2].strip()


def fault_of(status: int | None, output: str) -> str:
    """What no command may end with, in words; nothing where it is well."""
    end = "\n".join(output.splitlines()[-12:])
    if status is None:
        return f"still running after the limit:\n{end}"
    if "Traceback" in output:
        return f"a traceback, exit status {status}:\n{end}"
    if status < 0:
        return f"ended by signal {-status}:\n{end}"
    if status > 0 and output.count("Error: ") != 1:
        return f"exit status {status} with {output.count('Error: ')} messages:\n{end}"
    return ""


def _names(message: str, path: str) -> bool:
    """Whether a message names a file, or the artifact's folder that it lies in."""
    parts = path.split("/")
    folders = ["/".join(parts[:end]) for end in range(4, len(parts) + 1)]
    return parts[-1] in message or any(re.search(rf"{re.escape(f)}(?![\w])", message) for f in folders)


def _changed(was: Files, now: Files) -> list[str]:
    """Files that a start which was refused has changed, though they are no business of its own."""
    words = []
    for path, kept in was.items():
        if not compared(path):
            continue
        if path not in now:
            words.append(f"{path} was removed")
        elif now[path] != kept:
            verb = "rewritten" if now[path].sha256 != kept.sha256 else "written again"
            words.append(f"{path} was {verb}")
    return words


def follow(trial: Trial, message: str) -> bool:
    """Does what a message advises: deletes what it says, and runs its commands; False where it advises
    nothing.
    """
    done = False
    deleted = [match[1] for match in _NAMED.finditer(message)]
    if not deleted and _PROSE.search(message):
        deleted = _PATH.findall(message)[:1]
    for path in deleted:
        done |= _delete(trial, path)
    for line in _COMMAND.findall(message):
        command = re.split(r"\. (?=[A-Z])", line)[0]  # another sentence may follow
        for part in command.rstrip(". )").split("&&"):
            done |= _do(trial, shlex.split(part))
    return done


def _do(trial: Trial, argv: list[str]) -> bool:
    """Runs one command of a message; whether it is one that could be followed."""
    if argv[0] == "rm":
        return all([_delete(trial, path) for path in argv[1:] if not path.startswith("-")])
    status, output = trial.run(argv)
    return status == 0 or bool(message_of(output))


def _delete(trial: Trial, path: str) -> bool:
    """Deletes a file or folder of the project, as a person would."""
    target = (trial.project / path).resolve()
    if not target.is_relative_to((trial.project / "data").resolve()):
        return False
    trial.note(f"deleted {path}")
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    return True
