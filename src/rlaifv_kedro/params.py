"""The parameters of every stage: their types, defaults, allowed ranges and where a default comes from.

Defaults are the method's (shared by every recipe); ``conf/base`` sets what the miniature needs otherwise.
Unknown keys and impossible values are refused before anything runs.
"""

from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rlaifv_kedro.errors import UserError

Benchmark = Literal["chair", "object_halbench", "mmhal", "refomb", "amber", "pope"]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=1)]


class Params(BaseModel):
    """What all parameter models have in common: nothing unknown, nothing changed after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ComputeParams(Params):
    """Where and how models compute."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU if there is one")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="dtype of the weights while computing; the release uses bf16"
    )
    threads: int = Field(
        0,
        strict=True,
        ge=0,
        le=1024,
        description="CPU threads; 0 leaves torch's own choice. Sums may differ in the last bit between "
        "settings",
    )
    max_tokens_per_pack: Count = Field(
        4096,
        description="longer packs (an image with very many questions) are scored in groups over the "
        "prefix's cache: bounds memory",
    )

    def loading(self) -> dict[str, Any]:
        """Arguments of :func:`rlaifv_kedro.models.load_model`."""
        return {"dtype": self.dtype, "device": self.device, "max_tokens_per_pack": self.max_tokens_per_pack}


