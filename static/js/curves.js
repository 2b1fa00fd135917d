// Curves as numbers: what the server sent of each source, put together, placed on an axis, smoothed.
// Nothing here draws. window.lab.curves is for every page with curves (a run's, a comparison):
//
//   joined(known, got)        a source as it is now, from what was known and what came
//   grouped(metrics)          [[name, [metric, …]], …]: train/loss and val/loss are one chart
//   axes(sources)             [{value, label, kind}, …] to choose from, the best first
//   placed(sources, axis)     (source) → (row) → x, or null where a row has no place
//   aligned(chosen, place)    [xs, ys, …] as uPlot wants them; chosen: [{source, name}, …]
//   smoothed(values, weight)  an exponential mean, without the bias of its beginning
//   shown(value)              a number as people read it
//   told(value)               a metric's, beside others
//
// A value of null is a gap, where a line breaks; a row without a value (undefined) is none.
"use strict";
(() => {
  const CLOCKS = /^(trainer\/)?(time|wall_time|timestamp|date)$/i;
  const HALF = /^(train|training|test|testing|val|valid|validation|eval)[_/.-](.+)$|^(.+)[_/.-](train|test|val|valid|eval)$/i;
  const ELAPSED = "\u0000elapsed"; // no column is called so

  const unpacked = ({ at, values }) => ({ at: Array.isArray(at) ? at : values.map((_, step) => at + step), values });

  // Names are anybody's: one may be called constructor.
  const byName = () => Object.create(null);

  const joined = (known, got) => {
    const source = got.start && known ? { ...known, rows: got.rows } : { ...got, axes: byName(), series: byName() };
    for (const one of got.axes) {
      const axis = (source.axes[one.name] ??= { kind: one.kind, values: new Map() });
      const { at, values } = unpacked(one);
      at.forEach((row, place) => axis.values.set(row, values[place]));
    }
    for (const one of got.series) {
      const before = source.series[one.name] || { at: [], values: [] };
      const { at, values } = unpacked(one);
      source.series[one.name] = { at: before.at.concat(at), values: before.values.concat(values) };
    }
    return source;
  };

  const grouped = (metrics) => {
    const found = new Map();
    for (const metric of metrics) {
      const half = HALF.exec(metric.name);
      const common = half ? half[2] || half[3] : metric.name;
      found.set(common, [...(found.get(common) || []), metric]);
    }
    return [...found];
  };

  const axes = (sources) => {
    const kinds = new Map(sources.flatMap((source) => Object.entries(source.axes)).map(([name, { kind }]) => [name, kind]));
    const found = [...kinds].map(([name, kind]) => ({ value: name, label: name, kind, isClock: CLOCKS.test(name) }));
    if ([...kinds.values()].includes("time")) found.push({ value: ELAPSED, label: gettext("hours since the start"), kind: "time", isClock: false });
    found.push({ value: "", label: gettext("row"), kind: "", isClock: false });
    const order = ["step", "epoch", "time", ""];
    return found.map((axis, at) => [axis, at]).sort(([a, i], [b, j]) => order.indexOf(a.kind) - order.indexOf(b.kind) || i - j).map(([axis]) => axis);
  };

  const ofKind = (source, kind) => Object.values(source.axes).find((one) => one.kind === kind);

  // Where a row belongs: on the chosen axis, or on the source's own of that kind.
  const placed = (sources, axis) => (source) => {
    if (axis === ELAPSED) {
      const clock = ofKind(source, "time");
      if (!clock) return () => null;
      const begun = clock.values.values().next().value;
      const hour = begun > 1e11 ? 3.6e6 : 3600; // some write milliseconds
      return (row) => (clock.values.has(row) ? (clock.values.get(row) - begun) / hour : null);
    }
    const named = sources.map((one) => one.axes[axis]).find(Boolean);
    const own = source.axes[axis] || (named && ofKind(source, named.kind));
    const chosen = axis && (own || Object.values(source.axes)[0]);
    return chosen ? (row) => chosen.values.get(row) ?? null : (row) => row + 1;
  };

  // By x; rows without an x are left out, as they have no place.
  const aligned = (chosen, placeOf) => {
    const rows = new Map();
    chosen.forEach(({ source, name }, which) => {
      const place = placeOf(source);
      const { at, values } = source.series[name];
      at.forEach((row, index) => {
        const key = `${source.id}.${row}`;
        const x = place(row);
        if (x === null) return;
        if (!rows.has(key)) rows.set(key, { x, ys: new Array(chosen.length) });
        rows.get(key).ys[which] = values[index];
      });
    });
    const order = [];
    for (const row of [...rows.values()].sort((a, b) => a.x - b.x)) {
      const last = order.at(-1);
      // What was logged in rows of its own at the same x (train, val) is one row to look at.
      const fits = last?.x === row.x && row.ys.every((value, which) => value === undefined || last.ys[which] === undefined);
      if (fits) row.ys.forEach((value, which) => { if (value !== undefined) last.ys[which] = value; });
      else order.push(row);
    }
    return [order.map((row) => row.x), ...chosen.map((_, which) => order.map((row) => row.ys[which]))];
  };

  const smoothed = (values, weight) => {
    let mean = 0, norm = 0;
    return values.map((value) => {
      if (value === null || value === undefined) return value;
      mean = mean * weight + value * (1 - weight);
      norm = norm * weight + (1 - weight);
      return mean / norm;
    });
  };

  const shown = (value) => {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
    return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
  };

  // A metric's value, with as many decimals as the next one: it does not jump about as it moves.
  const told = (value) => {
    const isPlain = typeof value === "number" && !Number.isInteger(value) && Math.abs(value) >= 0.01 && Math.abs(value) < 1000;
    return isPlain ? value.toPrecision(4) : shown(value);
  };

  window.lab = Object.assign(window.lab || {}, { curves: { joined, grouped, axes, placed, aligned, smoothed, shown, told } });
})();
