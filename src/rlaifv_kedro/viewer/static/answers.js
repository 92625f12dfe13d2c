"use strict";
// Benchmarks and the test split: each item with the answers of all policies side by side.

(() => {
  const { h, load, words } = rlaifv;

  async function open(state) {
    const run = await load("run"), names = run.answers.map((one) => one.name);
    const keyOf = (s) => (names.includes(s.b) ? s.b : names[0]), name = keyOf(state);
    const index = await load(`answers/${name}/index`);
    const list = rlaifv.collection({
      page: "answers", name: `answers/${name}`, index, filters: filters(index, run.answers), sorts: sorts(index),
      brief: (row) => brief(index, row), detail: (item) => detail(item, index), texts,
    });
    list.element.prepend(metrics(index));
    return { ...list, key: name, keyOf };
  }

  const metrics = (index) => h("details", { class: "metrics" }, h("summary", {}, `${index.title}: ${rlaifv.count(index.items)} items, what is measured over all of them`),
    rlaifv.table(["metric", ...index.titles], index.metrics));

  function filters(index, all) {
    const kinds = [...new Set(index.kind)].filter((kind) => kind !== null);
    const last = index.policies.length - 1;
    return [
      all.length > 1 && { key: "b", label: "benchmark", options: all.map((one) => [one.name, one.title]) },
      kinds.length > 1 && { key: "t", label: "type", options: kinds.map((kind) => [kind, kind]), test: (row, value) => index.kind[row] === value },
      last > 0 && { key: "c", label: `${words(index.verdict ?? "value")}`, options: [["changed", "first and last policy differ"], ["up", "higher at the last"], ["down", "lower at the last"], ["same", "the same"]],
        test: (row, value) => {
          const [first, end] = [index.values[row][0], index.values[row][last]];
          if (first === null || end === null || first === undefined || end === undefined) return false;
          return { changed: first !== end, up: end > first, down: end < first, same: end === first }[value];
        } },
    ].filter(Boolean);
  }

  function sorts(index) {
    const last = index.policies.length - 1;
    const change = (row) => (index.values[row][last] ?? NaN) - (index.values[row][0] ?? NaN);
    const known = (value) => (Number.isNaN(value) ? null : value);
    return [["", "as measured", (row) => row],
      ...(last > 0 ? [["fell", "largest fall first", (row) => known(change(row))], ["rose", "largest rise first", (row) => known(-change(row))]] : [])];
  }

  const brief = (index, row) => [rlaifv.picture(index.picture[row], ""), h("span", { class: "words" },
    h("span", { class: "question" }, index.question[row]),
    h("span", { class: "tallies" }, index.values[row].map((value, k) => h("span", {}, `${k ? "→ " : ""}${value ?? "–"}`))))];

  function detail(item, index) {
    const known = index.policies.map((policy, k) => [index.titles[k], item.policies[policy]]).filter(([, own]) => own);
    const first = known[0]?.[1].text;
    return [
      h("div", { class: "asked" }, rlaifv.picture(item.picture, "the item's picture", "large"),
        h("div", {}, h("p", { class: "question" }, item.question), h("p", { class: "note" }, [item.id, item.kind].filter(Boolean).join(" · ")), reference(item.reference))),
      h("div", { class: "sides policies" }, known.map(([title, own], k) => answer(title, own, k ? first : null))),
    ];
  }

  function answer(title, own, first) {
    const shown = first === null ? own.text : rlaifv.underlined(rlaifv.differing(first, own.text)[1]);
    return h("div", { class: "side" }, h("h3", {}, title, h("span", { class: "note" }, ` ${rlaifv.plural(own.tokens, "token", "tokens")}${own.cut ? ", cut off" : ""}`)),
      h("p", { class: "answer" }, shown === "" ? h("span", { class: "note" }, "(empty)") : shown), own.note && h("p", { class: "found" }, own.note),
      h("dl", { class: "scores" }, Object.entries(own.scores).filter(([, value]) => value !== null).map(([metric, value]) => [h("dt", {}, words(metric)), h("dd", {}, String(value))])),
      own.judgements?.map(judgement));
  }

  const judgement = ([step, reply, verdict, error]) => h("div", { class: "judgement" },
    h("h4", {}, `judge, ${step}: `, verdict === null ? h("span", { class: "error" }, error ?? "no verdict") : h("b", {}, verdict)),
    reply && h("p", { class: "answer" }, reply));

  const reference = (known) => known && Object.keys(known).length > 0 && h("details", { open: true }, h("summary", {}, "what the scorer knows"),
    h("dl", { class: "scores" }, Object.entries(known).map(([name, value]) => [h("dt", {}, words(name)), h("dd", {}, typeof value === "string" ? value : JSON.stringify(value))])));

  const texts = (item) => [item.id, item.question, ...Object.values(item.policies).flatMap((own) => [own.text, own.note, ...(own.judgements ?? []).map((one) => one[1])])];

  rlaifv.pages.answers = { title: "Test and benchmarks", open, isThere: (run) => run.answers.length > 0 };
})();