class ModelParams(Params):
    """Where a model comes from and how it is loaded or asked."""

    backend: Literal["transformers", "openai", "vllm"] = Field(
        "transformers",
        description="transformers: in this process; openai: any OpenAI-compatible server; vllm: its offline "
        "engine (an extra)",
    )
    path: str | None = Field(
        None, description="folder or hub name of the weights; without one, the catalog's checkpoint"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="without one, compute.dtype"
    )
    device_map: str | None = Field(
        None, description="auto spreads a model over the GPUs (accelerate); without one, compute.device"
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        "sdpa", description="flash_attention_2 can't share prefixes: slow"
    )
    adapter: str | None = Field(None, description="folder of LoRA adapters to merge")
    chat_template: str | None = Field(
        None, description="file with a chat template instead of the checkpoint's"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the weights")
    url: str | None = Field(None, description="openai: the server's address up to /v1")
    model: str | None = Field(None, description="openai: the name that the server knows the model by")
    api_key_variable: str = Field(
        "OPENAI_API_KEY",
        description="openai: environment variable with the key; a server without keys needs none",
    )
    concurrency: Count = Field(16, description="openai: requests under way at once")
    requests_per_minute: Count | None = Field(
        None, description="openai: most requests a minute, retries included; without it, no limit of ours"
    )
    timeout: float = Field(120, gt=0, description="openai: seconds to wait for a reply")
    retries: int = Field(
        6, strict=True, ge=0, le=100, description="openai: tries after the first, with growing pauses"
    )
    top_logprobs: int = Field(
        20,
        strict=True,
        ge=1,
        le=100,
        description="openai, vllm: most likely first tokens in which yes and no are looked for",
    )
    price_input: float = Field(
        0, ge=0, description="openai: price of a million tokens of prompts, for the account of costs"
    )
    price_output: float = Field(0, ge=0, description="openai: price of a million tokens of replies")

    def loading(self) -> dict[str, Any]:
        """Arguments of :func:`rlaifv_kedro.models.load_model` that aren't left to compute."""
        names = ("attn_implementation", "device_map", "adapter", "chat_template", "trust_remote_code")
        return {name: getattr(self, name) for name in names} | (
            {} if self.dtype is None else {"dtype": self.dtype}
        )


class ModelsParams(Params):
    """The models by their role. The policy's checkpoint is always the catalog's: it changes from iteration
    to iteration.
    """

    policy: ModelParams = ModelParams()
    labeler: ModelParams = ModelParams()
    splitter: ModelParams = ModelParams()
    question_writer: ModelParams | None = Field(
        None, description="turns claims into questions; without one, the splitter does"
    )
    judge: ModelParams | None = Field(
        None,
        description="text LLM that judges the answers of benchmarks; only those that need one ask for it",
    )

    @field_validator("policy")
    @classmethod
    def _is_the_catalogs(cls, value: ModelParams) -> ModelParams:
        if value.path is not None or value.backend == "openai":
            raise ValueError(
                "the policy that is trained is a checkpoint of the catalog: set the entry base_policy there"
            )
        if value.adapter is not None:
            raise ValueError(
                "adapters would be merged again into every policy of the loop: merge them once (python -m "
                "rlaifv_kedro merge --adapter ... "
                "--out ...), and set the entry base_policy to the result"
            )
        return value


class MiniatureParams(Params):
    """The drawn world and how its two models are made."""

    pool_scenes: Count = Field(4000, description="prompts in the pool, for all iterations together")
    selection_scenes: Count = Field(300, description="scenes on which checkpoints are compared")
    test_scenes: Count = Field(400, description="scenes on which the result is measured")
    benchmark_scenes: Count = Field(
        16, description="scenes of the miniature's six benchmarks (docs/benchmarks.md)"
    )
    training_scenes: Count = Field(8000, description="scenes the foundation and the labeler learn from, each")
    policy_scenes: Count = Field(
        4000, description="scenes with careless captions the base policy learns from"
    )
    training_fifth_share: Share = Field(
        0.5,
        description="share of the scenes to learn from that hold a fifth object; scenes to describe all do",
    )
    double_share: Share = Field(
        0.15, description="share of the scenes with a fifth object in which it is a second one of its kind"
    )
    training_double_share: Share = Field(
        0.3, description="the same for the foundation's and the policy's scenes"
    )
    labeler_double_share: Share = Field(
        0.6, description="the same for the labeler's scenes, so that it sees enough of them"
    )
    error_rate: Share = Field(
        0.5,
        description="careless captions: each absent typical object replaces a true one with this probability",
    )
    effort: float = Field(1.0, gt=0, le=4, description="scales all training steps; below 1 only for tests")


class DataGenerationParams(Params):
    """Prompts to candidates."""

    prompts: Count = Field(4000, description="prompts an iteration (paper)")
    candidates: int = Field(10, strict=True, ge=2, le=1000, description="answers a prompt (paper)")
    temperature: float = Field(
        0.7, gt=0, le=5, description="plain sampling, the same for all candidates (release)"
    )
    max_new_tokens: Count = Field(512, description="at most so many tokens an answer (release)")
    chunk_size: Count = Field(100, description="prompts a chunk: what a kill can lose")
    batch_size: Count = Field(8, description="prompts a forward pass")


class FeedbackParams(Params):
    """Candidates to preference pairs."""

    splitter: Literal["miniature", "llm"] = Field(
        "llm",
        description="how answers are divided into claims: by models.splitter, or by the rule for the "
        "miniature's language",
    )
    divide_prompt: str | None = Field(
        None, description="file with the prompt that divides an answer; without one, ours"
    )
    question_prompt: str | None = Field(
        None, description="file with the prompt that turns claims into questions; without one, ours"
    )
    splitter_temperature: float = Field(0.2, ge=0, le=5, description="of both steps (release)")
    splitter_top_p: float = Field(0.9, gt=0, le=1, description="of both steps (release)")
    splitter_max_new_tokens: Count = Field(
        512, description="of both steps; the release's 256 cut off long answers"
    )
    splitter_tries: Count = Field(3, description="how often a reply that can't be read is asked for")
    splitter_batch_size: Count = Field(32, description="replies a forward pass")
    count_repeats: bool = Field(
        True, description="a second mention of an object becomes the claim that there is a second one"
    )
    scoring: Literal["claims", "answer", "reward"] = Field(
        "claims",
        description="claims: minus the rejected claims (paper). answer: the labeler's mean log-prob a token "
        "of the whole answer (ablation). "
        "reward: candidate_rewards in standard deviations, without a labeler",
    )
    labeler: Literal["fixed", "self"] = Field(
        "fixed", description="fixed: the catalog's labeler; self: the policy of the iteration"
    )
    question_template: str = Field(
        "{question} Please answer yes or no.",
        pattern=r"\{question\}",
        description="what the labeler is asked (release)",
    )
    yes_words: list[str] = Field(
        ["yes", "Yes"], min_length=1, description="replies counted as yes by their first token (release)"
    )
    no_words: list[str] = Field(["no", "No"], min_length=1, description="replies counted as no")
    min_score_gap: float = Field(
        1,
        gt=0,
        description="pairs differ by at least this score (release): by so many rejected claims, or standard "
        "deviations of the reward",
    )
    pairs_per_prompt: Count = Field(
        2, description="at most so many pairs a prompt, drawn at random (release)"
    )
    balance_lengths: bool = Field(
        True, description="drop pairs until chosen and rejected are equally long on average (release)"
    )
    max_reject_share: Share = Field(0.1, description="stop if a larger share of the answers can't be used")
    chunk_size: Count = Field(100, description="prompts a chunk")
    batch_size: Count = Field(8, description="images a forward pass")


class RewardParams(Params):
    """Candidates to rewards, by an aligned policy and its reference. Their beta is ``training.beta``."""

    ranking: Literal["normalised", "summed"] = Field(
        "normalised",
        description="normalised: divided by the answer's tokens (paper); summed: DPO's implicit reward, "
        "which favours short answers",
    )
    chunk_size: Count = Field(100, description="prompts a chunk")
    batch_size: Count = Field(8, description="prompts a forward pass, each with all its answers")


class LoraParams(Params):
    """Low-rank adapters on all linear layers of the language model (release: r 64, alpha 16, dropout
    0.05).
    """

    rank: Count = 64
    alpha: float = Field(16, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)


class LaunchParams(Params):
    """How many processes train together. More than one, or DeepSpeed, runs by torchrun as a process of its
    own (docs/training.md).
    """

    processes: Count = Field(1, description="on each host; one a GPU")
    hosts: Count = Field(1, description="machines that see the same project folder")
    address: str | None = Field(
        None,
        pattern=r"^[^:\s]+:\d+$",
        description="host:port where the processes of several hosts meet; the first host's name, a free port",
    )
    prefix: list[str] = Field(
        [],
        description="command in front of torchrun that starts it on all hosts, e.g. srun --nodes=2 "
        "--ntasks-per-node=1; without one, "
        "the log says what to start on the others",
    )

    def total(self) -> int:
        """Processes on all hosts."""
        return self.processes * self.hosts

    @model_validator(mode="after")
    def _hosts_meet(self) -> "LaunchParams":
        if self.hosts > 1 and self.address is None:
            raise ValueError(
                "several hosts need training.launch.address=host:port, where their processes meet"
            )
        return self


JsonScalar = bool | int | float | str | None


class MixSource(Params):
    """How much of a source of pairs is trained on."""

    weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="how often a row is used on average: 0 leaves the source out, 0.5 takes a random half",
    )
    where: dict[str, JsonScalar | list[JsonScalar]] = Field(
        {},
        description="only rows whose origin_split, JSON text, has one of these values under each key, such "
        "as model or iteration",
    )


