// A log of any length: a few windows of it are in the page, one below the other; more come as one
// scrolls to either end, and those at the other end go. The server makes the lines (colours,
// folds, numbers), counts them, and searches.
"use strict";
(() => {
  const terminal = document.getElementById("terminal");
  if (!terminal) return;

  const MOST_WINDOWS = 6; // of at most 500 lines each
  const MOST_LINES = 500;
  const NEAR = 800; // pixels from an end at which more is asked for
  const FAR = 512 * 1024; // bytes behind the end: jump there instead of reading all of it
  const TYPING_MS = 250;

  const { log: url, job } = terminal.dataset;
  const byId = (id) => document.getElementById(id);
  const [follow, size, download, place, go] = ["follow", "log-size", "log-download", "log-place", "log-go"].map(byId);
  const [form, input, exact, pattern, count, list] = ["log-search", "log-find", "log-exact", "log-pattern", "log-count", "log-hits"].map(byId);

  let windows = []; // {box, start, next, line (at next), open}: those in the page, in order
  let version = terminal.dataset.version;
  let file = Number(terminal.dataset.file) || null;
  let bytes = Number(terminal.dataset.size);
  let marked = 0; // the number of the line that was gone to
  let hits = [];
  let hitNumbers = new Set();
  let current = -1;

  const sized = (value) => {
    const units = ["B", "kB", "MB", "GB"];
    let unit = 0;
    while (value >= 1000 && unit < 3) { value /= 1000; unit += 1; }
    return `${unit ? value.toFixed(1) : value} ${units[unit]}`;
  };

  const ask = async (path, query, signal) => {
    const response = await fetch(`${path}?${new URLSearchParams(query)}`, { cache: "no-store", signal });
    if (response.redirected) throw new Error("signed out");
    const answer = await response.json();
    if (!response.ok) throw new Error(String(response.status));
    return answer;
  };

  // --- windows -----------------------------------------------------------------------------------

  const following = () => follow.getAttribute("aria-pressed") === "true";
  const setFollowing = (on) => follow.setAttribute("aria-pressed", String(on));
  const atEnd = () => terminal.scrollHeight - terminal.scrollTop - terminal.clientHeight < 40;
  const first = () => windows[0];
  const last = () => windows.at(-1);
  let isBehind = false; // the log has grown, and what is new was not asked for
  const hasTail = () => !windows.length || (!isBehind && (last().open || last().next >= bytes));

  const dress = (line) => {
    const number = Number(line.dataset.n);
    line.classList.toggle("hit", hitNumbers.has(number));
    line.classList.toggle("at", number > 0 && number === marked);
  };

  const boxOf = (answer) => {
    const box = document.createElement("div");
    box.innerHTML = answer.html;
    for (const line of box.children) dress(line);
    return { box, start: answer.start, next: answer.next, line: answer.next_line, open: answer.open };
  };

  const learn = (answer) => {
    ({ version, file, size: bytes } = answer);
    isBehind = false;
    terminal.dataset.size = bytes; // while it is 0, there is nothing to search in
    size.textContent = sized(bytes);
    download.hidden = !bytes;
  };

  const showPlace = () => {
    if (!windows.length || (first().start === 0 && hasTail())) { place.hidden = true; return; }
    place.hidden = false;
    if (document.activeElement === place) return;
    const top = terminal.getBoundingClientRect().top;
    const seen = windows.find(({ box }) => box.getBoundingClientRect().bottom > top) || last();
    const rect = seen.box.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (top - rect.top) / (rect.height || 1)));
    const end = hasTail() && atEnd();
    place.value = end ? place.max : ((seen.start + share * (seen.next - seen.start)) / bytes) * place.max;
  };

  const replaceAll = (answer) => {
    learn(answer);
    const made = boxOf(answer);
    windows = [made];
    terminal.replaceChildren(made.box);
    number();
  };

  const addBelow = (answer) => {
    const end = last();
    if (end?.open) end.box.lastElementChild?.remove();
    const made = boxOf(answer);
    if (end && end.box.childElementCount + made.box.childElementCount <= MOST_LINES) {
      end.box.append(...made.box.childNodes);
      Object.assign(end, { next: made.next, line: made.line, open: made.open });
    } else {
      windows.push(made);
      terminal.append(made.box);
    }
    while (windows.length > MOST_WINDOWS) {
      const { box } = windows.shift();
      const height = box.offsetHeight;
      box.remove();
      terminal.scrollTop -= height;
    }
  };

  const addAbove = (answer) => {
    const made = boxOf(answer);
    made.next = first().start;
    windows.unshift(made);
    terminal.prepend(made.box);
    terminal.scrollTop += made.box.offsetHeight;
    while (windows.length > MOST_WINDOWS) windows.pop().box.remove();
  };

  const onward = async () => {
    const end = last();
    const query = { offset: end ? end.next : 0, version };
    const line = end ? end.line : 1;
    if (line) query.line = line;
    const answer = await ask(url, query);
    if (answer.reset) { replaceAll(answer); return false; }
    learn(answer);
    if (end && answer.start !== end.next) return false; // the page has moved meanwhile
    if (answer.html || end?.open) addBelow(answer);
    return answer.more;
  };

  let busy = false;
  const fill = async () => {
    if (busy || !windows.length) return;
    const up = terminal.scrollTop < NEAR && first().start > 0;
    const down = !up && terminal.scrollHeight - terminal.scrollTop - terminal.clientHeight < NEAR && !hasTail();
    if (!up && !down) return;
    busy = true;
    try {
      if (up) {
        const before = first();
        const answer = await ask(url, { before: before.start, version });
        if (answer.reset) replaceAll(answer);
        else if (first() === before) addAbove(answer);
      } else {
        await onward();
      }
      if (terminal.scrollTop < NEAR || !hasTail()) requestAnimationFrame(() => fill());
    } catch { /* scrolling once more asks again */ } finally {
      busy = false;
    }
  };

  // What could not be numbered at once is, when the server has counted that far.
  let counting = false;
  const number = async () => {
    if (counting) return;
    counting = true;
    try {
      for (;;) {
        const without = windows.filter(({ box }) => box.firstElementChild?.dataset.n === "");
        if (!without.length) break;
        const { numbers, done } = await ask(`${url}lines/`, { at: without.map(({ start }) => start).join(",") });
        if (done && numbers.includes(null)) break;
        without.forEach((one, at) => { if (numbers[at]) numberFrom(one, numbers[at]); });
      }
    } catch { /* they stay without */ } finally {
      counting = false;
    }
  };

  const numberFrom = (one, begin) => {
    [...one.box.children].forEach((line, at) => { line.dataset.n = begin + at; dress(line); });
    one.line = begin + one.box.childElementCount - (one.open ? 1 : 0);
  };

  const toEnd = async () => {
    if (!hasTail() || !windows.length) replaceAll(await ask(url, {}));
    terminal.scrollTop = terminal.scrollHeight;
    fill();
  };

  const read = async () => {
    const isFar = terminal.scrollHeight - terminal.scrollTop - terminal.clientHeight > 4 * NEAR;
    if (!following() && (isFar || !hasTail())) { // what is being read stays where it is
      isBehind = true;
      return false;
    }
    if (following() && !hasTail()) { await toEnd(); return false; }
    const more = await onward();
    if (following() && more && bytes - last().next > FAR) { replaceAll(await ask(url, {})); }
    if (following()) terminal.scrollTop = terminal.scrollHeight;
    showPlace();
    return more && following();
  };

  // --- going somewhere ---------------------------------------------------------------------------

  const lineOf = (wanted) => terminal.querySelector(`.l[data-n="${wanted}"]`);

  const reveal = (wanted) => {
    marked = wanted;
    for (const line of terminal.querySelectorAll(".l.at")) dress(line);
    const line = lineOf(wanted) || terminal.querySelector(".l:last-child");
    if (!line) return;
    dress(line);
    setFollowing(false);
    terminal.scrollTop += line.getBoundingClientRect().top - terminal.getBoundingClientRect().top - terminal.clientHeight / 2;
    fill();
  };

  const goTo = async (wanted, hit) => {
    if (!lineOf(wanted)) {
      let answer = await ask(url, hit ? { around: hit.offset, line: hit.number } : { go: wanted });
      while (answer.html === undefined) {
        go.setAttribute("placeholder", `${Math.round((100 * answer.counted) / answer.size)} %`);
        answer = await ask(url, { go: wanted });
      }
      go.setAttribute("placeholder", go.dataset.placeholder);
      replaceAll(answer);
    }
    reveal(wanted);
  };

  const byHash = () => {
    const wanted = /^#L(\d{1,12})$/.exec(location.hash);
    if (!wanted) return false;
    const place = () => document.getElementById("log").scrollIntoView();
    place();
    goTo(Number(wanted[1])).then(place).catch(() => {}); // what stands above it may have grown
    return true;
  };

  go.dataset.placeholder = go.placeholder;
  go.closest("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = Number(go.value);
    const hash = `#L${Math.floor(wanted)}`;
    if (!(wanted >= 1)) return;
    if (location.hash === hash) byHash(); // the same line once more, which changes no address
    else location.hash = hash;
  });
  byId("log-top").addEventListener("click", () => { goTo(1).then(() => { terminal.scrollTop = 0; }).catch(() => {}); });
  follow.addEventListener("click", () => {
    setFollowing(!following());
    if (following()) toEnd().catch(() => {});
  });
  terminal.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Home") { event.preventDefault(); byId("log-top").click(); }
    if (event.key === "End") { event.preventDefault(); setFollowing(true); toEnd().catch(() => {}); }
  });
  terminal.addEventListener("click", (event) => {
    const line = event.target.closest(".l");
    if (!line?.dataset.n || event.clientX - terminal.getBoundingClientRect().left > 60) return;
    history.replaceState(null, "", `#L${line.dataset.n}`);
    marked = Number(line.dataset.n);
    for (const one of terminal.querySelectorAll(".l.at")) dress(one);
    dress(line);
  });
  document.addEventListener("click", async ({ target }) => {
    const button = target.closest("[data-log-offset]");
    if (!button) return;
    const offset = Number(button.dataset.logOffset);
    document.getElementById("log").scrollIntoView();
    try {
      const { numbers } = await ask(`${url}lines/`, { at: offset });
      replaceAll(await ask(url, { around: offset }));
      reveal(numbers[0] || 0);
    } catch { /* pressing it once more asks again */ }
  });

  let placing = 0;
  place.addEventListener("input", () => {
    clearTimeout(placing);
    placing = setTimeout(async () => {
      setFollowing(false);
      try {
        const answer = await ask(url, { around: Math.floor((bytes * place.value) / place.max) });
        replaceAll(answer);
        terminal.scrollTop = terminal.scrollHeight / 3;
        fill();
      } catch { /* moving it once more asks again */ }
    }, 120);
  });
  terminal.addEventListener("scroll", () => {
    fill();
    showPlace();
    const isEnd = atEnd() && hasTail();
    if (following() !== isEnd) setFollowing(isEnd);
  }, { passive: true });

  // --- search ------------------------------------------------------------------------------------

  let searching = null;
  const redress = () => { for (const line of terminal.querySelectorAll(".l")) dress(line); };

  const tell = (lines, share, isDone) => {
    const words = lines ? interpolate(ngettext("%s line", "%s lines", lines), [lines.toLocaleString()]) : gettext("no line");
    const listed = lines > hits.length ? ` · ${interpolate(gettext("the first %s are listed"), [hits.length.toLocaleString()])}` : "";
    const at = current >= 0 ? `${(current + 1).toLocaleString()} / ` : "";
    count.textContent = isDone ? `${at}${words}${listed}` : `${words} · ${Math.round(100 * share)} %`;
    for (const step of form.querySelectorAll("[data-step]")) step.disabled = !hits.length;
  };

  const addHits = (found) => {
    for (const [offset, line, html] of found) {
      const at = hits.push({ offset, number: line }) - 1;
      hitNumbers.add(line);
      const item = document.createElement("li");
      const button = document.createElement("button");
      const label = document.createElement("span");
      const text = document.createElement("span");
      button.type = "button";
      label.className = "n dim";
      label.textContent = line;
      text.className = "cut";
      text.innerHTML = html; // escaped by the server
      button.append(label, text);
      button.addEventListener("click", () => choose(at));
      item.append(button);
      list.append(item);
    }
    list.hidden = !hits.length;
  };

  let told = [0, 1, true];
  const choose = async (at) => {
    current = (at + hits.length) % hits.length;
    tell(...told);
    for (const [place, item] of [...list.children].entries()) {
      item.firstElementChild.toggleAttribute("aria-current", place === current);
    }
    const item = list.children[current];
    list.scrollTop += item.getBoundingClientRect().top - list.getBoundingClientRect().top - list.clientHeight / 3;
    await goTo(hits[current].number, hits[current]).catch(() => {});
  };

  const nearest = () => {
    const top = terminal.getBoundingClientRect().top;
    const seen = [...terminal.querySelectorAll(".l")].find((line) => line.getBoundingClientRect().bottom > top);
    const number = Number(seen?.dataset.n) || 0;
    const next = hits.findIndex((hit) => hit.number >= number);
    return next < 0 ? hits.length - 1 : next;
  };

  const search = async () => {
    searching?.abort();
    searching = new AbortController();
    const { signal } = searching;
    hits = [];
    hitNumbers = new Set();
    current = -1;
    list.replaceChildren();
    list.hidden = true;
    input.removeAttribute("aria-invalid");
    redress();
    if (!input.value) { count.textContent = ""; for (const step of form.querySelectorAll("[data-step]")) step.disabled = true; return; }
    const query = { q: input.value, from: 0, line: 1, listed: 0 };
    if (exact.checked) query.exact = 1;
    if (pattern.checked) query.pattern = 1;
    let lines = 0;
    try {
      for (;;) {
        const answer = await ask(`${url}find/`, query, signal);
        if (answer.wrong) { count.textContent = answer.wrong; input.setAttribute("aria-invalid", "true"); return; }
        lines += answer.lines;
        addHits(answer.hits);
        told = [lines, answer.next / (answer.size || 1), answer.done];
        tell(...told);
        redress();
        if (answer.done) break;
        Object.assign(query, { from: answer.next, line: answer.line, listed: hits.length });
      }
      if (hits.length) choose(nearest());
    } catch { /* another search has begun, or the server is away */ }
  };

  let typing = 0;
  input.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, TYPING_MS); });
  for (const toggle of [exact, pattern]) toggle.addEventListener("change", search);
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    if (!hits.length) { clearTimeout(typing); search(); } else choose(current + (event.shiftKey ? -1 : 1));
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("click", (event) => {
    const step = event.target.closest("[data-step]");
    if (step && hits.length) choose(current + Number(step.dataset.step));
  });

  // --- at first ----------------------------------------------------------------------------------

  const begun = terminal.dataset;
  const box = document.createElement("div");
  box.append(...terminal.childNodes);
  terminal.append(box);
  windows = [{ box, start: Number(begun.start), next: Number(begun.next), line: Number(begun.nextLine) || null, open: begun.open === "1" }];
  const readSoon = lab.follow({ job: Number(job), file: () => file, read });
  follow.dataset.ready = "1";
  if (!byHash()) { setFollowing(true); terminal.scrollTop = terminal.scrollHeight; }
  window.addEventListener("hashchange", byHash);
  number();
  showPlace();
  readSoon();
})();
