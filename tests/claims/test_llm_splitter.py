"""Splitting by LLMs: what counts as a list, and what is asked again, how often, with which seed."""

import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlaifv_kedro.claims import Claim
from rlaifv_kedro.claims.llm_splitter import (
    DECODING,
    DIVIDE,
    TO_QUESTIONS,
    LLMSplitter,
    Unparsable,
    read_list,
    read_questions,
)
from rlaifv_kedro.models import Answer, Decoding
from rlaifv_kedro.seeds import seed_for
from scripted_text import Scripted

if TYPE_CHECKING:
    from rlaifv_kedro.models.backends.text import TransformersText

NO_CLAIM = "no claim found in the answer"


@pytest.mark.parametrize(
    ("reply", "items"),
    [
        ("### Facts\n- A dog sits.\n- It is not brown.", ["A dog sits.", "It is not brown."]),
        ("- A dog sits.\n- A cat sits.", ["A dog sits.", "A cat sits."]),  # no heading
        ("###Facts:\n\n- A dog sits.\n\n\n- A cat sits.\n\n", ["A dog sits.", "A cat sits."]),
        ("### Facts\r\n- A dog sits.\r\n- A cat sits.\r\n", ["A dog sits.", "A cat sits."]),
        (
            "# Facts\n* A dog sits.\n• A cat sits.\n– A cow sits.",
            ["A dog sits.", "A cat sits.", "A cow sits."],
        ),
        (
            "Here is the list:\n1. A dog sits.\n2) A cat sits.\n10. A cow sits.",
            ["A dog sits.", "A cat sits.", "A cow sits."],
        ),
        ("**Facts:**\n- **A dog** sits.\n- **A cat sits.**", ["A dog sits.", "A cat sits."]),
        ("### **Facts**\n* **Dog**: it sits.\n**-** A cat sits.", ["Dog: it sits.", "A cat sits."]),
        ("  - A dog sits.\n  - A cat sits.", ["A dog sits.", "A cat sits."]),
        ("-\tA dog sits.", ["A dog sits."]),
        (
            "- -5 degrees are shown.\n- 2 * 3 is written.\n- # 7 is on a shirt.",
            ["-5 degrees are shown.", "2 * 3 is written.", "# 7 is on a shirt."],
        ),
        ("- A sign says “{Öl} - 5 €”.\n- 狗坐着。", ["A sign says “{Öl} - 5 €”.", "狗坐着。"]),
        ("- A dog sits.\n- A dog sits.", ["A dog sits.", "A dog sits."]),
        ("### Facts", []),
        ("### Facts\n\n", []),
        ("### Facts\n- None.", []),
        ("### Facts\n- (N/A)", []),
        ("### Facts\n- None of the men stands.", ["None of the men stands."]),
        ("### 事实\n- 有一只狗。\n- 狗是棕色的。", ["有一只狗。", "狗是棕色的。"]),
        ("以下是事实：\n1、有一只狗。\n2、狗是棕色的。", ["有一只狗。", "狗是棕色的。"]),
        ("-有一只狗。\n•狗是棕色的。\n3.有5个人。", ["有一只狗。", "狗是棕色的。", "有5个人。"]),
    ],
)
def test_lists(reply: str, items: list[str]) -> None:
    assert read_list(reply) == items


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("", "the reply has neither a heading nor items"),
        ("Here is the list:", "the reply has neither a heading nor items"),
        ("A dog sits.", "the reply has a line that is no item of the list, 'A dog sits.'"),
        (
            "Sure! Here they are.\n- A dog sits.",
            "the reply has a line that is no item of the list, 'Sure! Here they are.'",
        ),
        (
            "- A dog sits\non the sofa.",
            "the reply has a line that is no item of the list, 'on the sofa.'",
        ),  # an item on two lines
        (
            "- A dog sits.\n\nI hope this helps!",
            "the reply has a line that is no item of the list, 'I hope this helps!'",
        ),
        (
            "### Facts\n- A dog sits.\n### Opinions\n- It is cute.",
            "the reply has a line that is no item of the list, '### Opinions'",
        ),
        (
            "- A dog sits.\nOpinions:\n- It is cute.",
            "the reply has a line that is no item of the list, 'Opinions:'",
        ),
        (
            "-A dog sits.",
            "the reply has a line that is no item of the list, '-A dog sits.'",
        ),  # its first character is not a mark's
        (
            "-5 degrees are shown.",
            "the reply has a line that is no item of the list, '-5 degrees are shown.'",
        ),
        ("3 dogs sit.", "the reply has a line that is no item of the list, '3 dogs sit.'"),
        ("2024. A dog sits.", "the reply has a line that is no item of the list, '2024. A dog sits.'"),
        ("---\n- A dog sits.", "the reply has a line that is no item of the list, '---'"),
        ("```\n- A dog sits.\n```", "the reply has a line that is no item of the list, '```'"),
        (
            "<think>\n- A dog?\n</think>\n- A dog sits.",
            "the reply has a line that is no item of the list, '<think>'",
        ),
        ("- The dog:\n  - sits.", "the list has an item without a sentence, '- The dog:'"),
        ("- A dog sits.\n-", "the list has an item without a sentence, '-'"),
        ("- ...", "the list has an item without a sentence, '- ...'"),
        ("- 狗：\n- 坐着。", "the list has an item without a sentence, '- 狗：'"),
        ('["A dog sits."]', "the reply has a line that is no item of the list, '[\"A dog sits.\"]'"),
        (
            "1.5 metres of snow lie.",
            "the reply has a line that is no item of the list, '1.5 metres of snow lie.'",
        ),
        (
            "I'm sorry, but I can't help with that.",
            "the reply has a line that is no item of the list, \"I'm sorry, but I can't help with that.\"",
        ),
        ("A" * 70, f"the reply has a line that is no item of the list, '{'A' * 57}...'"),
    ],
)
def test_what_is_no_list(reply: str, why: str) -> None:
    with pytest.raises(Unparsable) as caught:
        read_list(reply)
    assert str(caught.value) == why


