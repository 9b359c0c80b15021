"use strict";
// The explorer: maps whose cells open onto a matrix and its noteworthy entries. All text of a run goes in as text,
// never as markup. `explorerOf(figure, section, page, rows)` gives { draw, mapFile, matrixFile }.
const explorerOf = (() => {
  const {
    NOT_MEASURED, BELOW_NOISE, MOST_RANKED, MAP_WIDTH, html, svg, isNumber, said, measured, levels,
    mapOf, cellsOf, matrixOf,
  } = explorerDrawing;

  return (figure, section, page, unpacked) => {
    const about = section.explorer;
    const keyOf = (row, shared) => JSON.stringify(shared.map((name) => row[name]));
    const keyed = (packed, shared) => {
      const found = new Map();
      for (const row of packed ? unpacked(packed) : []) {
        const key = keyOf(row, shared);
        found.set(key, [...(found.get(key) ?? []), row]);
      }
      return found;
    };
    const rows = unpacked(page.tables[section.table]).map((row, i) => ({ ...row, row: i }));
    const axes = about.matrices.length ? Object.keys(about.matrices[0].at) : [];
    const matrices = new Map(about.matrices.map((one) => [keyOf(one.at, axes), one]));
    const signed = new Set(about.signed.map((choice) => JSON.stringify(choice)));
    const pairs = keyed(about.pairs?.table, about.pairs?.shared ?? []);
    const names = keyed(about.names?.table, [...(about.names?.shared ?? []), "side", "place"]);
    const stands = (row) => isNumber(row[about.value.name]) && (!section.mask || row[section.mask]);
    const size = (row) => (stands(row) ? Math.abs(row[about.value.name]) : -1);
    const isMarked = (row) => stands(row) && Boolean(about.mark && row[about.mark]);
    const state = { opened: null, picked: false, sort: { name: about.value.name, falls: true } };
    const part = (name) => figure.querySelector(`.${name}`);
    const palette = () => page.palette[document.documentElement.dataset.appearance];

    function shown() {
      const places = [...figure.querySelectorAll(".choose select")].map((select) => Number(select.value));
      return rows.filter((row) =>
        Object.entries(section.where).every(([name, value]) => row[name] === value) &&
        section.choose.every((choice, i) => row[choice.column] === choice.values[places[i]]));
    }

    // A cell that was opened by hand stays open where the new choice has it; else the largest is opened.
    function settle(visible) {
      const old = state.opened;
      const where = [about.y.name, about.x.name, ...(about.facet ? [about.facet] : [])];
      const same = old && state.picked && visible.find((row) => where.every((name) => row[name] === old[name]));
      state.opened = same || [...visible].sort((a, b) => isMarked(b) - isMarked(a) || size(b) - size(a))[0];
    }

    function draw() {
      const visible = shown();
      settle(visible);
      drawMaps(visible);
      drawOpened();
      drawRanked(visible);
    }

    function open(row, focus) {
      state.opened = row;
      state.picked = true;
      const visible = shown();
      drawMaps(visible);
      drawOpened();
      drawRanked(visible);
      if (focus) part("maps").querySelector('[aria-pressed="true"]').focus();
    }

    function facets(visible) {
      return about.facet ? levels(visible, about.facet).map((level) =>
        [String(level), visible.filter((row) => row[about.facet] === level)]) : [["", visible]];
    }

    // Whether this choice may lie below zero, which is said of it once: its maps and matrices have the same colours.
    function isSigned(row) {
      return signed.has(keyOf(row, section.choose.map((choice) => choice.column)));
    }

    function drawMaps(visible) {
      const panels = facets(visible);
      const room = Math.max(160, MAP_WIDTH / Math.min(2, panels.length));
      part("maps").replaceChildren(...panels.map(([title, own]) => html("div", { class: "map" },
        ...(title ? [html("p", { class: "maptitle" }, title)] : []),
        mapOf(about, own, room, palette(), stands, { opened: state.opened, signed: isSigned(visible[0]) }))));
      part("maps").removeAttribute("data-empty");
    }

    // What is not measured anywhere in this choice is of another one.
    function facts() {
      const visible = shown();
      return about.facts.filter((fact) => fact.kind !== "float64" || visible.some((row) => isNumber(row[fact.name])));
    }

    function placed(row) {
      const facet = about.facet ? `${row[about.facet]}: ` : "";
      return `${facet}${about.y.title} ${row[about.y.name]}, ${about.x.title} ${row[about.x.name]}`;
    }

    function drawOpened() {
      const row = state.opened;
      if (!row) return part("opened").replaceChildren();
      const words = stands(row) ? measured(row, about.value) : isNumber(row[about.value.name]) ? BELOW_NOISE : NOT_MEASURED;
      const told = facts().map((fact) =>
        html("li", {}, `${fact.title} `, html("b", {}, fact.low || fact.mask ? measured(row, fact) : said(row[fact.name], fact.kind))));
      part("opened").replaceChildren(
        html("h3", {}, placed(row)),
        html("ul", { class: "facts" }, html("li", {}, `${about.value.title} `, html("b", {}, words)), ...told),
        ...behind(matrices.get(keyOf(row, axes))),
        ...inWords(pairs.get(keyOf(row, about.pairs?.shared ?? [])) ?? []));
      return undefined;
    }

    // ---- what lies behind the opened cell ----

    function nameOf(matrix, side, place) {
      return (names.get(keyOf({ ...matrix.at, side, place }, [...(about.names?.shared ?? []), "side", "place"])) ?? [])[0];
    }

    function behind(matrix) {
      if (!matrix) return [];
      const link = html("a", { href: `./${matrix.file.split("/").map(encodeURIComponent).join("/")}` }, "the whole array");
      if (!matrix.cells) {
        return [html("p", { class: "note" }, "This page does not hold this cell's matrix; ", link, " lies in the run folder.")];
      }
      const cells = cellsOf(matrix);
      const told = (side, kept, of) => {
        const what = nameOf(matrix, side, (side === "row" ? matrix.rows : matrix.columns)[0])?.of ?? side;
        return `${side}s: ${what}, ${kept === of ? kept : `${kept} of ${of}`}, by mean`;
      };
      const sides = { row: told("row", matrix.rows.length, matrix.of[0]), column: told("column", matrix.columns.length, matrix.of[1]) };
      const drawing = matrixOf(matrix, cells, sides, palette(), isSigned(state.opened));
      const readout = html("div", { class: "readout", "aria-live": "polite" });
      follow(drawing, matrix, cells, readout);
      return [html("div", { class: "matrix" }, html("div", {}, drawing, html("p", { class: "note" }, "Bars: means; faint is negative. In the run folder: ", link, ".")), readout)];
    }

    function follow(drawing, matrix, cells, readout) {
      const cursor = drawing.querySelector(".cursor");
      const at = [0, 0];
      const magnitude = (i, j) => (isNumber(cells[i][j]) ? Math.abs(cells[i][j]) : -1);
      cells.forEach((row, i) => row.forEach((_, j) => {
        if (magnitude(i, j) > magnitude(...at)) at.splice(0, 2, i, j);
      }));
      const told = (side, place) => {
        const name = nameOf(matrix, side, place);
        return [html("p", { class: "who" }, `${name?.of ?? side} ${name?.id ?? place}`), html("blockquote", {}, name?.text ?? "")];
      };
      function move(i, j) {
        at.splice(0, 2, Math.min(cells.length - 1, Math.max(0, i)), Math.min(cells[0].length - 1, Math.max(0, j)));
        const side = Number(cursor.dataset.size);
        cursor.setAttribute("x", Number(cursor.dataset.left) + at[1] * side);
        cursor.setAttribute("y", Number(cursor.dataset.top) + at[0] * side);
        readout.replaceChildren(html("p", { class: "score" }, `score ${said(cells[at[0]][at[1]], "float64")}`),
          ...told("row", matrix.rows[at[0]]), ...told("column", matrix.columns[at[1]]));
      }
      drawing.addEventListener("pointermove", (event) => {
        const place = event.target.dataset?.place;
        if (place) move(...place.split(" ").map(Number));
      });
      drawing.addEventListener("keydown", (event) => {
        const step = STEPS[event.key];
        if (!step) return;
        event.preventDefault();
        move(at[0] + step[0], at[1] + step[1]);
      });
      move(...at);
    }

    function inWords(found) {
      if (!found.length) return [];
      const columns = about.pairs.columns;
      const heads = columns.map((fact) => html("th", { scope: "col" }, fact.title));
      const lines = found.map((row) => html("tr", {}, ...columns.map((fact) =>
        html("td", { class: fact.kind === "string" ? (String(row[fact.name]).length > 28 ? "words" : "word") : "num" },
          said(row[fact.name], fact.kind)))));
      return [html("div", { class: "scroll pairs", tabindex: 0, role: "region", "aria-label": "Pairs of this cell" },
        html("table", {}, html("thead", {}, html("tr", {}, ...heads)), html("tbody", {}, ...lines)))];
    }

    // ---- all cells, in an order that can be chosen ----

    function drawRanked(visible) {
      const columns = [{ ...about.y }, { ...about.x }, { ...about.value, isValue: true },
        ...facts().filter((fact) => fact.role === "value" || fact.kind === "bool")];
      const { name, falls } = state.sort;
      const worth = (row) => (name === about.value.name ? (stands(row) ? row[name] : -Infinity)
        : row[name] === null ? -Infinity : typeof row[name] === "boolean" ? Number(row[name]) : row[name]);
      const less = (a, b) => (worth(a) < worth(b) ? -1 : worth(a) > worth(b) ? 1 : 0);
      const own = about.facet ? visible.filter((row) => row[about.facet] === state.opened?.[about.facet]) : [...visible];
      const sorted = own.sort((a, b) => (falls ? less(b, a) : less(a, b)));
      const heads = columns.map((column) => {
        const sort = column.name === name ? (falls ? "descending" : "ascending") : "none";
        const sign = sort === "none" ? "" : falls ? " ↓" : " ↑";
        return html("th", { scope: "col", "aria-sort": sort },
          html("button", { type: "button", "data-sort": column.name }, `${column.title}${sign}`));
      });
      const lines = sorted.slice(0, MOST_RANKED).map((row) => html("tr", { class: row === state.opened ? "chosen" : "" },
        ...columns.map((column, i) => html("td", { class: "num" }, i === 0
          ? html("button", { type: "button", "data-row": row.row, "aria-label": `Open ${placed(row)}` }, text(row, column))
          : text(row, column)))));
      const more = sorted.length - lines.length;
      part("ranked").replaceChildren(
        html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "All cells of this choice" },
          html("table", {}, html("thead", {}, html("tr", {}, ...heads)), html("tbody", {}, ...lines))),
        ...(more > 0 ? [html("p", { class: "more" }, `and ${more} more, in the files`)] : []));
    }

    function text(row, column) {
      if (!column.isValue) return column.low || column.mask ? measured(row, column) : said(row[column.name], column.kind);
      return stands(row) ? measured(row, column) : isNumber(row[column.name]) ? BELOW_NOISE : NOT_MEASURED;
    }

    // ---- what the reader does ----

    const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

    part("maps").addEventListener("click", (event) => {
      const cell = event.target.closest("[data-row]");
      if (cell) open(rows[Number(cell.dataset.row)], true);
    });
    part("maps").addEventListener("keydown", (event) => {
      const cell = event.target.closest("[data-row]");
      if (!cell) return;
      const row = rows[Number(cell.dataset.row)];
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        open(row, true);
      }
      const step = STEPS[event.key];
      if (!step) return;
      event.preventDefault();
      const own = [...cell.parentNode.querySelectorAll(".cell")].map((one) => [one, rows[Number(one.dataset.row)]]);
      const [along, name] = step[0] ? [step[0], about.y.name] : [step[1], about.x.name];
      const other = step[0] ? about.x.name : about.y.name;
      const line = own.filter(([, one]) => one[other] === row[other]).sort((a, b) => (a[1][name] < b[1][name] ? -1 : 1));
      line[line.findIndex(([, one]) => one === row) + along]?.[0].focus();
    });
    part("ranked").addEventListener("click", (event) => {
      const { sort, row } = event.target.dataset ?? {};
      if (sort) {
        state.sort = { name: sort, falls: state.sort.name === sort ? !state.sort.falls : true };
        drawRanked(shown());
        part("ranked").querySelector(`[data-sort="${CSS.escape(sort)}"]`).focus();
      }
      if (row) open(rows[Number(row)], false);
    });

    // ---- files ----

    function mapFile() {
      const light = page.palette.light;
      const own = about.facet ? shown().filter((row) => row[about.facet] === state.opened[about.facet]) : shown();
      const drawing = mapOf(about, own, MAP_WIDTH, light, stands, { opened: null, signed: isSigned(state.opened) });
      drawing.prepend(svg("rect", { width: "100%", height: "100%", fill: light.background }));
      return new XMLSerializer().serializeToString(drawing);
    }

    function matrixFile() {
      const matrix = matrices.get(keyOf(state.opened, axes));
      if (!matrix?.cells) return null;
      const named = (side, place) => nameOf(matrix, side, place)?.id ?? String(place);
      const head = ["", ...matrix.columns.map((place) => named("column", place))];
      return [head, ...cellsOf(matrix).map((row, i) => [named("row", matrix.rows[i]), ...row])];
    }

    return { draw, mapFile, matrixFile };
  };
})();