class TrainingParams(Params):
    """Preference pairs to checkpoints."""

    mix: dict[str, MixSource] = Field(
        {"preference_pairs": MixSource()},
        description="catalog entries with pairs to train on; preference_pairs is one of them unless its "
        "weight is set to 0",
    )
    max_reject_share: Share = Field(0.1, description="stop if a larger share of the pairs can't be used")
    gather_chunk_size: Count = Field(
        256, description="pairs a chunk of training_pairs: held in memory at once, with their images"
    )
    learning_rate: float = Field(5e-7, gt=0, lt=1, description="peak; release: 5e-7 full, 1e-5 LoRA")
    beta: float = Field(
        0.1,
        gt=0,
        description="weight of the KL term; raising it keeps the policy nearer to its reference (paper: for "
        "sums; docs/training.md)",
    )
    log_probs: Literal["sum", "mean", "weighted"] = Field(
        "sum",
        description="how an answer's log-probs become one number: summed (paper), a token's mean, or "
        "weighted: a token's mean in which tokens that "
        "chosen and rejected don't share count changed_weight times (RLHF-V's DDPO)",
    )
    changed_weight: float = Field(
        5.0,
        gt=0,
        description="weighted: weight of a token that the pair's answers don't share (RLHF-V's gamma)",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of pairs taken to be the wrong way round (conservative DPO)"
    )
    dpo_weight: float = Field(1.0, ge=0, description="0 leaves supervised fine-tuning on the chosen answers")
    sft_weight: float = Field(
        0.0, ge=0, description="weight of the log-prob a token of the chosen answer; not part of the method"
    )
    epochs: float = Field(4, gt=0, description="passes over the pairs (release)")
    batch_size: Count = Field(8, description="pairs an optimiser step (release)")
    micro_batch_size: Count = Field(
        8,
        description="at most so many pairs a forward pass, in each process; gradients are accumulated up to "
        "batch_size",
    )
    pack: Literal["pair", "prompt"] = Field(
        "pair",
        description="what shares a computed prefix: the answers of one pair, pairs in random order "
        "(release), or those of all pairs of a prompt, "
        "prompts in random order: about 1.5 times as fast with two pairs a prompt; sizes count pairs either "
        "way",
    )
    max_length: int | None = Field(
        2048,
        strict=True,
        ge=2,
        description="most tokens of a prompt with one answer, an image's included (release)",
    )
    truncation: Literal["right", "left"] = Field(
        "right",
        description="what is cut off longer ones: the answer's end (release), or the question's beginning, "
        "never the image",
    )
    chunk_size: Count = Field(1000, description="prompts a chunk of reference_log_probs")
    checkpoint_every: float = Field(0.25, gt=0, description="a checkpoint every so many epochs (release)")
    warmup_share: Share = Field(
        0.05,
        description="share of the steps in which the learning rate rises (release); cosine to 0 after it",
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW (release)")
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = Field(True, description="less memory for a third more time")
    freeze: list[str] = Field(
        ["vision_tower", "visual", "vision_model", "vpm"],
        description="modules whose weights stay as they are, by a part of their name: the vision towers of "
        "LLaVA, Qwen-VL, Idefics and MiniCPM-V",
    )
    lora: LoraParams | None = Field(None, description="adapters instead of full fine-tuning")
    launch: LaunchParams = LaunchParams()
    deepspeed: str | None = Field(
        None,
        description="file with a DeepSpeed configuration, e.g. conf/deepspeed/zero2.json (release): "
        "optimiser states are spread over processes",
    )
    loader_workers: int = Field(
        0, strict=True, ge=0, le=64, description="processes that prepare batches beside each training process"
    )
    report_to: list[Literal["tensorboard", "mlflow"]] = Field(
        ["tensorboard"], description="beside the training_log table; mlflow is an extra"
    )
    collapse_log_ratio: float = Field(
        -200.0,
        lt=0,
        description="stop if the mean log-ratio of the rejected answers falls below this, in nats an answer",
    )

    @field_validator("mix")
    @classmethod
    def _adds_to_the_own_pairs(cls, value: dict[str, MixSource]) -> dict[str, MixSource]:
        mix = {"preference_pairs": MixSource(), **value}
        if not any(source.weight for source in mix.values()):
            raise ValueError("all weights are 0, so that there is nothing to train on")
        return mix

    def sources(self) -> list[str]:
        """The catalog's entries that are trained on, in their order."""
        return [name for name, source in self.mix.items() if source.weight]

    def micro_batch(self) -> int:
        """Pairs a forward pass of one process."""
        return min(self.micro_batch_size, max(1, self.batch_size // self.launch.total()))

    def accumulation(self) -> int:
        """Forward passes of each process in an optimiser step.

        Raises:
            UserError: A step's pairs don't divide among the processes and their forward passes.
        """
        together = self.micro_batch() * self.launch.total()
        if self.batch_size % together:
            shared = f" times {self.launch.total()} processes" if self.launch.total() > 1 else ""
            raise UserError(
                f"training.batch_size={self.batch_size} is not a multiple of "
                f"training.micro_batch_size={self.micro_batch()}{shared}."
            )
        return self.batch_size // together

    @model_validator(mode="after")
    def _divides(self) -> "TrainingParams":
        self.accumulation()
        return self


class CollapseParams(Params):
    """When a checkpoint counts as collapsed, compared with the base policy or the one the iteration
    started from, on the selection split.
    """

    length_change: float = Field(0.2, gt=0, description="largest relative change of the mean number of words")
    repeat_increase: float = Field(
        0.15, gt=0, description="largest increase of the share of answers that repeat an object"
    )
    recall_drop: float = Field(0.1, gt=0, description="largest fall of object recall")
    empty_share: Share = Field(0.02, description="largest share of empty answers")


class EvaluationParams(Params):
    """Checkpoints to answers, metrics and the selected policy."""

    max_new_tokens: Count = Field(1024, description="greedy answers of at most so many tokens")
    criterion: Literal["response_hallucination", "mention_hallucination", "faulty_rate"] = Field(
        "response_hallucination",
        description="the checkpoint with the lowest rate on the split of select_on becomes trained_policy; "
        "faulty_rate counts repeats as faults",
    )
    batch_size: Count = Field(8, description="prompts a forward pass; with best_of, sequences")
    best_of: int = Field(
        1,
        strict=True,
        ge=1,
        le=1000,
        description="on the test prompts: 1 is greedy (paper's tables); of N samples the one with the "
        "highest reward",
    )
    best_of_temperature: float = Field(
        0.7, gt=0, le=5, description="of these samples; that of the candidates"
    )
    best_of_reward: Literal["own", "catalog"] = Field(
        "own",
        description="own: the measured policy against base_policy (the base policy's own samples: by the "
        "loop's last policy); "
        "catalog: reward_policy against reward_reference, for all",
    )
    select_on: Literal["selection", "test"] = Field(
        "selection",
        description="split on which checkpoints are compared; test is the original's rule, after which the "
        "figures on it are optimistic",
    )
    keep_best: Count | None = Field(
        2, description="of an iteration's checkpoints so many of the best stay, and the last; null keeps all"
    )
    collapse: CollapseParams = CollapseParams()
    benchmarks: list[Benchmark] = Field(
        [], description="published benchmarks that the policy answers; their files are fetched"
    )
    policy: str | list[str] | None = Field(
        None,
        description="folders or hub names of checkpoints that answer the benchmarks; without one, the "
        "selected policy does, after the selection",
    )

    @model_validator(mode="after")
    def _answers_something(self) -> "EvaluationParams":
        if self.policy is not None and not self.benchmarks:
            raise ValueError(
                "evaluation.policy is what answers evaluation.benchmarks, and these name none; e.g. "
                "evaluation.benchmarks=[chair,pope]"
            )
        return self

    def policies(self) -> list[str]:
        """The checkpoints that are named."""
        return (
            []
            if self.policy is None
            else [self.policy]
            if isinstance(self.policy, str)
            else list(dict.fromkeys(self.policy))
        )


class JudgeParams(Params):
    """How ``models.judge`` is asked, and what it costs. A reply that was asked for with other values is
    another reply.
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
    batch_size: Count = Field(8, description="prompts a forward pass, of a judge in this process")
    prices: str | None = Field(
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
    chunk_size: Count = Field(50, description="images a chunk: what a kill can lose")
    batch_size: Count = Field(4, description="images a forward pass, each with all questions about it")
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


class ExportParams(Params):
    """Pairs for other tools."""

    source: Literal["preference_pairs", "training_pairs"] = Field(
        "preference_pairs",
        description="what is exported: an iteration's own pairs, or the mix that it was trained on",
    )


class ReportingParams(Params):
    """What the report shows."""

    examples: int = Field(
        6,
        strict=True,
        ge=0,
        le=100,
        description="pictures with the answers of the base and of the last policy",
    )


class LoopParams(Params):
    """The loop over iterations."""

    iterations: int = Field(4, strict=True, ge=1, le=100, description="iterations of the loop (paper: 4)")


class Parameters(Params):
    """Everything that may stand in parameters.yml or behind ``--params``."""

    seed: int = Field(
        0,
        strict=True,
        ge=0,
        lt=2**31,
        description="everything sampled depends on it and on the key of the item",
    )
    iteration: int = Field(
        1, strict=True, ge=1, le=100, description="the iteration that a stage run works on"
    )
    run_id: str | None = Field(None, description="name of the run; an unfinished one goes on")
    replay: str | None = Field(None, description="run whose inputs are loaded again")
    compute: ComputeParams = ComputeParams()
    models: ModelsParams = ModelsParams()
    miniature: MiniatureParams = MiniatureParams()
    loop: LoopParams = LoopParams()
    data_generation: DataGenerationParams = DataGenerationParams()
    feedback: FeedbackParams = FeedbackParams()
    reward: RewardParams = RewardParams()
    training: TrainingParams = TrainingParams()
    evaluation: EvaluationParams = EvaluationParams()
    judge: JudgeParams = JudgeParams()
    benchmark_data: BenchmarkDataParams = BenchmarkDataParams()
    benchmarks: BenchmarksParams = BenchmarksParams()
    export: ExportParams = ExportParams()
    reporting: ReportingParams = ReportingParams()


def validate_parameters(raw: dict[str, Any]) -> Parameters:
    """Check all parameters at once.

    Raises:
        UserError: Names each unknown key or impossible value, with the value and the allowed range.
    """
    try:
        return Parameters.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise UserError(
            "parameters are not usable:\n" + "\n".join(f"  - {line}" for line in lines)
        ) from error


def _explain(problem: dict[str, Any]) -> str:
    """One line for one of pydantic's errors."""
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = _fields(path[:-1])
        near = get_close_matches(path[-1], known, n=1)
        return f"{name}: unknown parameter; " + (
            f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else f"known here: {', '.join(known)}"
        )
    allowed = _allowed(path)
    return f"{name}={problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}" + (
        f" (allowed: {allowed})" if allowed else ""
    )


def _allowed(path: list[str]) -> str:
    """The range of a field, as people write it; empty if the type alone says it."""
    model = _model_of(path[:-1])
    field = model.model_fields.get(path[-1]) if model else None
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(m, name)}"
        for m in (field.metadata if field else ())
        for name, sign in signs.items()
        if hasattr(m, name)
    ]
    return " and ".join(bounds)


def _fields(path: list[str]) -> list[str]:
    """Names of the parameters under a path."""
    model = _model_of(path)
    return list(model.model_fields) if model else []


def _model_of(path: list[str]) -> type[BaseModel] | None:
    """The model that a path of field names leads to; None if it leads into something else, such as a list."""
    model: type[BaseModel] = Parameters
    parts = iter(path)
    for part in parts:
        if part not in model.model_fields:
            return None
        annotation = model.model_fields[part].annotation
        if get_origin(annotation) is dict:
            next(parts, None)  # the key, which is the user's own
        models = [
            c
            for c in (annotation, *getattr(annotation, "__args__", ()))
            if isinstance(c, type) and issubclass(c, BaseModel)
        ]
        if not models:
            return None
        model = models[0]
    return model


def complete_parameters(raw: dict[str, Any]) -> dict[str, Any]:
    """All parameters with all their defaults, as JSON holds them, without the names of runs: the same
    whichever pipelines are run.
    """
    return validate_parameters(raw).model_dump(mode="json", exclude={"run_id", "replay"})
