"use strict";
// The labeler: its verdicts against the truth, where that is known; lengths beside scores.

(() => {
  const { h, load, table, count } = rlaifv;
  const percent = (value, error) => (value === null ? "–" : `${(100 * value).toFixed(1)}${error === undefined || error === null ? "" : ` ± ${(100 * error).toFixed(1)}`}`);

  async function open() {
    const { labeler } = await load("run");
    return { element: h("div", { class: "overview" }, h("h1", {}, "The labeler at a glance"), truth(labeler), lengths(labeler.lengths)) };
  }

  function truth(all) {
    if (!all.reliability) return h("p", { class: "note" }, "What is true of these claims isn't known here. With a table of people's labels it is: rlaifv view --truth FILE");
    const { charts } = rlaifv;
    const points = all.reliability.map((row) => ({ x: row.mean, y: row.share, error: row.standard_error, title: `p(yes) ${row.mean.toFixed(2)}: ${percent(row.share, row.standard_error)} % true, ${count(row.n)} claims` }));
    const diagonal = { name: "as it should be", marks: false, colour: 2, points: [{ x: 0, y: 0 }, { x: 1, y: 1 }] };
    return h("section", {},
      h("p", {}, `Against ${all.source}. A question about an image counts once; replies that are no verdict are left out.`),
      h("div", { class: "charts" },
        charts.lines({ title: "Reliability: true claims by p(yes)", x: { label: "p(yes), without the mass on neither", low: 0, high: 1 }, y: { unit: "%", low: 0, high: 1 }, series: [{ name: "labeler", points }, diagonal], note: `Mean distance from the diagonal, weighted by claims: ${percent(all.calibration_error)} %.` }),
        all.roc.length > 0 && charts.lines({ title: "ROC", x: { label: "false claims accepted", unit: "%", low: 0, high: 1 }, y: { unit: "%", low: 0, high: 1 }, series: [{ name: "true claims accepted", marks: false, points: all.roc.map(([x, y]) => ({ x, y })) }, { ...diagonal, name: "by chance" }] }),
        charts.bars("Claims by p(yes)", all.reliability.map((row) => ({ label: row.mean.toFixed(2), count: row.n })))),
      agreement("By kind of claim", all.by_kind), all.by_iteration.length > 1 && agreement("By iteration", all.by_iteration),
      h("p", { class: "note" }, "Agreement and its standard error in percent; Cohen's kappa is 0 for agreement by chance and 1 for full agreement; the area under the ROC curve is the probability that a true claim has a higher p(yes) than a false one."),
      mistakes(all));
  }

  const agreement = (title, rows) => [h("h2", {}, title), table(
    ["", "questions", "agreement", "kappa", "ROC area", "true, ✓ accepted", "true, ✗ rejected", "false, ✓ accepted", "false, ✗ rejected"],
    rows.map((row) => [row.name, count(row.n), percent(row.agreement, row.agreement_error), row.kappa === null ? "–" : `${row.kappa.toFixed(3)} ± ${row.kappa_error.toFixed(3)}`, row.roc_area === null ? "–" : row.roc_area.toFixed(3), ...row.counts.flat().map(count)]))];

  function mistakes({ mistakes: rows, by_kind: [all] }) {
    const wrong = all.counts[0][1] + all.counts[1][0];
    return [h("h2", {}, "Its surest mistakes"), h("p", { class: "note" }, `${rlaifv.plural(rows.length, "verdict", "verdicts")} of ${count(wrong)} wrong ones, the surest first.`),
      h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["claim", "kind", "verdict", "p(yes)", "in truth", "prompt"].map((name) => h("th", {}, name)))),
        h("tbody", {}, rows.map(([k, prompt, kind, claim, yes, true_]) => h("tr", {}, h("td", {}, claim), h("td", {}, kind), h("td", { class: `verdict ${true_ ? "rejected" : "accepted"}` }, true_ ? "✗ rejected" : "✓ accepted"),
          h("td", { class: "number" }, rlaifv.probability(yes)), h("td", {}, true_ ? "true" : "false"), h("td", {}, h("a", { href: rlaifv.address.of("prompts", { i: String(k), id: prompt }) }, prompt)))))))];
  }

  function lengths(all) {
    const iterations = Object.keys(all), paired = iterations.filter((k) => all[k].pairs);
    if (!iterations.length) return null;
    const series = iterations.map((k, n) => ({ name: `iteration ${k}`, colour: n % 5, points: all[k].by_length.map(([x, y, error, n]) => ({ x, y, error, title: `${x.toFixed(1)} tokens: ${y.toFixed(2)}, ${count(n)} answers` })) }));
    return h("section", {}, h("h2", {}, "Length"),
      paired.length > 0 && table(["tokens, mean ± standard error", ...paired.map((k) => `iteration ${k}`)], [
        ["▲ chosen", ...paired.map((k) => all[k].pairs.chosen)], ["▼ rejected", ...paired.map((k) => all[k].pairs.rejected)],
        ["pairs whose chosen answer is longer", ...paired.map((k) => count(all[k].pairs.longer))], ["as long", ...paired.map((k) => count(all[k].pairs.equal))], ["shorter", ...paired.map((k) => count(all[k].pairs.shorter))]]),
      h("div", { class: "charts" }, rlaifv.charts.lines({ title: "Mean score by length", x: { label: "tokens of an answer" }, y: {}, series, note: "Answers in groups of like size, by their length. Scores that fall with length reward short answers." })));
  }

  rlaifv.pages.labeler = { title: "Labeler", open, isThere: (run) => run.labeler !== null };
})();
