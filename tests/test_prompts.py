"""Prompt files: what is read, and what is refused."""

from pathlib import Path

import pytest

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.prompts import PromptFile


def test_prompt_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes('\ufeffGive {"facts": []} as {json}:\r\n{question}{answer}\r\n'.encode())
    prompt = PromptFile.read(file, ["question", "answer"])
    assert prompt.fill(question="q", answer="a") == 'Give {"facts": []} as {json}:\nqa'
    with pytest.raises(UserError, match=r"mine.txt: the prompt lacks \{claims\}, "):
        PromptFile.read(file, ["claims"])
    file.write_text("Split {anwser}.")
    with pytest.raises(UserError, match=r"mine.txt: the prompt lacks \{question\} and \{answer\}, "):
        PromptFile.read(file, ["question", "answer"])
    with pytest.raises(UserError, match=r"no-such.txt: can't read the prompt"):
        PromptFile.read(tmp_path / "no-such.txt", [])
    with pytest.raises(UserError, match=r"can't read the prompt: embedded null byte"):
        PromptFile.read("mine\0.txt", [])
    file.write_bytes(b"\xff\xfe{question}")
    with pytest.raises(UserError, match=r"mine.txt: can't read the prompt"):
        PromptFile.read(file, ["question"])
