"""The stages around training: data generation, feedback, reward, evaluation."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlaifv_kedro.params.base import Count, Effect, Params, Share


class DataGenerationParams(Params):
    """Prompts to candidates."""

    prompts: Count = Field(4000, description="prompts an iteration (paper)")
    candidates: int = Field(10, strict=True, ge=2, le=1000, description="answers a prompt (paper)")
    temperature: float = Field(0.7, gt=0, le=5, description="the same for all candidates (release)")
    top_k: Count | None = Field(
        50,
        description="tokens are drawn from so many of the likeliest, null for all (release: it names none, "
        "and its transformers 4.35 takes 50 then)",
    )
    repetition_penalty: float = Field(
        1,
        gt=0,
        le=10,
        description="divides the logits of tokens that the answer has already, 1 for none (release: 1.1 for "
        "OmniLMM)",
    )
    max_new_tokens: Count = Field(512, description="at most so many tokens an answer (release)")
    cut_off: Literal["reject", "keep"] = Field(
        "reject",
        description="candidates that reach max_new_tokens. reject (ours): they get no score and make no "
        "pairs. keep (release): they count as complete answers, and teach the policy to stop in mid-sentence",
    )
    chunk_size: Annotated[Count, Effect.DIVISION] = Field(
        100, description="prompts a chunk: what a kill can lose"
    )
    batch_size: Annotated[Count, Effect.EXECUTION] = Field(
        8, description="prompts a forward pass; the results are the same to rounding"
    )


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
    splitter_batch_size: Annotated[Count, Effect.EXECUTION] = Field(
        32, description="replies a forward pass; the results are the same to rounding"
    )
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
    min_verdict_mass: Share = Field(
        0.5,
        description="a reply with less of its probability on yes and no together is no verdict: it more "
        "likely begins with something else, such as a refusal (ours; the release takes any)",
    )
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
    max_reject_share: Annotated[Share, Effect.EXECUTION] = Field(
        0.1, description="stop if a larger share of the answers can't be used"
    )
    chunk_size: Annotated[Count, Effect.DIVISION] = Field(100, description="prompts a chunk")
    batch_size: Annotated[Count, Effect.EXECUTION] = Field(
        8, description="images a forward pass; the results are the same to rounding"
    )

    @model_validator(mode="after")
    def _words_differ(self) -> "FeedbackParams":
        """A reply that counts as yes can't count as no."""
        yes, no = ({word.strip() for word in words} for words in (self.yes_words, self.no_words))
        if yes & no or "" in yes | no:
            raise ValueError(
                f"feedback.yes_words={self.yes_words} and feedback.no_words={self.no_words} hold an empty "
                "word, or one in both, so that replies can't be told apart"
            )
        return self


class RewardParams(Params):
    """Candidates to rewards, by an aligned policy and its reference. Their beta is ``training.beta``."""

    ranking: Literal["normalised", "summed"] = Field(
        "normalised",
        description="normalised: divided by the answer's tokens (paper); summed: DPO's implicit reward, "
        "which favours short answers",
    )
    chunk_size: Annotated[Count, Effect.DIVISION] = Field(100, description="prompts a chunk")
    batch_size: Annotated[Count, Effect.EXECUTION] = Field(
        8,
        description="prompts a forward pass, each with all its answers; the results are the same to rounding",
    )


class CollapseParams(Params):
    """When a checkpoint counts as collapsed, on the selection split.

    It is compared with the base policy and the one that the iteration started from.
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
    batch_size: Annotated[Count, Effect.EXECUTION] = Field(
        8, description="prompts a forward pass; with best_of, sequences; the results are the same to rounding"
    )
    chunk_size: Annotated[Count, Effect.DIVISION] = Field(
        100, description="prompts a chunk of a policy's answers: what a kill can lose"
    )
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
    best_of_top_k: Count | None = Field(
        50, description="of these samples; that of the candidates, null for all tokens"
    )
    best_of_repetition_penalty: float = Field(
        1, gt=0, le=10, description="of these samples; that of the candidates"
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
    keep_best: Annotated[Count | None, Effect.EXECUTION] = Field(
        2, description="of an iteration's checkpoints so many of the best stay, and the last; null keeps all"
    )
    collapse: CollapseParams = CollapseParams()
    benchmarks: list[str] = Field(
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
        if self.policy is None:
            return []
        return [self.policy] if isinstance(self.policy, str) else list(dict.fromkeys(self.policy))
