// The editor of Execute: line errors while one types, and what would run where.
"use strict";
(() => {
  const form = document.getElementById("new");
  if (!form) return;

  const source = document.getElementById("config");
  const verdict = document.getElementById("verdict");
  const list = document.getElementById("mistakes");
  const preview = document.getElementById("preview");
  const wide = document.getElementById("preview-wide");
  const upload = form.querySelector("input[type=file]");
  const PAUSE_MS = 400;

  const editor = CodeMirror.fromTextArea(source, {
    mode: "yaml",
    lineNumbers: true,
    lineWrapping: false,
    styleActiveLine: true,
    indentUnit: 2,
    tabSize: 2,
    viewportMargin: 200,
    placeholder: source.placeholder,
    inputStyle: "contenteditable", // which screen readers and phones understand
    extraKeys: {
      Tab: (cm) => (cm.somethingSelected() ? cm.indentSelection("add") : cm.replaceSelection("  ")),
      "Shift-Tab": "indentLess",
      // Tab indents; this leads out, for those without a mouse.
      Esc: () => document.getElementById("pr").focus(),
    },
  });
  const said = { "role": "textbox", "aria-multiline": "true", "aria-label": document.querySelector("label[for=config]").textContent, "aria-describedby": "config-keys" };
  for (const [name, value] of Object.entries(said)) editor.getInputField().setAttribute(name, value);

  let marks = [];
  const unmark = () => {
    for (const undo of marks) undo();
    marks = [];
  };

  const markLine = ({ line, column, message }) => {
    const at = Math.min(line, editor.lineCount()) - 1;
    const handle = editor.addLineClass(at, "wrap", "cm-mistake-line");
    const text = editor.getLine(at) || "";
    const from = Math.min((column || 1) - 1, text.length);
    const word = editor.markText({ line: at, ch: from }, { line: at, ch: text.length }, { className: "cm-mistake" });
    const said = document.createElement("div");
    said.className = "cm-say";
    said.textContent = message;
    const widget = editor.addLineWidget(handle, said, { coverGutter: false, noHScroll: true });
    marks.push(() => { editor.removeLineClass(handle, "wrap", "cm-mistake-line"); word.clear(); widget.clear(); });
  };

  const item = (mistake) => {
    const made = document.createElement("li");
    const place = document.createElement("b");
    if (mistake.line) place.textContent = interpolate(gettext("line %s"), [mistake.line]);
    else if (mistake.field) place.textContent = mistake.field;
    made.append(place, place.textContent ? " " : "", mistake.message);
    return made;
  };

  const judge = (mistakes) => {
    unmark();
    const placed = mistakes.filter((mistake) => mistake.line);
    placed.forEach(markLine);
    list.replaceChildren(...mistakes.filter((mistake) => !mistake.line).map(item));
    verdict.replaceChildren();
    if (!mistakes.length) return;
    const words = interpolate(ngettext("%s thing to mend", "%s things to mend", mistakes.length), [mistakes.length]);
    const state = document.createElement("span");
    state.className = "state";
    state.dataset.state = "warning";
    state.innerHTML = '<svg class="i" aria-hidden="true"><use href="#s-warning"></use></svg>';
    state.append(words);
    verdict.append(state);
  };

  const isUntouched = () => ["config", "project", "command", "sweep"].every((name) => !form.elements[name].value.trim());

  // Where it stands in the queue is said beside the button; the preview brings the words.
  const head = form.querySelector("[data-turn]");
  const more = form.querySelector("[data-turn-more]");
  const wordsBefore = head.textContent;
  const tellTurn = () => {
    const turn = preview.querySelector(".turn");
    head.textContent = turn ? turn.dataset.head : wordsBefore;
    more.textContent = turn ? turn.dataset.more : "";
  };

  // What was typed outlives a reload: a session that ended, a new version of the server.
  const DRAFT = "lab-draft";
  const keep = (leaving) => {
    editor.save();
    const typed = [...new FormData(form)].filter(([name, value]) => typeof value === "string" && name !== "csrfmiddlewaretoken");
    try { sessionStorage.setItem(DRAFT, JSON.stringify({ at: location.search, typed, leaving })); } catch { /* full, or forbidden */ }
  };
  const restore = () => {
    const was = performance.getEntriesByType("navigation")[0]?.type;
    try {
      const draft = JSON.parse(sessionStorage.getItem(DRAFT));
      sessionStorage.removeItem(DRAFT);
      if (!draft || (was !== "reload" && !draft.leaving) || draft.at !== location.search || list.children.length) return;
      for (const box of form.querySelectorAll("input[type=checkbox]")) box.checked = draft.typed.some(([name, value]) => name === box.name && value === box.value);
      for (const [name, value] of draft.typed) {
        const field = form.elements[name];
        if (field && field.type !== "checkbox") field.value = value;
      }
      editor.setValue(source.value);
    } catch { /* none, or of an older page */ }
  };

  let newest = 0;
  const check = async () => {
    editor.save();
    const mine = ++newest;
    const sent = new FormData(form);
    sent.delete("upload");
    try {
      const response = await lab.ask(form.dataset.check, { method: "POST", body: sent });
      if (response.redirected) return lab.leave();
      if (!response.ok || mine !== newest) return;
      const answer = response.json();
      judge(isUntouched() ? [] : answer.mistakes);
      Idiomorph.morph(preview, answer.preview, { morphStyle: "innerHTML" });
      Idiomorph.morph(wide, answer.wide, { morphStyle: "innerHTML" });
      tellTurn();
    } catch { /* away from the server: the submit will say so */ }
  };

  let timer = 0;
  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(check, PAUSE_MS);
    keep(false);
  };

  const open = async (file) => {
    if (file.size > 10e6) return;
    editor.setValue(await file.text());
    upload.value = ""; // its text is in the editor now
  };

  editor.on("change", soon);
  form.addEventListener("input", (event) => event.target !== upload && soon());
  // Enter in a field queues nothing by mistake: it shows at once what would run. Else the form's
  // first button would be pressed, which with scripts nobody sees.
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    const queues = event.ctrlKey || event.metaKey;
    if (!queues && !event.target.matches("input:not([type=file])")) return;
    event.preventDefault();
    if (queues) return form.requestSubmit(form.querySelector("button.primary"));
    clearTimeout(timer);
    check();
  });
  upload.addEventListener("change", () => upload.files[0] && open(upload.files[0]));
  editor.on("drop", (_, event) => {
    const [file] = event.dataTransfer.files;
    if (!file) return;
    event.preventDefault();
    open(file);
  });
  form.addEventListener("submit", () => {
    editor.save();
    sessionStorage.removeItem(DRAFT);
  });
  document.addEventListener("lab:message", ({ detail }) => {
    if (document.hidden || isUntouched()) return;
    if (detail.kind === "job" || detail.turned) soon(); // what fits now may be another
  });
  document.addEventListener("lab:leaving", () => isUntouched() || keep(true)); // also to the sign-in page
  restore();
  tellTurn();
  if (!isUntouched()) check();
})();
