// One chart: its lines, what they are at the cursor, zoom and pan by mouse, touch and keyboard, and
// itself as an image or a table. window.lab.Chart is for every page with curves:
//
//   const view = new lab.View({ smooth: 0, log: false, onZoom() {} })   shared by charts side by side
//   const chart = new lab.Chart(view, { title, lines: [{ label, title, tone }], axis, file })
//   parent.append(chart.figure); chart.setData([xs, ys, …]); chart.draw(); chart.destroy()
//
// tone is 1 to 8, a colour of look.css; axis is one of lab.curves.axes(). uPlot draws when draw() is
// called, so that a hundred charts cost what those in view do; the figure has its height before.
"use strict";
(() => {
  const HEIGHT = 184;
  const STEP = 0.15; // of what is seen: how far a key moves it
  const { shown, smoothed, told } = lab.curves;

  const element = (tag, css, text) => {
    const made = document.createElement(tag);
    if (css) made.className = css;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const faint = (name) => colour(name).replace(/^rgb\((.*)\)$/, "rgba($1, 0.28)");
  const isThere = (value) => value !== null && value !== undefined;

  // What charts side by side have in common.
  class View {
    constructor({ smooth = 0, log = false, onZoom = () => {} } = {}) {
      Object.assign(this, { smooth, log, onZoom, zoom: null, charts: new Set() });
    }

    zoomTo(range) { // {min, max}, or null for all
      this.zoom = range && range.max > range.min ? range : null;
      for (const chart of this.charts) chart.rescale();
      this.onZoom(this.zoom);
    }
  }

  class Chart {
    constructor(view, { title, lines, axis, file }) {
      Object.assign(this, { view, title, lines, axis, file, data: [[]], plot: null, isStale: false, off: new Set(), at: null });
      this.figure = element("figure", "chart");
      this.box = element("div", "plot live-plot");
      this.where = element("li", "where dim");
      this.figure.append(element("figcaption", "", title), this.menu(), this.box, this.legend());
      this.listen();
      view.charts.add(this);
    }

    // --- parts -----------------------------------------------------------------------------------

    menu() {
      const menu = element("details", "menu of-chart scripted");
      const summary = element("summary", "", "⋯");
      summary.setAttribute("aria-label", interpolate(gettext("What to do with the chart %s"), [this.title]));
      const pop = element("div", "pop");
      this.addAct = (words, act) => {
        const button = element("button", "link", words);
        button.type = "button";
        button.addEventListener("click", () => { menu.open = false; act(); });
        pop.append(button);
      };
      this.addAct(gettext("Save as an image (PNG)"), () => this.savePNG());
      this.addAct(gettext("Save as a table (CSV)"), () => this.saveCSV());
      this.addAct(gettext("Wide or narrow"), () => { this.figure.classList.toggle("wide"); this.fit(); });
      menu.addEventListener("keydown", (event) => { if (event.key === "Escape") { menu.open = false; summary.focus(); } });
      menu.addEventListener("focusout", (event) => { if (!menu.contains(event.relatedTarget)) setTimeout(() => { if (!menu.contains(document.activeElement)) menu.open = false; }, 150); });
      menu.append(summary, pop);
      return menu;
    }

    legend() {
      const list = element("ul", "legend");
      this.values = this.lines.map(({ label, title, tone }, which) => {
        const item = element("li", `k${tone}`);
        const button = element("button", "series");
        const value = element("b");
        button.type = "button";
        button.setAttribute("aria-pressed", "true");
        button.append(element("i", "swatch"), `${label} `, value);
        if (title) item.title = title;
        button.addEventListener("click", () => this.toggle(which, button));
        item.append(button);
        list.append(item);
        return value;
      });
      list.append(this.where);
      return list;
    }

    toggle(which, button) {
      if (this.off.has(which)) this.off.delete(which);
      else this.off.add(which);
      button.setAttribute("aria-pressed", String(!this.off.has(which)));
      if (!this.plot) return;
      const first = 1 + which * this.perLine;
      for (let at = first; at < first + this.perLine; at += 1) this.plot.setSeries(at, { show: !this.off.has(which) });
    }

    // --- data ------------------------------------------------------------------------------------

    setData(data) {
      this.data = data;
      this.isStale = true;
    }

    get perLine() { return this.view.smooth > 0 ? 2 : 1; }

    drawn() {
      const [xs, ...columns] = this.data;
      const seen = this.view.log ? columns.map((ys) => ys.map((y) => (y === undefined || y > 0 ? y : null))) : columns;
      return [xs, ...(this.view.smooth > 0 ? seen.flatMap((ys) => [ys, smoothed(ys, this.view.smooth)]) : seen)];
    }

    draw() {
      if (this.plot && !this.isStale) return;
      this.isStale = false;
      if (this.plot) this.plot.setData(this.drawn());
      else this.plot = new uPlot(this.options(), this.drawn(), this.box);
      this.fit();
      this.tell(this.at);
    }

    restyle() { // another smoothing, scale or theme
      if (!this.plot) return;
      this.plot.destroy();
      this.plot = null;
      this.isStale = true;
      this.draw();
    }

    rescale() { this.plot?.setData(this.plot.data, true); }

    fit() {
      const width = this.box.clientWidth;
      if (this.plot && width && this.plot.width !== width) this.plot.setSize({ width, height: HEIGHT });
    }

    destroy() {
      this.view.charts.delete(this);
      this.plot?.destroy();
      this.figure.remove();
    }

    // --- drawing ---------------------------------------------------------------------------------

    options() {
      const common = { stroke: colour("--chart-axis"), grid: { stroke: colour("--chart-grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      const { isClock, kind } = this.axis;
      const whole = kind === "step" || kind === "epoch" || kind === "";
      const ticks = (_, values) => values.map((tick) => (whole && !Number.isInteger(tick) ? "" : shown(tick)));
      return {
        width: this.box.clientWidth || 400,
        height: HEIGHT,
        ms: (this.data[0][0] || 0) < 1e11 ? 1e-3 : 1,
        // A little wider than the data: of rows that share the last x, uPlot sees the first alone.
        scales: { x: { time: isClock, range: (_, min, max) => (this.view.zoom ? [this.view.zoom.min, this.view.zoom.max] : min === null ? [0, 1] : [min, max + (max - min || 1) * 1e-4]) }, y: { distr: this.view.log ? 3 : 1 } },
        cursor: {
          sync: { key: "lab", filters: { pub: (type) => type === "mousemove" || type === "mouseleave", sub: (type) => type === "mousemove" || type === "mouseleave" } },
          drag: { x: true, y: false, setScale: false },
          points: { size: 6 },
          bind: {
            dblclick: () => () => { this.view.zoomTo(null); return null; },
            mousedown: (_, __, handle) => (event) => { if (event.shiftKey || event.button === 1) this.pan(event); else handle(event); return null; },
          },
        },
        legend: { show: false },
        padding: [6, 14, 0, 0],
        axes: [{ ...common, grid: { show: false }, size: 24, values: isClock ? undefined : ticks }, { ...common, size: 50, values: (_, values) => values.map((tick) => (tick === null ? "" : shown(tick))) }],
        series: [{}, ...this.strokes()],
        hooks: {
          setCursor: [(plot) => { if (plot === this.plot) this.tell(plot.cursor.idx ?? null); }],
          setSelect: [(plot) => this.selected(plot)],
          ready: [(plot) => this.touch(plot)],
        },
      };
    }

    strokes() {
      return this.lines.flatMap(({ label, tone, dash }, which) => {
        const line = { label, stroke: colour(`--series-${tone}`), width: 1.5, dash, spanGaps: false, show: !this.off.has(which), points: { show: (plot, at) => plot.data[at].filter(isThere).length < 2 } };
        return this.perLine === 2 ? [{ ...line, stroke: faint(`--series-${tone}`), width: 1 }, line] : [line];
      });
    }

    selected(plot) {
      const { left, width } = plot.select;
      if (width < 4) return;
      const range = { min: plot.posToVal(left, "x"), max: plot.posToVal(left + width, "x") };
      plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      this.view.zoomTo(range);
    }

    // --- what the lines are at a place -----------------------------------------------------------

    place(x) {
      if (x === undefined || x === null) return "";
      if (!this.axis.isClock) return shown(x);
      return new Date(x > 1e11 ? x : x * 1000).toLocaleString();
    }

    tell(at) {
      this.at = at;
      const data = this.plot ? this.plot.data : this.drawn();
      let x;
      this.values.forEach((value, which) => {
        const column = data[this.perLine * (which + 1)];
        let row = at ?? column.length - 1;
        while (row > 0 && (column[row] === undefined || (at === null && column[row] === null))) row -= 1;
        value.textContent = told(column[row]);
      });
      if (at !== null) x = data[0][at];
      this.where.textContent = at === null ? "" : `${this.axis.label} ${this.place(x)}`;
      this.describe(at, data[0]);
    }

    describe(at, xs) {
      const words = this.lines.map(({ label }, which) => `${label} ${this.values[which].textContent}`).join(", ");
      this.box.setAttribute("role", "slider");
      this.box.setAttribute("aria-label", this.title);
      this.box.setAttribute("aria-valuemin", "0");
      this.box.setAttribute("aria-valuemax", String(Math.max(0, xs.length - 1)));
      this.box.setAttribute("aria-valuenow", String(at ?? Math.max(0, xs.length - 1)));
      this.box.setAttribute("aria-valuetext", at === null ? words : `${this.where.textContent}: ${words}`);
    }

    // --- keys, wheel, drag and fingers -----------------------------------------------------------

    seen() {
      const { min, max } = this.plot.scales.x;
      return { min, max, width: max - min };
    }

    zoomBy(factor, center) {
      const { min, max, width } = this.seen();
      const middle = center ?? (min + max) / 2;
      const share = width ? (middle - min) / width : 0.5;
      const all = this.data[0];
      const wide = width * factor;
      if (wide >= all.at(-1) - all[0]) this.view.zoomTo(null);
      else this.view.zoomTo({ min: middle - share * wide, max: middle + (1 - share) * wide });
    }

    moveBy(distance) {
      const { min, max } = this.seen();
      const all = this.data[0];
      const by = Math.max(all[0] - min, Math.min(distance, all.at(-1) - max));
      if (this.view.zoom) this.view.zoomTo({ min: min + by, max: max + by });
    }

    pan(event) {
      event.preventDefault();
      let x = event.clientX;
      const move = (moved) => {
        const { width } = this.seen();
        this.moveBy(((x - moved.clientX) / this.plot.over.clientWidth) * width);
        x = moved.clientX;
      };
      const end = () => { removeEventListener("mousemove", move); removeEventListener("mouseup", end); };
      addEventListener("mousemove", move);
      addEventListener("mouseup", end);
    }

    pointAt(row) {
      const xs = this.plot.data[0];
      const at = Math.max(0, Math.min(xs.length - 1, row));
      const { min, max, width } = this.seen();
      if (this.view.zoom && (xs[at] < min || xs[at] > max)) this.moveBy(xs[at] < min ? xs[at] - min - width / 4 : xs[at] - max + width / 4);
      this.plot.setCursor({ left: this.plot.valToPos(xs[at], "x"), top: this.plot.over.clientHeight / 2 });
      this.tell(at);
    }

    listen() {
      this.box.tabIndex = 0;
      const keys = {
        ArrowRight: () => this.pointAt((this.at ?? -1) + 1),
        ArrowLeft: () => this.pointAt((this.at ?? this.plot.data[0].length) - 1),
        PageDown: () => this.pointAt((this.at ?? 0) + Math.ceil(this.plot.data[0].length / 20)),
        PageUp: () => this.pointAt((this.at ?? this.plot.data[0].length) - Math.ceil(this.plot.data[0].length / 20)),
        Home: () => this.pointAt(0),
        End: () => this.pointAt(this.plot.data[0].length - 1),
        "+": () => this.zoomBy(1 - 2 * STEP, this.plot.data[0][this.at ?? NaN]),
        "-": () => this.zoomBy(1 / (1 - 2 * STEP), this.plot.data[0][this.at ?? NaN]),
        0: () => this.view.zoomTo(null),
        Escape: () => { this.view.zoomTo(null); this.plot.setCursor({ left: -10, top: -10 }); this.tell(null); },
      };
      keys["="] = keys["+"];
      this.box.addEventListener("keydown", (event) => {
        const act = keys[event.key];
        if (!act || !this.plot || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        act();
      });
      this.box.addEventListener("blur", () => { if (this.plot) { this.plot.setCursor({ left: -10, top: -10 }); this.tell(null); } });
      this.box.addEventListener("wheel", (event) => {
        if (!this.plot || !(event.ctrlKey || event.metaKey)) return;
        event.preventDefault();
        const left = event.clientX - this.plot.over.getBoundingClientRect().left;
        this.zoomBy(event.deltaY > 0 ? 1.25 : 0.8, this.plot.posToVal(left, "x"));
      }, { passive: false });
    }

    // One finger points, two zoom and move; up and down the page still scrolls.
    touch(plot) {
      const fingers = new Map();
      let before = null;
      const pair = () => {
        const [a, b] = [...fingers.values()];
        return { middle: (a + b) / 2, gap: Math.max(8, Math.abs(a - b)) };
      };
      const lift = (event) => { fingers.delete(event.pointerId); before = null; };
      plot.over.addEventListener("pointerdown", (event) => {
        if (event.pointerType === "mouse") return;
        fingers.set(event.pointerId, event.clientX);
        before = fingers.size === 2 ? pair() : null;
        this.point(event);
      });
      plot.over.addEventListener("pointermove", (event) => {
        if (event.pointerType === "mouse" || !fingers.has(event.pointerId)) return;
        fingers.set(event.pointerId, event.clientX);
        if (fingers.size === 1) return this.point(event);
        if (fingers.size !== 2 || !before) return;
        const now = pair();
        const left = plot.over.getBoundingClientRect().left;
        this.zoomBy(before.gap / now.gap, plot.posToVal(before.middle - left, "x"));
        this.moveBy(((before.middle - now.middle) / plot.over.clientWidth) * this.seen().width);
        before = now;
      });
      for (const end of ["pointerup", "pointercancel", "pointerleave"]) plot.over.addEventListener(end, lift);
    }

    point(event) {
      const rect = this.plot.over.getBoundingClientRect();
      this.plot.setCursor({ left: event.clientX - rect.left, top: event.clientY - rect.top });
    }

    // --- itself as a file ------------------------------------------------------------------------

    save(blob, suffix) {
      const link = element("a");
      link.href = URL.createObjectURL(blob);
      link.download = `${this.file}-${this.title}`.replace(/[^\p{L}\p{N}._-]+/gu, "_") + suffix;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    }

    saveCSV() {
      const cell = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
      const header = [this.axis.label, ...this.lines.map(({ label }) => label)].map(cell).join(",");
      const [xs, ...columns] = this.data;
      const rows = xs.map((x, at) => [x, ...columns.map((column) => (column[at] === undefined ? "" : column[at] === null ? "nan" : column[at]))].join(","));
      this.save(new Blob([[header, ...rows, ""].join("\n")], { type: "text/csv" }), ".csv");
    }

    savePNG() {
      this.draw();
      const from = this.plot.ctx.canvas;
      const ratio = from.width / this.plot.width;
      const canvas = document.createElement("canvas");
      canvas.width = from.width;
      canvas.height = from.height + 56 * ratio;
      const ink = canvas.getContext("2d");
      ink.fillStyle = getComputedStyle(this.figure.closest(".panel") || document.body).backgroundColor;
      ink.fillRect(0, 0, canvas.width, canvas.height);
      ink.drawImage(from, 0, 28 * ratio);
      ink.fillStyle = getComputedStyle(this.figure).color;
      ink.font = `600 ${13 * ratio}px system-ui`;
      ink.fillText(`${this.title} · ${this.file}`, 12 * ratio, 19 * ratio);
      ink.font = `${12 * ratio}px system-ui`;
      let left = 12 * ratio;
      this.lines.forEach(({ label, tone }, which) => {
        if (this.off.has(which)) return;
        const y = canvas.height - 12 * ratio;
        ink.fillStyle = colour(`--series-${tone}`);
        ink.fillRect(left, y - 5 * ratio, 12 * ratio, 2 * ratio);
        ink.fillStyle = getComputedStyle(this.figure).color;
        ink.fillText(label, left + 17 * ratio, y);
        left += ink.measureText(label).width + 36 * ratio;
      });
      canvas.toBlob((blob) => this.save(blob, ".png"), "image/png");
    }
  }

  Object.assign(window.lab, { View, Chart });
})();
