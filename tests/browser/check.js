// Does in a report what a reader would do, and writes what it found, as JSON, into the page. The test puts this file behind the
// page's own script, and `watch` before it.
"use strict";
{
  const found = {
    errors: window.watched,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name),
    width: innerWidth,
    overflow: root.scrollWidth - innerWidth,
    figures: [],
    problems: [],
  };
  const isShown = (element) => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && box.height > 0;
  };
  const drawing = (figure) => [...figure.querySelectorAll(".drawing")].filter((it) => !it.hidden);
  const shapes = (svg) => svg.querySelectorAll(".series *").length;

  for (const figure of document.querySelectorAll("figure")) {
    const [only, ...more] = drawing(figure);
    const name = figure.querySelector("svg").getAttribute("aria-label");
    const complain = (problem) => found.problems.push(name + ": " + problem);
    found.figures.push({ name, series: figure.querySelector(".drawing").querySelectorAll(".key").length });
    if (more.length || !only || !isShown(only.querySelector("svg"))) complain("not one drawing is shown");
    if (shapes(only) === 0) complain("nothing is drawn");
    if (/NaN|[" ,-]inf[" ,]|undefined/.test(figure.innerHTML)) complain("a number is none");

    // Each series goes and comes back, in every drawing of the figure.
    for (const key of only.querySelectorAll(".key")) {
      const of = (state) => [...only.querySelectorAll(".series, .hits")]
        .filter((it) => it.dataset.series === key.dataset.series)
        .filter((it) => (getComputedStyle(it).display === "none") === (state === "hidden")).length;
      const all = of("shown");
      key.dispatchEvent(new MouseEvent("click", { bubbles: true }));
      if (of("shown") !== 0 || of("hidden") !== all) complain(key.dataset.series + " does not go");
      key.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
      if (of("shown") !== all) complain(key.dataset.series + " does not come back");
    }
    const all = only.querySelectorAll(".series[data-series]").length;
    const hidden = () => [...only.querySelectorAll(".series[data-series]")].filter((it) => it.style.display === "none").length;
    for (const [shown, expected] of [["none", all], ["all", 0]]) {
      const button = figure.querySelector(`button[data-shown="${shown}"]`);
      if (!button) continue;
      button.click();
      if (hidden() !== expected) complain(`${shown}: ${hidden()} of ${all} are hidden`);
    }

    // Each axis changes and changes back.
    for (const button of figure.querySelectorAll("button[data-axis]")) {
      const before = drawing(figure)[0].innerHTML;
      button.click();
      const [changed, ...more] = drawing(figure);
      if (more.length || !changed || changed.innerHTML === before || shapes(changed) === 0) {
        complain("log " + button.dataset.axis + " changes nothing");
      }
      button.click();
      if (drawing(figure)[0].innerHTML !== before) complain("log " + button.dataset.axis + " does not change back");
    }

    // Each series says a value where one points at it, whatever is drawn over it: some point of it is under the pointer.
    const groups = [...only.querySelectorAll(".hits")];
    for (const group of groups) {
      figure.scrollIntoView({ block: "start", behavior: "instant" });
      const says = [...group.querySelectorAll(".hit")].some((hit) => {
        hit.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
        const box = hit.getBoundingClientRect();
        const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
        const under = document.elementFromPoint(x, y);
        if (!under || under.parentNode !== group) return false;
        under.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: x, clientY: y }));
        return !tip.hidden && tip.textContent === hit.dataset.says;
      });
      // Where methods do the same, the later one covers the earlier one with its own points.
      if (!says && group === groups[groups.length - 1]) complain("nothing is said of " + group.dataset.series);
    }
    if (groups.length) {
      const box = tip.getBoundingClientRect();
      if (box.right > innerWidth || box.left < 0) complain("what a point says leaves the page");
    } else {
      complain("no point can be pointed at");
    }
  }

  // The theme changes what the page and the drawings look like.
  const look = () => {
    const text = document.querySelector("svg text");
    return [getComputedStyle(document.body).backgroundColor, text && getComputedStyle(text).fill];
  };
  const before = look();
  theme.click();
  const after = look();
  if (before.some((value, at) => value === after[at])) found.problems.push("the theme changes nothing: " + before);
  theme.click();

  // Links lead somewhere.
  for (const link of document.querySelectorAll("a[href]")) {
    const target = link.getAttribute("href");
    if (!target.startsWith("#") || !document.getElementById(decodeURIComponent(target.slice(1)))) {
      found.problems.push("a link leads nowhere: " + target);
    }
  }
  const result = document.createElement("pre");
  result.id = "found";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
}
