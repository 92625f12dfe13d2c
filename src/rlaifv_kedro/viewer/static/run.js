"use strict";
// The first page: what the run was, what it took, and its curves.

(() => {
  const { h, load, table, count, duration, words } = rlaifv;
  const STAGES = ["data_generation", "feedback", "training", "evaluation"];

  async function open() {
    const all = await load("run");
    const sections = [heading(all), rates(all), benchmarks(all), took(all), pairs(all), selection(all), training(all), parameters(all), software(all)];
    return { element: h("div", { class: "overview" }, sections) };
  }

  const section = (title, ...content) => h("section", {}, h("h2", {}, title), content);

  function heading({ run, changes, outdated, unread }) {
    const facts = [
      ["status", run.status], ["recipe", run.recipe], ["seed", run.seed], ["ran", run.ran],
      ["started", `${run.started.slice(0, 16).replace("T", " ")} UTC`], ["duration", duration(run.duration)],
      run.resumed > 0 && ["resumed", `${run.resumed} times`], ["command", h("code", {}, run.command)],
    ].filter(Boolean);
    const warnings = [
      run.error, ...changes.map((line) => `Went on with another parameter: ${line}`),
      outdated.length > 0 && `Made of something that has been made again since: ${outdated.join(", ")}`,
      ...Object.entries(unread).map(([k, line]) => `Iteration ${k}: ${line}.`),
    ].filter(Boolean);
    return [h("h1", {}, "Run ", h("span", { class: "id" }, run.id)),
      h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value ?? "–")))),
      warnings.map((line) => h("p", { class: "error" }, line))];
  }

  const named = (x) => (x === 0 ? "base" : `iteration ${x}`);

  function rates({ rates: groups }) {
    return groups.map(({ benchmark, metrics, protocol }) => {
      const chair = benchmark === "chair", [first] = metrics;
      const chosen = (names) => metrics.filter((metric) => names.includes(metric.name));
      const curve = (title, some, low) => some.length > 0 && rlaifv.charts.lines({
        title, x: { label: "iteration (0 = base policy)", integer: true }, y: { unit: "%", low },
        series: some.map((metric) => ({ name: metric.title, points: metric.values.map((v) => ({ ...v, title: `${named(v.x)}: ${v.cell} %, n = ${v.n}` })) })),
      });
      return section(chair ? "Hallucination, by iteration" : "What the policy itself sees, by iteration",
        h("div", { class: "charts" }, chair
          ? [curve("what should fall", chosen(["response_hallucination", "mention_hallucination", "repeat_rate"]), 0), curve("what should not: object recall", chosen(["object_recall"]))]
          : curve("accuracy on yes/no questions", metrics)),
        table(["on the test split", ...first.values.map((v) => named(v.x))], metrics.map((metric) => [metric.title, ...metric.values.map((v) => v.cell)])),
        h("p", { class: "note" }, `${protocol}. Value ± one standard error; shares in percent.`));
    });
  }

  function benchmarks({ answers }) {
    const measured = answers.filter((one) => one.headline.length);
    return measured.length > 0 && section("Benchmarks", measured.map((one) => table(
      [h("a", { href: `#answers?b=${one.name}` }, `${one.title}, ${rlaifv.plural(one.items, "item", "items")}`), ...one.titles], one.headline)));
  }

  function took({ seconds, counts, run, answers }) {
    const nodes = Object.entries(seconds), sum = (own) => own.reduce((total, [, s]) => total + s, 0);
    if (!nodes.length) return null;
    const stageOf = ([name]) => (name.includes(".") ? name.slice(0, name.lastIndexOf(".")) : name);
    const stages = [...new Set(nodes.map(stageOf))], of = (stage) => nodes.filter((node) => stageOf(node) === stage);
    const iterations = [...new Set(stages.flatMap((stage) => /^iteration_(\d+)\./.exec(stage)?.[1] ?? []))];
    const cell = (k, stage) => duration(sum(of(`iteration_${k}.${stage}`)));
    const others = stages.filter((stage) => !/^iteration_\d+\./.test(stage));
    const what = (label, value) => [label, ...iterations.map((k) => (counts[k]?.[value] === undefined ? "–" : count(counts[k][value])))];
    return section("Time and amounts, by stage",
      iterations.length > 0 && table(["", ...iterations.map((k) => `iteration ${k}`)], [
        ...STAGES.map((stage) => [words(stage), ...iterations.map((k) => cell(k, stage))]),
        what("prompts", "prompts"), what("candidates", "candidates"), what("tokens sampled", "tokens"), what("candidates cut off", "cut_off"),
        what("claims", "claims"), what("✓ accepted", "accepted"), what("✗ rejected", "rejected"), what("? unread", "unread"),
      ]),
      others.length > 0 && table(["beside the iterations", "time"], others.map((stage) => [words(stage), duration(sum(of(stage)))])),
      judged(answers),
      h("details", {}, h("summary", {}, `every node, the longest first; together ${duration(sum(nodes))} of ${duration(run.duration)}`),
        table(["node", "time"], nodes.sort((a, b) => b[1] - a[1]).map(([name, s]) => [name, duration(s)]))));
  }

  function judged(answers) {
    const rows = answers.filter((one) => one.judged).map(({ title, judged: j }) => [title, count(j.replies), count(j.prompt_tokens), count(j.reply_tokens), j.cost === null ? "price unknown" : `${j.cost.toFixed(2)} ${j.currency}`.trim()]);
    return rows.length > 0 && table(["judge", "replies", "tokens of prompts", "of replies", "cost"], rows);
  }

  function pairs({ pairs: statistics, rejects }) {
    const iterations = Object.keys(statistics);
    const rows = [
      ["possible pairs", "possible_pairs"], ["pairs drawn", "drawn_pairs"], ["pairs kept", "kept_pairs"], ["prompts with pairs", "prompts_with_pairs"],
      ["mean words, chosen", "mean_words_chosen"], ["mean words, rejected", "mean_words_rejected"], ["length threshold", "length_threshold"],
    ].map(([label, name]) => [label, ...iterations.map((k) => (statistics[k][name] === null ? "–" : count(statistics[k][name])))]);
    const total = rejects.reduce((all, group) => all + group.count, 0);
    return section("Pairs", iterations.length > 0 && table(["", ...iterations.map((k) => `iteration ${k}`)], rows),
      h("p", {}, total ? h("a", { href: "#rejects" }, `${rlaifv.plural(total, "row", "rows")} could not be used`) : "Nothing was rejected as unusable."),
      rejects.length > 0 && h("ul", {}, rejects.slice(0, 5).map((group) => h("li", {}, `${count(group.count)} × ${group.kind} (iteration ${group.iteration}, ${group.stage})`))));
  }

  function selection({ selection: all }) {
    const charts = Object.entries(all).map(([k, one]) => rlaifv.charts.lines({
      title: `iteration ${k}: ${one.title} on the ${one.split} split`, x: { label: "epoch", low: 0 }, y: { unit: "%", low: 0 },
      series: [{ name: "checkpoint (ringed: selected)", points: one.checkpoints.map((p) => ({ ...p, ring: p.name === one.selected, mark: p.name in one.collapsed ? "cross" : undefined, title: `${p.name}: ${p.cell} %${p.name in one.collapsed ? ", collapsed" : ""}` })) }],
      lines: one.references.map((p) => ({ name: p.name === "start" ? "start of the iteration" : "base policy", y: p.y, error: p.name === "start" ? p.error : 0, style: p.name })),
      note: [one.selected === "start" && "No checkpoint is better than the start, which stays.", one.warning,
        Object.keys(one.collapsed).length && `Collapsed: ${Object.keys(one.collapsed).join(", ")}.`].filter(Boolean).join(" "),
    }));
    return charts.length > 0 && section("Selection of a checkpoint", h("div", { class: "charts" }, charts));
  }

  const LOGGED = [
    ["loss", ["loss"]], ["reward margin (chosen less rejected)", ["reward_margin"]], ["reward accuracy", ["reward_accuracy"]],
    ["log-ratios against the reference", ["log_ratio_chosen", "log_ratio_rejected"]], ["gradient norm", ["grad_norm"]],
  ];

  function training({ training: all }) {
    const iterations = Object.keys(all);
    if (!iterations.length) return null;
    const drawn = (k) => LOGGED.map(([title, names]) => rlaifv.charts.lines({
      title, x: { label: "step" }, y: {},
      series: names.filter((name) => all[k][name]).map((name) => ({ name: names.length > 1 ? words(name) : "", marks: false, points: all[k].step.map((x, i) => ({ x, y: all[k][name][i] })) })),
    }));
    const charts = h("div", { class: "charts" }, drawn(iterations.at(-1)));
    const choose = h("select", { onchange: () => charts.replaceChildren(...drawn(choose.value)) }, iterations.map((k) => h("option", { value: k, selected: k === iterations.at(-1) }, `iteration ${k}`)));
    return section("Training", h("label", {}, "of ", choose), charts);
  }

  function parameters({ parameters: { recipe, defaults }, run }) {
    const code = (value) => h("code", {}, JSON.stringify(value));
    const rows = (changed, title) => table(["parameter", title, "here"], changed.map(([name, before, now]) => [name, code(before), code(now)]), { class: "texts" });
    return section("Parameters",
      recipe !== null && (recipe.length ? [h("p", {}, `Other than in the files of recipe ${run.recipe}, as they are now:`), rows(recipe, "recipe")] : h("p", {}, `As in the files of recipe ${run.recipe}, as they are now.`)),
      h("details", { open: recipe === null }, h("summary", {}, `${rlaifv.plural(defaults.length, "parameter", "parameters")} other than the built-in defaults`), rows(defaults, "default")));
  }

  const software = ({ run }) => section("Software", h("dl", { class: "facts" },
    Object.entries({ ...run.software, commit: `${run.commit?.slice(0, 10) ?? "–"}${run.dirty ? ", with changes" : ""}` })
      .map(([name, version]) => h("div", {}, h("dt", {}, name), h("dd", {}, version)))));

  rlaifv.pages.run = { title: "Run", open, isThere: () => true };
})();
