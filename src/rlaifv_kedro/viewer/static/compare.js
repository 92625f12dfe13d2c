"use strict";
// Two runs: what differs, rates, and items whose verdict flipped.

(() => {
  const { h, load, table, count, words } = rlaifv;

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
    const pictures = new Map(); // of items; those of the loop are CHAIR's, on the test split
    for (const name of names) {
      const index = await load(`answers/${name}/index`);
      index.id.forEach((id, row) => pictures.set(id, index.picture[row]));
    }
    const verdicts = [...new Set(both.flips.map((flip) => `${flip.benchmark}, ${words(flip.metric)}`))];
    const verdict = (row) => `${both.flips[row].benchmark}, ${words(both.flips[row].metric)}`;
    return rlaifv.collection({
      page: "compare", name: "flips", items: both.flips,
      index: { id: both.flips.map((flip) => `${flip.benchmark}/${flip.metric}/${flip.item_id}`), chunk: both.flips.length },
      filters: [
        verdicts.length > 1 && { key: "m", label: "verdict", options: verdicts.map((name) => [name, name]), test: (row, value) => verdict(row) === value },
        { key: "w", label: "with B", options: [["better", "▲ better"], ["worse", "▼ worse"]], test: (row, value) => both.flips[row].better === (value === "better") },
      ].filter(Boolean),
      sorts: [["", "as measured", (row) => row]],
      brief: (row) => brief(both.flips[row], pictures), detail: (flip) => detail(flip, pictures), texts: (flip) => [flip.item_id, flip.question, flip.answer_a, flip.answer_b, flip.note_a, flip.note_b],
    });
  }

  const sign = (flip) => h("span", { class: `verdict ${flip.better ? "accepted" : "rejected"}` }, flip.better ? "▲ better" : "▼ worse");
  const brief = (flip, pictures) => [rlaifv.thumbnail(pictures.get(flip.item_id), { alt: "" }), h("span", { class: "words" },
    h("span", { class: "question" }, flip.question), h("span", { class: "tallies" }, sign(flip), h("span", {}, flip.item_id)))];

  function detail(flip, pictures) {
    const parts = rlaifv.differing(flip.answer_a, flip.answer_b), picture = pictures.get(flip.item_id);
    const side = (name, value, note, k) => h("div", { class: "side" }, h("h3", {}, `run ${name}`, h("span", { class: "note" }, ` ${words(flip.metric)} ${value}`)), h("p", { class: "answer" }, rlaifv.underlined(parts[k])), note && h("p", { class: "found" }, note));
    return [h("div", { class: "asked" }, rlaifv.thumbnail(picture, { alt: "the item's picture", class: `large${picture?.endsWith(".png") ? " pixels" : ""}` }),
      h("div", {}, h("p", { class: "question" }, flip.question), h("p", { class: "note" }, [flip.item_id, flip.kind].filter(Boolean).join(" · ")), h("p", {}, sign(flip), " with B"))),
    h("div", { class: "sides policies" }, side("A", flip.value_a, flip.note_a, 0), side("B", flip.value_b, flip.note_b, 1))];
  }

  rlaifv.pages.compare = { title: "Compared", open, isThere: (run) => run.compared };
})();
