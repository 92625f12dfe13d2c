"use strict";
// Two runs: what differs, rates, and items whose verdict flipped.

(() => {
  const { h, load, table, words } = rlaifv;

  async function open() {
    const run = await load("run"), both = await load("compare");
    const element = h("div", {}, h("h1", {}, `Run A ${both.a} against run B ${both.b}`), summary(both));
    if (!both.flips.length) return { element };
    const list = await flips(both, run);
    element.append(h("h2", {}, "Verdicts that flipped"), list.element);
    return { ...list, element };
  }

  const summary = ({ parameters, notes, rates }) => [
    notes.map((line) => h("p", { class: "note" }, line)),
    h("h2", {}, "Parameters that differ"),
    parameters.length ? table(["parameter", "A", "B"], parameters.map(([name, ...values]) => [name, ...values.map((value) => h("code", {}, JSON.stringify(value)))]), { class: "texts" }) : h("p", {}, "None."),
    rates.length > 0 && [h("h2", {}, "Rates"), table(["value ± standard error", "", "A", "B", "B − A [95 %]"], rates.map(([benchmark, metric, ...values], k) => [k && rates[k - 1][0] === benchmark ? "" : benchmark, metric, ...values]), { class: "named" })],
  ];

  async function flips(both, run) {
    const names = run.answers.map((one) => one.name);
    const pictures = new Map(); // a map of items for each set of them: benchmarks number theirs alike
    for (const name of names) {
      const index = await load(`answers/${name}/index`);
      pictures.set(name, new Map(index.id.map((id, row) => [id, index.picture[row]])));
    }
    const picture = (flip) => pictures.get(flip.what === "loop" ? "test" : flip.what.replace("benchmark.", ""))?.get(flip.item_id);
    const verdict = (row) => `${both.flips[row].benchmark} (${policies(both.flips[row])}), ${words(both.flips[row].metric)}`;
    const verdicts = [...new Set(both.flips.map((_, row) => verdict(row)))];
    return rlaifv.collection({
      page: "compare", name: "flips", items: both.flips,
      index: { id: both.flips.map((flip) => `${flip.what}/${flip.policy_b}/${flip.metric}/${flip.item_id}`), chunk: both.flips.length },
      filters: [
        verdicts.length > 1 && { key: "m", label: "verdict", options: verdicts.map((name) => [name, name]), test: (row, value) => verdict(row) === value },
        { key: "w", label: "with B", options: [["better", "▲ better"], ["worse", "▼ worse"]], test: (row, value) => both.flips[row].better === (value === "better") },
      ].filter(Boolean),
      sorts: [["", "as measured", (row) => row]],
      brief: (row) => brief(both.flips[row], picture(both.flips[row])), detail: (flip) => detail(flip, picture(flip)), texts: (flip) => [flip.item_id, flip.question, flip.answer_a, flip.answer_b, flip.note_a, flip.note_b],
    });
  }

  const sign = (flip) => h("span", { class: `verdict ${flip.better ? "accepted" : "rejected"}` }, flip.better ? "▲ better" : "▼ worse");
  const policies = (flip) => [...new Set([flip.policy_a, flip.policy_b])].map(words).join(" / ");
  const brief = (flip, picture) => [rlaifv.picture(picture, ""), h("span", { class: "words" },
    h("span", { class: "question" }, flip.question), h("span", { class: "tallies" }, sign(flip), h("span", {}, flip.item_id)))];

  function detail(flip, picture) {
    const parts = rlaifv.differing(flip.answer_a, flip.answer_b);
    const side = (name, policy, value, note, k) => h("div", { class: "side" }, h("h3", {}, `run ${name}, ${words(policy)}`, h("span", { class: "note" }, ` ${words(flip.metric)} ${value}`)), h("p", { class: "answer" }, rlaifv.underlined(parts[k])), note && h("p", { class: "found" }, note));
    return [h("div", { class: "asked" }, rlaifv.picture(picture, "the item's picture", "large"),
      h("div", {}, h("p", { class: "question" }, flip.question), h("p", { class: "note" }, [flip.item_id, flip.kind].filter(Boolean).join(" · ")), h("p", {}, sign(flip), " with B"))),
    h("div", { class: "sides policies" }, side("A", flip.policy_a, flip.value_a, flip.note_a, 0), side("B", flip.policy_b, flip.value_b, flip.note_b, 1))];
  }

  rlaifv.pages.compare = { title: "Compared", open, isThere: (run) => run.compared };
})();