def test_questions_of_other_scripts_end_with_their_own_mark() -> None:
    assert read_questions("- 有狗吗？\n- هل يوجد كلب؟", 2) == ["有狗吗？", "هل يوجد كلب؟"]


def test_questions_are_counted_and_end_with_a_question_mark() -> None:
    reply = "### Questions\n- Does a dog sit?\n- Is it not brown?"
    assert read_questions(reply, 2) == ["Does a dog sit?", "Is it not brown?"]
    with pytest.raises(Unparsable, match="the reply has 2 instead of 3 questions"):
        read_questions(reply, 3)
    with pytest.raises(Unparsable, match=r"a question has no question mark, 'It is not brown\.'"):
        read_questions("- Does a dog sit?\n- It is not brown.", 2)
    with pytest.raises(Unparsable, match="the reply has 0 instead of 1 questions"):
        read_questions("### Questions", 1)


CUT = Answer("### Facts\n- A dog sits.\n- A cat", 512, "length")
BROKEN = Answer("", 0, "error", "503 Service Unavailable")
DIVIDED = "### Facts\n- A dog sits.\n- It is not brown."
ASKED = "### Questions\n- Does a dog sit?\n- Is it not brown?"
CLAIMS = [Claim("A dog sits.", "Does a dog sit?"), Claim("It is not brown.", "Is it not brown?")]


def splitter(divider: Scripted, writer: Scripted, **options: object) -> LLMSplitter:
    return LLMSplitter(divider, writer, seed=7, **options)


def divide_only(*replies: str | Answer, **options: object) -> tuple[list[Claim] | str, Scripted]:
    """The result of one answer, whose divider gives these replies."""
    divider = Scripted({"ANSWER": replies})
    return splitter(divider, Scripted({"- A dog sits.\n- It is not brown.": ASKED}), **options).split(
        ["Q"], ["ANSWER"]
    )[0], divider


