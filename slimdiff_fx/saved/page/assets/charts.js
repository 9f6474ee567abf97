"use strict";
// Small charts as inline SVG, drawn at the size of their boxes so that text keeps its own.

const NAMESPACE = "http://www.w3.org/2000/svg";
const MARGIN = { top: 10, right: 14, bottom: 36, left: 46 };

function element(parent, name, attributes, text) {
  const made = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function percent(share, digits) {
  return (100 * share).toFixed(digits === undefined ? 1 : digits) + "%";
}

function small(value) {
  if (value === 0 || value >= 0.01) return String(Number(value.toPrecision(2)));
  const [digits, power] = value.toExponential(1).split("e");
  const raised = { "-": "⁻", "+": "", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
  return digits + "×10" + [...power].map((letter) => raised[letter]).join("");
}

function decade(power) {
  return power > -3 ? String(Number((10 ** power).toPrecision(1))) : small(10 ** power).replace("1.0×", "");
}

// A scale gives 0 to 1 for a value, and says where its ticks are.
function linear(low, high, ticks, format) {
  return { at: (value) => (value - low) / (high - low || 1), ticks: ticks.map((value) => [value, format(value)]) };
}

function logarithmic(values) {
  const positive = values.filter((value) => value > 0);
  const low = Math.floor(Math.log10(Math.min(...positive, 1)) + 1e-9);
  const high = Math.max(Math.ceil(Math.log10(Math.max(...positive, 1e-12)) - 1e-9), low + 1);
  const step = Math.ceil((high - low) / 5);
  const ticks = [];
  for (let power = low; power <= high; power += step) ticks.push([10 ** power, decade(power)]);
  return { at: (value) => Math.max(0, (Math.log10(Math.max(value, 1e-30)) - low) / (high - low)), ticks };
}

// Thresholds and scores: three decades, and everything below a thousandth at the left end.
function shares() {
  const at = (value) => (value < 0.00099 ? 0 : 0.1 + (0.9 * (Math.log10(value) + 3)) / 3);
  return { at, ticks: [[0, "0"], [0.001, ".001"], [0.01, ".01"], [0.1, ".1"], [1, "1"]] };
}

// Draws axes and gives a pen for what goes in; `mark` moves a marker afterwards without drawing anew.
function frame(box, { x, y, xName, label, height = 220 }) {
  box.replaceChildren();
  const width = Math.max(box.clientWidth, 160);
  const svg = element(box, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const px = (value) => MARGIN.left + x.at(value) * inner.width;
  const py = (value) => MARGIN.top + (1 - y.at(value)) * inner.height;
  const bottom = MARGIN.top + inner.height;
  for (const [value, text] of y.ticks) {
    element(svg, "line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: py(value), y2: py(value) });
    element(svg, "text", { x: MARGIN.left - 7, y: py(value) + 4, "text-anchor": "end" }, text);
  }
  for (const [value, text] of x.ticks) {
    element(svg, "text", { x: px(value), y: bottom + 15, "text-anchor": "middle" }, text);
  }
  element(svg, "text", { x: MARGIN.left + inner.width / 2, y: height - 3, "text-anchor": "middle" }, xName);
  const path = (points) => points.map(([a, b], index) => `${index ? "L" : "M"}${px(a).toFixed(1)} ${py(b).toFixed(1)}`).join("");
  const markers = element(svg, "g");
  return {
    line: (points, kind = "") => points.length && element(svg, "path", { class: `trace ${kind}`, d: path(points) }),
    band: (points) => points.length > 1 && element(svg, "path", {
      class: "band",
      d: `${path(points.map(([a, , high]) => [a, high]))}${path(points.map(([a, low]) => [a, low]).reverse()).replace("M", "L")}Z`,
    }),
    bar: (from, to, value) => {
      const left = px(from) + 0.5;
      element(svg, "rect", { class: "bar", x: left, y: py(value), width: Math.max(px(to) - left - 0.5, 0.5), height: bottom - py(value) });
    },
    dots: (points) => points.forEach(([a, b, title]) => {
      element(element(svg, "circle", { class: "dot", cx: px(a), cy: py(b), r: 4 }), "title", {}, title);
    }),
    saved: (a, b) => {
      const [cx, cy] = [px(a), py(b)];
      const made = element(svg, "path", { class: "saved", d: `M${cx} ${cy - 6}L${cx + 6} ${cy}L${cx} ${cy + 6}L${cx - 6} ${cy}Z` });
      element(made, "title", {}, "the saved plan");
    },
    mark: (a, values) => {
      svg.append(markers);
      markers.replaceChildren();
      element(markers, "line", { class: "rule", x1: px(a), x2: px(a), y1: MARGIN.top, y2: bottom });
      values.filter((value) => value !== null).forEach((value) =>
        element(markers, "circle", { class: "marker", cx: px(a), cy: py(value), r: 6 }));
    },
  };
}

function nothing(box, words) {
  box.replaceChildren();
  const made = document.createElement("p");
  made.className = "empty";
  made.textContent = words;
  box.append(made);
}
