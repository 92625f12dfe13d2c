"""A judge for the miniature's language: it reads the reference text in the prompt, counts what an answer
names that isn't there, and says so.
"""

import json
import re

from rlaifv_kedro.miniature.language import CATEGORY_OF, mentions


def reply(prompt: str) -> str:
    """What the judge says to a prompt of MMHal-Bench, RefoMB or Object HalBench."""
    if "<review>" in prompt:
        a, b = map(int, re.findall(r"(\d+) hallucinations", part(prompt, "review")))
        return f"A has {a}, B has {b}. [[{verdict(a, b)}]]"
    if "<description>" in prompt:
        a, b = (hallucinations(part(prompt, f"answer_{name}"), part(prompt, "description")) for name in "ab")
        return f"A has {a} hallucinations, B has {b} hallucinations.\n[[{verdict(a, b)}]]"
    if "<reference>" in prompt:
        there = re.search(r"Things in the image:\n(.*)\n", prompt)[1]
        return (
            "By the list and the reference.\nRating: "
            f"{rating(part(prompt, 'answer'), part(prompt, 'reference'), there)}"
        )
    return json.dumps(mentions(part(prompt, "answer")))


def rating(answer: str, reference: str, there: str) -> int:
    """5 or 3 without a hallucination, for many words or one; else 1. Yes for no is one, too."""
    said, right = answer.split()[0], reference.split(",")[0]
    if right in ("yes", "no") and said.lower() != right:
        return 1
    return 1 if hallucinations(answer, there) else 5 if len(answer.split()) > 1 else 3


def hallucinations(answer: str, reference: str) -> int:
    """How many categories an answer names that a reference doesn't."""
    return len(categories(answer) - categories(reference))


def categories(text: str) -> set[str]:
    return {CATEGORY_OF[word] for word in mentions(text)}


def verdict(a: int, b: int) -> str:
    return "A" if a < b else "B" if b < a else "C"


def part(prompt: str, name: str) -> str:
    """What stands between a pair of marks."""
    return re.search(rf"<{name}>\n(.*?)\n</{name}>", prompt, re.DOTALL)[1]
