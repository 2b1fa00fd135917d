// Curves of a run: one chart for each metric, the halves of a pair (train, test) in one; live.
// The server sends what is new after the bytes we have, or all of it thinned, peaks kept.
"use strict";
(() => {
  const panel = document.getElementById("charts");
  if (!panel) return;

  const HEIGHT = 184;
  const MOST_ROWS = 6000; // beyond, all is asked for anew, thinned
  const MOST_CHARTS = 12;
  const AXES = /^(epoch|step|global_step|iter|iteration|time|wall_time|timestamp|elapsed|date)$/i;
  const CLOCKS = /^(time|wall_time|timestamp|date)$/i;
  const HALF = /^(train|training|test|testing|val|valid|validation|eval)[_/.-](.+)$|^(.+)[_/.-](train|test|val|valid|eval)$/i;

  const plots = document.getElementById("plots");
  const axis = document.getElementById("axis");
  const smooth = document.getElementById("smooth");
  const logarithmic = document.getElementById("logaxis");
  const points = document.getElementById("points");

  let table = null; // {columns, data, next, rows, version}
  let charts = [];
  let file = null;

  const metrics = () => table.columns.filter((name) => !AXES.test(name));
  const column = (name) => table.data[table.columns.indexOf(name)];

  const groups = () => {
    const byName = new Map();
    for (const name of metrics()) {
      const half = HALF.exec(name);
      const common = half ? half[2] || half[3] : name;
      byName.set(common, [...(byName.get(common) || []), name]);
    }
    return [...byName].slice(0, MOST_CHARTS);
  };

  const xs = () => {
    const chosen = axis.value && column(axis.value);
    return chosen || table.data[0].map((_, row) => row + 1);
  };

  // An exponential mean that begins at the first value; gaps stay gaps.
  const smoothed = (values) => {
    const weight = Number(smooth.value) / 100;
    let mean = 0, norm = 0;
    return values.map((value) => {
      if (value === null || value === undefined) return null;
      mean = mean * weight + value * (1 - weight);
      norm = norm * weight + (1 - weight);
      return mean / norm;
    });
  };

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const faint = (name) => colour(name).replace(/^rgb\((.*)\)$/, "rgba($1, 0.28)");

  const shown = (value) => {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
    return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
  };

  const isSmoothed = () => Number(smooth.value) > 0;

  // By x, as uPlot wants it; rows without an x are left out, as they have no place.
  const series = (names) => {
    const x = xs();
    const order = x.map((_, row) => row).filter((row) => x[row] !== null);
    if (order.some((row, at) => at && x[row] < x[order[at - 1]])) order.sort((a, b) => x[a] - x[b]);
    const pick = (values) => order.map((row) => values[row] ?? null);
    const ys = names.map((name) => {
      const values = pick(column(name));
      return logarithmic.checked ? values.map((value) => (value > 0 ? value : null)) : values;
    });
    return [pick(x), ...(isSmoothed() ? ys.flatMap((y) => [y, smoothed(y)]) : ys)];
  };

  const lines = (names) => names.flatMap((name, at) => {
    const tone = `--series-${(at % 8) + 1}`;
    const line = { label: name, stroke: colour(tone), width: 1.5, spanGaps: false, points: { show: (plot) => plot.data[0].length < 2 } };
    return isSmoothed() ? [{ ...line, stroke: faint(tone), width: 1 }, line] : [line];
  });

  const axes = () => {
    const common = { stroke: colour("--chart-axis"), grid: { stroke: colour("--chart-grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const whole = AXES.test(axis.value) && !CLOCKS.test(axis.value);
    return [
      { ...common, grid: { show: false }, size: 24, values: CLOCKS.test(axis.value) ? undefined : (_, ticks) => ticks.map((tick) => (whole && !Number.isInteger(tick) ? "" : shown(tick))) },
      { ...common, size: 50, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : shown(tick))) },
    ];
  };

  const element = (tag, css, text) => {
    const made = document.createElement(tag);
    if (css) made.className = css;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const legendOf = (names) => {
    const list = element("ul", "legend");
    const values = names.map((name, at) => {
      const item = element("li", `k${(at % 8) + 1}`);
      const value = element("b");
      item.append(element("i", "swatch"), `${name} `, value);
      list.append(item);
      return value;
    });
    return { list, values };
  };

  const tell = (chart, at) => {
    const step = isSmoothed() ? 2 : 1;
    chart.values.forEach((value, which) => {
      const data = chart.plot.data[1 + which * step];
      let row = at ?? data.length - 1;
      while (at === null && row > 0 && data[row] === null) row -= 1;
      value.textContent = shown(data[row]);
    });
  };

  const draw = ([common, names]) => {
    const figure = element("figure", "chart");
    const box = element("div", "plot live-plot");
    const legend = legendOf(names);
    figure.append(element("figcaption", "", common), box, legend.list);
    plots.append(figure);
    const chart = { common, names, box, figure, values: legend.values };
    const seconds = (xs()[0] || 0) < 1e11;
    chart.plot = new uPlot({
      width: box.clientWidth || 400,
      height: HEIGHT,
      scales: { x: { time: CLOCKS.test(axis.value) }, y: { distr: logarithmic.checked ? 3 : 1 } },
      ms: seconds ? 1e-3 : 1,
      cursor: { sync: { key: "run" }, drag: { x: true, y: false }, points: { size: 6 } },
      legend: { show: false },
      padding: [6, 14, 0, 0],
      axes: axes(),
      series: [{}, ...lines(names)],
      hooks: { setCursor: [(plot) => plot === chart.plot && tell(chart, plot.cursor.idx ?? null)] },
    }, series(names), box);
    box.setAttribute("role", "img");
    tell(chart, null);
    describe(chart);
    return chart;
  };

  const describe = (chart) => {
    const words = chart.names.map((name, at) => `${name} ${chart.values[at].textContent}`).join(", ");
    chart.box.setAttribute("aria-label", words);
  };

  const chooseAxis = () => {
    const before = axis.value;
    const names = table.columns.filter((name) => AXES.test(name));
    axis.replaceChildren(...names.map((name) => new Option(name, name)), new Option(gettext("row"), ""));
    const wanted = names.includes(before) ? before : names.find((name) => /epoch/i.test(name)) || names[0] || "";
    axis.value = wanted;
  };

  const rebuild = () => {
    for (const chart of charts) chart.plot.destroy();
    plots.replaceChildren();
    if (!table || !table.columns.length) { charts = []; return; }
    charts = groups().map(draw);
  };

  const update = () => {
    for (const chart of charts) {
      const zoomed = chart.plot.scales.x.min > chart.plot.data[0][0] || chart.plot.scales.x.max < chart.plot.data[0].at(-1);
      chart.plot.setData(series(chart.names), !zoomed);
      tell(chart, null);
      describe(chart);
    }
  };

  const take = (answer) => {
    const sameColumns = table && String(table.columns) === String(answer.columns);
    if (answer.start && sameColumns) {
      table.data = table.data.map((values, at) => values.concat(answer.data[at]));
      table.next = answer.next;
      table.rows += answer.rows;
      update();
    } else {
      table = answer;
      if (!sameColumns) { chooseAxis(); rebuild(); } else update();
    }
    const all = table.rows;
    points.textContent = all ? interpolate(ngettext("%s row", "%s rows", all), [all.toLocaleString()]) : "";
  };

  const read = async () => {
    const known = table && table.data[0]?.length && table.data[0].length < MOST_ROWS;
    const query = known ? `?after=${table.next}&version=${table.version}` : "";
    const response = await fetch(panel.dataset.curve + query, { cache: "no-store" });
    if (!response.ok || response.redirected) return false;
    const answer = await response.json();
    file = answer.file;
    if (!answer.start || answer.rows) take(answer);
    return false;
  };

  const readSoon = lab.follow({ job: Number(panel.dataset.job), file: () => file, read });
  document.addEventListener("lab:theme", rebuild);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", rebuild);
  for (const control of [axis, smooth, logarithmic]) control.addEventListener("input", rebuild);
  new ResizeObserver(() => {
    for (const chart of charts) chart.plot.setSize({ width: chart.box.clientWidth, height: HEIGHT });
  }).observe(plots);
  readSoon();
})();
