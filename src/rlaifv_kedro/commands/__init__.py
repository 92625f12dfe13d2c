"""The commands, a file each: ``rlaifv COMMAND``, and ``kedro COMMAND`` inside the project.

A command's file imports what it works with when the command is used, so that the list of commands comes at
once, and before Kedro sets up its logging.
"""

import click

from rlaifv_kedro.commands import (
    calibrate,
    chat,
    check,
    compare,
    graph,
    judge_cost,
    merge,
    plan,
    rm,
    run,
    runs,
    score,
    summary,
    view,
)

SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Before a run": (check.command, plan.command),
    "Run pipelines": (run.command,),
    "Look at runs": (runs.command, summary.command, compare.command, view.command, graph.command, rm.command),
    "Models": (chat.command, merge.command),
    "Benchmarks": (score.command, judge_cost.command, calibrate.command),
}
"""The commands by the job that a person has in mind, in the order in which they are listed."""


class Commands(click.Group):
    """The group of all commands, listed by :data:`SECTIONS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names the commands, in the order of the sections."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes each section with its commands."""
        room = formatter.width - 6 - max(map(len, self.commands))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(c.name), c.get_short_help_str(room)) for c in commands])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Takes options without a command for those of ``run``, as every packaged Kedro project does."""
        own = {name for option in self.get_params(ctx) for name in option.opts}
        if args and args[0].startswith("-") and args[0] not in own:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=Commands,
    invoke_without_command=True,
    name="rlaifv_kedro",
    commands=[command for section in SECTIONS.values() for command in section],
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`rlaifv COMMAND --help` has an example of each. Inside the project `kedro COMMAND` is the same.",
)
@click.version_option(package_name="rlaifv_kedro")
@click.pass_context
def cli(context: click.Context) -> None:
    """Takes multimodal LLMs through the RLAIF-V loop, and looks at what comes out."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
