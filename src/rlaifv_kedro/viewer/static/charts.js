"use strict";
// Charts as inline SVG, drawn at the width that there is, so that texts keep their size.

rlaifv.charts = (() => {
  const { h, svg } = rlaifv;
  const MARKS = ["circle", "square", "triangle", "diamond"]; // beside colours, so that these aren't alone
  const colour = (s, k) => `colour-${(s.colour ?? k) % 5}`;
  const MARGIN = { left: 46, right: 12, top: 10, bottom: 34 };

  // A figure that is drawn anew when its width changes.
  function figure(title, draw, legend, note) {
    const place = h("div", { class: "plot" });
    let width = 0;
    new ResizeObserver(([entry]) => {
      const now = Math.round(entry.contentRect.width);
      if (now && now !== width) place.replaceChildren(draw((width = now)));
    }).observe(place);
    return h("figure", { class: "chart" }, h("figcaption", {}, title), place, legend, note && h("p", { class: "note" }, note));
  }

  // Round values that cover a range, about five of them.
  function ticks(low, high) {
    const step = 10 ** Math.floor(Math.log10((high - low || 1) / 4));
    const size = [1, 2, 5, 10].map((k) => k * step).find((s) => (high - low) / s <= 5) ?? step * 10;
    const found = [];
    for (let k = Math.ceil(low / size - 1e-9); k * size <= high + size * 1e-9; k++) found.push(k * size);
    return found;
  }

  const shown = (value, unit) => {
    const text = String(+(value * (unit === "%" ? 100 : 1)).toPrecision(4));
    return unit === "%" ? `${text} %` : text;
  };

  function mark(kind, x, y, size, attributes) {
    if (kind === "square") return svg("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, ...attributes });
    if (kind === "circle") return svg("circle", { cx: x, cy: y, r: size, ...attributes });
    const points = {
      triangle: [[0, -1.3], [1.2, 1], [-1.2, 1]], diamond: [[0, -1.4], [1.4, 0], [0, 1.4], [-1.4, 0]],
      cross: [[-1, -1], [1, 1], [0, 0], [-1, 1], [1, -1], [0, 0]],
    }[kind].map(([dx, dy]) => `${x + dx * size},${y + dy * size}`).join(" ");
    return svg("polygon", { points, ...attributes });
  }

  function legend(series, lines) {
    const sample = (content) => svg("svg", { width: 22, height: 12, "aria-hidden": "true" }, content);
    return h("ul", { class: "legend" },
      series.filter((s) => s.name).map((s, k) => h("li", {},
        sample([svg("path", { class: `line ${colour(s, k)}`, d: "M0 6H22" }),
          s.marks !== false && mark(s.mark ?? MARKS[k % 4], 11, 6, 3.5, { class: `point ${colour(s, k)}` })]), s.name)),
      lines.map((l) => h("li", {}, sample(svg("path", { class: `reference ${l.style ?? ""}`, d: "M0 6H22" })), l.name)));
  }

  // Lines with points and error bars.
  //   series: [{name, points: [{x, y, error, title, mark, ring}], marks: false for lines alone}]
  //   lines: [{name, y, error, style}] across the whole width
  //   x, y: {label, unit, integer, low, high}
  function lines({ title, series, lines: across = [], x, y, note }) {
    const points = series.flatMap((s) => s.points).filter((p) => p.y !== null);
    if (!points.length) return h("figure", { class: "chart" }, h("figcaption", {}, title), h("p", { class: "note" }, "no values"));
    const xs = points.map((p) => p.x);
    const reach = [...points, ...across].flatMap((p) => [p.y - (p.error ?? 0), p.y + (p.error ?? 0)]);
    const range = {
      x: [x.low ?? Math.min(...xs), x.high ?? Math.max(...xs)],
      y: [y.low ?? Math.min(...reach), y.high ?? Math.max(...reach)],
    };
    for (const r of [range.x, range.y]) if (r[0] === r[1]) r[1] = r[0] + 1;
    const draw = (width) => drawn(width, { series, across, x, y, range, title });
    return figure(title, draw, legend(series, across), note);
  }

  function drawn(width, { series, across, x, y, range, title }) {
    const height = Math.round(Math.min(260, Math.max(190, width * 0.55)));
    const pad = 8;
    const px = (v) => MARGIN.left + pad + ((v - range.x[0]) / (range.x[1] - range.x[0])) * (width - MARGIN.left - MARGIN.right - 2 * pad);
    const py = (v) => height - MARGIN.bottom - ((v - range.y[0]) / (range.y[1] - range.y[0])) * (height - MARGIN.top - MARGIN.bottom);
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
    axes(picture, { width, height, px, py, x, y, range });
    for (const l of across) {
      if (l.error) picture.append(svg("rect", { class: "band", x: MARGIN.left, width: width - MARGIN.left - MARGIN.right, y: py(l.y + l.error), height: py(l.y - l.error) - py(l.y + l.error) }));
      picture.append(svg("path", { class: `reference ${l.style ?? ""}`, d: `M${MARGIN.left} ${py(l.y)}H${width - MARGIN.right}` }));
    }
    series.forEach((s, k) => picture.append(oneSeries(s, k, px, py)));
    return picture;
  }

  function axes(picture, { width, height, px, py, x, y, range }) {
    for (const v of ticks(...range.y)) {
      picture.append(svg("path", { class: "grid", d: `M${MARGIN.left} ${py(v)}H${width - MARGIN.right}` }),
        svg("text", { class: "tick", x: MARGIN.left - 6, y: py(v) + 4, "text-anchor": "end" }, shown(v, y.unit)));
    }
    for (const v of ticks(...range.x).filter((v) => !x.integer || Number.isInteger(v)))
      picture.append(svg("text", { class: "tick", x: px(v), y: height - MARGIN.bottom + 16, "text-anchor": "middle" }, shown(v, x.unit)));
    picture.append(svg("path", { class: "axis", d: `M${MARGIN.left} ${height - MARGIN.bottom}H${width - MARGIN.right}` }),
      svg("text", { class: "label", x: (MARGIN.left + width - MARGIN.right) / 2, y: height - 3, "text-anchor": "middle" }, x.label));
  }

  function oneSeries(s, k, px, py) {
    const points = s.points.filter((p) => p.y !== null);
    const path = points.map((p, i) => `${i ? "L" : "M"}${px(p.x).toFixed(1)} ${py(p.y).toFixed(1)}`).join("");
    const group = svg("g", {}, s.joined !== false && svg("path", { class: `line ${colour(s, k)}`, d: path }));
    if (s.marks === false) return group;
    for (const p of points) {
      if (p.error) group.append(svg("path", { class: `error ${colour(s, k)}`, d: `M${px(p.x)} ${py(p.y - p.error)}V${py(p.y + p.error)}m-4 0h8M${px(p.x) - 4} ${py(p.y - p.error)}h8` }));
      if (p.ring) group.append(svg("circle", { class: "ring", cx: px(p.x), cy: py(p.y), r: 9 }));
      group.append(mark(p.mark ?? s.mark ?? MARKS[k % 4], px(p.x), py(p.y), 4, { class: `point ${colour(s, k)}` }));
      if (p.title) group.lastChild.append(svg("title", {}, p.title));
    }
    return group;
  }

  // Counts as bars: [{label, count}].
  function bars(title, rows) {
    const most = Math.max(...rows.map((row) => row.count), 1);
    return h("figure", { class: "chart" }, h("figcaption", {}, title),
      h("div", { class: "bars" }, rows.map((row) => [
        h("span", { class: "bar-label" }, row.label),
        svg("svg", { class: "bar", width: "100%", height: 14, preserveAspectRatio: "none", viewBox: "0 0 100 14", "aria-hidden": "true" },
          svg("rect", { class: "colour-0", width: (100 * row.count) / most, height: 14 })),
        h("span", { class: "number" }, rlaifv.count(row.count)),
      ])));
  }

  return { lines, bars };
})();