def write_only(*replies: str | Answer, **options: object) -> tuple[list[Claim] | str, Scripted]:
    """The result of one answer, whose question writer gives these replies."""
    writer = Scripted({"- A dog sits.\n- It is not brown.": replies})
    return splitter(Scripted({"ANSWER": DIVIDED}), writer, **options).split(["Q"], ["ANSWER"])[0], writer


def test_claims_and_questions_in_order() -> None:
    result, divider = divide_only(DIVIDED)
    assert result == CLAIMS
    assert divider.calls == [Decoding(0.2, 512, 0.9)]
    assert (
        "<question>\nQ\n</question>" in divider.prompts[0]
        and "<answer>\nANSWER\n</answer>" in divider.prompts[0]
    )
    result, writer = write_only(ASKED, decoding=Decoding(0.7, 99, 0.5))
    assert result == CLAIMS
    assert writer.calls == [Decoding(0.7, 99, 0.5)]


def test_words_that_stand_for_an_image_are_no_part_of_question_and_answer() -> None:
    divider = Scripted({"ANSWER": DIVIDED})
    both = splitter(divider, Scripted({"- ": ASKED})).split(["<image>\nQ"], ["ANSWER <image>"])
    assert both == [CLAIMS]
    assert "<question>\nQ\n</question>" in divider.prompts[0]
    assert "<answer>\nANSWER\n</answer>" in divider.prompts[0]


def test_nothing_of_a_long_answer_is_cut_off() -> None:
    """The release cuts its prompt to 300 words."""
    answer = " ".join(f"word{i}" for i in range(2000))
    divider = Scripted({"word1999": DIVIDED})
    assert splitter(divider, Scripted({"- ": ASKED})).split(["Q"], [answer]) == [CLAIMS]
    assert f"<answer>\n{answer}\n</answer>" in divider.prompts[0]


def test_a_reply_that_is_no_good_is_asked_for_again_with_another_seed() -> None:
    result, divider = divide_only("Sure!", "A dog.", DIVIDED)
    assert result == CLAIMS
    prompt = divider.prompts[0]
    assert divider.asked == [("ANSWER", seed_for(7, "splitter", "divide", prompt, k), 512) for k in range(3)]
    assert len({seed for _, seed, _ in divider.asked}) == 3


@pytest.mark.parametrize("tries", [1, 2, 3])
def test_after_some_tries_it_is_a_reject_that_says_why(tries: int) -> None:
    result, divider = divide_only("Sure!", "Well.", "No way.", tries=tries)
    last = ["Sure!", "Well.", "No way."][tries - 1]
    assert (
        result == f"can't be divided into claims: the reply has a line that is no item of the list, '{last}' "
        f"(tried {tries} times)"
    )
    assert len(divider.asked) == tries


def test_questions_that_do_not_match_the_claims_are_asked_for_again() -> None:
    """The release pairs what there is, so one missing question shifts all that follow."""
    result, writer = write_only("- Does a dog sit?", "- Does a dog sit?\n- Is it?\n- Not brown?", ASKED)
    assert result == CLAIMS
    assert [seed for _, seed, _ in writer.asked] == [
        seed_for(7, "splitter", "to questions", writer.prompts[0], k) for k in range(3)
    ]
    result, writer = write_only("- Does a dog sit?")
    assert (
        result
        == "its claims can't be turned into questions: the reply has 1 instead of 2 questions (tried 3 times)"
    )
    result, _ = write_only("- Does a dog sit?\n- It is not brown.")
    assert (
        result
        == "its claims can't be turned into questions: a question has no question mark, 'It is not brown.' "
        "(tried 3 times)"
    )


