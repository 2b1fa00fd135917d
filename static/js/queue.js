// The queue by mouse: a row is taken by its grip and let go where it should stand. The arrows in
// each row do the same, by keyboard and without a script.
"use strict";
(() => {
  const list = document.getElementById("queue-list");
  const form = document.getElementById("move");
  if (!list || !form) return;

  let dragged = null;
  let over = null;

  const rowAt = (event) => {
    const row = document.elementFromPoint(event.clientX, event.clientY)?.closest("tr[data-uid]");
    return row && row !== dragged ? row : null;
  };
  const isAfter = (row, event) => {
    const box = row.getBoundingClientRect();
    return event.clientY > box.top + box.height / 2;
  };
  const unmark = () => {
    if (over) over.classList.remove("over-before", "over-after");
    over = null;
  };

  list.addEventListener("pointerdown", (event) => {
    const grip = event.target.closest(".grip");
    const row = grip?.closest("tr[data-move]");
    if (!row || event.button) return;
    event.preventDefault();
    dragged = row;
    row.classList.add("dragged");
    try { grip.setPointerCapture(event.pointerId); } catch { /* it was let go already */ }
  });
  document.addEventListener("pointermove", (event) => {
    if (!dragged) return;
    unmark();
    over = rowAt(event);
    if (over) over.classList.add(isAfter(over, event) ? "over-after" : "over-before");
  });
  document.addEventListener("pointerup", (event) => {
    if (!dragged) return;
    const row = dragged, target = rowAt(event);
    dragged = null;
    row.classList.remove("dragged");
    unmark();
    if (!target) return;
    const field = document.createElement("input");
    field.type = "hidden";
    field.name = isAfter(target, event) ? "after" : "before";
    field.value = target.dataset.uid;
    form.append(field);
    form.action = row.dataset.move;
    form.submit();
  });
  const drop = () => {
    if (dragged) dragged.classList.remove("dragged");
    dragged = null;
    unmark();
  };
  document.addEventListener("pointercancel", drop);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") drop(); });
})();
