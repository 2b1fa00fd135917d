// What every page can do: keep its parts fresh, copy, and send a choice at once.
//
// A part says what it shows and where its HTML comes from:
//   <div data-live="job:7 device-state" data-src="/runs/…?part=head" data-every="2000">
// `kind:id` is one object, `kind` all of them; `device-state` is a device whose state changed.
"use strict";
(() => {
  const HIDDEN_MS = 15000;
  const waiting = new WeakMap(); // part → "busy", or "again"

  const wants = (part, message) => {
    const about = [[message.kind, message.job ?? message.id]];
    if (message.kind === "device" && message.turned) about.push(["device-state", message.id]);
    if (message.kind === "job" && message.sweep) about.push(["sweep", message.sweep]);
    return part.dataset.live.split(" ").some((token) => {
      const [kind, which] = token.split(":");
      return about.some(([one, id]) => kind === one && (which === undefined || which === String(id)));
    });
  };

  // A request upon a line that died in a sleep is never answered: with a new line it is given up,
  // as is any after a while, so that the next one is asked.
  const ANSWER_MS = 60000;
  let line = new AbortController();
  const ask = async (url, options = {}) => {
    line.signal.throwIfAborted(); // the page is being left
    const mine = new AbortController();
    const end = () => mine.abort();
    const timer = setTimeout(end, ANSWER_MS);
    const { signal } = line;
    signal.addEventListener("abort", end);
    try {
      const response = await fetch(url, { cache: "no-store", ...options, signal: mine.signal });
      const { ok, status, redirected } = response;
      const text = await response.text();
      const older = response.headers.has("X-Older"); // than the question: there may be news
      return { ok, status, redirected, older, text, json: () => JSON.parse(text) };
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
    }
  };

  // Several parts hear it at once, and two loads would end one another. What is under way is given
  // up: its answer would be the page to sign in at, with a cookie that is not of the one we load.
  let isLeaving = false;
  const leave = () => {
    if (isLeaving) return;
    isLeaving = true;
    document.dispatchEvent(new CustomEvent("lab:leaving"));
    line.abort();
    location.reload();
  };

  const fetchPart = async (part) => {
    const response = await ask(part.dataset.src, { headers: { "X-Part": "1" } });
    if (response.redirected || response.status === 403) return leave(); // signed out
    if (!response.ok) return;
    // What a script has filled in (data-kept) is left as it is.
    // What the reader has opened stays open.
    const callbacks = {
      beforeNodeMorphed: (old) => !(old.dataset && "kept" in old.dataset),
      beforeAttributeUpdated: (name, old) => !(name === "open" && old.tagName === "DETAILS"),
    };
    Idiomorph.morph(part, response.text, { morphStyle: "innerHTML", ignoreActiveValue: true, callbacks });
    const listening = part.querySelector("[data-tokens]"); // what it wants to hear from now on
    if (listening) part.dataset.live = listening.dataset.tokens;
    part.dispatchEvent(new CustomEvent("lab:part", { bubbles: true }));
    if (response.older) waiting.set(part, "again");
  };

  // A hidden tab rests, but for the part that its title is taken from.
  const rests = (part) => document.hidden && !part.querySelector("[data-title]");

  const refresh = async (part) => {
    if (rests(part)) return;
    waiting.set(part, "busy");
    const begun = Date.now();
    try {
      await fetchPart(part);
    } catch { /* the server is away; the next message or poll asks again */ }
    const least = document.hidden ? HIDDEN_MS : Number(part.dataset.every) || 500;
    const pause = Math.max(least, 5 * (Date.now() - begun));
    setTimeout(() => {
      const again = waiting.get(part) === "again";
      waiting.delete(part);
      if (again) refresh(part);
    }, pause);
  };

  const look = (part) => {
    const state = waiting.get(part);
    if (state === "busy") waiting.set(part, "again");
    else if (state !== "again") refresh(part);
  };

  const parts = () => document.querySelectorAll("[data-live][data-src]");
  document.addEventListener("lab:message", ({ detail }) => {
    for (const part of parts()) if (wants(part, detail)) look(part);
  });
  document.addEventListener("lab:refresh", () => parts().forEach(look));
  // Nobody waits out a pause that was meant for a hidden tab, or for a line that is no more.
  const lookAtOnce = () => {
    if (document.hidden) return;
    for (const part of parts()) waiting.delete(part);
    document.dispatchEvent(new CustomEvent("lab:refresh"));
  };
  document.addEventListener("visibilitychange", lookAtOnce);
  document.addEventListener("lab:line", () => {
    line.abort();
    line = new AbortController();
    lookAtOnce();
  });

  // For what reads a file of a run piece by piece: `read` is called when there may be more, one
  // at a time; it answers whether there is more at once. `file()` is the file's key, once known, or
  // a set of them.
  window.lab = Object.assign(window.lab || {}, {
    ask,
    leave,
    follow({ job, file, read }) {
      const PAUSE_MS = 200; // and five times what the answer took: who looks leaves the server its time
      let busy = false, again = false;
      const run = async () => {
        if (document.hidden) return; // it looks when it is shown again
        if (busy) { again = true; return; }
        busy = true;
        const begun = Date.now();
        try {
          do again = false; while (await read());
        } catch { /* the server is away; the next message or poll asks again */ }
        const pause = Math.max(PAUSE_MS, 5 * (Date.now() - begun));
        setTimeout(() => { busy = false; if (again) run(); }, pause);
      };
      const isOurs = (id, ours) => !ours || (ours instanceof Set ? ours.has(id) : id === ours);
      document.addEventListener("lab:message", ({ detail }) => {
        const mine = detail.kind === "file" ? isOurs(detail.id, file()) : detail.kind === "job" && detail.job === job;
        if (mine) run();
      });
      document.addEventListener("lab:refresh", run);
      return run;
    },
  });

  // A second click on the way to the answer would do it twice. A download leaves the page where it
  // is, so the button works again after a while.
  const AGAIN_MS = 3000;
  const sent = new WeakSet();
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (event.defaultPrevented || form.getAttribute("method") !== "post") return;
    if (sent.has(form)) return event.preventDefault();
    sent.add(form);
    setTimeout(() => sent.delete(form), AGAIN_MS);
  });

  // The tab's title carries the state.
  const labName = document.title.split(" · ").pop();
  document.addEventListener("lab:part", ({ target }) => {
    const titled = target.querySelector("[data-title]");
    if (titled) document.title = `${titled.dataset.title} · ${labName}`;
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const code = button.closest(".cmd, dd").querySelector("code");
    const word = button.lastChild;
    const before = word.textContent;
    try {
      await copy(code.textContent);
      word.textContent = gettext("Copied");
    } catch {
      word.textContent = gettext("Press Ctrl+C");
      getSelection().selectAllChildren(code);
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

  document.addEventListener("change", (event) => {
    const form = event.target.form;
    if (form && "auto" in form.dataset) form.requestSubmit();
  });
  // A menu is a details element, and opens without a script. With one it closes again: by Escape,
  // which gives the focus back, by a click beside it, and when the focus goes elsewhere.
  const closeMenus = (but) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(but)) menu.open = false;
  };
  document.addEventListener("click", ({ target }) => closeMenus(target));
  document.addEventListener("focusin", ({ target }) => closeMenus(target));
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.activeElement.closest("details.menu[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });

})();
