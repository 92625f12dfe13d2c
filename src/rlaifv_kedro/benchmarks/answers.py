"""A policy's answers to a benchmark's items.

Answers that an LLM judges are found by beam search, as the protocols want it. All others are greedy, and an
image is computed once for all of its questions.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rlaifv_kedro.benchmarks.registry import BENCHMARKS
from rlaifv_kedro.datasets.chunks import Chunk, Complete
from rlaifv_kedro.engine.chunks import Work, map_chunks
from rlaifv_kedro.engine.items import LazyItems
from rlaifv_kedro.errors import UserError
from rlaifv_kedro.files import content_sha256
from rlaifv_kedro.images import open_image
from rlaifv_kedro.params import BenchmarksParams, ComputeParams, ModelsParams
from rlaifv_kedro.schemas import FINGERPRINT, table

if TYPE_CHECKING:
    from rlaifv_kedro.models import Answer, VisionLanguageModel


def answer_items(
    items: pd.DataFrame,
    policies: Mapping[str, Path | str],
    params: BenchmarksParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[Chunk | Complete]:
    """Every policy's answers, policy by policy.

    Args:
        items: Table ``benchmark_items`` of one benchmark, with its pictures.
        policies: Name in the tables -> checkpoint.

    Yields:
        Chunks of ``answers``, by images. ``attrs["fingerprint"]`` has each policy's sha256: a run that
        goes on with other weights at the same place has chunks that don't fit together, which is said when
        they are loaded.

    Raises:
        UserError: A picture is missing or damaged, said before a model is loaded; a policy can't be loaded,
            or can't search with beams.
    """
    from rlaifv_kedro.models.hub import folder_of

    benchmark = items["benchmark"].iloc[0]
    beams = params.beams if BENCHMARKS[benchmark].is_judged(params) else 1
    if beams > 1 and models.policy.backend != "transformers":
        raise UserError(
            f"benchmarks.beams={beams}: only models.policy.backend=transformers searches with beams. Set it "
            "to 1 for greedy answers."
        )
    groups = _by_image(items)
    weights = {name: content_sha256(folder_of(policy)) for name, policy in policies.items()}

    asked = [(name, group) for name in policies for group in groups]
    yield from map_chunks(
        LazyItems(asked, list, subject=lambda one: one[0]),
        params.chunk_size,
        answerer,
        (policies, weights, beams, params, models, compute),
        f"answering {benchmark}",
        compute=compute,
    )


@contextmanager
def answerer(
    policies: Mapping[str, Path | str],
    weights: Mapping[str, str],
    beams: int,
    params: BenchmarksParams,
    models: ModelsParams,
    compute: ComputeParams,
) -> Iterator[Work]:
    """The work gives ``answers`` of (a policy's name, items about one picture); it opens a policy at a time.

    Args:
        weights: The sha256 of each policy, which becomes the fingerprint.
    """
    from rlaifv_kedro.models import close_model, open_model

    loaded: dict[str, VisionLanguageModel] = {}  # the policy that was asked last

    def close() -> None:
        while loaded:
            close_model(loaded.popitem()[1])

    def model_of(name: str) -> "VisionLanguageModel":
        if name not in loaded:
            close()
            loaded[name] = open_model(models.policy, policies[name], compute, params.batch_size, "policy")
        return loaded[name]

    def work(part: Sequence[tuple[str, list[Any]]]) -> pd.DataFrame:
        rows = []
        for name in dict.fromkeys(name for name, _ in part):
            asked = [group for policy, group in part if policy == name]
            for group, answers in zip(asked, _answers(model_of(name), asked, beams, params)):
                rows += [
                    (name, r.benchmark, r.item_id, r.question, a.text, a.token_count, a.finish_reason)
                    for r, a in zip(group, answers)
                ]
        frame = table("answers").frame(rows)
        frame.attrs[FINGERPRINT] = weights
        return frame

    try:
        yield work
    finally:
        close()


def _by_image(items: pd.DataFrame) -> list[list[Any]]:
    """Items of one picture and kind of answer together, in the order in which the first of them comes.

    They hold the same picture, that of the first.
    """
    groups: dict[Any, list[Any]] = {}
    for row in items.itertuples():
        if row.image is None:
            raise UserError(
                f"{row.benchmark} item {row.item_id} has no picture. Make the items with pictures: kedro "
                "run --pipelines benchmark_data"
            )
        key = (_content_key(row.image), _is_yes_no(row))
        if key not in groups:
            _picture(row)  # a damaged one is said before a model is loaded
        own = groups.setdefault(key, [])
        own.append(row._replace(image=own[0].image) if own else row)
    return list(groups.values())


def _content_key(image: Mapping[str, Any]) -> bytes | str:
    """What tells pictures apart: the hash of the content, or the path."""
    content = image["bytes"]
    return hashlib.sha256(content).digest() if content else image["path"]


def _is_yes_no(item: Any) -> bool:
    return BENCHMARKS[item.benchmark].is_yes_no(item.kind)


def _picture(item: Any) -> Any:
    return open_image(item.image, f"{item.benchmark} item {item.item_id}")


def _answers(
    model: Any, groups: list[list[Any]], beams: int, params: BenchmarksParams
) -> "list[list[Answer]]":
    """A model's answers to groups of items, each about one picture."""
    if beams > 1:
        return [_searched(model, group, beams, params) for group in groups]
    answers: dict[int, list[Answer]] = {}
    for yes_no in (True, False):
        alike = [i for i, group in enumerate(groups) if _is_yes_no(group[0]) == yes_no]
        most = params.yes_no_tokens if yes_no else params.max_new_tokens
        answers |= zip(alike, _greedy(model, [groups[i] for i in alike], most))
    return [answers[i] for i in range(len(groups))]


def _searched(model: Any, group: list[Any], beams: int, params: BenchmarksParams) -> "list[Answer]":
    from rlaifv_kedro.models.chat import ChatDecoding, RLAIFVChat

    chat = RLAIFVChat.of(model, ChatDecoding(num_beams=beams, max_new_tokens=params.max_new_tokens))
    picture = _picture(group[0])
    return [chat.answer(picture, item.question) for item in group]


def _greedy(model: Any, groups: list[list[Any]], max_new_tokens: int) -> "list[list[Answer]]":
    from rlaifv_kedro.models import Decoding, Question

    if not groups:
        return []
    decoding = Decoding(temperature=0, max_new_tokens=max_new_tokens)
    pictures = [_picture(group[0]) for group in groups]
    questions = [[item.question for item in group] for group in groups]
    if hasattr(model, "sample_about"):
        return model.sample_about(pictures, questions, [[0] * len(asked) for asked in questions], decoding)
    # a server or engine keeps prefixes itself
    flat = [Question(picture, one) for picture, asked in zip(pictures, questions) for one in asked]
    answers = iter(model.sample(flat, [[0]] * len(flat), decoding))
    return [[next(answers)[0] for _ in asked] for asked in questions]
