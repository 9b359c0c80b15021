(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const drawn = new Map(); // section id -> Vega view
  const explorers = new Map(); // section id -> what `explorerOf` gives
  const FIGURES = "figure[data-view]:not([data-view=explorer])";
  const CLOSED = "details.aside:not([open])";

  // ---- tables -------------------------------------------------------------------------------------------

  function unpacked(table) {
    const rows = Array.from({ length: table.length }, () => ({}));
    for (const column of table.columns) {
      for (let i = 0; i < table.length; i += 1) {
        rows[i][column.name] = column.levels ? column.levels[column.codes[i]] : column.cells[i];
      }
    }
    return rows;
  }

  function rowsOf(section) {
    const rows = unpacked(page.tables[section.table]).map((row, i) => ({ ...row, row: i, is_thin: false }));
    const thin = section.thin ? unpacked(page.tables[section.thin]) : [];
    return rows.concat(thin.map((row, i) => ({ ...row, row: i, is_thin: true })));
  }

  function isWithin(section, row) {
    return Object.entries(section.where).every(([name, value]) => row[name] === value);
  }

  function fits(section, row, places) {
    return (
      isWithin(section, row) &&
      section.choose.every((choice, i) => row[choice.column] === choice.values[places[i]])
    );
  }

  // ---- figures ------------------------------------------------------------------------------------------

  function placesOf(figure) {
    return [...figure.querySelectorAll("select")].map((select) => Number(select.value));
  }

  function specificationOf(figure, section) {
    const places = placesOf(figure);
    const params = (section.spec.params || []).map((param) => {
      const match = /^choose_(\d+)$/.exec(param.name);
      return match ? { ...param, value: section.choose[match[1]].values[places[match[1]]] } : param;
    });
    const columns = section.spec.facet ? { columns: columnsOf(section.spec) } : {};
    return { ...section.spec, ...columns, params, datasets: { rows: rowsOf(section) } };
  }

  async function draw(figure) {
    const section = page.sections[figure.dataset.section];
    const chart = figure.querySelector(".chart");
    const options = {
      mode: "vega-lite",
      renderer: "svg",
      actions: false,
      config: page.config[root.dataset.appearance],
    };
    try {
      const holder = document.createElement("div");
      const result = await vegaEmbed(holder, specificationOf(figure, section), options);
      drawn.get(figure.dataset.section)?.finalize();
      drawn.set(figure.dataset.section, result.view);
      chart.replaceChildren(holder);
      sayIfEmpty(figure);
      await fit(chart, section.spec, result.view);
    } catch (error) {
      const line = document.createElement("p");
      line.className = "failed";
      line.textContent = "This figure could not be drawn: " + error.message;
      chart.replaceChildren(line);
      console.error(error);
    }
  }

  // A plot with a width of its own gets narrower with the page, and small charts stand in fewer columns; what is then still
  // too wide is drawn smaller, and where its words could not be read any more it scrolls.
  async function fit(chart, spec, view) {
    const drawing = chart.querySelector("svg");
    const tooWide = () => drawing.width.baseVal.value - chart.clientWidth;
    const signal = spec.facet ? "child_width" : "width";
    const own = (spec.spec ?? spec).width;
    if (typeof own === "number" && tooWide() > 0) {
      const columns = spec.facet ? columnsOf(spec) : 1;
      await view.signal(signal, Math.max(90, own - Math.ceil(tooWide() / columns))).resize().runAsync();
    }
    chart.classList.toggle("fits", chart.clientWidth > 0.7 * drawing.width.baseVal.value);
  }

  function columnsOf(spec) {
    return Math.min(spec.columns, innerWidth < 760 ? 2 : 3);
  }

  // Where no row has all chosen values, the other selectors follow the one that was changed.
  function settle(figure, changed) {
    const section = page.sections[figure.dataset.section];
    const selects = [...figure.querySelectorAll("select")];
    const rows = unpacked(page.tables[section.table]);
    if (rows.some((row) => fits(section, row, placesOf(figure)))) return;
    const choice = section.choose[selects.indexOf(changed)];
    const wanted = choice.values[Number(changed.value)];
    const places = placesOf(figure);
    const near = (row) => section.choose.filter((one, i) => row[one.column] === one.values[places[i]]).length;
    const row = rows
      .filter((one) => isWithin(section, one) && one[choice.column] === wanted)
      .reduce((best, one) => (near(one) > near(best) ? one : best));
    section.choose.forEach((one, i) => { selects[i].value = String(one.values.indexOf(row[one.column])); });
  }

  // Lines leave out what is below the noise floor: where nothing is left, that is said.
  function sayIfEmpty(figure) {
    const section = page.sections[figure.dataset.section];
    const places = placesOf(figure);
    const isReadable = (row) => !section.mask || row[section.mask] || figure.dataset.view !== "lines";
    const isEmpty = !unpacked(page.tables[section.table]).some((row) => fits(section, row, places) && isReadable(row));
    figure.querySelector(".chart").hidden = isEmpty;
    figure.querySelector("p.absent").hidden = !isEmpty;
  }

  async function choose(figure) {
    const section = page.sections[figure.dataset.section];
    const places = placesOf(figure);
    if (figure.classList.contains("table")) {
      for (const row of figure.querySelectorAll("tbody tr")) {
        row.hidden = row.dataset.places !== places.join(" ");
      }
      return;
    }
    if (explorers.has(figure.dataset.section)) {
      explorers.get(figure.dataset.section).draw();
      return;
    }
    const view = drawn.get(figure.dataset.section);
    section.choose.forEach((choice, i) => view.signal("choose_" + i, choice.values[places[i]]));
    await view.runAsync();
    sayIfEmpty(figure);
  }

  // ---- files --------------------------------------------------------------------------------------------

  function save(name, blob) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function text(value) {
    return value === null || value === undefined ? "" : String(value);
  }

  function csvCell(value) {
    const plain = text(value);
    return /[",\n\r]/.test(plain) ? '"' + plain.replaceAll('"', '""') + '"' : plain;
  }

  function asCsv(table) {
    const names = page.tables[table].columns.map((column) => column.name);
    const lines = unpacked(page.tables[table]).map((row) => names.map((name) => csvCell(row[name])).join(","));
    return [names.map(csvCell).join(","), ...lines].join("\n") + "\n";
  }

  function asMarkdown(table) {
    const names = page.tables[table].columns.map((column) => column.name);
    const cell = (value) => text(value).replaceAll("|", "\\|").replaceAll("\n", " ");
    const line = (cells) => "| " + cells.map(cell).join(" | ") + " |";
    const rows = unpacked(page.tables[table]).map((row) => line(names.map((name) => row[name])));
    return [line(names), line(names.map(() => "---")), ...rows].join("\n") + "\n";
  }

  async function saveFigure(figure, kind) {
    // Files are for papers and slides: always the light appearance, on paper white.
    const section = page.sections[figure.dataset.section];
    const config = { ...page.config.light, background: page.paper };
    const options = { mode: "vega-lite", renderer: "svg", actions: false, config };
    const unseen = document.createElement("div");
    const { view } = await vegaEmbed(unseen, specificationOf(figure, section), options);
    const name = figure.dataset.section + "." + kind;
    if (kind === "svg") save(name, new Blob([await view.toSVG()], { type: "image/svg+xml" }));
    else save(name, await pngOf(await view.toCanvas(2)));
    view.finalize();
  }

  function pngOf(canvas) {
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  function saveOfExplorer(name, kind) {
    const explorer = explorers.get(name);
    if (kind === "map") return save(`${name}.svg`, new Blob([explorer.mapFile()], { type: "image/svg+xml" }));
    const lines = explorer.matrixFile();
    if (lines === null) return undefined; // what was opened has no matrix in this page, as it says
    const csv = lines.map((cells) => cells.map(csvCell).join(",")).join("\n") + "\n";
    return save(`${name}-matrix.csv`, new Blob([csv], { type: "text/csv" }));
  }

  function onSave(figure, kind) {
    if (kind === "map" || kind === "matrix") return saveOfExplorer(figure.dataset.section, kind);
    const table = page.sections[figure.dataset.section].table;
    if (kind === "csv") save(table + ".csv", new Blob([asCsv(table)], { type: "text/csv" }));
    else if (kind === "md") save(table + ".md", new Blob([asMarkdown(table)], { type: "text/markdown" }));
    else saveFigure(figure, kind).catch((error) => console.error(error));
    return undefined;
  }

  // ---- appearance ---------------------------------------------------------------------------------------

  const switchButton = document.getElementById("appearance");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");

  async function appear(appearance) {
    root.dataset.appearance = appearance;
    switchButton.textContent = appearance === "dark" ? "Light page" : "Dark page";
    for (const explorer of explorers.values()) explorer.draw();
    for (const figure of document.querySelectorAll(FIGURES)) if (!figure.closest(CLOSED)) await draw(figure);
    root.dataset.drawn = String(drawn.size + explorers.size);
  }

  // What stands closed is drawn each time it is opened: the appearance may have changed.
  for (const aside of document.querySelectorAll("details.aside")) {
    aside.addEventListener("toggle", async () => {
      for (const figure of aside.open ? aside.querySelectorAll(FIGURES) : []) await draw(figure);
      root.dataset.drawn = String(drawn.size + explorers.size);
    });
  }

  switchButton.addEventListener("click", () => appear(root.dataset.appearance === "dark" ? "light" : "dark"));
  prefersDark.addEventListener("change", (event) => appear(event.matches ? "dark" : "light"));

  for (const figure of document.querySelectorAll("figure")) {
    const name = figure.dataset.section;
    if (figure.dataset.view === "explorer") {
      explorers.set(name, explorerOf(figure, page.sections[name], page, unpacked));
    }
    figure.addEventListener("change", (event) => {
      settle(figure, event.target);
      choose(figure);
    });
    figure.addEventListener("click", (event) => {
      const kind = event.target.dataset?.save;
      if (kind) onSave(figure, kind);
    });
    if (figure.classList.contains("table") && figure.querySelector("select")) choose(figure);
  }

  // ---- contents -----------------------------------------------------------------------------------------

  const contents = document.getElementById("contents");
  const isNarrow = matchMedia("(max-width: 980px)");
  const fold = () => { contents.open = !isNarrow.matches; };
  isNarrow.addEventListener("change", fold);
  fold();

  // A link into what stands closed opens it.
  const reveal = () => {
    const aside = document.getElementById(location.hash.slice(1))?.querySelector(CLOSED);
    if (aside) aside.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver(
    (entries) => {
      const entry = entries.find((one) => one.isIntersecting);
      if (!entry) return;
      for (const [id, link] of links) {
        if (id === entry.target.id) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-10% 0px -75% 0px" },
  );
  for (const section of document.querySelectorAll("#body > section")) watcher.observe(section);

  const asked = new URLSearchParams(location.hash.slice(1)).get("appearance");
  appear(asked ?? (prefersDark.matches ? "dark" : "light"));
})();
