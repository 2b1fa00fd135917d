// Runs beside each other: one chart for each metric, with a line for each run. Curves come some
// runs at a time, thinned the more the more runs there are; those that go on are asked for anew.
"use strict";
(() => {
  const panel = document.getElementById("compared");
  const chosen = document.getElementById("chosen");
  if (!panel || !chosen) return;

  const HEIGHT = 240;
  const AGAIN_MS = 5000;
  const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]]; // eight colours, four kinds of line
  const plots = document.getElementById("plots");
  const axis = document.getElementById("axis");
  const smooth = document.getElementById("smooth");
  const logarithmic = document.getElementById("logaxis");
  const progress = document.getElementById("progress");
  const toggleAll = document.getElementById("toggle-all");
  const metrics = [...panel.querySelectorAll("[data-metric]")].map((tag) => tag.dataset.metric);
  const items = () => [...chosen.querySelectorAll("li[data-uid]")];
  const runs = items().map(({ dataset }, at) => ({ uid: dataset.uid, job: Number(dataset.job), name: dataset.name, colour: dataset.colour, dash: DASHES[Math.floor(at / 8) % DASHES.length] }));
  const hidden = new Set();
  const known = new Map(); // uid → {curves, live}
  let charts = [];
  let reading = false;

  // --- curves as lines ------------------------------------------------------------------------
  const smoothed = (values) => {
    const weight = Number(smooth.value) / 100;
    let mean = 0, norm = 0;
    return !weight ? values : values.map((value) => {
      if (value === null || value === undefined) return value;
      mean = mean * weight + value * (1 - weight);
      norm = norm * weight + (1 - weight);
      return mean / norm;
    });
  };

  // Times are laid from each run's own beginning, in seconds.
  const placed = (curve) => {
    const own = axis.value === "row" ? null : curve.axes[axis.value];
    if (!own) return curve.rows.map((row) => row + 1);
    if (axis.value !== "time") return own;
    const first = own.find((x) => x !== null) ?? 0;
    const unit = first > 1e11 ? 1000 : 1;
    return own.map((x) => (x === null ? null : (x - first) / unit));
  };

  const line = (run, metric) => {
    const curve = known.get(run.uid)?.curves[metric];
    if (!curve || hidden.has(run.uid)) return [[], []];
    const xs = placed(curve);
    const ys = smoothed(curve.values).map((y) => (logarithmic.checked && !(y > 0) ? null : y));
    const order = xs.map((x, at) => [x, ys[at]]).filter(([x]) => x !== null).sort((a, b) => a[0] - b[0]);
    return [order.map(([x]) => x), order.map(([, y]) => y)];
  };

  // Of what the runs have, the first is taken; what none has is not offered.
  const offerAxes = () => {
    const kinds = new Set([...known.values()].flatMap(({ curves }) => Object.values(curves)).flatMap((curve) => Object.keys(curve.axes)));
    const before = axis.value;
    for (const option of axis.options) option.hidden = option.disabled = option.value !== "row" && !kinds.has(option.value);
    if (axis.selectedOptions[0]?.disabled) axis.value = [...axis.options].find((option) => !option.disabled).value;
    return axis.value !== before;
  };

  const data = (metric) => uPlot.join(runs.map((run) => line(run, metric)));

  // --- drawing --------------------------------------------------------------------------------
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const element = (tag, css, text) => Object.assign(document.createElement(tag), { className: css ?? "", textContent: text ?? "" });
  const shown = (value) => {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
    return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
  };
  const told = (value) => (typeof value === "number" && !Number.isInteger(value) && Math.abs(value) >= 0.01 && Math.abs(value) < 1000 ? value.toPrecision(4) : shown(value));
  const clock = (seconds) => (seconds < 120 ? `${Math.round(seconds)} s` : seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${shown(seconds / 3600)} h`);

  const axes = () => {
    const common = { stroke: colour("--chart-axis"), grid: { stroke: colour("--chart-grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const say = axis.value === "time" ? clock : (tick) => (Number.isInteger(tick) ? shown(tick) : "");
    return [
      { ...common, grid: { show: false }, size: 24, values: (_, ticks) => ticks.map(say) },
      { ...common, size: 50, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : shown(tick))) },
    ];
  };

  const series = () => runs.map((run) => ({
    label: run.name, stroke: colour(`--series-${run.colour}`), width: 1.5, dash: run.dash, spanGaps: false,
    points: { show: (plot, which) => plot.data[which].filter((y) => y !== null && y !== undefined).length < 2 },
  }));

  // The run nearest to the pointer, by name, with its value there.
  const tell = (chart, which) => {
    const { plot } = chart;
    let at = plot.cursor.idx;
    const ys = which ? plot.data[which] : null;
    while (ys && at > 0 && ys[at] === undefined) at -= 1;
    chart.told.textContent = ys && at !== null && at !== undefined ? `${runs[which - 1].name} ${told(ys[at])}` : "";
  };

  const draw = (metric) => {
    const figure = element("figure", "chart");
    const caption = element("figcaption", "", metric);
    const told = element("span", "told");
    caption.append(told);
    const box = element("div", "plot live-plot tall");
    figure.append(caption, box);
    plots.append(figure);
    const chart = { metric, box, told };
    chart.plot = new uPlot({
      width: box.clientWidth || 400, height: HEIGHT,
      scales: { x: { time: false }, y: { distr: logarithmic.checked ? 3 : 1 } },
      cursor: { sync: { key: "compare" }, drag: { x: true, y: false }, points: { size: 6 }, focus: { prox: 40 } },
      focus: { alpha: 0.25 },
      legend: { show: false }, padding: [6, 14, 0, 0], axes: axes(), series: [{}, ...series()],
      hooks: { setSeries: [(plot, which) => plot === chart.plot && tell(chart, which)], setCursor: [(plot) => plot === chart.plot && plot.cursor.left < 0 && tell(chart, null)] },
    }, data(metric), box);
    box.setAttribute("role", "img");
    describe(chart);
    return chart;
  };

  const describe = ({ metric, box, told }) => {
    const count = runs.filter((run) => !hidden.has(run.uid) && known.get(run.uid)?.curves[metric]).length;
    if (!count && !reading) told.textContent = gettext("no curve");
    box.setAttribute("aria-label", interpolate(ngettext("%(metric)s of %(n)s run", "%(metric)s of %(n)s runs", count), { metric, n: count }, true));
  };

  const rebuild = () => {
    for (const chart of charts) chart.plot.destroy();
    plots.replaceChildren();
    charts = metrics.map(draw);
    fit();
  };
  const update = () => {
    for (const chart of charts) {
      const zoomed = chart.plot.scales.x.min > chart.plot.data[0][0] || chart.plot.scales.x.max < chart.plot.data[0].at(-1);
      chart.plot.setData(data(chart.metric), !zoomed);
      describe(chart);
    }
  };
  const fit = () => {
    for (const chart of charts) chart.plot.setSize({ width: chart.box.clientWidth, height: HEIGHT });
  };

  // --- what comes from the server -------------------------------------------------------------
  const fetchSome = async (some) => {
    const asked = new URLSearchParams({ runs: some.map(({ uid }) => uid).join(","), of: runs.length });
    for (const metric of metrics) asked.append("metric", metric);
    const response = await lab.ask(`${panel.dataset.curves}?${asked}`);
    if (!response.ok || response.redirected) throw new Error("no curves");
    const more = [];
    for (const answer of (await response.json()).runs) {
      known.set(answer.uid, answer);
      if (answer.more) more.push(runs.find(({ uid }) => uid === answer.uid));
    }
    return more;
  };

  let asksAgain = 0;
  const read = async (wanted) => {
    if (reading) return;
    reading = true;
    const total = wanted.length;
    let waiting = [...wanted];
    try {
      while (waiting.length) {
        const some = waiting.splice(0, Number(panel.dataset.atOnce));
        waiting.push(...await fetchSome(some));
        if (total > 12) progress.textContent = interpolate(gettext("%(done)s of %(all)s runs"), { done: Math.max(0, total - waiting.length), all: total }, true);
        if (offerAxes() || !charts.length) rebuild(); else update();
      }
      progress.textContent = "";
    } catch {
      progress.textContent = gettext("not all curves could be read; try again");
    }
    reading = false;
    charts.forEach(describe);
  };

  document.addEventListener("lab:message", ({ detail }) => {
    if (detail.kind !== "file" && !(detail.kind === "job" && runs.some(({ job }) => job === detail.job))) return;
    if (asksAgain) return;
    asksAgain = setTimeout(() => {
      asksAgain = 0;
      if (!document.hidden) read(runs.filter(({ uid }) => known.get(uid)?.live));
    }, AGAIN_MS);
  });

  // --- what the reader chooses ----------------------------------------------------------------
  const showTicks = () => {
    for (const item of items()) {
      const box = item.querySelector("input");
      if (box) box.checked = !hidden.has(item.dataset.uid);
    }
    toggleAll.textContent = hidden.size ? gettext("Show all") : gettext("Hide all");
  };
  chosen.addEventListener("change", ({ target }) => {
    const { uid } = target.closest("li").dataset;
    if (target.checked) hidden.delete(uid); else hidden.add(uid);
    showTicks();
    update();
  });
  chosen.addEventListener("lab:part", showTicks);
  // The line of the run that one points at in the list stands out.
  const focus = (item) => {
    const at = item ? runs.findIndex(({ uid }) => uid === item.dataset.uid) : -1;
    for (const { plot } of charts) plot.setSeries(at < 0 ? null : at + 1, { focus: true });
  };
  for (const kind of ["pointerover", "focusin"]) chosen.addEventListener(kind, ({ target }) => focus(target.closest("li")));
  for (const kind of ["pointerleave", "focusout"]) chosen.addEventListener(kind, () => focus(null));
  toggleAll.addEventListener("click", () => {
    if (hidden.size) hidden.clear(); else for (const { uid } of runs) hidden.add(uid);
    showTicks();
    update();
  });
  items().forEach((item, at) => { if (at >= 8) item.querySelector(".swatch").classList.add("dash"); });

  document.addEventListener("lab:theme", rebuild);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", rebuild);
  for (const control of [axis, logarithmic]) control.addEventListener("input", rebuild);
  smooth.addEventListener("input", update);
  new ResizeObserver(fit).observe(plots);
  read(runs);
})();
