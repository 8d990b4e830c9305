// The browser's half of the console: change what changed, keep focus and scroll, pass acts to the hub. No data is computed here.
"use strict";
window.wr = (() => {
  let emitAct = null;
  let paused = false;
  let going = false; // "g" was pressed, and a letter is to follow
  const waiting = [];
  let before = [], changed = -Infinity; // where the buttons were before the last change, and when it was

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
    const wanted = new Set([...to.children].map((c) => c.dataset && c.dataset.key));
    for (const [key, gone] of keyed) if (!wanted.has(key)) gone.remove(); // first: those that stay need no move then
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
    const focus = document.activeElement, row = focus && focus.closest("[data-key]");
    before = [...document.querySelectorAll("main [data-act]")].map((b) => [b.getBoundingClientRect(), about(b)]);
    changed = performance.now();
    for (const [id, html] of Object.entries(sections)) {
      const element = document.getElementById(id);
      if (!element) continue;
      const holder = element.cloneNode(false);
      holder.innerHTML = html;
      morph(element, holder);
    }
    if (focus && focus !== document.activeElement) refocus(focus, row);
    tell();
  }

  // A moved element loses the focus; where it is gone, its row's first link has it, and the next key begins there.
  function refocus(focus, row) {
    const to = focus.isConnected ? focus : row && row.isConnected ? row.querySelector("a, button:not([disabled])") : null;
    if (to) to.focus({ preventScroll: true });
  }

  // For those who listen: the first line, again when it has changed, once a minute at most.
  function tell() {
    const line = document.querySelector("#answer h1"), words = line ? line.textContent : "";
    clearTimeout(tell.timer);
    if (!words || words === tell.words) return;
    const wait = (tell.at || 0) + 60000 - Date.now();
    if (wait > 0) { tell.timer = setTimeout(tell, wait); return; }
    tell.at = Date.now();
    tell.words = document.getElementById("told").textContent = words;
  }

  // What a button is about, whatever it does: the alert, the edge, the job.
  function about(button) { return JSON.stringify({ ...button.dataset, act: "" }); }

  // Whether a press that comes right after a change was aimed at another row's button, which has moved from there.
  function slipped(event, button) {
    if (!event.detail || performance.now() - changed > 500 || !button.closest("main")) return false; // by key it is where it is
    const { clientX: x, clientY: y } = event;
    const there = before.find(([at]) => at.left <= x && x <= at.right && at.top <= y && y <= at.bottom);
    return Boolean(there) && there[1] !== about(button);
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

  // The field of the bar, where there is room for it; else that of the page that finds.
  function seek() {
    const field = ["find", "find-here"].map((id) => document.getElementById(id)).find((one) => one && one.offsetParent);
    if (field) field.focus(); else document.getElementById("find-page").click();
  }

  // The next row that can be opened, or the one before.
  function row(step) {
    const rows = [...document.querySelectorAll("main [data-row]")];
    const here = rows.indexOf(document.activeElement.closest("[data-row]"));
    const to = rows[here < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, here + step))];
    if (to) { to.focus(); to.scrollIntoView({ block: "nearest" }); }
  }

  // Where the browser lets no page copy, the words are selected, and a key of the person's own does it.
  async function copy(button, text) {
    try { await navigator.clipboard.writeText(text); toast("Copied."); } catch {
      const words = button.closest(".copy") && button.closest(".copy").querySelector("pre");
      if (words) getSelection().selectAllChildren(words);
      toast("This browser lets no page copy. It is selected: copy it by its key.");
    }
  }

  function clicked(event) {
    const button = event.target.closest("[data-act]");
    if (!button) return;
    if (slipped(event, button)) return toast("The rows moved just then, and nothing was done: press again.");
    const facts = { ...button.dataset };
    if (facts.act === "theme") return toggleTheme();
    if (facts.act === "keys") return document.getElementById("keys").showModal();
    if (facts.act === "pause-toggle") return pause(!paused);
    if (facts.act === "close") return shut(button.closest("dialog"));
    if (facts.act === "unsay") return unsay();
    if (facts.act === "print") return window.print();
    if (facts.act === "copy") return copy(button, facts.text);
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
    else if (event.key === "/") { event.preventDefault(); seek(); }
    else if (event.key === "j" || event.key === "k") row(event.key === "j" ? 1 : -1);
    else if (event.key === "Enter" && event.target.matches("[data-row]")) { const a = event.target.querySelector("a"); if (a) a.click(); }
    else if (event.key === "?") document.getElementById("keys").showModal();
    else if (event.key === "a") press("[data-act=acknowledge]");
    else if (event.key === "u") press("[data-act=ask-undo]");
    else if (event.key === "t") toggleTheme();
    else if (event.key === " " && !event.target.closest("button, a, summary")) { event.preventDefault(); pause(!paused); }
  }

  function connect(emit) {
    const line = document.querySelector("#answer h1");
    tell.words = line ? line.textContent : ""; // it was read with the page
    emitAct = emit;
    waiting.splice(0).forEach(emit);
  }

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
