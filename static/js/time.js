// "14 s ago" counts on by itself; a tap on a time shows the exact one, another tap the short one.
"use strict";
(() => {
  const MINUTE = 60, HOUR = 3600, DAY = 86400;
  const fill = (words, parts) => interpolate(words, parts, true);

  // As the server's `duration` filter says it.
  const duration = (seconds) => {
    const whole = Math.max(0, Math.floor(seconds));
    if (whole < MINUTE) return fill(gettext("%(s)s s"), { s: whole });
    if (whole < HOUR) return fill(gettext("%(min)s min"), { min: Math.floor(whole / MINUTE) });
    if (whole < DAY) {
      const parts = { h: Math.floor(whole / HOUR), min: Math.floor((whole % HOUR) / MINUTE) };
      return fill(parts.min ? gettext("%(h)s h %(min)s min") : gettext("%(h)s h"), parts);
    }
    const parts = { d: Math.floor(whole / DAY), h: Math.floor((whole % DAY) / HOUR) };
    return fill(parts.h ? gettext("%(d)s d %(h)s h") : gettext("%(d)s d"), parts);
  };

  const tick = () => {
    if (document.hidden) return;
    for (const time of document.querySelectorAll("time[data-time=ago]:not([data-exact])")) {
      const words = duration((Date.now() - skew - Date.parse(time.dateTime)) / 1000);
      const text = fill(gettext("%(duration)s ago"), { duration: words.replaceAll(" ", "\u00a0") });
      if (time.textContent !== text) time.textContent = text;
    }
  };

  // The reader's clock may be wrong; the server's is the one that the times are from.
  const now = Date.parse(document.body.dataset.now);
  const skew = now ? Math.round((performance.timeOrigin + performance.now() - now) / 1000) * 1000 : 0;

  document.addEventListener("click", (event) => {
    const time = event.target.closest("time[title]");
    if (!time) return;
    if ("exact" in time.dataset) {
      time.textContent = time.dataset.exact;
      delete time.dataset.exact;
    } else {
      time.dataset.exact = time.textContent;
      time.textContent = time.title;
    }
  });
  setInterval(tick, 1000);
})();
