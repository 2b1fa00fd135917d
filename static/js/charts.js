// The charts of a run: which there are and in which order, what is chosen for all of them, live.
// What a reader chooses is kept in the browser for each project: it is about looking, changes with
// every move of a slider, and is nobody else's business.
"use strict";
(() => {
  const panel = document.getElementById("charts");
  if (!panel) return;

  const MOST_ROWS = 6000; // beyond, all is asked for anew, thinned
  const NEW_FILE_MS = 5000; // a file that we do not know of may be one of this run
  const MARGIN = "400px"; // charts are drawn that far outside of what is seen
  const { joined, grouped, axes, placed, aligned } = lab.curves;
  const { job, name: runName, project, main } = panel.dataset;
  const byId = (id) => document.getElementById(id);
  const [plots, axis, smooth, logarithmic, points, notes, find, shownAgain, reset] = ["plots", "axis", "smooth", "logaxis", "points", "curve-notes", "chart-find", "chart-hidden", "zoom-reset"].map(byId);

  let sources = []; // {id, name, rows, note, axes: {name: {kind, values: Map}}, series: {name: {at, values}}}
  let charts = new Map(); // name → lab.Chart
  let files = null; // what live messages call the run's files

  // --- what is kept ------------------------------------------------------------------------------

  const KEY = `lab.charts.${project}`;
  const kept = (() => {
    try { return JSON.parse(localStorage.getItem(KEY)) || {}; } catch { return {}; }
  })();
  const hidden = new Set(Array.isArray(kept.hidden) ? kept.hidden : []);
  const keep = () => {
    const all = { axis: axis.value, smooth: smooth.value, log: logarithmic.checked, hidden: [...hidden] };
    try { localStorage.setItem(KEY, JSON.stringify(all)); } catch { /* a browser that keeps nothing */ }
  };
  if (kept.smooth) smooth.value = kept.smooth;
  logarithmic.checked = Boolean(kept.log);

  // What is zoomed into is asked for once more, since all of it together is thinned.
  const CLOSER_MS = 250;
  let close = new Map(); // id of a source → {got, first, last}: all of its rows there, or thinned less
  let looking = 0;
  const lookCloser = () => {
    clearTimeout(looking);
    looking = setTimeout(async () => {
      const zoom = view.zoom;
      const found = new Map();
      for (const source of zoom ? sources : []) {
        const rows = within(source, zoom);
        if (!rows || rows.all <= rows.known) continue; // it has every row already
        const query = new URLSearchParams({ source: source.id, first: rows.first, last: rows.last });
        const response = await lab.ask(`${panel.dataset.curve}?${query}`).catch(() => null);
        const [got] = response?.ok && !response.redirected ? (await response.json()).sources : [];
        if (got) found.set(source.id, { got: joined(undefined, got), first: rows.first, last: rows.last });
      }
      if (view.zoom !== zoom) return; // it is another one by now
      if (!found.size && !close.size) return;
      close = found;
      for (const chart of charts.values()) fill(chart);
    }, CLOSER_MS);
  };

  // Which rows of a source lie within the zoom, and a little beyond; how many of them are known.
  const within = (source, { min, max }) => {
    const place = placed(sources, axis.value)(source);
    const known = [...new Set(Object.values(source.series).flatMap(({ at }) => at))].sort((a, b) => a - b);
    const inside = known.map((row) => [row, place(row)]).filter(([, x]) => x !== null && x >= min && x <= max).map(([row]) => row);
    if (!inside.length) return null;
    const before = known[known.indexOf(inside[0]) - 1] ?? inside[0];
    const after = known[known.indexOf(inside.at(-1)) + 1] ?? inside.at(-1);
    return { first: before, last: after, all: after - before + 1, known: inside.length + 2 };
  };

  const view = new lab.View({ onZoom: (zoom) => { reset.hidden = !zoom; lookCloser(); } });

  // --- which charts ------------------------------------------------------------------------------

  const metrics = () => sources.flatMap((source) => Object.keys(source.series).map((name) => ({ name, source: source.id })));

  const groups = () => {
    const found = grouped(metrics());
    const isMain = ([, chosen]) => chosen.some(({ name }) => name === main);
    return [...found.filter(isMain), ...found.filter((group) => !isMain(group))];
  };

  const isWanted = (name, chosen) => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const texts = [name, ...chosen.map((one) => one.name)].join(" ").toLowerCase();
    return !hidden.has(name) && words.every((word) => texts.includes(word));
  };

  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      target.chart.isSeen = isIntersecting;
      if (isIntersecting) target.chart.draw();
    }
  }, { rootMargin: MARGIN });

  const axisNow = () => axes(sources).find(({ value }) => value === axis.value) || axes(sources)[0];

  const made = (name, chosen) => {
    const lines = chosen.map(({ name: label, source }, at) => ({ label, title: sources.find(({ id }) => id === source).name, tone: (at % 8) + 1 }));
    const chart = new lab.Chart(view, { title: name, lines, axis: axisNow(), file: runName });
    chart.metrics = chosen;
    chart.figure.chart = chart;
    chart.addAct(gettext("Hide"), () => { hidden.add(name); keep(); arrange(); });
    return chart;
  };

  // A source with what is known closely in the place of what is known roughly.
  const blends = new WeakMap();
  const blended = (source, near) => {
    const made = blends.get(source);
    if (made?.near === near) return made.source;
    const outside = (row) => row < near.first || row > near.last;
    const series = Object.create(null), axes = Object.create(null);
    for (const [name, rough] of Object.entries(source.series)) {
      const fine = near.got.series[name] || { at: [], values: [] };
      const kept = rough.at.map((row, at) => [row, rough.values[at]]).filter(([row]) => outside(row));
      series[name] = { at: [...kept.map(([row]) => row), ...fine.at], values: [...kept.map(([, value]) => value), ...fine.values] };
    }
    for (const [name, { kind, values }] of Object.entries(source.axes)) {
      axes[name] = { kind, values: new Map([...values, ...(near.got.axes[name]?.values || [])]) };
    }
    const whole = { ...source, series, axes };
    blends.set(source, { near, source: whole });
    return whole;
  };

  const nowOf = (id) => {
    const source = sources.find((one) => one.id === id);
    return close.has(id) ? blended(source, close.get(id)) : source;
  };

  const fill = (chart) => {
    const place = placed(sources, axis.value);
    const chosen = chart.metrics.map(({ name, source }) => ({ name, source: nowOf(source) }));
    chart.setData(aligned(chosen, place));
    if (chart.isSeen) chart.draw();
    else if (!chart.plot) chart.tell(null);
  };

  // --- all of them -------------------------------------------------------------------------------

  const chooseAxis = () => {
    const before = axis.options.length ? axis.value : kept.axis;
    const all = axes(sources);
    axis.replaceChildren(...all.map(({ value, label }) => new Option(label, value)));
    axis.value = all.some(({ value }) => value === before) ? before : all[0].value;
  };

  const arrange = () => {
    let wanted = 0;
    for (const [name, chart] of charts) {
      const is = isWanted(name, chart.metrics);
      chart.figure.hidden = !is;
      wanted += is;
    }
    const gone = [...charts.keys()].filter((name) => hidden.has(name)).length;
    shownAgain.hidden = !gone;
    shownAgain.textContent = interpolate(ngettext("%s hidden chart: show it", "%s hidden charts: show them", gone), [gone]);
    find.parentElement.hidden = charts.size < 5 && !find.value;
    byId("no-chart").hidden = wanted > 0 || !charts.size;
  };

  const rebuild = () => {
    for (const chart of charts.values()) { seen.unobserve(chart.figure); chart.destroy(); }
    charts = new Map(groups().map(([name, chosen]) => [name, made(name, chosen)]));
    for (const chart of charts.values()) fill(chart);
    plots.replaceChildren(...[...charts.values()].map((chart) => chart.figure));
    arrange();
    for (const chart of charts.values()) seen.observe(chart.figure);
  };

  const restyle = () => {
    Object.assign(view, { smooth: Number(smooth.value) / 100, log: logarithmic.checked });
    for (const chart of charts.values()) {
      chart.isStale = true;
      if (chart.isSeen) chart.restyle();
      else if (chart.plot) { chart.plot.destroy(); chart.plot = null; }
    }
  };

  const shape = () => JSON.stringify([metrics(), sources.map((source) => Object.keys(source.axes))]);

  const take = (answer) => {
    const before = shape();
    const known = new Map(sources.map((source) => [source.id, source]));
    sources = answer.sources.map((got) => joined(known.get(got.id), got));
    files = new Set(answer.files);
    if (shape() !== before) { chooseAxis(); rebuild(); } else for (const chart of charts.values()) fill(chart);
    const all = sources.reduce((sum, source) => sum + source.rows, 0);
    points.textContent = all ? interpolate(ngettext("%s row", "%s rows", all), [all.toLocaleString()]) : "";
    const told = sources.filter((source) => source.note).map((source) => `${source.name}: ${source.note}`);
    const others = answer.left_out;
    if (others) told.push(interpolate(ngettext("%s more file of metrics is not read.", "%s more files of metrics are not read.", others), [others]));
    notes.replaceChildren(...told.map((words) => Object.assign(document.createElement("li"), { textContent: words })));
    notes.hidden = !told.length;
  };

  const held = (source) => Object.values(source.series).reduce((most, { at }) => Math.max(most, at.length), 0);

  const read = async () => {
    const have = sources.filter((source) => held(source) < MOST_ROWS).map(({ id, rows }) => `${id}.${rows}`);
    const response = await lab.ask(`${panel.dataset.curve}?have=${have.join(",")}`);
    if (!response.ok || response.redirected) return false;
    const answer = await response.json();
    take(answer);
    return answer.more;
  };

  const readSoon = lab.follow({ job: Number(job), file: () => files, read });
  let looksSoon = 0;
  document.addEventListener("lab:message", ({ detail }) => {
    if (detail.kind !== "file" || looksSoon || !files || files.has(detail.id)) return;
    looksSoon = setTimeout(() => { looksSoon = 0; readSoon(); }, NEW_FILE_MS);
  });

  axis.addEventListener("input", () => { view.zoomTo(null); keep(); rebuild(); });
  for (const control of [smooth, logarithmic]) control.addEventListener("input", () => { keep(); restyle(); });
  find.addEventListener("input", arrange);
  shownAgain.addEventListener("click", () => { hidden.clear(); keep(); arrange(); });
  reset.addEventListener("click", () => view.zoomTo(null));
  document.addEventListener("lab:theme", restyle);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
  new ResizeObserver(() => { for (const chart of charts.values()) chart.fit(); }).observe(plots);
  Object.assign(view, { smooth: Number(smooth.value) / 100, log: logarithmic.checked });
  readSoon();
})();
