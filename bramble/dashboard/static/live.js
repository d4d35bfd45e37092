// Keeps a page up to date while it is open. Without it a page shows how things were when it was loaded.
"use strict";
(() => {
  const body = document.body;
  const live = body.dataset.live;
  const pulse = document.getElementById("pulse");
  const offline = document.getElementById("offline");
  const said = document.getElementById("said");
  const PART_EVERY_MS = 2000;
  const RETRY_MS = 5000;

  // Times --------------------------------------------------------------------------------------------------
  const span = (seconds) => {
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
    }
    return `${Math.max(Math.floor(seconds), 0)} s`;
  };
  const ago = (time) => {
    const passed = (Date.now() - Date.parse(time.dateTime)) / 1000;
    return passed < 5 ? "just now" : `${span(passed)} ago`;
  };
  const tell = (time) => {
    const text = ago(time);
    if (time.textContent !== text) time.textContent = text;
  };
  const tellAll = () => document.querySelectorAll("time[data-ago]").forEach(tell);
  setInterval(tellAll, 10000);

  // A name has to be typed before the button works ----------------------------------------------------------
  document.querySelectorAll("form[data-typed]").forEach((form) => {
    const field = form.querySelector("#typed");
    const button = form.querySelector("button");
    if (!field) return;
    const check = () => { button.disabled = field.value.trim() !== form.dataset.typed; };
    field.addEventListener("input", check);
    check();
  });

  // Parts of the page are made by the server alone: fetched again, and put in place where they differ --------
  let partTimer = 0;
  let lastParts = 0;
  let isBehind = false;
  const isInUse = (part) => part.contains(document.activeElement) && document.activeElement !== document.body;
  const END_PX = 40;
  const toEnd = (list) => { list.scrollTop = list.scrollHeight; };
  const isAtEnd = (list) => list.scrollHeight - list.scrollTop - list.clientHeight < END_PX;
  const put = (old, part) => {
    const tail = old.querySelector("[data-tail]");
    const follows = !tail || isAtEnd(tail);
    const top = tail ? tail.scrollTop : 0;
    const had = tail !== null && tail === document.activeElement;
    old.replaceWith(document.adoptNode(part));
    const fresh = part.querySelector("[data-tail]");
    if (!fresh) return;
    if (follows) toEnd(fresh); else fresh.scrollTop = top;
    if (had) fresh.focus({ preventScroll: true });
  };
  const isTail = () => document.activeElement.matches("[data-tail]");
  const loadParts = async (ids) => {
    lastParts = Date.now();
    let text;
    try {
      const answer = await fetch(location.href, { headers: { "X-Part": "1" }, credentials: "same-origin" });
      // Logged out: the page itself leads to the login, and from there back to where one was.
      if (answer.status === 401) location.reload();
      if (!answer.ok) return;
      text = await answer.text();
    } catch {
      return;
    }
    const fresh = new DOMParser().parseFromString(text, "text/html");
    fresh.querySelectorAll("[data-part]").forEach((part) => {
      const old = document.getElementById(part.id);
      if (!old || (ids && !ids.includes(part.id))) return;
      if (old.outerHTML === part.outerHTML) return;
      if (isInUse(old) && !isTail()) isBehind = true; else put(old, part);
    });
    document.title = fresh.title;
    tellAll();
  };
  let wanted = [];
  // null: all of them.
  const loadPartsSoon = (ids) => {
    wanted = ids && wanted ? [...wanted, ...ids] : null;
    if (partTimer) return;
    const wait = Math.max(lastParts + PART_EVERY_MS - Date.now(), 0);
    partTimer = setTimeout(() => {
      const now = wanted;
      partTimer = 0;
      wanted = [];
      loadParts(now);
    }, wait);
  };
  // What was left alone because somebody was at it is made up for when they go on.
  document.addEventListener("focusout", () => {
    if (!isBehind) return;
    isBehind = false;
    loadPartsSoon(null);
  });
  document.querySelectorAll("[data-tail]").forEach(toEnd);
  // What is not in the server's record, and so not in the stream, is looked at again while it is awaited.
  setInterval(() => {
    if (!document.hidden && document.querySelector("[data-poll]")) loadPartsSoon(null);
  }, PART_EVERY_MS);

  if (live === undefined || !window.EventSource) return;

  // Names, fingerprints and ids stay in one piece, as `whole` of words.py has them.
  const say = (element, text) => {
    element.replaceChildren();
    let end = 0;
    for (const match of text.matchAll(/[A-Za-z0-9][\w.:/-]*/g)) {
      const name = match[0].replace(/[.:/_-]+$/, "");
      if (!name.includes("-") || !/\d/.test(name)) continue;
      const piece = document.createElement("span");
      piece.className = "whole";
      piece.textContent = name;
      element.append(text.slice(end, match.index), piece);
      end = match.index + name.length;
    }
    element.append(text.slice(end));
  };

  // The rack: each card is patched in place -----------------------------------------------------------------
  const rack = document.getElementById("rack");
  const isDense = rack !== null && rack.classList.contains("dense");
  const byName = new Intl.Collator("en", { numeric: true });
  const group = (name) => document.querySelector(`[data-group="${name}"]`);
  const write = (card, kind, tag, text) => {
    let part = card.querySelector(`.${kind}`);
    if (!part) {
      if (!text) return;
      part = document.createElement(tag);
      part.className = kind;
      card.insertBefore(part, card.querySelector("progress"));
    }
    if (part.textContent !== text) say(part, text);
  };
  const patch = ([name, where, words, detail, percent, mark, left]) => {
    const card = document.getElementById(`n-${name}`);
    if (!card) return false;
    // Where there are hundreds of cards each says one thing: the words where nothing is more exact. Those
    // that need somebody say both.
    write(card, "w", "p", isDense && detail && where !== "attention" ? "" : words);
    write(card, "d", "p", detail);
    write(card, "k", "p", mark);
    if (!isDense) write(card, "l", "p", left);
    let bar = card.querySelector("progress");
    if (percent === null) {
      if (bar) bar.remove();
    } else {
      if (!bar) {
        bar = document.createElement("progress");
        bar.max = 100;
        bar.setAttribute("aria-label", name);
        card.append(bar);
      }
      if (bar.value !== percent) bar.value = percent;
    }
    const from = card.closest("[data-group]");
    if (from && from.dataset.group !== where) move(card, from, group(where));
    return true;
  };
  const move = (card, from, to) => {
    const had = card.contains(document.activeElement);
    const list = to.querySelector(".cards");
    const after = [...list.children].find((other) => byName.compare(other.id, card.id) > 0);
    list.insertBefore(card, after || null);
    count(from, -1);
    count(to, 1);
    if (had) card.querySelector("a").focus();
  };
  const count = (section, by) => {
    const shown = section.querySelector(".count");
    const value = Number(shown.textContent) + by;
    shown.textContent = String(value);
    section.hidden = value <= 0;
  };
  const showHead = ([tone, text, more]) => {
    const head = document.getElementById("head");
    const title = head.querySelector("h1");
    if (title.textContent !== text) {
      title.textContent = text;
      said.textContent = text;
      document.title = `${text} · ${document.querySelector(".brand span").textContent}`;
    }
    head.className = `head ${tone}`;
    head.querySelector("p").textContent = more;
  };
  const showLine = ([id, at, who, kind, text]) => {
    const list = document.getElementById("lines");
    // A server that began anew tells everything again.
    if (list.querySelector(`[data-id="${id}"]`)) return;
    const line = document.getElementById("line").content.cloneNode(true).firstElementChild;
    const time = line.querySelector("time");
    time.dateTime = new Date(at * 1000).toISOString();
    tell(time);
    const link = line.querySelector(".who");
    if (who) {
      link.href = `/nodes/${encodeURIComponent(who)}`;
      link.textContent = who;
    } else {
      link.remove();
    }
    say(line.querySelector("span"), text);
    line.querySelector(".kind").textContent = kind;
    line.classList.add(`k-${kind}`);
    line.dataset.id = id;
    list.querySelectorAll(".none").forEach((none) => none.remove());
    list.prepend(line);
    while (list.children.length > 8) list.lastElementChild.remove();
  };
  const onRack = (change) => {
    const unknown = change.cards.filter((card) => !patch(card)).length > 0;
    showHead(change.head);
    change.lines.forEach(showLine);
    const isWhole = !rack.querySelector(".rest");
    const parts = [];
    if (change.held) parts.push("held");
    if (change.cluster) parts.push("alerts");
    if (unknown && isWhole) parts.push("rack");
    if (parts.length) loadPartsSoon(parts);
  };

  // The stream ----------------------------------------------------------------------------------------------
  let source = null;
  let after = body.dataset.after || "";
  let seen = Date.now();
  let retry = 0;
  const show = (state, text) => {
    pulse.dataset.state = state;
    if (pulse.textContent !== text) pulse.textContent = text;
  };
  const lost = () => {
    show("lost", "not connected");
    body.classList.add("lost");
    const time = offline.querySelector("time");
    if (offline.hidden) time.dateTime = new Date(seen).toISOString();
    time.textContent = `${span((Date.now() - seen) / 1000)} ago`;
    offline.hidden = false;
  };
  const alive = () => {
    seen = Date.now();
    show("live", "live");
    body.classList.remove("lost");
    offline.hidden = true;
  };
  const close = () => {
    clearTimeout(retry);
    if (source) source.close();
    source = null;
  };
  const open = () => {
    close();
    const query = new URLSearchParams({ after });
    if (live !== "rack") query.set(live ? "of" : "stale", live || "1");
    source = new EventSource(`/live?${query}`);
    source.onopen = alive;
    source.onerror = () => {
      lost();
      // A refusal is final for the browser: ask again ourselves, and find out whether we are logged out.
      if (source && source.readyState === EventSource.CLOSED) {
        retry = setTimeout(open, RETRY_MS);
        loadPartsSoon(null);
      }
    };
    source.addEventListener("rack", (event) => { after = event.lastEventId; alive(); onRack(JSON.parse(event.data)); });
    source.addEventListener("stale", (event) => { after = event.lastEventId; alive(); loadPartsSoon(null); });
    source.addEventListener("over", () => { close(); location.reload(); });
  };
  // A browser opens six connections to a server: pages that nobody looks at give theirs back.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      close();
      show("still", "paused");
    } else {
      open();
    }
  });
  window.addEventListener("pagehide", close);
  if (!document.hidden) open();
})();
