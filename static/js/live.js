// The page's line to the server. Says what happens by events on `document`:
//   lab:message  {kind, id or job, …}   something changed; whoever shows it fetches it
//   lab:refresh                         anything may have changed; everybody looks
// While there is no line it asks to look every few seconds, and says that it is not live.
"use strict";
(() => {
  const body = document.body;
  const indicator = document.getElementById("live");
  if (!indicator || !("signedIn" in body.dataset)) return;

  const POLL_MS = 3000;
  const SILENCE_MS = 50000; // the server says something every 20 s
  const SIGNED_OUT = 4401;
  let seq = Number(body.dataset.seq) || 0;
  let failures = 0;
  let wasLive = false;
  let socket = null;
  let silence = 0;
  let polling = 0;
  const deviceStates = new Map();

  const say = (name, detail) => document.dispatchEvent(new CustomEvent(name, { detail }));

  const show = (state, icon, word) => {
    if (indicator.dataset.state === state) return;
    indicator.dataset.state = state;
    const drawing = indicator.querySelector("svg");
    drawing.classList.toggle("pulse", state === "on");
    drawing.querySelector("use").setAttribute("href", icon);
    indicator.querySelector("span").textContent = word;
  };

  const pollWhileDark = (on) => {
    if (on && !polling) polling = setInterval(() => say("lab:refresh"), POLL_MS);
    if (!on) polling = clearInterval(polling) || 0;
  };

  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => socket && socket.close(), SILENCE_MS);
  };

  // A heartbeat comes each second; most parts care only when the state is another one.
  const mark = (message) => {
    if (message.kind !== "device") return message;
    const known = deviceStates.get(message.id);
    if (message.state) deviceStates.set(message.id, message.state);
    return { ...message, turned: message.state === undefined || known !== message.state };
  };

  const take = (message) => {
    if (message.seq !== undefined) {
      if (message.kind === "job" && message.seq <= seq) return;
      seq = message.seq;
    }
    if (message.reset) return say("lab:refresh");
    if (message.kind === "hello") {
      const had = deviceStates.size > 0;
      for (const [id, state] of Object.entries(message.devices || {})) {
        const told = { kind: "device", id: Number(id), state };
        const turned = had && deviceStates.get(told.id) !== state;
        deviceStates.set(told.id, state);
        if (turned) say("lab:message", { ...told, turned });
      }
      return;
    }
    if (message.kind !== "ping") say("lab:message", mark(message));
  };

  const connect = () => {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    socket = new WebSocket(`${scheme}://${location.host}/ws/live/?after=${seq}`);
    socket.onopen = () => {
      failures = 0;
      pollWhileDark(false);
      show("on", "#s-healthy", gettext("Live"));
      heard();
      if (wasLive) say("lab:refresh"); // what is not numbered (readings, files) was missed
      wasLive = true;
    };
    socket.onmessage = (event) => {
      heard();
      take(JSON.parse(event.data));
    };
    socket.onclose = (event) => {
      clearTimeout(silence);
      socket = null;
      if (event.code === SIGNED_OUT) return location.reload();
      failures += 1;
      if (wasLive || failures > 1) show("polling", "#s-disconnected", gettext("not live"));
      pollWhileDark(true);
      setTimeout(connect, Math.min(15000, 500 * 2 ** failures) * (0.75 + Math.random() / 2));
    };
  };
  connect();
})();
