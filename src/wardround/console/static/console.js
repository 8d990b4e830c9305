// The browser's half of the console: change what changed, keep focus and scroll, pass acts to the hub. No data is computed here.
"use strict";
window.wr = (() => {
  let emitAct = null;
  let paused = false;
  let going = false; // "g" was pressed, and a letter is to follow
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

  // What was done, for 12 s, with a button where it can be undone at once. The focus stays where it is.
  function toast(text, undo) {
    const element = document.getElementById("toast");
    element.textContent = text;
    if (undo) {
      const button = document.createElement("button");
      button.className = "btn small";
      button.textContent = "Undo";
      Object.assign(button.dataset, undo);
      element.append(button);
    }
    element.classList.add("on");
    clearTimeout(toast.timer);
    toast.timer = setTimeout(() => element.classList.remove("on"), 12000);
  }

  // What could not be done, and why: it stays until the next act, or until it is closed.
  function said(html) {
    const element = document.getElementById("said");
    element.innerHTML = html + '<button class="btn small" data-act="unsay">Close</button>';
    element.classList.add("on");
    element.scrollIntoView({ block: "nearest" });
  }

  function unsay() {
    const element = document.getElementById("said");
    element.classList.remove("on");
    element.textContent = "";
  }

  function dialog(html) {
    const element = document.getElementById("ask");
    element.innerHTML = html;
    element.setAttribute("aria-labelledby", "ask-title");
    element.onclose = () => { if (!element.open) element.textContent = ""; }; // a token that was shown once stays nowhere
    element.showModal();
    const field = element.querySelector("input, select, textarea");
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

  // The fields of a dialog or form into what is sent; whether all that must be filled in is, and typed as it must be.
  function filled(dialog, facts) {
    for (const field of dialog.querySelectorAll("input[name], select[name], textarea[name]")) {
      const value = field.value.trim();
      const wrong = (field.required && !value) || (field.dataset.must && value !== field.dataset.must);
      field.setAttribute("aria-invalid", wrong ? "true" : "false");
      if (wrong) { field.focus(); return false; }
      facts[field.name] = value;
    }
    return true;
  }

  // The next row that can be opened, or the one before.
  function row(step) {
    const rows = [...document.querySelectorAll("main [data-row]")];
    const here = rows.indexOf(document.activeElement.closest("[data-row]"));
    const to = rows[here < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, here + step))];
    if (to) { to.focus(); to.scrollIntoView({ block: "nearest" }); }
  }

  function clicked(event) {
    const button = event.target.closest("[data-act]");
    if (!button) return;
    const facts = { ...button.dataset };
    if (facts.act === "theme") return toggleTheme();
    if (facts.act === "keys") return document.getElementById("keys").showModal();
    if (facts.act === "pause-toggle") return pause(!paused);
    if (facts.act === "close") return shut(button.closest("dialog"));
    if (facts.act === "unsay") return unsay();
    if (facts.act === "print") return window.print();
    if (facts.act === "copy") { navigator.clipboard && navigator.clipboard.writeText(facts.text); return toast("Copied."); }
    const asked = button.closest("dialog, [data-form]"); // a form on the page stays, with what was typed
    if (asked && !filled(asked, facts)) return;
    if (asked && asked.matches("dialog")) shut(asked);
    if (button.closest("#toast")) document.getElementById("toast").classList.remove("on");
    unsay();
    act(facts);
  }

  function pressed(event) {
    const open = document.querySelector("dialog[open]");
    if (open && event.key === "Escape") return shut(open);
    if (event.target.closest("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (open) return;
    const press = (selector) => { const b = document.querySelector(selector); if (b) { event.preventDefault(); b.click(); } };
    if (going) {
      going = false;
      const link = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    if (event.key === "g") { going = true; setTimeout(() => { going = false; }, 1500); }
    else if (event.key === "/") { event.preventDefault(); document.getElementById("find").focus(); }
    else if (event.key === "j" || event.key === "k") row(event.key === "j" ? 1 : -1);
    else if (event.key === "Enter" && event.target.matches("[data-row]")) { const a = event.target.querySelector("a"); if (a) a.click(); }
    else if (event.key === "?") document.getElementById("keys").showModal();
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

  // Paper is white: light, whatever the screen is, and nothing folded.
  let theme = null;
  addEventListener("beforeprint", () => {
    theme = document.documentElement.dataset.theme || "";
    document.documentElement.dataset.theme = "light";
    for (const folded of document.querySelectorAll("main details")) folded.open = true;
  });
  addEventListener("afterprint", () => {
    if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
  });
  document.documentElement.lang = "en"; // the page around ours names no language, which screen readers need
  const saved = localStorage.getItem("wardround-theme");
  if (saved) document.documentElement.dataset.theme = saved;
  addEventListener("click", clicked);
  addEventListener("keydown", pressed);
  document.addEventListener("visibilitychange", () => act({ act: document.hidden || paused ? "pause" : "resume" }));
  let missed = 0;
  setInterval(() => {
    if (!window.socket) return;
    missed = window.socket.connected ? 0 : missed + 1;
    if (missed === 3) document.getElementById("lost-since").textContent = ` since ${new Date().toISOString().slice(11, 19)} UTC`;
    document.body.classList.toggle("unreachable", missed >= 3);
  }, 1000);
  return { patch, toast, said, dialog, connect };
})();
