"""What the trials found, as a page of Markdown."""

from collections import Counter, defaultdict

from settling import NAMED, OTHER, SAME, Outcome


class Report:
    """Outcomes by kind, and every trial that ended otherwise."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.ends: dict[str, Counter[str]] = defaultdict(Counter)
        self.blows: Counter[str] = Counter()
        self.others: list[tuple[str, Outcome]] = []

    def add(self, name: str, outcome: Outcome) -> None:
        """Takes up a trial's outcome."""
        kind = name.partition("/")[0]
        self.ends[kind][outcome.end] += 1
        self.blows[kind] += outcome.blows
        if outcome.end == OTHER:
            self.others.append((name, outcome))

    def failed(self) -> bool:
        """Whether a trial ended otherwise."""
        return bool(self.others)

    def text(self) -> str:
        """The table, and what there is to mend."""
        total = sum(self.ends.values(), Counter())
        lines = [
            "| kind | trials | kills, damages | same bytes | named | other |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        rows = [*self.ends.items(), ("all", total)]
        for kind, ends in rows:
            blows = self.blows[kind] if kind in self.blows else self.blows.total()
            cells = [kind, ends.total(), blows, ends[SAME], ends[NAMED], ends[OTHER]]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        for name, outcome in self.others:
            lines += ["", f"## {name}: `python tests/chaos --seed {self.seed} --only {name}`", ""]
            lines += [f"- {note}" for note in outcome.notes]
            lines += ["", "```", outcome.why, "```"]
        return "\n".join(lines) + "\n"
