"use strict";
// Prompts: picture, question, candidates by score, claims with verdicts, pairs.

(() => {
  const { h, load, probability } = rlaifv;
  const SIGN = { true: "✓", false: "✗", null: "?" };
  const CALLED = { true: "accepted", false: "rejected", null: "unread" };

  async function open(state) {
    const run = await load("run"), iterations = Object.keys(run.counts);
    const iteration = iterations.includes(state.i) ? state.i : iterations[0];
    const index = await load(`prompts/${iteration}/index`);
    // prompt -> [candidate or null for all, question] of verdicts that aren't the truth, where that is known
    const wrong = run.labeler?.reliability && new Map(Object.entries((await load("wrong"))[iteration] ?? {}));
    const list = rlaifv.collection({
      page: "prompts", name: `prompts/${iteration}`, index,
      filters: filters(index, iterations, wrong), sorts: sorts(index),
      brief: (row) => brief(index, row), detail: (item) => detail(item, iteration, wrong?.get(item.id) ?? []), texts,
    });
    return { ...list, key: iteration, keyOf: (s) => (iterations.includes(s.i) ? s.i : iterations[0]) };
  }

  function filters(index, iterations, wrong) {
    const coded = (key, column, label) => index[column] && {
      key, label, options: index[column].values.map((value) => [value, value]),
      test: (row, value) => index[column].values[index[column].codes[row]] === value,
    };
    const reasons = Object.entries(index.reasons).map(([kind, numbers]) => [kind, new Set(numbers)]);
    return [
      iterations.length > 1 && { key: "i", label: "iteration", options: iterations.map((k) => [k, k]) },
      index.rejected && { key: "v", label: "verdicts", options: [["rejected", "✗ some rejected"], ["unread", "? some unread"], ["accepted", "✓ all accepted"]],
        test: (row, value) => (value === "accepted" ? index.accepted[row] > 0 && !index.rejected[row] && !index.unread[row] : index[value][row] > 0) },
      wrong && { key: "x", label: "labeler", options: [["wrong", "wrong about some claim"]], test: (row) => wrong.has(index.id[row]) },
      index.gap && { key: "g", label: "score gap at least", options: "number", test: (row, value) => index.gap[row] !== null && index.gap[row] >= Number(value) },
      { key: "pair", label: "pairs", options: [["yes", "with a pair"], ["no", "without"]], test: (row, value) => (index.pairs[row] > 0) === (value === "yes") },
      coded("t", "question_type", "prompt type"), coded("o", "origin_dataset", "origin"),
      reasons.length > 0 && { key: "w", label: "not used because", options: reasons.map(([kind, set]) => [kind, `${kind} (${set.size})`]),
        test: (row, value) => reasons.some(([kind, set]) => kind === value && set.has(row)) },
    ].filter(Boolean);
  }

  function sorts(index) {
    const minus = (column) => (row) => (index[column][row] === null ? null : -index[column][row]);
    return [
      ["", "as drawn", (row) => row],
      index.least_sure && ["unsure", "least sure verdicts", (row) => index.least_sure[row]],
      index.gap && ["gap", "largest score gap", minus("gap")],
      index.rejected && ["rejected", "most rejected claims", minus("rejected")],
    ].filter(Boolean);
  }

  function brief(index, row) {
    const tally = (column, sign) => index[column]?.[row] > 0 && h("span", { class: `verdict ${column}` }, `${sign} ${index[column][row]}`);
    return [rlaifv.picture(index.picture[row], ""), h("span", { class: "words" }, h("span", { class: "question" }, index.question[row]),
      h("span", { class: "tallies" }, tally("accepted", "✓"), tally("rejected", "✗"), tally("unread", "?"),
        index.gap?.[row] > 0 && h("span", {}, `gap ${index.gap[row]}`),
        index.pairs[row] > 0 && h("span", {}, rlaifv.plural(index.pairs[row], "pair", "pairs"))))];
  }

  function detail(item, iteration, wrong) {
    const facts = [`iteration ${iteration}`, item.id, item.type, item.origin].filter(Boolean);
    const least = leastSure(item);
    const candidates = [...item.candidates].sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity) || a.n - b.n);
    return [
      h("div", { class: "asked" }, rlaifv.picture(item.picture, "the prompt's picture", "large"),
        h("div", {}, h("p", { class: "question" }, item.question), h("p", { class: "note" }, facts.join(" · ")),
          item.why?.map(([, why]) => h("p", { class: "error" }, why)),
          item.pairs.map((pair, k) => pairOf(item, pair, item.pairs.length > 1 ? ` ${k + 1}` : "")))),
      h("h2", {}, `Candidates (${candidates.length}), the highest score first`),
      h("ol", { class: "candidates" }, candidates.map((one) => candidate(one, item, least, wrong))),
    ];
  }

  // Chosen and rejected side by side, with the words in which they differ.
  function pairOf(item, [chosen, rejected, chosenScore, rejectedScore], number) {
    const text = (n) => item.candidates.find((one) => one.n === n)?.text ?? "";
    const parts = rlaifv.differing(text(chosen), text(rejected));
    const side = (kind, sign, n, score, k) => h("div", { class: `side ${kind}` },
      h("h3", {}, `${sign} ${kind}`, h("span", { class: "note" }, ` candidate ${n} · score ${score}`)), h("p", {}, rlaifv.underlined(parts[k])));
    return [h("h2", {}, `Pair${number}`), h("div", { class: "sides" },
      side("chosen", "▲", chosen, chosenScore, 0), side("rejected", "▼", rejected, rejectedScore, 1))];
  }

  function candidate(one, item, least, wrong) {
    const marks = item.pairs.flatMap(([chosen, rejected]) => [chosen === one.n && "▲ chosen", rejected === one.n && "▼ rejected"]).filter(Boolean);
    return h("li", { class: "candidate" },
      h("h3", {}, h("span", { class: "score" }, one.score === undefined ? "no score" : `score ${one.score}`), ` · candidate ${one.n}`,
        [...new Set(marks)].map((mark) => h("span", { class: `mark ${mark.slice(2)}` }, mark)),
        h("span", { class: "note" }, ` ${rlaifv.plural(one.tokens, "token", "tokens")}${one.cut ? ", cut off" : ""}`)),
      h("p", { class: "answer" }, one.text), one.why && h("p", { class: "error" }, one.why),
      one.claims.length > 0 && h("ul", { class: "claims" }, one.claims.map((claim) => claimLine(claim, claim === least, wrong.some(([n, question]) => question === claim[1] && (n ?? one.n) === one.n)))));
  }

  function claimLine([text, question, yes, no, accepted, token], isLeast, isWrong) {
    const known = yes !== null && no !== null, neither = known ? Math.max(0, 1 - yes - no) : null;
    return h("li", { class: `claim ${CALLED[accepted]}`, title: question },
      h("span", { class: "sign", role: "img", "aria-label": CALLED[accepted] }, SIGN[accepted]), h("span", { class: "text" }, text,
        token && h("span", { class: "note" }, ` the reply begins with “${token}”`), isLeast && h("span", { class: "mark" }, "least sure"),
        isWrong && h("span", { class: "mark" }, `in truth ${accepted ? "false" : "true"}`)),
      known ? [shares(yes, no), h("span", { class: "number" }, `p(yes) ${probability(yes)}`), h("span", { class: "number note" }, `neither ${probability(neither)}`)]
        : h("span", { class: "note" }, "no reply"));
  }

  // A bar of p(yes), the rest, p(no).
  const shares = (yes, no) => rlaifv.svg("svg", { class: "shares", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    rlaifv.svg("rect", { class: "yes", width: 100 * yes, height: 8 }), rlaifv.svg("rect", { class: "no", x: 100 - 100 * no, width: 100 * no, height: 8 }));

  function leastSure(item) {
    const claims = item.candidates.flatMap((one) => one.claims).filter((claim) => claim[2] !== null);
    const margin = (claim) => Math.abs(claim[2] - claim[3]);
    return claims.reduce((least, claim) => (least && margin(least) <= margin(claim) ? least : claim), null);
  }

  const texts = (item) => [item.id, item.question, ...item.candidates.flatMap((one) => [one.text, ...one.claims.map((claim) => claim[0])])];

  rlaifv.pages.prompts = { title: "Prompts, claims, pairs", open, isThere: (run) => Object.keys(run.counts).length > 0 };
})();
