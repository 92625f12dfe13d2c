"use strict";
// Which page is shown, and keys.

(() => {
  const { h, address, load } = rlaifv;
  const ORDER = ["run", "prompts", "answers", "labeler", "rejects", "compare"];
  let current = null; // {page, key, element, update, ...} as the page's `open` gave it

  async function show() {
    const { page: wanted, state } = address.read(), main = document.getElementById("page");
    try {
      const run = await load("run"), page = rlaifv.pages[wanted]?.isThere(run) ? wanted : "run";
      if (current?.page !== page || (current.keyOf && current.keyOf(state) !== current.key)) {
        navigation(run, page);
        current = { page, ...(await rlaifv.pages[page].open(state)) };
        main.replaceChildren(current.element);
      }
      await current.update?.(state);
    } catch (error) {
      current = null;
      main.replaceChildren(h("p", { class: "error" }, error.message));
    }
  }

  function navigation(run, page) {
    document.getElementById("run-name").textContent = `run ${run.run.id}`;
    document.title = `${rlaifv.pages[page].title} – run ${run.run.id}`;
    const there = ORDER.filter((name) => rlaifv.pages[name].isThere(run));
    document.getElementById("pages").replaceChildren(...there.map((name) =>
      h("a", { href: `#${name}`, "aria-current": name === page && "page" }, rlaifv.pages[name].title)));
  }

  const STEPS = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 }; // arrows up and down scroll

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input, select, textarea");
    if (typing && event.key === "Escape") return event.target.blur();
    if (typing) return;
    if (event.key === "/" && current?.focusSearch) current.focusSearch(), event.preventDefault();
    else if (STEPS[event.key] && current?.move) current.move(STEPS[event.key]), event.preventDefault();
  });

  window.addEventListener("hashchange", show);
  show();
})();
