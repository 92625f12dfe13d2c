"""The published benchmarks: their tables, how they are answered, judged and scored."""

from typing import Annotated, Literal

from pydantic import Field

from rlaifv_kedro.params.base import Count, Effect, Params


class JudgeParams(Params):
    """How ``models.judge`` is asked, and what it costs.

    A reply that was asked for with other values is another reply.
    """

    temperature: float = Field(
        0, ge=0, le=5, description="of the first reply (protocols of MMHal-Bench and RefoMB)"
    )
    retry_temperature: float = Field(
        0.5,
        ge=0,
        le=5,
        description="of replies that are asked for because the one before held no verdict: at 0 most models "
        "would say the same again",
    )
    max_new_tokens: Count = Field(
        1024,
        description="most tokens of a reply; one that is cut off is asked for once more with twice as many",
    )
    tries: Count = Field(
        3, description="replies asked for until one holds a verdict; then the item counts as failed"
    )
    batch_size: Annotated[Count, Effect.EXECUTION] = Field(
        8, description="prompts a forward pass, of a judge in this process; the same to rounding"
    )
    prices: Annotated[str | None, Effect.EXECUTION] = Field(
        "conf/judge_prices.yml",
        description="file with prices by model, where models.judge has none of its own",
    )


class BenchmarkDataParams(Params):
    """Tables of the published benchmarks."""

    vocabulary: Literal["own", "published"] = Field(
        "own",
        description="by which words COCO's captions are read for coco_truth: the project's list, or the "
        "catalog's chair_vocabulary",
    )
    chair_images: Count = Field(
        500, description="images of COCO in chair_items (papers' practice), drawn by the seed"
    )
    chair_split: str = Field("val2014", description="of which split of COCO")
    chair_prompt: str = Field(
        "Please describe this image in detail.", min_length=1, description="what is asked about each"
    )


class BenchmarksParams(Params):
    """How answers to the benchmarks of ``evaluation.benchmarks`` are made, judged and scored."""

    beams: Count = Field(
        3,
        description="beams of the search for answers that an LLM judges (protocol); 1 is greedy, as the "
        "others are",
    )
    max_new_tokens: Count = Field(1024, description="at most so many tokens an answer (protocol)")
    yes_no_tokens: Count = Field(
        32, description="at most so many tokens an answer to yes/no questions (POPE, and AMBER's)"
    )
    chunk_size: Annotated[Count, Effect.DIVISION] = Field(
        50, description="images a chunk: what a kill can lose"
    )
    batch_size: Annotated[Count, Effect.EXECUTION] = Field(
        4, description="images a forward pass, each with all questions about it; the same to rounding"
    )
    extraction: Literal["llm", "rules"] = Field(
        "llm",
        description="how Object HalBench's objects are found: by models.judge (protocol), or by CHAIR's "
        "rules, without any model",
    )
    object_halbench_pipeline: str = Field(
        "en_core_web_trf",
        description="spaCy pipeline that analyses extracted objects (protocol: this one, 3.7.3)",
    )
    amber_pipeline: str = Field(
        "en_core_web_lg",
        description="spaCy pipeline whose vectors AMBER compares words by (protocol); exact: by the word "
        "alone",
    )
    amber_answers: Literal["first_word", "exact"] = Field(
        "first_word",
        description="how AMBER's yes/no answers are read: by the Yes or No that they begin with, in any "
        "case, as its questions don't ask for a bare word; exact: anything but the bare word is wrong "
        "(protocol; answers made elsewhere are read so)",
    )
    refomb_runs: Count = Field(3, description="how often each answer is compared (protocol: at least 3)")
    refomb_swap: bool = Field(
        True,
        description="compare in the other order as well, and report the position bias; twice as many calls",
    )
    object_halbench_prompt: str | None = Field(
        None, description="file with another wording; without one, ours"
    )
    mmhal_prompt: str | None = Field(None, description="the same for MMHal-Bench")
    refomb_overall_prompt: str | None = Field(None, description="the same for RefoMB's first call")
    refomb_trustworthiness_prompt: str | None = Field(None, description="the same for its second")
