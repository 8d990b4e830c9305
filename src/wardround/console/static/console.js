// The browser's half of the console: change what changed, keep focus and scroll, pass acts to the hub. No data is computed here.
"use strict";
window.wr = (() => {
  let emitAct = null;
  let paused = false;
  const waiting = [];

  // Make `from` look like `to` with as few changes as possible, so that focus, selection and open dialogs survive.
  function morph(from, to) {
    if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) { from.replaceWith(to); return; }
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
      return;
    }
    for (const { name } of [...from.attributes]) if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
    for (const { name, value } of [...to.attributes]) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    const keyed = new Map([...from.children].filter((c) => c.dataset && c.dataset.key).map((c) => [c.dataset.key, c]));
    let at = from.firstChild;
    for (const want of [...to.childNodes]) {
      const known = want.dataset && want.dataset.key ? keyed.get(want.dataset.key) : null;
      if (known) {
        if (known !== at) from.insertBefore(known, at); else at = at.nextSibling;
        morph(known, want);
      } else if (at && !(at.dataset && at.dataset.key)) {
        const next = at.nextSibling;
        morph(at, want);
        at = next;
      } else from.insertBefore(want, at);
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
  }

  function patch(sections) {
    if (paused) return; // on its way when the key was pressed; with "resume" the hub sends everything again
    for (const [id, html] of Object.entries(sections)) {
      const element = document.getElementById(id);
      if (!element) continue;
      const holder = element.cloneNode(false);
      holder.innerHTML = html;
      morph(element, holder);
    }
  }

  function toast(text) {
    const element = document.getElementById("toast");
    element.textContent = text;
    element.classList.add("on");
    clearTimeout(toast.timer);
    toast.timer = setTimeout(() => element.classList.remove("on"), 12000);
  }

  function dialog(html) {
    const element = document.getElementById("ask");
    element.innerHTML = html;
    element.setAttribute("aria-labelledby", "ask-title");
    element.showModal();
    const field = element.querySelector("input");
    if (field) field.focus();
  }

  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("wardround-theme", theme);
  }

  function toggleTheme() {
    const dark = document.documentElement.dataset.theme === "dark" ||
      (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    setTheme(dark ? "light" : "dark");
  }

  // What is pressed before the hub listens waits for it.
  function act(facts) { if (emitAct) emitAct(facts); else if (waiting.length < 20) waiting.push(facts); }

  function pause(on) {
    paused = on;
    document.body.classList.toggle("paused", on);
    const live = document.getElementById("live-word");
    if (live) live.textContent = on ? "Paused" : "Live";
    act({ act: on ? "pause" : "resume" });
  }

  // At once, and with the focus out of it: the next key may follow before the browser has done either.
  function shut(dialog) {
    dialog.close();
    if (dialog.contains(document.activeElement)) document.activeElement.blur();
  }

  function clicked(event) {
    const button = event.target.closest("[data-act]");
    if (!button) return;
    const facts = { ...button.dataset };
    if (facts.act === "theme") return toggleTheme();
    if (facts.act === "keys") return document.getElementById("keys").showModal();
    if (facts.act === "pause-toggle") return pause(!paused);
    if (facts.act === "close") return shut(button.closest("dialog"));
    if (facts.act === "undo") {
      const field = button.closest("dialog").querySelector("input");
      if (!field.value.trim()) { field.setAttribute("aria-invalid", "true"); field.focus(); return; }
      facts.reason = field.value.trim();
      shut(button.closest("dialog"));
    }
    act(facts);
  }

  function pressed(event) {
    const open = document.querySelector("dialog[open]");
    if (open && event.key === "Escape") return shut(open);
    if (event.target.closest("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (open) return;
    const press = (selector) => { const b = document.querySelector(selector); if (b) { event.preventDefault(); b.click(); } };
    if (event.key === "?") document.getElementById("keys").showModal();
    else if (event.key === "a") press("[data-act=acknowledge]");
    else if (event.key === "u") press("[data-act=ask-undo]");
    else if (event.key === "t") toggleTheme();
    else if (event.key === " " && !event.target.closest("button, a")) { event.preventDefault(); pause(!paused); }
  }

  function connect(emit) { emitAct = emit; waiting.splice(0).forEach(emit); }

  // A sign of a person, at most one in half a minute: without any, the session ends (console.idle_minutes).
  let here = 0;
  function present() { if (Date.now() - here > 30000) { here = Date.now(); act({ act: "here" }); } }
  for (const kind of ["pointerdown", "pointermove", "keydown", "wheel"]) addEventListener(kind, present, { passive: true });

  const saved = localStorage.getItem("wardround-theme");
  if (saved) document.documentElement.dataset.theme = saved;
  addEventListener("click", clicked);
  addEventListener("keydown", pressed);
  document.addEventListener("visibilitychange", () => act({ act: document.hidden || paused ? "pause" : "resume" }));
  let missed = 0;
  setInterval(() => {
    if (!window.socket) return;
    missed = window.socket.connected ? 0 : missed + 1;
    document.body.classList.toggle("unreachable", missed >= 3);
  }, 1000);
  return { patch, toast, dialog, connect };
})();
