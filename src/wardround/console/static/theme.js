// The theme that somebody chose, before the first paint; for pages without the console's own script.
"use strict";
{ const saved = localStorage.getItem("wardround-theme"); if (saved) document.documentElement.dataset.theme = saved; }
