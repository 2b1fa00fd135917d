// The page's line to the server. Says what happens by events on `document`:
//   lab:message  {kind, id or job, …}   something changed; whoever shows it fetches it
//   lab:refresh                         anything may have changed; everybody looks
//   lab:line                            there is a line again; what was under way on the old is lost
//   lab:leaving                         the page loads itself anew; what was typed is to be kept
// While there is no line it asks to look every few seconds, and says that it is not live and since
// when. A page may stay open for weeks: nothing here grows, and what is new is loaded.
"use strict";
(() => {
  const body = document.body;
  const indicator = document.getElementById("live");
  if (!indicator || !("signedIn" in body.dataset)) return;

  const POLL_MS = 3000;
  const SILENCE_MS = 50000; // the server says something every 20 s
  const OPENING_MS = 20000;
  const SLOWEST_MS = 15000;
  const IDLE_MS = 5 * 60 * 1000;
  const OLD_MS = 12 * 3600 * 1000; // a page that nobody touches is loaded anew twice a day
  const SPREAD_MS = 20000; // all of a lab's pages hear of a new version in the same second
  const SIGNED_OUT = 4401;
  const loadedAt = Date.now();
  let seq = Number(body.dataset.seq) || 0;
  let failures = 0;
  let wasLive = false;
  let socket = null;
  let heardAt = 0;
  let darkSince = null; // when the line was lost
  let silence = 0, polling = 0, retry = 0, reloading = 0;
  let touchedAt = 0, edited = false;
  let deviceStates = new Map();

  const say = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));

  const clock = (moment) => moment.toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

  const show = (state, icon, words) => {
    if (indicator.dataset.state === state && indicator.querySelector("span").textContent === words) return;
    indicator.dataset.state = state;
    const drawing = indicator.querySelector("svg");
    drawing.classList.toggle("pulse", state === "on");
    drawing.querySelector("use").setAttribute("href", icon);
    indicator.querySelector("span").textContent = words;
  };

  const lookAround = () => document.hidden || say("lab:refresh");

  const pollWhileDark = (on) => {
    if (on && !polling) polling = setInterval(lookAround, POLL_MS);
    if (!on) polling = clearInterval(polling) || 0;
  };

  // --- a newer version, and a page that is old -------------------------------------------------

  const isTyping = () => edited || Boolean(document.activeElement?.closest("input, textarea, select, .CodeMirror"));

  const loadNewVersion = () => {
    if (reloading) return;
    if (isTyping()) document.getElementById("renewed").hidden = false;
    else reloading = setTimeout(() => { reloading = 0; if (isTyping()) loadNewVersion(); else lab.leave(); }, Math.random() * SPREAD_MS);
  };

  // Only while there is a line: a reload from a server that is away would end a wall display.
  const loadOldPage = () => {
    const now = Date.now();
    if (now - loadedAt > OLD_MS && now - touchedAt > IDLE_MS && !isTyping()) loadNewVersion();
  };

  for (const kind of ["pointerdown", "keydown", "wheel"]) document.addEventListener(kind, () => { touchedAt = Date.now(); }, { passive: true });
  document.addEventListener("input", ({ target }) => {
    const form = target.closest("form");
    if (form && !("auto" in form.dataset)) edited = true;
  });
  document.addEventListener("click", ({ target }) => target.closest("[data-reload]") && lab.leave());

  // --- what the server says ---------------------------------------------------------------------

  // A heartbeat comes each second; most parts care only when the state is another one.
  const mark = (message) => {
    if (message.kind !== "device") return message;
    const known = deviceStates.get(message.id);
    if (message.state) deviceStates.set(message.id, message.state);
    return { ...message, turned: message.state === undefined || known !== message.state };
  };

  const greet = (hello) => {
    failures = 0;
    if (hello.build && hello.build !== body.dataset.build) loadNewVersion();
    const before = deviceStates;
    deviceStates = new Map(Object.entries(hello.devices || {}).map(([id, state]) => [Number(id), state]));
    if (!before.size) return;
    for (const [id, state] of deviceStates) {
      if (before.get(id) !== state) say("lab:message", { kind: "device", id, state, turned: true });
    }
  };

  const take = (message) => {
    if (message.seq !== undefined) {
      if (message.kind === "job" && message.seq <= seq) return; // told before
      seq = message.seq;
    }
    if (message.reset) return say("lab:refresh");
    if (message.kind === "hello") return greet(message);
    if (message.kind === "ping") return loadOldPage();
    if (message.kind !== "devices") return say("lab:message", mark(message));
    for (const [state, ids] of Object.entries(message.states)) {
      for (const id of ids) say("lab:message", mark({ kind: "device", id, state }));
    }
  };

  // --- the line ---------------------------------------------------------------------------------

  const listen = (ms) => {
    heardAt = Date.now();
    clearTimeout(silence);
    silence = setTimeout(lose, ms);
  };

  // A line that is dead may take minutes to say so: it is not waited for.
  const lose = () => {
    clearTimeout(silence);
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    socket = null;
    darkSince ??= new Date();
    failures += 1;
    if (wasLive || failures > 1) show("polling", "#s-disconnected", interpolate(gettext("not live since %s"), [clock(darkSince)]));
    pollWhileDark(true);
    clearTimeout(retry);
    retry = setTimeout(connect, Math.min(SLOWEST_MS, 500 * 2 ** failures) * (0.75 + Math.random() / 2));
  };

  const connect = () => {
    clearTimeout(retry);
    if (socket) return;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    socket = new WebSocket(`${scheme}://${location.host}/ws/live/?after=${seq}`);
    listen(OPENING_MS);
    socket.onopen = () => {
      pollWhileDark(false);
      darkSince = null;
      show("on", "#s-healthy", gettext("Live"));
      listen(SILENCE_MS);
      if (wasLive) say("lab:line"); // what is not numbered (readings, files) was missed
      wasLive = true;
    };
    socket.onmessage = (event) => {
      listen(SILENCE_MS);
      const told = JSON.parse(event.data);
      if (Array.isArray(told)) told.forEach(take);
      else take(told);
    };
    socket.onclose = (event) => (event.code === SIGNED_OUT ? lab.leave() : lose());
  };

  // After a sleep, or when the network is back, nobody waits for a timer that slept as well.
  const wake = () => {
    if (document.hidden) return;
    if (!socket) connect();
    else if (Date.now() - heardAt > SILENCE_MS) { lose(); connect(); }
  };
  document.addEventListener("visibilitychange", wake);
  for (const kind of ["online", "pageshow", "focus"]) window.addEventListener(kind, wake);
  window.addEventListener("offline", () => socket && lose());
  connect();
})();
