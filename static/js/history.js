// Curves of a GPU server's past, or of a run's GPUs: one chart for each measure, a line for each
// card. What is drawn and in which words comes from the server; here it is only drawn, and asked
// for anew.
"use strict";
(() => {
  const plots = document.querySelector("[data-history]");
  if (!plots) return;

  const HEIGHT = 165;
  let charts = [];
  let answer = null;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const element = (tag, css, text) => {
    const made = document.createElement(tag);
    if (css) made.className = css;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const shown = (value) => (value === null || value === undefined ? "–" : String(Number(value.toFixed(1))));

  // The hour within a day, the day beyond.
  const DAY_SECONDS = 86400;
  const hours = new Intl.DateTimeFormat(document.documentElement.lang, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const days = new Intl.DateTimeFormat(document.documentElement.lang, { month: "short", day: "numeric" });
  const moment = (seconds, step) => {
    const at = new Date(seconds * 1000);
    return (step < DAY_SECONDS && (at.getHours() || at.getMinutes()) ? hours : days).format(at);
  };

  const axes = (unit) => {
    const common = { stroke: colour("--chart-axis"), grid: { stroke: colour("--chart-grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    return [{ ...common, grid: { show: false }, size: 24, space: 64, values: (_, ticks, which, space, step) => ticks.map((tick) => moment(tick, step)) }, { ...common, size: 50, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : shown(tick))) }];
  };

  // The last value that there is, at or before `at`.
  const lastOf = (values, at) => {
    let place = at ?? values.length - 1;
    while (at === null && place > 0 && (values[place] === null || values[place] === undefined)) place -= 1;
    return values[place];
  };

  const tell = (chart, at) => {
    chart.values.forEach((value, which) => { value.textContent = shown(lastOf(chart.plot.data[which + 1], at)); });
  };

  const describe = (chart) => {
    const words = chart.told.series.map(({ label }, at) => `${label} ${chart.values[at].textContent} ${chart.told.unit}`);
    chart.box.setAttribute("aria-label", `${chart.told.label}: ${words.join(", ")}`);
  };

  const draw = (told) => {
    const figure = element("figure", "chart");
    const caption = element("figcaption", "", told.label);
    caption.append(element("span", "dim", told.unit));
    const box = element("div", "plot live-plot history-plot");
    const legend = element("ul", "legend");
    const values = told.series.map(({ label }, at) => {
      const item = element("li", `k${(at % 8) + 1}`);
      const value = element("b");
      item.append(element("i", "swatch"), `${told.series.length > 1 ? label : ""} `, value);
      legend.append(item);
      return value;
    });
    figure.append(caption, box, legend);
    plots.append(figure);
    const chart = { told, box, values };
    const top = told.max ? (_, low, high) => [0, Math.max(told.max, high ?? 0)] : (_, low, high) => [0, (high ?? 1) * 1.08 || 1];
    chart.plot = new uPlot({
      width: box.clientWidth || 400,
      height: HEIGHT,
      scales: { x: { time: true }, y: { range: top } },
      cursor: { sync: { key: "history" }, drag: { x: true, y: false }, points: { size: 5 } },
      legend: { show: false },
      padding: [6, 12, 0, 0],
      axes: axes(told.unit),
      series: [{}, ...told.series.map(({ label }, at) => ({ label, stroke: colour(`--series-${(at % 8) + 1}`), width: 1.25, spanGaps: false, points: { show: false } }))],
      hooks: { setCursor: [(plot) => plot === chart.plot && tell(chart, plot.cursor.idx ?? null)] },
    }, [answer.at, ...told.series.map((one) => one.values)], box);
    box.setAttribute("role", "img");
    tell(chart, null);
    describe(chart);
    return chart;
  };

  const fit = () => {
    for (const chart of charts) chart.plot.setSize({ width: chart.box.clientWidth, height: HEIGHT });
  };

  const rebuild = () => {
    if (!answer) return;
    for (const chart of charts) chart.plot.destroy();
    plots.replaceChildren();
    charts = answer.charts.map(draw);
    fit();
  };

  const shape = (of) => JSON.stringify(of?.charts.map(({ label, series }) => [label, series.length]));

  const update = () => {
    charts.forEach((chart, which) => {
      chart.told = answer.charts[which];
      const known = chart.plot.data[0];
      const zoomed = chart.plot.scales.x.min > known[0] || chart.plot.scales.x.max < known.at(-1);
      chart.plot.setData([answer.at, ...chart.told.series.map((one) => one.values)], !zoomed);
      tell(chart, null);
      describe(chart);
    });
  };

  const read = async () => {
    if (document.hidden) return;
    try {
      const response = await lab.ask(plots.dataset.history);
      if (!response.ok || response.redirected) return;
      const before = shape(answer);
      answer = await response.json();
      if (shape(answer) === before) update(); else rebuild();
    } catch { /* the server is away; the next time is as good */ }
  };

  read();
  const every = Number(plots.dataset.every); // 0: nothing comes any more
  if (every) setInterval(read, every * 1000);
  document.addEventListener("visibilitychange", read);
  document.addEventListener("lab:theme", rebuild);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", rebuild);
  new ResizeObserver(fit).observe(plots);
})();
