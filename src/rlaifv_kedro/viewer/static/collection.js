"use strict";
// A list of many items beside one of them: filters, orders, search through all texts, pages, keys.
// Filters and orders need the index alone; texts lie in chunks that are loaded when they are looked at.

rlaifv.collection = (() => {
  const { h, load, count } = rlaifv;
  const ROWS = 40; // of a page of the list
  const AT_ONCE = 4; // chunks that a search loads side by side

  // spec:
  //   page, name     of the address, and of the data: NAME/N are the chunks
  //   items          all items, where they aren't in chunks
  //   index          {id, chunk, ...columns}
  //   filters        [{key, label, options: [[value, text]] or "number", test: (row, value) => bool}]; what
  //                  has no test chooses another collection
  //   sorts          [[key, label, (row) => number]], smallest first; rows without a number come last
  //   brief          (row) => nodes for the list
  //   detail         (item, row) => nodes
  //   texts          (item) => [text, ...] to search in
  return function collection(spec) {
    const rows = spec.index.id.map((_, row) => row);
    const place = new Map(spec.index.id.map((id, row) => [id, row]));
    let state = {}, chosen = rows, hits = null, search = null, shownKey = null;

    const list = h("ol", { class: "list" }), pager = h("div", { class: "pager" });
    const summary = h("p", { class: "note", role: "status" }), detail = h("article", { class: "detail" });
    const controls = [...spec.filters.map(control), spec.sorts.length > 1 && sorter(), searcher()];
    const element = h("div", { class: "browser" },
      h("form", { class: "filters", onsubmit: (event) => event.preventDefault() }, controls),
      h("div", { class: "panes" }, h("section", { class: "index" }, summary, list, pager), detail));

    function change(values) {
      location.replace(rlaifv.address.of(spec.page, { ...state, ...values }));
    }

    const narrowed = (values) => change({ ...values, id: "", p: "" });

    function control({ key, label, options, test }) {
      const input = options === "number"
        ? h("input", { type: "number", name: key, step: "any", oninput: () => narrowed({ [key]: input.value }) })
        : h("select", { name: key, onchange: () => narrowed({ [key]: input.value }) },
          test && h("option", { value: "" }, "any"), options.map(([value, text]) => h("option", { value }, text)));
      return h("label", {}, label, input);
    }

    function sorter() {
      const input = h("select", { name: "s", onchange: () => narrowed({ s: input.value }) },
        spec.sorts.map(([value, text], k) => h("option", { value: k ? value : "" }, text)));
      return h("label", {}, "order", input);
    }

    function searcher() {
      let timer = 0;
      const input = h("input", { type: "search", name: "q", placeholder: "press / to search", oninput: () => {
        clearTimeout(timer);
        timer = setTimeout(() => narrowed({ q: input.value }), 250);
      } });
      return h("label", { class: "search" }, "text", input);
    }

    function show() {
      for (const input of element.querySelectorAll("[name]"))
        if (input !== document.activeElement || input.tagName === "SELECT") input.value = state[input.name] ?? input.options?.[0].value ?? "";
      chosen = rows.filter((row) => (!hits || hits.has(row)) && spec.filters.every(({ key, test }) => !state[key] || !test || test(row, state[key])));
      const by = spec.sorts.find(([key]) => key === state.s);
      if (by) {
        const values = Float64Array.from(rows, (row) => by[2](row) ?? Infinity);
        chosen.sort((a, b) => (values[a] === values[b] ? a - b : values[a] - values[b]));
      }
      summary.textContent = `${count(chosen.length)} of ${count(rows.length)}${search ? `; ${search}` : ""}`;
      showList();
      showDetail();
    }

    function selected() {
      const row = place.get(state.id);
      return row === undefined ? chosen[page() * ROWS] : row;
    }

    function page() {
      const at = chosen.indexOf(place.get(state.id));
      const wanted = at >= 0 ? Math.floor(at / ROWS) : Number(state.p ?? 0) || 0;
      return Math.max(0, Math.min(wanted, Math.ceil(chosen.length / ROWS) - 1));
    }

    function showList() {
      const now = page(), pages = Math.ceil(chosen.length / ROWS), current = selected();
      list.replaceChildren(...chosen.slice(now * ROWS, (now + 1) * ROWS).map((row) =>
        h("li", {}, h("a", { href: rlaifv.address.of(spec.page, { ...state, id: spec.index.id[row] }), "aria-current": row === current && "true" }, spec.brief(row)))));
      const to = (p, text) => h("button", { type: "button", disabled: p < 0 || p >= pages, onclick: () => change({ id: "", p: p || "" }) }, text);
      pager.replaceChildren(to(now - 1, "‹ earlier"), h("span", {}, `page ${now + 1} of ${Math.max(pages, 1)}`), to(now + 1, "later ›"));
      list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
    }

    async function showDetail() {
      const row = selected();
      element.classList.toggle("one", place.has(state.id));
      if (row === undefined) return detail.replaceChildren(h("p", { class: "note" }, "Nothing fits these filters."));
      const key = `${spec.name} ${row}`;
      if (shownKey === key) return moveButtons(row);
      shownKey = key;
      try {
        const item = await itemOf(row);
        if (shownKey !== key) return; // another has been asked for meanwhile
        detail.replaceChildren(h("div", { class: "moves" }), ...[spec.detail(item, row)].flat(Infinity).filter(Boolean));
        moveButtons(row);
      } catch (error) {
        shownKey = null;
        detail.replaceChildren(h("p", { class: "error" }, error.message));
      }
    }

    function moveButtons(row) {
      const at = chosen.indexOf(row);
      const to = (step, text) => h("button", { type: "button", disabled: chosen[at + step] === undefined || at < 0, onclick: () => move(step) }, text);
      detail.querySelector(".moves")?.replaceChildren(
        h("a", { class: "back", href: rlaifv.address.of(spec.page, { ...state, id: "", p: page() || "" }) }, "‹ list"),
        to(-1, "‹ previous (k)"), h("span", {}, at < 0 ? "not among these" : `${count(at + 1)} of ${count(chosen.length)}`), to(1, "next (j) ›"));
    }

    function move(step) {
      const next = chosen[chosen.indexOf(selected()) + step];
      if (next !== undefined) change({ id: spec.index.id[next], p: "" });
    }

    const chunk = async (number) => spec.items ?? load(`${spec.name}/${number}`);

    async function itemOf(row) {
      const size = spec.index.chunk;
      return (await chunk(Math.floor(row / size)))[row % size];
    }

    // Goes through all chunks; the list grows meanwhile.
    async function find(text) {
      const wanted = text.toLowerCase(), chunks = Math.ceil(rows.length / spec.index.chunk);
      const own = (hits = new Set());
      let drawn = performance.now();
      for (let start = 0; start < chunks; start += AT_ONCE) {
        const numbers = Array.from({ length: Math.min(AT_ONCE, chunks - start) }, (_, k) => start + k);
        const found = await Promise.all(numbers.map(chunk));
        if (hits !== own) return; // another search has begun
        found.forEach((items, k) => items.forEach((item, j) => {
          if (spec.texts(item).some((one) => one?.toLowerCase().includes(wanted))) own.add((start + k) * spec.index.chunk + j);
        }));
        search = start + AT_ONCE < chunks ? `searched ${count((start + AT_ONCE) * spec.index.chunk)}` : null;
        if (performance.now() - drawn > 300 || !search) show(), (drawn = performance.now());
      }
    }

    function update(now) {
      const before = state.q ?? "";
      state = now;
      if ((state.q ?? "") !== before) {
        hits = search = null;
        if (state.q) find(state.q).catch((error) => (summary.textContent = error.message));
      }
      show();
    }

    return { element, update, move, focusSearch: () => element.querySelector("[name=q]").focus() };
  };
})();
