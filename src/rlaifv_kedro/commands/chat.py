"""``rlaifv chat``: questions to a model about an image."""

import json
import sys
from collections.abc import Iterator
from itertools import chain

import click

from rlaifv_kedro.commands.options import examples
from rlaifv_kedro.commands.terminal import Command, note
from rlaifv_kedro.errors import UserError


@click.command(
    "chat",
    cls=Command,
    epilog=examples(
        'rlaifv chat --model /models/RLAIF-V-7B --image street.jpg --question "What is in the picture?"',
        "rlaifv chat --model openbmb/RLAIF-V-7B --image street.jpg --json < questions.txt",
    ),
)
@click.option(
    "--model",
    "path",
    required=True,
    metavar="PATH",
    help="Folder of a checkpoint or of LoRA adapters, or a name on the model hub.",
)
@click.option("--image", required=True, help="Path of a file, base64 text or a data URL.")
@click.option(
    "--question",
    "given",
    multiple=True,
    help="May be given several times. Without it, standard input: a question a line.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
)
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), help="At most so many tokens an answer.  [default: 1024]"
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object a question, each on a line, for programs."
)
def command(
    path: str,
    image: str,
    given: tuple[str, ...],
    device: str,
    dtype: str,
    max_new_tokens: int | None,
    as_json: bool,
) -> None:
    """Asks a model about an image.

    Decodes as the model's family does.
    """
    from rlaifv_kedro.models.chat import RLAIFVChat
    from rlaifv_kedro.models.chat_images import read_image

    picture = read_image(image)
    at_terminal = not given and sys.stdin.isatty()
    questions = iter(given) if given else typed_questions(at_terminal)
    if not at_terminal:  # know that there is one before a model of many gigabytes is loaded
        first = next(questions, None)
        if first is None:
            raise UserError(
                "there is no question. Give --question, or questions on standard input, one a line."
            )
        questions = chain([first], questions)
    note(f"loading {path}")
    model = RLAIFVChat(path, dtype=dtype, device=device)
    overrides = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    for question in questions:
        try:
            answer = model.chat({"image": picture, "question": question}, **overrides)
        except UserError as error:
            if not at_terminal:
                raise
            error.show()  # the next question may do, and the model need not be loaded again
        else:
            click.echo(json.dumps({"question": question, "answer": answer}) if as_json else answer)


def typed_questions(at_terminal: bool) -> Iterator[str]:
    """Reads lines of standard input; at a terminal an empty one ends them, else it is passed over."""
    sys.stdin.reconfigure(errors="replace")
    while True:
        if at_terminal:
            click.echo("question (an empty line ends): ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line or (at_terminal and not line.strip()):
            return
        if line.strip():
            yield line.strip()
