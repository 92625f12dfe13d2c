"use strict";
// What could not be used: reasons with counts, and every row behind them.

(() => {
  const { h, load, count } = rlaifv;
  const ROWS = 50;

  async function open() {
    const run = await load("run");
    const element = h("div", {}), rows = h("div", {});
    let state = {};
    const link = (values, text) => h("a", { href: rlaifv.address.of("rejects", { ...state, p: "", ...values }) }, text);

    async function update(now) {
      state = now;
      const groups = run.rejects.map((group, k) => [link({ g: String(k) }, group.kind), group.iteration, group.stage, count(group.count)]);
      element.replaceChildren(h("h1", {}, "What could not be used"),
        run.rejects.length ? rlaifv.table(["reason", "iteration", "stage", "rows"], groups) : h("p", {}, "Nothing: no item was rejected."), rows);
      if (run.rejects.length) await showRows();
    }

    async function showRows() {
      const index = await load("rejects/index");
      const wanted = index.group.flatMap((group, row) => (state.g === undefined || group === Number(state.g) ? [row] : []));
      const page = Number(state.p ?? 0) || 0, pages = Math.ceil(wanted.length / ROWS);
      const some = wanted.slice(page * ROWS, (page + 1) * ROWS);
      const chunks = await Promise.all(some.map((row) => load(`rejects/${Math.floor(row / index.chunk)}`)));
      const shown = some.map((row, k) => {
        const [prompt, candidate, why] = chunks[k][row % index.chunk], { iteration, stage } = index.groups[index.group[row]];
        return h("tr", {}, h("td", {}, stage === "training" ? prompt : h("a", { href: rlaifv.address.of("prompts", { i: String(iteration), id: prompt }) }, prompt)),
          h("td", { class: "number" }, candidate ?? "–"), h("td", { class: "why" }, why));
      });
      rows.replaceChildren(h("h2", {}, state.g === undefined ? "All rows" : run.rejects[Number(state.g)]?.kind ?? "", " ", state.g !== undefined && link({ g: "" }, "show all")),
        h("div", { class: "scroll" }, h("table", { class: "rows" }, h("thead", {}, h("tr", {}, h("th", {}, "prompt"), h("th", { class: "number" }, "candidate"), h("th", {}, "why"))), h("tbody", {}, shown))),
        h("div", { class: "pager" }, page > 0 && link({ p: String(page - 1) }, "‹ earlier"), h("span", {}, `page ${page + 1} of ${pages}`), page + 1 < pages && link({ p: String(page + 1) }, "later ›")));
    }

    return { element, update };
  }

  rlaifv.pages.rejects = { title: "Not used", open, isThere: (run) => run.rejects.length > 0 };
})();
