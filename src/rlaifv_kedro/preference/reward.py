"""An aligned policy as a reward: r(y) = beta / T * log(pi(y) / pi_ref(y)).

Source: arXiv 2405.17220, self-feedback at inference.

DPO's implicit reward (arXiv 2305.18290) is beta * log(pi / pi_ref), summed over an answer's tokens. A sum
grows with the number of its terms, in the direction in which training moved tokens on average, which mostly
is down: so short answers win. Dividing by T, the number of tokens, takes that bias away. Measured in the
paper: by the sum the best answers are 7.7 words shorter, by the quotient 3.9 words longer.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.preference.candidates import KEY

if TYPE_CHECKING:
    from rlaifv_kedro.branching import Pack
    from rlaifv_kedro.models import Question
    from rlaifv_kedro.models.backends.transformers import TransformersModel

logger = logging.getLogger(__name__)

# The column of ``candidate_rewards`` that a ranking goes by.
COLUMN = {"normalised": "reward", "summed": "reward_sum"}


def with_rewards(log_probs: pd.DataFrame, beta: float) -> pd.DataFrame:
    """Add the columns ``reward_sum`` and ``reward``.

    ``reward_sum`` is beta * (policy_log_prob - reference_log_prob), in nats times beta; ``reward`` is
    reward_sum / token_count.

    Args:
        log_probs: Columns policy_log_prob, reference_log_prob (nats, summed over an answer's tokens),
            token_count: the tokens that were summed over, the end-of-sequence token among them.
        beta: As the policy was trained with. It scales all rewards alike and changes no ranking.
    """
    summed = beta * (log_probs["policy_log_prob"] - log_probs["reference_log_prob"])
    return log_probs.assign(reward_sum=summed, reward=summed / log_probs["token_count"])


def reward_scores(rewards: pd.DataFrame, ranking: Literal["normalised", "summed"]) -> pd.DataFrame:
    """Rewards as scores to make pairs of, in standard deviations.

    The standard deviation is the one of the rewards of one prompt's candidates, pooled over prompts.

    Rewards have no scale of their own (it depends on beta, on how far the policy was trained and on the
    answers), so a gap between two of them says something only beside how much they differ anyway. With
    normally distributed rewards 48 % of all pairs differ by 1 or more.

    Returns:
        prompt_id, candidate, score. All scores are 0 where no prompt has two candidates of different rewards.
    """
    values = rewards[COLUMN[ranking]]
    groups = values.groupby(rewards["prompt_id"])
    freedom = len(values) - groups.ngroups
    squares = np.square(values - groups.transform("mean")).sum()
    deviation = float(np.sqrt(squares / freedom)) if freedom else 0.0
    return rewards[KEY].assign(score=values / deviation if deviation else 0.0)


class Reward:
    """Rewards of answers by two models in memory.

    Args:
        policy: pi, the aligned model.
        reference: pi_ref, the model that it started from.
        beta: See :func:`with_rewards`.
    """

    def __init__(self, policy: "TransformersModel", reference: "TransformersModel", beta: float):
        self.policy, self.reference, self.beta = policy, reference, beta
        if policy.processor.chat_template != reference.processor.chat_template:
            logger.warning(
                "%s and %s write prompts by different chat templates: the reward then also measures what "
                "the other wording of a prompt does",
                policy.where,
                reference.where,
            )

    def table(self, questions: "Sequence[Question]", groups: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """Rows of ``candidate_rewards``, prompt by prompt.

        All answers to a question share its computed prefix; equal ones are computed once.

        Args:
            groups: For each question its candidates: prompt_id, candidate, answer.

        Raises:
            UserError: The two models write an answer in different tokens, so that their log-probs can't be
                compared.
        """
        rows = []
        size = self.policy.batch_size
        for start in range(0, len(questions), size):
            part = groups[start : start + size]
            answers = [list(dict.fromkeys(group["answer"])) for group in part]
            asked = questions[start : start + size]
            packs, scored = _score(self.policy, asked, answers)
            reference_packs, reference_scored = _score(self.reference, asked, answers)
            for group, texts, ours, theirs, pi, ref in zip(
                part, answers, packs, reference_packs, scored, reference_scored
            ):
                self._refuse_other_tokens(group["prompt_id"].iloc[0], texts, ours, theirs)
                known = {text: (p[0], r[0], p[1]) for text, p, r in zip(texts, pi, ref)}
                rows += [(c.prompt_id, c.candidate, *known[c.answer]) for c in group.itertuples(index=False)]
        columns = [*KEY, "policy_log_prob", "reference_log_prob", "token_count"]
        return with_rewards(pd.DataFrame(rows, columns=columns), self.beta)

    def _refuse_other_tokens(self, prompt_id: str, answers: list[str], ours: "Pack", theirs: "Pack") -> None:
        for answer, policy, reference in zip(answers, ours.branches, theirs.branches):
            if policy != reference:
                raise UserError(
                    f"prompt {prompt_id}: {self.policy.where} writes the answer {answer[:40]!r} in other "
                    f"tokens than {self.reference.where} "
                    f"({len(policy)} and {len(reference)} of them), so their log-probs can't be compared. "
                    "The reward needs a policy and the model "
                    "that it was trained from, with its tokenizer: set the entries reward_policy and "
                    "reward_reference in the catalog."
                )


def _score(
    model: "TransformersModel", questions: "Sequence[Question]", answers: list[list[str]]
) -> "tuple[list[Pack], list[list[tuple[float, int]]]]":
    """For each question the pack of its answers, and the (summed log-prob, token count) of each."""
    from rlaifv_kedro.branching import pack

    images = [model.encoder.image(q.image) for q in questions]
    packs = [
        pack(*model.encoder.answers(q.text, texts, image))
        for q, texts, image in zip(questions, answers, images)
    ]
    return packs, model.score_packs(images, packs)
