// What every page can do: keep its parts fresh, copy, ask before, and send a choice at once.
//
// A part says what it shows and where its HTML comes from:
//   <div data-live="job:7 device-state" data-src="/runs/…?part=head" data-every="2000">
// `kind:id` is one object, `kind` all of them; `device-state` is a device whose state changed.
"use strict";
(() => {
  const waiting = new WeakMap(); // part → its timer, or "busy", or "again"

  const wants = (part, message) => {
    const id = message.job ?? message.id;
    const kinds = message.kind === "device" && message.turned ? ["device", "device-state"] : [message.kind];
    return part.dataset.live.split(" ").some((token) => {
      const [kind, which] = token.split(":");
      return kinds.includes(kind) && (which === undefined || which === String(id));
    });
  };

  const fetchPart = async (part) => {
    const response = await fetch(part.dataset.src, { headers: { "X-Part": "1" }, cache: "no-store" });
    if (response.redirected || response.status === 403) return location.reload(); // signed out
    if (!response.ok) return;
    const html = await response.text();
    Idiomorph.morph(part, html, { morphStyle: "innerHTML", ignoreActiveValue: true });
    const listening = part.querySelector("[data-tokens]"); // what it wants to hear from now on
    if (listening) part.dataset.live = listening.dataset.tokens;
    part.dispatchEvent(new CustomEvent("lab:part", { bubbles: true }));
  };

  const refresh = async (part) => {
    if (document.hidden) return waiting.set(part, "hidden");
    waiting.set(part, "busy");
    const begun = Date.now();
    try {
      await fetchPart(part);
    } catch { /* the server is away; the next message or poll asks again */ }
    const pause = Math.max(Number(part.dataset.every) || 500, 5 * (Date.now() - begun));
    setTimeout(() => {
      const again = waiting.get(part) === "again";
      waiting.delete(part);
      if (again) refresh(part);
    }, pause);
  };

  const ask = (part) => {
    const state = waiting.get(part);
    if (state === "busy") waiting.set(part, "again");
    else if (state !== "again") refresh(part);
  };

  const parts = () => document.querySelectorAll("[data-live][data-src]");
  document.addEventListener("lab:message", ({ detail }) => {
    for (const part of parts()) if (wants(part, detail)) ask(part);
  });
  document.addEventListener("lab:refresh", () => parts().forEach(ask));
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) document.dispatchEvent(new CustomEvent("lab:refresh"));
  });

  // For what reads a file of a run piece by piece: `read` is called when there may be more, one
  // at a time; it answers whether there is more at once. `file()` is the file's key, once known.
  window.lab = {
    follow({ job, file, read }) {
      const PAUSE_MS = 400;
      let busy = false, again = false;
      const run = async () => {
        if (busy) { again = true; return; }
        busy = true;
        try {
          do again = false; while (await read());
        } catch { /* the server is away; the next message or poll asks again */ }
        setTimeout(() => { busy = false; if (again) run(); }, PAUSE_MS);
      };
      document.addEventListener("lab:message", ({ detail }) => {
        const mine = detail.kind === "file" ? !file() || detail.id === file() : detail.kind === "job" && detail.job === job;
        if (mine) run();
      });
      document.addEventListener("lab:refresh", run);
      return run;
    },
  };

  // The tab's title carries the state.
  const labName = document.title.split(" · ").pop();
  document.addEventListener("lab:part", ({ target }) => {
    const titled = target.querySelector("[data-title]");
    if (titled) document.title = `${titled.dataset.title} · ${labName}`;
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = button.closest(".cmd").querySelector("code").textContent;
    const word = button.lastChild;
    const before = word.textContent;
    try {
      await copy(text);
      word.textContent = gettext("Copied");
    } catch {
      word.textContent = gettext("Press Ctrl+C");
      getSelection().selectAllChildren(button.closest(".cmd").querySelector("code"));
    }
    setTimeout(() => { word.textContent = before; }, 2000);
  });

  // The clipboard is there on https and localhost only; most labs begin with plain http.
  const copy = async (text) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "sr";
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (!done) throw new Error("not copied");
  };

  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  });
  document.addEventListener("change", (event) => {
    const form = event.target.form;
    if (form && "auto" in form.dataset) form.requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, .CodeMirror");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey) return;
    const find = document.querySelector(".top .find input");
    if (find) {
      event.preventDefault();
      find.focus();
    }
  });
})();
