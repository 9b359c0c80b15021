"use strict";
// What the explorer draws with: elements, numbers, colours, a map and a matrix. It keeps no state.
const explorerDrawing = (() => {
  const SPACE = "http://www.w3.org/2000/svg";
  const NOT_MEASURED = "not measured";
  const BELOW_NOISE = "below noise floor";
  const MOST_RANKED = 200;
  const MAP_WIDTH = 640; // pixels of all cells of a map; maps of a facet share the width
  const MATRIX_SIDE = 440;

  // ---- elements and numbers -----------------------------------------------------------------------------

  function filled(node, attributes, inside) {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...inside.map((one) => (typeof one === "string" ? document.createTextNode(one) : one)));
    return node;
  }
  const html = (name, attributes = {}, ...inside) => filled(document.createElement(name), attributes, inside);
  const svg = (name, attributes = {}, ...inside) =>
    filled(document.createElementNS(SPACE, name), attributes, inside);

  function isNumber(value) {
    return typeof value === "number" && Number.isFinite(value);
  }

  function number(value, digits = 3) {
    return String(Number(value.toPrecision(digits))).replace("-", "−");
  }

  function said(value, kind) {
    if (kind === "bool") return value === null ? "–" : value ? "yes" : "no";
    if (kind === "float64") return isNumber(value) ? number(value) : NOT_MEASURED;
    return value === null ? "" : String(value);
  }

  function measured(row, fact) {
    if (!isNumber(row[fact.name])) return NOT_MEASURED;
    if (fact.mask && !row[fact.mask]) return BELOW_NOISE;
    const ends = fact.low && isNumber(row[fact.low]) && isNumber(row[fact.high]);
    return number(row[fact.name]) + (ends ? ` [${number(row[fact.low])}, ${number(row[fact.high])}]` : "");
  }

  // ---- colours ------------------------------------------------------------------------------------------

  function mixed(stops, share) {
    const at = Math.min(1, Math.max(0, share)) * (stops.length - 1);
    const low = Math.min(stops.length - 2, Math.floor(at));
    const parts = [stops[low], stops[low + 1]].map((hex) =>
      [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
    return `rgb(${parts[0].map((part, i) => Math.round(part + (at - low) * (parts[1][i] - part))).join(",")})`;
  }

  function scaleOf(values, palette, signed) {
    const there = values.filter(isNumber);
    const reach = Math.max(0, ...there.map(Math.abs)) || 1;
    const stops = signed ? palette.diverging : palette.ramp;
    return {
      stops,
      ends: signed ? [`−${number(reach)}`, "0", `+${number(reach)}`] : ["0", number(reach)],
      color: (value) => mixed(stops, signed ? (value / reach + 1) / 2 : value / reach),
      ink: (value) => (Math.abs(value) > (signed ? 0.75 : 0.63) * reach ? palette.loud_text : palette.ink),
    };
  }

  function legend(scale, title, palette, x, y) {
    const steps = Array.from({ length: 40 }, (_, i) =>
      svg("rect", { x: x + 3 * i, y: y + 14, width: 3.2, height: 8, fill: mixed(scale.stops, i / 39) }));
    const ends = scale.ends.map((text, i) => {
      const share = i / (scale.ends.length - 1);
      const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
      return svg("text", { x: x + 120 * share, y: y + 34, fill: palette.muted, "text-anchor": anchor }, text);
    });
    return [svg("text", { x, y: y + 9, fill: palette.muted }, title), ...steps, ...ends];
  }

  function sheet(width, height, palette, parts, more = {}) {
    const size = { viewBox: `0 0 ${width} ${height}`, width, height, "font-size": 11 };
    return svg("svg", { xmlns: SPACE, "font-family": page_font(), ...size, ...more }, ...parts);
  }
  const page_font = () => getComputedStyle(document.body).fontFamily;

  // ---- a map --------------------------------------------------------------------------------------------

  function levels(rows, name) {
    const seen = [...new Set(rows.map((row) => row[name]))];
    return seen.every(isNumber) ? seen.sort((a, b) => a - b) : seen;
  }

  function mapOf(about, rows, room, palette, stands, { opened, signed }) {
    const across = levels(rows, about.x.name);
    const down = levels(rows, about.y.name);
    const width = Math.min(54, Math.max(9, Math.floor(room / across.length)));
    const height = down.length <= 12 ? 26 : down.length <= 40 ? 18 : 12;
    const left = 8 + 7 * Math.max(...down.map((level) => String(level).length), 2);
    const top = 62;
    const value = about.value.name;
    const scale = scaleOf(rows.filter(stands).map((row) => row[value]), palette, signed);
    const parts = legend(scale, about.value.title, palette, left, 0);
    const every = Math.ceil(22 / width);
    across.forEach((level, i) => i % every || parts.push(svg("text",
      { x: left + (i + 0.5) * width, y: top - 6, fill: palette.ink, "text-anchor": "middle" }, String(level))));
    down.forEach((level, i) => parts.push(svg("text",
      { x: left - 7, y: top + (i + 0.5) * height + 4, fill: palette.ink, "text-anchor": "end" }, String(level))));
    for (const row of rows) {
      const box = { x: left + across.indexOf(row[about.x.name]) * width, width: width - 1.5,
        y: top + down.indexOf(row[about.y.name]) * height, height: height - 1.5 };
      parts.push(cellOf(about, row, box, scale, palette, stands(row), row === opened));
    }
    const bottom = top + down.length * height;
    parts.push(svg("text", { x: left, y: bottom + 16, fill: palette.muted },
      `Across: ${about.x.title}. Down: ${about.y.title}.`));
    return sheet(Math.max(left + across.length * width + 4, 260), bottom + 22, palette, parts);
  }

  function cellOf(about, row, box, scale, palette, stands, isOpened) {
    const value = row[about.value.name];
    const place = `${about.y.title} ${row[about.y.name]}, ${about.x.title} ${row[about.x.name]}`;
    const words = !isNumber(value) ? NOT_MEASURED : stands ? measured(row, about.value) : BELOW_NOISE;
    const look = stands ? { fill: scale.color(value) }
      : isNumber(value) ? { fill: palette.hidden }
      : { fill: "none", stroke: palette.axis, "stroke-dasharray": "1 3" };
    const inside = [svg("title", {}, `${place}: ${words}`), svg("rect", { ...box, ...look })];
    const middle = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
    if (!stands && isNumber(value)) {
      const half = Math.min(box.width, box.height) * 0.28;
      inside.push(svg("path", { d: `M${middle.x - half},${middle.y + half}l${2 * half},${-2 * half}`, stroke: palette.muted }));
    }
    if (stands && box.width >= 36 && box.height >= 16) {
      inside.push(svg("text", { x: middle.x, y: middle.y + 3.5, "text-anchor": "middle", "font-size": 10, fill: scale.ink(value) },
        number(value, 2)));
    }
    if (stands && about.mark && row[about.mark]) {
      inside.push(svg("circle", { cx: box.x + box.width - 4, cy: box.y + 4, r: 2, fill: scale.ink(value) }));
    }
    if (isOpened) inside.push(svg("rect", { ...box, fill: "none", stroke: palette.ink, "stroke-width": 2.5 }));
    return svg("g", { class: "cell", role: "button", tabindex: isOpened ? 0 : -1, "aria-pressed": isOpened,
      "aria-label": `${place}: ${words}`, "data-row": row.row }, ...inside);
  }

  // ---- a matrix -----------------------------------------------------------------------------------------

  function cellsOf(matrix) {
    const bytes = Uint8Array.from(atob(matrix.cells), (letter) => letter.charCodeAt(0));
    const flat = new Float32Array(bytes.buffer);
    const wide = matrix.columns.length;
    return matrix.rows.map((_, i) => Array.from(flat.subarray(i * wide, (i + 1) * wide)));
  }

  function marginals(means, side, at, palette) {
    const reach = Math.max(...means.map(Math.abs)) || 1;
    return means.map((mean, i) => {
      const long = Math.max(0.5, 34 * Math.abs(mean) / reach);
      const box = side === "right"
        ? { x: at[0], y: at[1] + i * at[2], width: long, height: Math.max(1, at[2] - 1) }
        : { x: at[0] + i * at[2], y: at[1], width: Math.max(1, at[2] - 1), height: long };
      const opacity = mean < 0 ? 0.45 : 1;
      return svg("rect", { ...box, fill: palette.muted, opacity }, svg("title", {}, `mean ${number(mean)}`));
    });
  }

  function matrixOf(matrix, cells, sides, palette, signed) {
    const [down, across] = [matrix.rows.length, matrix.columns.length];
    const size = Math.min(30, Math.max(6, Math.floor(MATRIX_SIDE / Math.max(down, across))));
    const [left, top] = [16, 52];
    const [wide, high] = [across * size, down * size];
    const scale = scaleOf(cells.flat(), palette, signed);
    const parts = legend(scale, "score", palette, left, 0);
    cells.forEach((row, i) => row.forEach((value, j) => {
      const box = { x: left + j * size, y: top + i * size, width: size - 0.5, height: size - 0.5 };
      const look = isNumber(value) ? { fill: scale.color(value) } : { fill: "none", stroke: palette.axis };
      parts.push(svg("rect", { ...box, ...look, "data-place": `${i} ${j}` }));
    }));
    parts.push(...marginals(matrix.row_means, "right", [left + wide + 5, top, size], palette));
    parts.push(...marginals(matrix.column_means, "below", [left, top + high + 5, size], palette));
    const turned = { transform: `translate(10 ${top + Math.min(high, 150)}) rotate(-90)`, fill: palette.muted };
    parts.push(svg("text", turned, sides.row));
    parts.push(svg("text", { x: left, y: top + high + 54, fill: palette.muted }, sides.column));
    parts.push(svg("rect", { class: "cursor", width: size, height: size, fill: "none", stroke: palette.ink,
      "stroke-width": 2, "data-left": left, "data-top": top, "data-size": size, "pointer-events": "none" }));
    return sheet(Math.max(left + wide + 44, 180), top + high + 60, palette, parts,
      { tabindex: 0, role: "img", "aria-label": "The matrix; arrow keys move from entry to entry, which is told beside it" });
  }

  return {
    NOT_MEASURED, BELOW_NOISE, MOST_RANKED, MAP_WIDTH, html, svg, isNumber, said, measured, levels,
    mapOf, cellsOf, matrixOf,
  };
})();
