// A table of runs: ticks outlive the table's refreshing, all of a page are ticked at once, and tags
// and notes are edited in their place. Without it each of these has a form or a page of its own.
"use strict";
(() => {
  const table = document.getElementById("table");
  const form = document.getElementById("runs-form");
  if (!table || !form) return;

  // --- ticks ----------------------------------------------------------------------------------
  const ticked = new Set();
  const boxes = () => [...table.querySelectorAll("input[name=run]")];
  const words = document.getElementById("ticked");

  const tell = () => {
    const all = document.getElementById("tick-all");
    const shown = boxes();
    const count = shown.filter((box) => box.checked).length;
    if (all) {
      all.checked = count > 0 && count === shown.length;
      all.indeterminate = count > 0 && count < shown.length;
    }
    if (words && count) words.textContent = interpolate(ngettext("%s run ticked", "%s runs ticked", count), [count]);
  };

  table.addEventListener("change", ({ target }) => {
    if (target.id === "tick-all") for (const box of boxes()) { box.checked = target.checked; note(box); }
    if (target.name === "run") note(target);
    tell();
  });
  const note = (box) => (box.checked ? ticked.add(box.value) : ticked.delete(box.value));

  table.addEventListener("lab:part", () => {
    for (const box of boxes()) box.checked = ticked.has(box.value);
    tell();
  });
  for (const box of boxes()) note(box); // what the browser kept when one came back to the page
  tell();

  // --- in place -------------------------------------------------------------------------------
  const element = (tag, css, text) => Object.assign(document.createElement(tag), { className: css, textContent: text ?? "" });
  const source = table.dataset.src;

  const rest = (editor, cell) => {
    editor.remove();
    for (const child of cell.children) child.hidden = false;
    table.dataset.src = source;
    document.dispatchEvent(new CustomEvent("lab:refresh"));
  };

  const save = async (link, field, editor, cell) => {
    const body = new FormData();
    body.set("csrfmiddlewaretoken", form.elements.csrfmiddlewaretoken.value);
    body.set(link.dataset.edit, field.value);
    const wrong = editor.querySelector(".wrong");
    try {
      const response = await fetch(link.href, { method: "POST", body });
      const isSignedOut = new URL(response.url).pathname.endsWith("/login/");
      if (response.redirected && !isSignedOut) return rest(editor, cell);
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      wrong.textContent = page.getElementById("messages")?.textContent.trim() || gettext("It was not saved.");
    } catch {
      wrong.textContent = gettext("The server does not answer; try again.");
    }
  };

  const edit = (link) => {
    const cell = link.closest("td");
    if (table.dataset.src === undefined) return; // another is being edited
    delete table.dataset.src;
    const editor = element("span", "inplace");
    const field = element(link.dataset.edit === "notes" ? "textarea" : "input", "field small");
    field.setAttribute("aria-label", link.getAttribute("aria-label"));
    const done = element("button", "btn small primary", gettext("Save"));
    const leave = element("button", "btn small quiet", gettext("Leave it"));
    done.type = leave.type = "button";
    const wrong = element("span", "wrong");
    wrong.setAttribute("role", "alert");
    editor.append(field, done, leave, wrong);
    for (const child of cell.children) child.hidden = true;
    cell.append(editor);
    field.value = link.dataset.value;
    field.focus();
    done.addEventListener("click", () => save(link, field, editor, cell));
    leave.addEventListener("click", () => rest(editor, cell));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") rest(editor, cell);
      else if (event.key === "Enter" && (field.tagName === "INPUT" || event.ctrlKey) && !event.isComposing) {
        event.preventDefault(); // the form around the table is another one
        save(link, field, editor, cell);
      }
    });
  };

  table.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-edit]");
    if (!link?.dataset.edit || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    edit(link);
  });
})();
