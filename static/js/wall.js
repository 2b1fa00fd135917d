// A page on a wall lives for weeks: its clock goes on, and once a night it loads itself anew, so
// that it has the newest script and a fresh session of the browser's memory.
"use strict";
(() => {
  const clock = document.getElementById("clock");
  const begun = Date.now();
  const A_NIGHT = 20 * 3600 * 1000;
  const tick = () => {
    const now = new Date();
    clock.textContent = now.toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
    if (Date.now() - begun > A_NIGHT && now.getHours() === 4) {
      // Only when the server is there to answer: a wall that shows an error shows it for weeks.
      fetch(location.href, { cache: "no-store" }).then((answer) => answer.ok && location.reload()).catch(() => {});
    }
  };
  tick();
  setInterval(tick, 15000);
})();
