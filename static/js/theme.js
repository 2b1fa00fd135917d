// The theme that was chosen, before the first paint; and the reader's zone, for the server.
"use strict";
document.documentElement.classList.remove("no-js");
(() => {
  const root = document.documentElement;
  const chosen = () => {
    const own = root.dataset.ownTheme || "system";
    try { return localStorage.getItem("theme") || own; } catch { return own; }
  };
  const apply = (theme) => {
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
  };
  apply(chosen());

  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && !document.cookie.includes(`zone=${zone}`)) {
    document.cookie = `zone=${zone};path=/;max-age=31536000;samesite=lax`;
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const radio of document.querySelectorAll("input[name=theme], select[name=theme]")) {
      radio.checked = radio.value === chosen();
      radio.addEventListener("change", () => {
        try { localStorage.setItem("theme", radio.value); } catch { /* kept for this page only */ }
        apply(radio.value);
        document.dispatchEvent(new Event("lab:theme"));
      });
    }
  });
})();