def test_a_reply_that_is_cut_off_goes_on_with_twice_the_tokens() -> None:
    """The same seed, so the same reply; not a try. Its end is not a claim, though it parses."""
    result, divider = divide_only(CUT, DIVIDED)
    assert result == CLAIMS
    assert [(seed, limit) for _, seed, limit in divider.asked] == [
        (divider.asked[0][1], 512),
        (divider.asked[0][1], 1024),
    ]
    result, writer = write_only(CUT, ASKED, decoding=replace(DECODING, max_new_tokens=30))
    assert result == CLAIMS
    assert [limit for _, _, limit in writer.asked] == [30, 60]


def test_a_reply_that_is_cut_off_twice_is_a_reject() -> None:
    result, divider = divide_only(CUT, CUT)
    assert result == "can't be divided into claims: the reply is cut off at 1024 tokens"
    assert len(divider.asked) == 2
    result, _ = write_only(CUT)
    assert result == "its claims can't be turned into questions: the reply is cut off at 1024 tokens"


def test_a_lengthened_reply_stays_so_in_later_tries() -> None:
    result, divider = divide_only("Sure!", CUT, "Well.", DIVIDED)
    assert result == CLAIMS
    seeds = [seed_for(7, "splitter", "divide", divider.prompts[0], k) for k in range(3)]
    assert [(seed, limit) for _, seed, limit in divider.asked] == [
        (seeds[0], 512),
        (seeds[1], 512),
        (seeds[1], 1024),
        (seeds[2], 1024),
    ]
    assert (
        divide_only("Sure!", CUT, "Well.", CUT)[0]
        == "can't be divided into claims: the reply is cut off at 1024 tokens"
    )


def test_a_model_that_gives_no_reply_is_asked_again() -> None:
    assert divide_only(BROKEN, DIVIDED)[0] == CLAIMS
    result, divider = divide_only(BROKEN)
    assert (
        result
        == "can't be divided into claims: the model gave no reply: 503 Service Unavailable (tried 3 times)"
    )
    assert len(divider.asked) == 3


@pytest.mark.parametrize("reply", ["### Facts", "### Facts\n- None"])
def test_an_answer_without_claims_is_a_reject(reply: str) -> None:
    result, divider = divide_only(reply)
    assert result == NO_CLAIM
    assert len(divider.asked) == 1


def test_an_empty_answer_is_not_asked_about() -> None:
    divider = Scripted({})
    assert splitter(divider, Scripted({})).split(["Q", "Q"], ["", " \n"]) == [NO_CLAIM, NO_CLAIM]
    assert divider.calls == []


def test_a_claim_made_twice_stays_two_claims() -> None:
    """The release makes one of them and then throws the pair out. Its question is asked for once."""
    writer = Scripted({"- A dog sits.\n- A cat sits.": "- Does a dog sit?\n- Does a cat sit?"})
    twice = Scripted({"ANSWER": "- A dog sits.\n- A cat sits.\n- A dog sits."})
    dog, cat = Claim("A dog sits.", "Does a dog sit?"), Claim("A cat sits.", "Does a cat sit?")
    assert splitter(twice, writer).split(["Q"], ["ANSWER"]) == [[dog, cat, dog]]
    assert writer.prompts[0].endswith("- A dog sits.\n- A cat sits.")


MANY: dict[str, str | list[str | Answer]] = {
    "ONE": "- A man stands.",
    "TWO": ["Hm.", "- A cow stands."],
    "THREE": "### Facts",
    "FOUR": "Never.",
    "FIVE": [CUT, "- A bus stands."],
}
WRITTEN: dict[str, str | list[str | Answer]] = {
    "A man stands.": ["- What?\n- What?", "- Does a man stand?"],
    "A cow stands.": "- Does a cow stand?",
    "A bus stands.": [CUT, "- Does a bus stand?"],
}
OUTCOMES = {
    "ONE": [Claim("A man stands.", "Does a man stand?")],
    "TWO": [Claim("A cow stands.", "Does a cow stand?")],
    "THREE": NO_CLAIM,
    "FOUR": "can't be divided into claims: the reply has a line that is no item of the list, 'Never.' "
    "(tried 3 times)",
    "FIVE": [Claim("A bus stands.", "Does a bus stand?")],
}


