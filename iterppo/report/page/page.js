"use strict";
// The page is whole without this: it adds the theme switch, and the search among conversations.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const asked = matchMedia("(prefers-color-scheme: dark)");
  const key = "iterppo-theme";

  function remembered() {
    try { return localStorage.getItem(key); } catch { return null; }
  }
  function show(theme) {
    if (theme) root.dataset.theme = theme;
    const dark = (root.dataset.theme || (asked.matches ? "dark" : "light")) === "dark";
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${dark ? "light" : "dark"} theme`);
    return dark;
  }
  button.hidden = false;
  show(remembered());
  asked.addEventListener("change", () => show(null));
  button.addEventListener("click", () => {
    const next = show(null) ? "light" : "dark";
    show(next);
    try { localStorage.setItem(key, next); } catch { /* a file may have no storage */ }
  });

  for (const box of document.querySelectorAll(".conversations")) {
    const form = box.querySelector("form");
    const more = box.querySelector(".more");
    const cards = [...box.querySelectorAll(".card")].map((card) => ({
      card, text: card.textContent.toLowerCase().replace(/\s+/g, " "),
    }));
    const step = Number(box.dataset.step);
    let most = step;

    function filter() {
      const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let matches = 0;
      for (const { card, text } of cards) {
        const fits = words.every((word) => text.includes(word)) &&
          ["kind", "adoption", "outcome"].every((name) => {
            const wanted = form.elements[name].value;
            return !wanted || card.dataset[name] === wanted;
          });
        card.hidden = !fits || matches >= most;
        matches += fits ? 1 : 0;
      }
      const shown = Math.min(matches, most);
      form.querySelector("output").textContent = `${shown} of ${matches} shown`;
      more.hidden = matches <= most;
      more.textContent = `Show ${Math.min(step, matches - most)} more`;
    }
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => { most = step; filter(); });
    more.addEventListener("click", () => { most += step; filter(); });
    filter();
  }

  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const folded = target && target.querySelector("details.round");
    if (folded) folded.open = true;
  }
  addEventListener("hashchange", reveal);
  reveal();
})();
