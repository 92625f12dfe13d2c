"""An interpreter that behaves as one with vLLM as far as processes go: it starts slowly, has an engine process
that outlives a killed parent, answers about itself over HTTP, and can be told to fail. It computes nothing.
"""

import json
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rlaifv_kedro.leftovers import MARK

SCRIPT = """#!{python} -S
import json, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

if sys.argv[1] == "-I":  # what is installed here?
    print(open(os.path.join(os.path.dirname(__file__), "vllm.json")).read())
    sys.exit()
options = dict(a.removeprefix("--").partition("=")[::2] for a in sys.argv[3:])
how = os.environ.get("FAKE_VLLM", "")
once = os.environ.get("FAKE_ONCE")
print("starting with", sys.argv[1:], flush=True)
if once and not os.path.exists(once):
    open(once, "w").close()
elif once:
    how = ""
if how.startswith("says "):
    print(how.removeprefix("says "), flush=True)
    sys.exit(1)
while how.startswith("waits for ") and not os.path.exists(how.removeprefix("waits for ")):
    time.sleep(0.05)
if how == "sleeps":
    time.sleep(600)

engine = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-S", "-c", engine])

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        root = "/elsewhere" if how == "is another" else options["model"]
        found = {{
            "/health": b"",
            "/v1/models": json.dumps({{"data": [{{"id": options["served-model-name"], "root": root}}]}}).encode(),
            "/environment": json.dumps(dict(os.environ)).encode(),
        }}[self.path]
        right = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.send_response(200 if right else 401)
        self.send_header("Content-Length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)

    def log_message(self, *args):
        pass

ThreadingHTTPServer((options["host"], int(options["port"])), Handler).serve_forever()
"""


def fake_vllm(folder: Path, version: str | None = "0.32.0", options: str = "enable_scale_out: bool") -> str:
    """Writes such an interpreter into a folder and returns its path.

    Args:
        version: Of the vLLM that it says to have; None for none.
        options: Text of the file that names vLLM's options.
    """
    path, package = folder / "bin/python", folder / "vllm"
    for name, text in {
        "entrypoints/launchers/cli_args.py": options,
        "model_executor/models/registry.py": '"LlavaForConditionalGeneration": ("llava", ...),',
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    installed = {"version": version, "folder": version and str(package)}
    (path.parent / "vllm.json").write_text(json.dumps(installed))
    path.write_text(SCRIPT.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def mark_of(pid: int) -> str:
    """The mark in a process's environment, ``NAME=VALUE``."""
    for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        if line.startswith(MARK.encode()):
            return line.decode()
    raise AssertionError(f"process {pid} has no mark")


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    """Waits until something is so; fails after many seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are there."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if os.path.exists(f"/proc/{child}")]
