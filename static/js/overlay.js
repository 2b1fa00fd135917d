// The curves of a sweep's runs, or of a project's newest, one over the other; live. A row of the
// table that is pointed at, or in which the focus is, stands out.
"use strict";
(() => {
  const panel = document.getElementById("overlay");
  if (!panel) return;

  const HEIGHT = 300;
  const PAUSE_MS = 4000;
  const LEGEND = 12;
  const plot = document.getElementById("overlay-plot");
  const legend = document.getElementById("overlay-legend");
  const empty = document.getElementById("no-curves");
  const drawn = () => document.getElementById("drawn");
  const table = document.getElementById("sweep-runs");

  let chart = null;
  let runs = []; // as the server sends them
  let best = null;
  let files = new Set(); // of all runs that may have a curve
  const unknown = new Set(); // files that are yet to be asked about
  const strangers = new Set(); // and those that turned out to be of none of them
  let axis = "";
  let lit = null; // the job that stands out

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const toneOf = (at) => colour(`--series-${(at % 8) + 1}`);
  const faint = (tone) => tone.replace(/^rgb\((.*)\)$/, "rgba($1, 0.25)");
  const shown = (value) => (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5) || value === 0 ? String(Number(value.toPrecision(4))) : value.toExponential(2);

  const points = (run) => {
    const kept = run.x.map((x, at) => [x, run.y[at]]).filter(([x], at, all) => x !== null && (!at || all[at - 1][0] !== x));
    return [kept.map(([x]) => x), kept.map(([, y]) => y)];
  };

  const data = () => uPlot.join(runs.map(points));

  const series = () => [{}, ...runs.map((run, at) => ({
    label: run.run,
    stroke: () => (lit === null || lit === run.job ? toneOf(at) : faint(toneOf(at))),
    width: run.job === best ? 2.5 : 1.25,
    spanGaps: false,
    points: { show: run.x.length < 2 },
  }))];

  const draw = () => {
    if (chart) chart.destroy();
    chart = null;
    plot.hidden = legend.hidden = !runs.length;
    empty.hidden = Boolean(runs.length);
    if (!runs.length) return;
    const common = { stroke: colour("--chart-axis"), grid: { stroke: colour("--chart-grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    chart = new uPlot({
      width: plot.clientWidth || 400,
      height: HEIGHT,
      scales: { x: { time: false } },
      legend: { show: false },
      cursor: { drag: { x: true, y: false }, focus: { prox: 16 } },
      padding: [8, 14, 0, 0],
      axes: [
        { ...common, grid: { show: false }, size: 26, values: (_, ticks) => ticks.map((tick) => (axis !== "time" && !Number.isInteger(tick) ? "" : shown(tick))) },
        { ...common, size: 54, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : shown(tick))) },
      ],
      series: series(),
    }, data(), plot);
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", runs.map(({ run, words }) => `${run} ${words}`).join("; "));
  };

  const list = () => {
    legend.replaceChildren(...runs.slice(0, LEGEND).map((run, at) => {
      const item = document.createElement("li");
      item.className = `k${(at % 8) + 1}`;
      const swatch = document.createElement("i");
      swatch.className = "swatch";
      const link = document.createElement("a");
      link.href = `/runs/${run.uid}/`;
      link.textContent = run.words || run.run;
      item.dataset.run = run.job;
      item.append(swatch, link);
      return item;
    }));
    if (runs.length <= LEGEND) return;
    const rest = document.createElement("li");
    rest.textContent = interpolate(ngettext("and %s more", "and %s more", runs.length - LEGEND), [runs.length - LEGEND]);
    legend.append(rest);
  };

  const light = (job) => {
    if (job === lit || !chart) return;
    lit = job;
    chart.redraw(false);
  };
  const pointed = (event) => {
    const row = event.target.closest("[data-run]");
    light(row ? Number(row.dataset.run) : null);
  };
  for (const place of [table, legend]) {
    if (!place) continue;
    for (const kind of ["pointerover", "focusin"]) place.addEventListener(kind, pointed);
    for (const kind of ["pointerleave", "focusout"]) place.addEventListener(kind, () => light(null));
  }

  const take = (answer) => {
    const shape = JSON.stringify([answer.runs.map((run) => run.job), answer.best, answer.axis]);
    const same = shape === JSON.stringify([runs.map((run) => run.job), best, axis]);
    ({ runs, best, axis } = answer);
    files = new Set(answer.files);
    if (same && chart) chart.setData(data());
    else { draw(); list(); }
    const words = interpolate(ngettext("%s run", "%s runs", runs.length), [runs.length]);
    const over = axis || gettext("row");
    drawn().textContent = runs.length ? (answer.all > runs.length ? interpolate(gettext("the best %(n)s of %(all)s, by %(axis)s"), { n: runs.length, all: answer.all, axis: over }, true) : interpolate(gettext("%s, by %s"), [words, over])) : "";
  };

  // The last that happens must be seen: nobody tells it twice. A question that failed is asked
  // again, and a file of which nothing is known is asked about once: it may be a run's first.
  let busy = false, again = false;
  const read = async () => {
    if (busy || document.hidden) { again = true; return; }
    busy = true;
    again = false;
    const wondered = [...unknown];
    unknown.clear();
    let failed = false;
    try {
      const response = await lab.ask(panel.dataset.curve);
      failed = response.status >= 500;
      if (response.ok && !response.redirected) {
        const answer = await response.json();
        take(answer);
        for (const id of wondered) if (!files.has(id)) strangers.add(id);
        again ||= answer.more;
      }
    } catch { failed = true; /* the server is away */ }
    const pause = again && !failed ? 200 : PAUSE_MS;
    setTimeout(() => { busy = false; if (again || failed) read(); }, pause);
  };

  const isOurs = ({ kind, id, job, sweep }) => {
    if (kind !== "file") return (panel.dataset.sweep && String(sweep) === panel.dataset.sweep) || runs.some((run) => run.job === job);
    if (files.has(id)) return true;
    if (strangers.has(id)) return false;
    unknown.add(id);
    return true;
  };
  document.addEventListener("lab:message", ({ detail }) => isOurs(detail) && read());
  document.addEventListener("lab:refresh", read);
  document.addEventListener("lab:theme", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(() => chart?.setSize({ width: plot.clientWidth, height: HEIGHT })).observe(panel);
  read();
})();
