"use strict";
// Which words of two texts differ: those outside of their longest common subsequence.

rlaifv.differing = (() => {
  // Words; signs of Chinese, Japanese and Korean one by one; spaces and marks by themselves.
  const TOKEN = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]|[\p{L}\p{N}\p{M}'’-]+|\s+|./gsu;
  const MOST_CELLS = 4e6; // of the table of lengths; beyond, all between common beginning and end differs

  // [[text, differs], ...] of each of the two texts.
  function differing(one, other) {
    const a = one.match(TOKEN) ?? [], b = other.match(TOKEN) ?? [];
    let first = 0, end = 0;
    while (first < a.length && first < b.length && a[first] === b[first]) first++;
    while (end < a.length - first && end < b.length - first && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
    const [inA, inB] = common(a.slice(first, a.length - end), b.slice(first, b.length - end));
    const marks = (tokens, same) => {
      const differs = (k) => k >= first && k < tokens.length - end && !same.has(k - first) && /\S/.test(tokens[k]);
      // a space between two words that differ goes with them
      return joined(tokens.map((token, k) => [token, differs(k) || (/^\s+$/.test(token) && differs(k - 1) && differs(k + 1))]));
    };
    return [marks(a, inA), marks(b, inB)];
  }

  // The places of a longest common subsequence in both.
  function common(a, b) {
    const inA = new Set(), inB = new Set();
    if (a.length * b.length > MOST_CELLS) return [inA, inB];
    const width = b.length + 1, lengths = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        lengths[i * width + j] = a[i] === b[j]
          ? lengths[(i + 1) * width + j + 1] + 1
          : Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (a[i] === b[j]) inA.add(i++), inB.add(j++);
      else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i++;
      else j++;
    }
    return [inA, inB];
  }

  function joined(marked) {
    const parts = [];
    for (const [text, differs] of marked) {
      const last = parts.at(-1);
      if (last && last[1] === differs) last[0] += text;
      else parts.push([text, differs]);
    }
    return parts;
  }

  return differing;
})();

// The parts of a text as nodes; differing ones are underlined.
rlaifv.underlined = (parts) => parts.map(([text, differs]) => (differs ? rlaifv.h("u", { class: "differs" }, text) : text));
