"use strict";
// What all pages share: data files, the address, and elements. Texts of a run are strangers': they become text
// nodes and attributes, never markup.

const rlaifv = (() => {
  const loaded = new Map(); // name -> promise of the value
  const waiting = new Map(); // name -> resolve
  const MOST_CHUNKS = 48; // kept in memory: long texts of as many files

  function add(name, value) {
    waiting.get(name)?.(value);
    waiting.delete(name);
  }

  // A data file: `data/NAME.js` calls `add`. Scripts work from file://, where `fetch` doesn't.
  function load(name) {
    if (loaded.has(name)) {
      const known = loaded.get(name);
      loaded.delete(name); // the youngest last
      loaded.set(name, known);
      return known;
    }
    const promise = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `data/${name.split("/").map(encodeURIComponent).join("/")}.js`;
      waiting.set(name, resolve);
      const failed = () => {
        waiting.delete(name);
        loaded.delete(name);
        reject(new Error(`${script.src} can't be read. Write the viewer again: rlaifv view`));
      };
      script.onload = () => (script.remove(), waiting.has(name) && failed()); // it is there, but says nothing
      script.onerror = failed;
      document.head.append(script);
    });
    loaded.set(name, promise);
    const chunks = [...loaded.keys()].filter((key) => /\/\d+$/.test(key));
    if (chunks.length > MOST_CHUNKS) loaded.delete(chunks[0]);
    return promise;
  }

  function filled(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
    return element;
  }

  // An element: h("p", {class: "note"}, "text", other, [more]).
  const h = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) =>
    filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  // A thumbnail by its name; drawings, which are PNG files, keep their pixels when they are enlarged.
  const picture = (name, alt, size = "") => (name
    ? h("img", { src: `thumbnails/${name}`, loading: "lazy", alt, class: `${size} ${name.endsWith(".png") ? "pixels" : ""}` })
    : h("span", { class: "no-picture" }, "no picture"));

  // A table of [heading, ...] and rows of texts or elements; the first column is text, the others numbers.
  function table(headings, rows, attributes) {
    const cells = (tag, row) => row.map((cell, k) => h(tag, k ? { class: "number" } : {}, cell ?? "–"));
    return h("div", { class: "scroll" },
      h("table", attributes,
        h("thead", {}, h("tr", {}, cells("th", headings))),
        h("tbody", {}, rows.map((row) => h("tr", {}, cells("td", row))))));
  }

  // The address behind `#`: a page and its state, so that a link leads to what is seen.
  const address = {
    read() {
      const [page, query] = location.hash.slice(1).split("?");
      return { page, state: Object.fromEntries(new URLSearchParams(query ?? "")) };
    },
    of(page, state) {
      const kept = Object.entries(state).filter(([, value]) => value !== "" && value !== null && value !== undefined);
      const query = new URLSearchParams(kept).toString();
      return `#${page}${query ? `?${query}` : ""}`;
    },
  };

  const NUMBER = new Intl.NumberFormat("en-US");
  const count = (number) => NUMBER.format(number);
  const plural = (number, one, several) => `${count(number)} ${number === 1 ? one : several}`;

  function duration(seconds) {
    if (seconds === null || seconds === undefined) return "–";
    if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
    if (seconds < 6000) return `${(seconds / 60).toFixed(1)} min`;
    return `${(seconds / 3600).toFixed(1)} h`;
  }

  // A probability: enough digits to tell 0.999 from 1.
  const probability = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));

  const words = (name) => name.replaceAll("_", " ");

  return { add, load, h, svg, picture, table, address, count, plural, duration, probability, words, pages: {} };
})();