@pytest.mark.parametrize("order", [list(OUTCOMES), list(OUTCOMES)[::-1], ["TWO"], ["FOUR", "TWO", "FIVE"]])
def test_results_keep_their_places_and_do_not_depend_on_each_other(order: list[str]) -> None:
    divider, writer = Scripted(MANY), Scripted(WRITTEN)
    assert splitter(divider, writer).split(["Q"] * len(order), order) == [
        OUTCOMES[answer] for answer in order
    ]
    whole = Scripted(MANY)
    splitter(whole, Scripted(WRITTEN)).split(["Q"] * 5, list(OUTCOMES))
    for answer in order:  # the seeds, too
        assert [a for a in divider.asked if a[0] == answer] == [a for a in whole.asked if a[0] == answer]


def test_each_round_is_one_call_a_limit() -> None:
    """Round 1 asks all five; what is cut off goes on in round 2, beside the second try of two others; then
    only FOUR is left.
    """
    divider = Scripted(MANY)
    splitter(divider, Scripted(WRITTEN)).split(["Q"] * 5, list(OUTCOMES))
    assert [decoding.max_new_tokens for decoding in divider.calls] == [512, 512, 1024, 512]
    assert [key for key, _, _ in divider.asked] == [
        "ONE",
        "TWO",
        "THREE",
        "FOUR",
        "FIVE",
        "TWO",
        "FOUR",
        "FIVE",
        "FOUR",
    ]


def test_what_is_there_several_times_is_asked_once() -> None:
    """Equal questions and answers, up to blanks around them, and equal lists of claims. An answer to
    another question is another one.
    """
    divider, writer = (
        Scripted({"ONE": "- A man stands.", "TWO": "- A man stands."}),
        Scripted({"A man stands.": "- Does a man stand?"}),
    )
    found = splitter(divider, writer).split(["Q", "Q", "Q", "P", " Q"], ["ONE", "TWO", "ONE", "ONE", "ONE\n"])
    assert found == [OUTCOMES["ONE"]] * 5
    assert len(divider.asked) == 3 and len(writer.asked) == 1
    assert len({seed for _, seed, _ in divider.asked}) == 3
    found[0].append(Claim("", ""))  # the results are lists of their own
    assert found[1] == OUTCOMES["ONE"]


def test_the_seed_of_the_run_counts() -> None:
    seeds = []
    for seed in (1, 2):
        divider = Scripted({"ANSWER": DIVIDED})
        LLMSplitter(divider, Scripted({"- ": ASKED}), seed=seed).split(["Q"], ["ANSWER"])
        seeds.append(divider.asked[0][1])
    assert seeds[0] != seeds[1]


def test_braces_backslashes_and_unicode_in_texts_stay_as_they_are() -> None:
    question, answer = r"What is {answer}? \1 {0}", "A sign: “{question}{claims}” {} %s \\g<0> 狗 ✓ ANSWER"
    claims = ["A sign says {question}.", "A sign says {claims} \\1 狗."]
    asked = ["Does a sign say {question}?", "Does a sign say {claims} \\1 狗?"]
    divider = Scripted({"ANSWER": "\n".join(f"- {c}" for c in claims)})
    writer = Scripted({"A sign says": "\n".join(f"- {q}" for q in asked)})
    assert splitter(divider, writer).split([question], [answer]) == [
        [Claim(*both) for both in zip(claims, asked)]
    ]
    assert (
        f"<question>\n{question}\n</question>" in divider.prompts[0]
        and f"<answer>\n{answer}\n</answer>" in divider.prompts[0]
    )
    assert writer.prompts[0].endswith("\n".join(f"- {c}" for c in claims))


