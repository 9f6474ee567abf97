"use strict";
// The map over the depth, and what is known of one site.

function makeSites(data) {
  const { scores, timesteps, curves, sweep } = data.analysis || {};
  const cells = [...document.querySelectorAll(".cell")];
  const select = document.getElementById("site");
  const boxes = Object.fromEntries(["scores", "timesteps", "curve"].map((name) => [name, document.getElementById(`chart-${name}`)]));
  let chosen = 0;
  let shown = { kept: data.sites.map((site) => site.kept), tau: data.tau };

  function drawScores(site) {
    const counts = scores.sites[site.name];
    const most = Math.max(...counts, 1);
    const ticks = [0, Math.ceil(most / 2), most].filter((value, index, all) => all.indexOf(value) === index);
    const pen = frame(boxes.scores, {
      x: shares(), y: linear(0, most, ticks, String), xName: "score, share of the site's largest",
      label: `Units of ${site.short} by score`,
    });
    counts.forEach((count, bar) => count && pen.bar(bar ? scores.edges[bar] : 0, scores.edges[bar + 1], count));
    if (sweep.by === "tau") pen.mark(shown.tau, []);
  }

  function drawTimesteps(site) {
    const rows = timesteps.sites[site.name];
    const middle = (bucket) => ((bucket + 0.5) * timesteps.timesteps) / rows.length;
    const seen = rows.map((row, bucket) => row && [middle(bucket), ...row]).filter(Boolean);
    const last = timesteps.timesteps;
    const x = linear(last, 0, [last, last / 2, 0], (value) => String(Math.round(value)));
    const pen = frame(boxes.timesteps, {
      x, y: linear(0, Math.max(1, ...seen.map((row) => row[3])), [0, 0.5, 1], String),
      xName: "timestep, from noise to picture", label: `Scores of ${site.short} over timesteps`,
    });
    pen.band(seen.map(([at, low, , high]) => [at, low, high]));
    pen.line(seen.map(([at, , median]) => [at, median]));
    pen.dots(seen.map(([at, , median]) => [at, median, `timestep ${Math.round(at)}: ${median}`]));
  }

  function drawCurve(site) {
    if (!boxes.curve) return;
    const points = curves.sites[site.name].filter((point) => point[1] > 0).map(([channels, error]) => [channels / site.channels, error]);
    if (!points.length) return nothing(boxes.curve, "No size of this site costs anything.");
    const y = logarithmic(points.map((point) => point[1]));
    const pen = frame(boxes.curve, {
      x: linear(1, 0, [1, 0.75, 0.5, 0.25, 0], (value) => 100 * value), y,
      xName: "channels that stay, %", label: `Expected error by size of ${site.short}`,
    });
    pen.line(points);
    const share = shown.kept[chosen] / site.channels;
    pen.mark(share, [share < 1 ? errorAt(points, share) : null]);
  }

  // Sizes between those that were kept for the page lie on the line that is drawn.
  function errorAt(points, share) {
    const after = points.findIndex((point) => point[0] <= share + 1e-9);
    if (after <= 0) return points[after < 0 ? points.length - 1 : 0][1];
    const [[right, low], [left, high]] = [points[after - 1], points[after]];
    const part = (right - share) / (right - left);
    return Math.exp((1 - part) * Math.log(low) + part * Math.log(high));
  }

  function drawMultiples() {
    const box = document.getElementById("multiples");
    if (!box) return;
    box.replaceChildren();
    data.sites.forEach((site, number) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.site = number;
      button.title = site.name;
      const counts = scores.sites[site.name];
      const most = Math.max(...counts, 1);
      const svg = element(button, "svg", { viewBox: "0 0 120 40", height: 40, preserveAspectRatio: "none", "aria-hidden": "true" });
      const scale = shares();
      counts.forEach((count, bar) => {
        const left = 120 * scale.at(bar ? scores.edges[bar] : 0);
        const right = 120 * scale.at(scores.edges[bar + 1]);
        if (count) element(svg, "rect", { class: "bar", x: left, width: right - left - 0.4, y: 39 - (37 * count) / most, height: (37 * count) / most });
      });
      element(svg, "line", { class: "grid", x1: 0, x2: 120, y1: 39.5, y2: 39.5 });
      if (sweep.by === "tau") element(svg, "line", { class: "rule tau", y1: 0, y2: 40 });
      const name = document.createElement("span");
      name.textContent = site.short;
      button.append(name);
      button.addEventListener("click", () => choose(number));
      box.append(button);
    });
  }

  function drawHeat() {
    const box = document.getElementById("heat");
    if (!box) return;
    box.replaceChildren();
    const buckets = timesteps.sites[data.sites[0].name].length;
    const [row, names, top] = [16, Math.min(150, 0.42 * box.clientWidth), 18];
    const width = Math.max(box.clientWidth, 240);
    const height = top + row * data.sites.length;
    const svg = element(box, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": "Scores of all sites over timesteps" });
    const column = (width - names) / buckets;
    element(svg, "text", { x: names, y: 11 }, `timestep ${timesteps.timesteps}`);
    element(svg, "text", { x: width, y: 11, "text-anchor": "end" }, "0");
    data.sites.forEach((site, number) => {
      const rows = timesteps.sites[site.name].slice().reverse();
      const most = Math.max(...rows.map((values) => (values ? values[1] : 0)), 1e-12);
      element(svg, "text", { x: 0, y: top + row * number + 12, class: number === chosen ? "name" : "" }, site.short);
      rows.forEach((values, bucket) => {
        const made = element(svg, "rect", {
          x: names + column * bucket, y: top + row * number, width: column - 1, height: row - 1,
          class: values ? "bar" : "grid", fill: "none", style: values ? `opacity:${(0.06 + 0.94 * Math.max(0, (values[1] / most - 0.4) / 0.6)).toFixed(3)}` : "",
        });
        if (values) element(made, "title", {}, `${site.short}: ${values[1]} of its largest unit`);
      });
    });
  }

  function drawSite() {
    const site = data.sites[chosen];
    if (!data.analysis) return;
    drawScores(site);
    drawTimesteps(site);
    drawCurve(site);
  }

  function choose(number) {
    chosen = number;
    if (select) select.value = number;
    document.querySelectorAll("[data-site]").forEach((each) =>
      each.setAttribute("aria-current", String(Number(each.dataset.site) === number)));
    drawSite();
  }

  function show(point, tau) {
    shown = { kept: point ? point.kept : data.sites.map((site) => site.kept), tau: point ? tau : data.tau };
    cells.forEach((cell) => {
      const site = data.sites[cell.dataset.site];
      const words = `${site.short}: ${percent(shown.kept[cell.dataset.site] / site.channels, 0)} stays`;
      cell.querySelector(".fill").style.height = percent(shown.kept[cell.dataset.site] / site.channels);
      cell.title = words;
      cell.setAttribute("aria-label", words);
    });
    document.querySelectorAll(".tau").forEach((line) => {
      const at = 120 * shares().at(shown.tau);
      line.setAttribute("x1", at);
      line.setAttribute("x2", at);
    });
    drawSite();
  }

  cells.forEach((cell) => cell.addEventListener("click", () => {
    choose(Number(cell.dataset.site));
    const charts = boxes.scores;
    if (charts) charts.scrollIntoView({ block: "center", behavior: "smooth" });
  }));
  if (select) select.addEventListener("change", () => choose(Number(select.value)));
  return {
    draw: () => {
      if (data.analysis) [drawMultiples, drawHeat].forEach((part) => part());
      show(null, data.tau);
      choose(chosen);
    },
    show,
    redraw: () => {
      if (data.analysis) drawHeat();
      drawSite();
    },
  };
}
