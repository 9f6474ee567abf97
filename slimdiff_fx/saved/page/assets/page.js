"use strict";
// Ties the parts together: theme, pictures, sorting, and drawing anew when the width changes.

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;

  const theme = document.getElementById("theme");
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
    theme.setAttribute("aria-pressed", String(isDark()));
    theme.setAttribute("aria-label", "Dark colours");
  };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    nameTheme();
  });
  prefersDark.addEventListener("change", nameTheme);
  nameTheme();

  const difference = document.getElementById("difference");
  if (difference) difference.addEventListener("change", () => document.querySelector(".pairs").classList.toggle("differing", difference.checked));

  function sortBy(table, header) {
    const column = [...header.parentElement.children].indexOf(header);
    const falling = header.getAttribute("aria-sort") === "ascending";
    const body = table.tBodies[0];
    const value = (row) => Number(row.children[column].dataset.value);
    const rows = [...body.rows].sort((one, other) => (falling ? value(other) - value(one) : value(one) - value(other)));
    header.parentElement.querySelectorAll("th").forEach((each) => each.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", falling ? "descending" : "ascending");
    body.append(...rows);
  }
  document.querySelectorAll("table").forEach((table) =>
    table.querySelectorAll("thead th").forEach((header) =>
      header.querySelector("button").addEventListener("click", () => sortBy(table, header))));

  const sites = makeSites(data);
  sites.draw();
  const sweep = data.analysis ? makeSweep(data, sites.show) : null;
  if (sweep) {
    sweep.draw();
    sweep.move(true);
  }

  let width = root.clientWidth;
  window.addEventListener("resize", () => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    sites.redraw();
    if (sweep) sweep.draw();
  });
})();
