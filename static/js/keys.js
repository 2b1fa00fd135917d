// Keys that lead somewhere: "/" to the search, "g" and a letter to a page, "?" to the list of them.
// Letters are taken by their place on the keyboard, so that they work while Hangul is typed.
"use strict";
(() => {
  const SECOND_KEY_MS = 1500;
  const help = document.getElementById("keys");
  let wentAt = -Infinity; // when "g" was pressed

  const letterOf = ({ code }) => (/^Key[A-Z]$/.test(code) ? code[3].toLowerCase() : "");

  const press = (event) => {
    const letter = letterOf(event);
    const isSecond = event.timeStamp - wentAt < SECOND_KEY_MS;
    wentAt = letter === "g" && !isSecond ? event.timeStamp : -Infinity;
    if (isSecond) return document.querySelector(`.tabbar [data-key="${letter || "none"}"]`)?.click();
    if (event.key === "?") return help?.showModal();
    const find = document.querySelector(".top .find input");
    if (event.key !== "/" || !find) return;
    event.preventDefault();
    find.focus();
  };

  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, textarea, select, .CodeMirror, dialog");
    if (!isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) press(event);
  });
  document.querySelector("[data-keys]")?.addEventListener("click", () => help.showModal());
})();
