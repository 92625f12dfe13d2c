"""``rlaifv merge``: LoRA adapters and their base, as one checkpoint."""

from pathlib import Path

import click

from rlaifv_kedro.commands.options import examples, path_option
from rlaifv_kedro.commands.terminal import Command


@click.command("merge", cls=Command, epilog=examples("rlaifv merge --adapter checkpoint-48 --out merged"))
@path_option("--adapter", "LoRA adapters: a checkpoint of such a training.", "FOLDER", required=True)
@path_option("--out", "New folder for the whole checkpoint.", "FOLDER", required=True)
@path_option("--base", "The checkpoint they belong to, if it isn't where it was in training.", "FOLDER")
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the base.")
def command(adapter: Path, out: Path, base: Path | None, trust_remote_code: bool) -> None:
    """Merges LoRA adapters into their base.

    The result is an ordinary checkpoint, for transformers, vLLM and `rlaifv chat`.
    """
    from rlaifv_kedro.models.merging import merge_adapters

    click.echo(str(merge_adapters(adapter, out, base, trust_remote_code)))