def test_ours_ask_for_what_is_read() -> None:
    """The examples in the prompts are lists as the parser takes them, and placeholders stand alone on
    their line.
    """
    for file, count in ((DIVIDE, 2), (TO_QUESTIONS, 2)):
        text = file.read_text()
        example = text[text.index("###") : text.index("\n\n", text.index("###"))]
        assert len(read_list(example)) == count
    assert {line for line in DIVIDE.read_text().splitlines() if "{" in line} == {"{question}", "{answer}"}
    assert {line for line in TO_QUESTIONS.read_text().splitlines() if "{" in line} == {"{claims}"}
    assert read_questions("### Questions\n- Is there a dog on the sofa?\n- Is the dog brown?", 2)


def test_importing_claims_imports_no_torch() -> None:
    """So that ``kedro registry list`` answers quickly."""
    code = (
        "import sys, rlaifv_kedro.claims.llm_splitter; assert not {'torch', 'transformers'} & "
        "set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def random_llm() -> "TransformersText":
    """A tiny Llama with random weights that speaks in bytes, so any prompt is made of tokens it knows."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from rlaifv_kedro.models.backends.text import TransformersText

    alphabet = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", chat_template=template)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(alphabet),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=0,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = list(range(20))  # so that some of its replies end
    return TransformersText(model, tokenizer, "tiny", batch_size=4)


def test_a_model_that_talks_nonsense_gives_rejects(random_llm: "TransformersText") -> None:
    """End to end. Its replies are random bytes: cut off, or, of the few that end, no lists."""
    answers = ["A dog sits.", "Yes.", "", "A dog sits.", *(f"Dog {i}." for i in range(12))]
    found = LLMSplitter(random_llm, random_llm, seed=0, tries=2, decoding=Decoding(1.0, 10, 0.9)).split(
        ["What is there?"] * 16, answers
    )
    assert found.pop(2) == NO_CLAIM
    assert found[0] == found[2]
    whys = [
        result.removeprefix("can't be divided into claims: ") for result in found if isinstance(result, str)
    ]
    assert len(whys) == 15
    assert {why[:20] for why in whys} == {"the reply is cut off", "the reply has a line"}
    later = LLMSplitter(random_llm, random_llm, seed=0, tries=2, decoding=Decoding(1.0, 10, 0.9)).split(
        ["What is there?"] * 2, answers[5:7]
    )
    assert later == found[4:6]


def test_an_answer_too_long_for_the_model_is_a_reject(random_llm: "TransformersText") -> None:
    """Of 2048 tokens, here bytes. It isn't cut off."""
    result = LLMSplitter(random_llm, random_llm, seed=0, decoding=replace(DECODING, max_new_tokens=8)).split(
        ["Q"], ["dog " * 500]
    )[0]
    assert "don't fit into the model's 2048 (tried 3 times)" in result


@settings(max_examples=200)
@given(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=60)
    | st.from_regex(r"(- |1\. |1、|#|\*\*|\n|a|：|\?)*")
)
def test_any_reply_is_a_list_or_refused(reply: str) -> None:
    for read in (read_list, lambda text: read_questions(text, 1)):
        try:
            items = read(reply)
        except Unparsable as problem:
            assert str(problem)
        else:
            assert all(re.search(r"\w", item) and item == item.strip() for item in items)


@given(
    st.lists(st.from_regex(r"\A[A-Za-z一-鿿][A-Za-z一-鿿 ,.'-]{0,20}[a-z一-鿿]\Z"), min_size=1, max_size=5)
)
def test_a_list_that_is_written_is_read_back(items: list[str]) -> None:
    """Whatever its sentences are, and by whichever marks."""
    assume([item.casefold() for item in items] not in (["none"], ["n/a"]))
    for marks in (["-"] * 5, ["*"] * 5, [f"{k}." for k in range(1, 6)], [f"{k})" for k in range(1, 6)]):
        written = "\n".join(f"{mark} {item}" for mark, item in zip(marks, items))
        assert read_list(f"### Facts\n{written}\n") == items
