"use strict";
// The slider over other thresholds or budgets, its curves and its figures.

function makeSweep(data, onMove) {
  const { points, by } = data.analysis.sweep;
  const measured = data.analysis.measured ? data.analysis.measured.points : [];
  const slider = document.getElementById("slider");
  const gone = (point) => (data.params - point.params) / data.site_params;
  const place = (point) => (by === "tau" ? point.at : gone(point));
  const saved = { at: data.tau, params: data.params_kept, macs: data.macs_kept };
  const whereMeasured = (point) => (point.at === null ? place(saved) : place(point));
  const sorted = measured.slice().sort((one, other) => whereMeasured(one) - whereMeasured(other));
  const home = points.reduce((best, point, index) =>
    Math.abs(place(point) - place(saved)) < Math.abs(place(points[best]) - place(saved)) ? index : best, 0);
  let frames = {};

  const xScale = () => (by === "tau" ? shares() : linear(0, 1, [0, 0.25, 0.5, 0.75, 1], (value) => 100 * value));
  const xName = by === "tau" ? "threshold τ" : "attention and feed-forward weights removed, %";

  function drawKept() {
    const pen = frame(document.getElementById("chart-kept"), {
      x: xScale(), y: linear(0, 1, [0, 0.25, 0.5, 0.75, 1], (value) => 100 * value), xName,
      label: "Parameters and multiply-adds that stay",
    });
    const params = points.map((point) => [place(point), point.params / data.params]);
    const macs = points.map((point) => [place(point), point.macs / data.macs]);
    pen.line(macs, "other");
    pen.line(params);
    pen.saved(place(saved), data.params_kept / data.params);
    return pen;
  }

  function drawError() {
    const box = document.getElementById("chart-error");
    if (!box) return null;  // neither expected nor measured at other sizes
    const expected = points.filter((point) => point.error > 0).map((point) => [place(point), point.error]);
    const dots = sorted.filter((point) => point.relative_mse > 0).map((point) =>
      [whereMeasured(point), point.relative_mse, `measured: ${small(point.relative_mse)}`]);
    const values = [...expected, ...dots].map((point) => point[1]);
    if (!values.length) return nothing(box, "The error is zero at every size.");
    const pen = frame(box, { x: xScale(), y: logarithmic(values), xName, label: "Error of the prediction" });
    pen.line(expected);
    pen.line(dots, "other");
    pen.dots(dots);
    if (data.error > 0) pen.saved(place(saved), data.error);
    return pen;
  }

  function drawLatency() {
    const box = document.getElementById("chart-latency");
    if (!box || !sorted.length) return null;
    const dots = sorted.map((point) => [whereMeasured(point), point.latency_ratio,
      `measured: ${point.dense_ms} to ${point.slim_ms} ms`]);
    const top = Math.max(1, ...dots.map((dot) => dot[1])) > 1 ? 1.25 : 1;
    const ticks = [0, 0.25, 0.5, 0.75, 1, 1.25].filter((value) => value <= top);
    const pen = frame(box, { x: xScale(), y: linear(0, top, ticks, (value) => 100 * value), xName, label: "Latency, slim over dense" });
    pen.line([[0, 1], ...dots], "other");
    pen.dots(dots);
    return pen;
  }

  // Between two measured sizes nothing is made up: both are named.
  function around(point, key, format) {
    if (!sorted.length) return "not measured";
    const here = place(point);
    const same = sorted.find((other) => Math.abs(whereMeasured(other) - here) < 1e-6);
    if (same) return `${format(same[key])} <small>measured</small>`;
    const before = sorted.filter((other) => whereMeasured(other) < here).pop();
    const after = sorted.find((other) => whereMeasured(other) > here);
    if (before && after) return `${format(before[key])} – ${format(after[key])} <small>measured on either side</small>`;
    return `${format((before || after)[key])} <small>at the nearest measured size</small>`;
  }

  // What was neither expected nor measured has no place on the page.
  function fill(name, text) {
    const place = document.getElementById(name);
    if (place) place.innerHTML = text();
  }

  function show(point, isSaved) {
    const error = isSaved ? data.error : point.error;
    document.getElementById("at").textContent = by === "tau" ? String(Number(point.at.toPrecision(2))) : percent(gone(point));
    document.getElementById("read-params").textContent = percent(point.params / data.params);
    document.getElementById("read-macs").textContent = percent(point.macs / data.macs);
    fill("read-error", () => {
      const seen = around(point, "relative_mse", small);
      return typeof error !== "number" ? seen : `${small(error)} <small>expected</small>${sorted.length ? `<br>${seen}` : ""}`;
    });
    fill("read-latency", () => around(point, "latency_ratio", (value) => percent(value)));
    slider.setAttribute("aria-valuetext", document.getElementById("at").textContent);
    frames.kept.mark(place(point), [point.params / data.params, point.macs / data.macs]);
    if (frames.error) frames.error.mark(place(point), [typeof error === "number" && error > 0 ? error : null]);
    if (frames.latency) frames.latency.mark(place(point), []);
  }

  let atHome = true;
  function move(isSaved) {
    atHome = isSaved;
    const point = isSaved ? saved : points[Number(slider.value)];
    show(point, isSaved);
    onMove(isSaved ? null : point, by === "tau" ? point.at : null);
  }

  function draw() {
    frames = { kept: drawKept(), error: drawError(), latency: drawLatency() };
    show(atHome ? saved : points[Number(slider.value)], atHome);
  }

  slider.addEventListener("input", () => move(false));
  document.getElementById("back").addEventListener("click", () => {
    slider.value = home;
    move(true);
  });
  slider.value = home;
  return { draw, move };
}
