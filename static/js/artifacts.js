// What a run left behind: a checkpoint is looked into when it is opened; images move with one slider.
"use strict";
(() => {
  const load = async (details) => {
    const box = details.querySelector(".loaded");
    details.dataset.kept = "1"; // a part that is refreshed leaves it as it is
    try {
      const response = await fetch(details.dataset.load, { headers: { "X-Part": "1" } });
      if (response.ok && !response.redirected) box.innerHTML = await response.text();
    } catch { /* its link still leads there */ }
  };

  document.addEventListener("toggle", ({ target }) => {
    if (!(target instanceof HTMLDetailsElement) || !target.dataset.load) return;
    if (target.open) load(target);
    else delete target.dataset.kept;
  }, true);

  let chosen = null; // a step; null: the newest

  const show = () => {
    for (const figure of document.querySelectorAll(".pictures figure")) {
      const images = [...figure.querySelectorAll("li")];
      const upto = images.filter(({ dataset }) => chosen === null || Number(dataset.step) <= chosen);
      const { step, href, name } = (upto.at(-1) || images[0]).dataset;
      const image = figure.querySelector("img");
      if (image.getAttribute("src") !== href) {
        image.src = href;
        image.alt = name;
        image.parentElement.href = href;
      }
      const label = figure.querySelector(".n");
      if (label) label.textContent = step;
    }
  };

  const steps = () => {
    const place = document.getElementById("picture-place");
    return place ? place.dataset.steps.split(",").map(Number) : [];
  };

  const settle = () => {
    const place = document.getElementById("picture-place");
    if (!place) return;
    const all = steps();
    const at = chosen === null ? all.length - 1 : Math.max(0, all.findLastIndex((step) => step <= chosen));
    place.value = at;
    document.getElementById("picture-step").textContent = all[at];
    place.setAttribute("aria-valuetext", all[at]);
    show();
  };

  document.addEventListener("input", ({ target }) => {
    if (target.id !== "picture-place") return;
    const all = steps();
    const at = Number(target.value);
    chosen = at === all.length - 1 ? null : all[at];
    settle();
  });
  document.addEventListener("lab:part", ({ target }) => { if (target.id === "pictures") settle(); });
})();
