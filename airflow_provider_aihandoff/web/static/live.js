// Shows what the model writes while it works, as plain text, and how long ago it last gave a sign of life.
"use strict";
(() => {
  const section = document.querySelector("main [data-live]");
  if (!section) return;
  const main = section.closest("main");
  const [sign, thinking, text] = ["sign", "thinking", "text"].map((name) => section.querySelector(`[data-live-${name}]`));
  const QUIET = 1000 * Number(section.dataset.quiet), MOST = 200_000;
  const HIDDEN = /(?![\t\n\ufe0e\ufe0f])[\p{Cc}\p{Default_Ignorable_Code_Point}\p{Bidi_Control}\u2028\u2029\ufff9-\ufffb]/gu;
  const escaped = (found) => `\\u${found.codePointAt(0).toString(16).padStart(4, "0")}`;
  let events = null, signAt = null, hasWorked = false, working = null;
  let arrived = [];

  const span = (milliseconds) => {
    const seconds = Math.max(0, Math.round(milliseconds / 1000));
    if (seconds < 120) return `${seconds} s`;
    return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
  };

  // For how long the model has worked, as the page said it last, and since.
  const worked = (line) => {
    const seconds = Number(line.dataset.working);
    if (working?.seconds !== seconds) working = { seconds, at: performance.now() };
    return 1000 * seconds + performance.now() - working.at;
  };

  const append = (place, added) => {
    const written = place.localName === "pre" ? place : place.querySelector("pre");
    const atEnd = written.scrollHeight - written.scrollTop - written.clientHeight < 20;
    written.append(added.replace(HIDDEN, escaped));
    if (written.textContent.length > MOST) written.textContent = written.textContent.slice(-MOST);
    if (atEnd) written.scrollTop = written.scrollHeight;
    place.hidden = section.hidden = false;
  };

  // In one go: a reader of the screen is not to be told of each word.
  const show = () => {
    for (const [place, added] of arrived.splice(0)) {
      if (added !== null) append(place, added);
      else for (const each of [text, thinking.querySelector("pre")]) each.textContent = "";
    }
    const line = main.querySelector("[data-sign]");
    if (line) {
      hasWorked = true;
      if (signAt !== null) {
        const silence = performance.now() - signAt;
        const last = silence > QUIET ? `no sign for ${span(silence)}` : `last sign ${span(silence)} ago`;
        sign.textContent = `Working for ${span(worked(line))}, ${last}.`;
        section.hidden = false;
        main.classList.add("watched");
      }
    } else if (hasWorked) {
      leave();
      section.remove();
      main.classList.remove("watched");
      clearInterval(shown);
    }
  };

  const watch = () => {
    if (events || document.hidden || !section.isConnected) return;
    events = new EventSource(section.dataset.live);
    for (const [name, place] of [["thinking", thinking], ["text", text], ["progress", null]]) {
      events.addEventListener(name, (event) => {
        signAt = performance.now();
        if (place) arrived.push([place, JSON.parse(event.data).delta]);
      });
    }
    events.addEventListener("reset", () => (arrived = [[text, null]]));
  };

  const leave = () => {
    events?.close();
    events = null;
  };

  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : watch()));
  const shown = setInterval(show, 500);
  watch();
})();
