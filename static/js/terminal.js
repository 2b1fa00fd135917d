// A log that grows. The server makes the lines (colours, folds, numbers); here they are put in
// place: new ones at the end, earlier ones at the beginning, and never more than can be read.
"use strict";
(() => {
  const terminal = document.getElementById("terminal");
  if (!terminal) return;

  const MOST_LINES = 6000;
  const url = terminal.dataset.log;
  const follow = document.getElementById("follow");
  const find = document.getElementById("log-find");
  const size = document.getElementById("log-size");
  const download = document.getElementById("log-download");
  let start = Number(terminal.dataset.start);
  let next = Number(terminal.dataset.next);
  let nextLine = terminal.dataset.nextLine;
  let version = terminal.dataset.version;
  let file = Number(terminal.dataset.file) || null;

  const following = () => follow.getAttribute("aria-pressed") === "true";
  const setFollowing = (on) => {
    follow.setAttribute("aria-pressed", String(on));
    if (on) terminal.scrollTop = terminal.scrollHeight;
  };
  const atEnd = () => terminal.scrollHeight - terminal.scrollTop - terminal.clientHeight < 40;

  const lines = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content;
  };

  const bytes = (count) => {
    const units = ["B", "kB", "MB", "GB"];
    let value = count, unit = 0;
    while (value >= 1000 && unit < 3) { value /= 1000; unit += 1; }
    return `${unit ? value.toFixed(1) : value} ${units[unit]}`;
  };

  // The last line shown may have been half a line: it begins at `next` and comes once more.
  let open = terminal.lastElementChild && terminal.dataset.open === "1" ? terminal.lastElementChild : null;

  const append = (window) => {
    if (window.reset) {
      terminal.replaceChildren();
      start = window.start;
      open = null;
    }
    if (open) open.remove();
    const more = lines(window.html);
    const last = more.lastElementChild;
    terminal.append(more);
    open = window.next < window.size && window.open ? last : null;
    next = window.next;
    nextLine = window.next_line;
    version = window.version;
    file = window.file;
    size.textContent = bytes(window.size);
    download.hidden = !window.size;
    while (terminal.childElementCount > MOST_LINES) {
      terminal.firstElementChild.remove();
      start = null; // what was cut off is not asked for again; Download has it all
    }
    if (find.value) mark();
    if (following()) terminal.scrollTop = terminal.scrollHeight;
  };

  const read = async () => {
    const query = new URLSearchParams({ offset: next, version });
    if (nextLine) query.set("line", nextLine);
    const response = await fetch(`${url}?${query}`, { cache: "no-store" });
    if (!response.ok || response.redirected) return false;
    const window = await response.json();
    append(window);
    return window.more;
  };

  let goingBack = false;
  const readEarlier = async () => {
    if (goingBack || !start) return;
    goingBack = true;
    try {
      const response = await fetch(`${url}?before=${start}`, { cache: "no-store" });
      if (!response.ok) return;
      const window = await response.json();
      const height = terminal.scrollHeight;
      terminal.prepend(lines(window.html));
      terminal.scrollTop += terminal.scrollHeight - height;
      start = window.start;
    } catch { /* scrolling up once more asks again */ } finally {
      goingBack = false;
    }
  };

  const mark = () => {
    const words = find.value.toLowerCase();
    let first = null;
    for (const line of terminal.children) {
      const hit = words && line.textContent.toLowerCase().includes(words);
      line.classList.toggle("hit", Boolean(hit));
      if (hit) first = line;
    }
    return first;
  };

  lab.follow({ job: Number(terminal.dataset.job), file: () => file, read });
  follow.addEventListener("click", () => setFollowing(!following()));
  terminal.addEventListener("scroll", () => {
    if (terminal.scrollTop < 200) readEarlier();
    if (following() !== atEnd()) follow.setAttribute("aria-pressed", String(atEnd()));
  });
  find.addEventListener("input", () => {
    const found = mark();
    if (found) {
      setFollowing(false);
      found.scrollIntoView({ block: "center" });
    }
  });
  setFollowing(true);
})();
