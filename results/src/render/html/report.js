// What a reader may do with the figures: see the value under the pointer, hide a series, change an axis, change the theme.
"use strict";

const root = document.documentElement;
const tip = document.getElementById("tip");

// The theme: that of the system until the button is pressed.
const system = matchMedia("(prefers-color-scheme: dark)");
const follow = (event) => show(event.matches);
const theme = document.getElementById("theme");
function show(dark) {
  root.dataset.theme = dark ? "dark" : "light";
  theme.setAttribute("aria-pressed", String(dark));
}
show(system.matches);
system.addEventListener("change", follow);
theme.addEventListener("click", () => {
  system.removeEventListener("change", follow);
  show(root.dataset.theme !== "dark");
});

// On paper nothing can be opened.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});

// A hint of ours in place of the browser's, which is slow and small.
for (const title of document.querySelectorAll(".hit > title")) {
  title.parentNode.dataset.says = title.textContent;
  title.remove();
}
function say(event) {
  const says = event.target.dataset && event.target.dataset.says;
  tip.hidden = !says;
  if (!says) return;
  tip.textContent = says;
  const box = tip.getBoundingClientRect();
  const left = Math.min(event.clientX + 12, root.clientWidth - box.width - 4);
  const below = event.clientY + 16;
  const top = below + box.height > root.clientHeight ? event.clientY - box.height - 12 : below;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, top) + "px";
}
document.addEventListener("pointermove", say);
document.addEventListener("pointerdown", say);
const silence = () => { tip.hidden = true; };
document.addEventListener("scroll", silence, true);
document.addEventListener("keydown", (event) => { if (event.key === "Escape") silence(); });

for (const figure of document.querySelectorAll("figure")) {
  const keys = [...figure.querySelectorAll(".key")];
  const set = (name, shown) => {
    for (const key of keys) {
      if (key.dataset.series === name) key.setAttribute("aria-checked", String(shown));
    }
    for (const series of figure.querySelectorAll(".series, .hits")) {
      if (series.dataset.series === name) series.style.display = shown ? "" : "none";
    }
  };
  for (const key of keys) {
    const name = key.dataset.series;
    key.setAttribute("role", "switch");
    key.setAttribute("tabindex", "0");
    key.setAttribute("aria-label", name);
    key.setAttribute("aria-checked", "true");
    const toggle = () => set(name, key.getAttribute("aria-checked") !== "true");
    key.addEventListener("click", toggle);
    key.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      toggle();
    });
  }
  for (const button of figure.querySelectorAll("button[data-shown]")) {
    button.addEventListener("click", () => {
      for (const key of keys) set(key.dataset.series, button.dataset.shown === "all");
    });
  }
  const axes = [...figure.querySelectorAll("button[data-axis]")];
  const isPressed = (axis) => axes.some((it) => it.dataset.axis === axis && it.getAttribute("aria-pressed") === "true");
  for (const button of axes) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      const scales = (isPressed("x") ? "x" : "") + (isPressed("y") ? "y" : "");
      for (const drawing of figure.querySelectorAll(".drawing")) drawing.hidden = drawing.dataset.logarithmic !== scales;
    });
  }
}
