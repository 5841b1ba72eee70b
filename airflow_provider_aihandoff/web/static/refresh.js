// Refreshes the parts of a page that have changed. What is typed, the focus and what is unfolded stay.
// While a bulk action has steps left, it also sends the form with which a person would continue it.
"use strict";
(() => {
  const LONGEST = 60;
  const interval = () => Number(document.querySelector("main [data-refresh]")?.dataset.refresh || 0);
  const parts = (page) => new Map([...page.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));
  const seen = new Map([...parts(document)].map(([name, part]) => [name, part.innerHTML]));
  const reachable = (part) => [...part.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")];

  const isTyped = (part) =>
    [...part.querySelectorAll("textarea, input, select")].some((field) =>
      field.type === "checkbox" ? field.checked !== field.defaultChecked
        : field.value !== (field.defaultValue ?? field.value) || field === document.activeElement);

  const unfolded = (part) => {
    const number = new Map();
    return [...part.querySelectorAll("details")].map((each) => {
      const name = (each.querySelector("summary")?.textContent || "").replace(/[\d\s]+/g, " ");
      number.set(name, (number.get(name) || 0) + 1);
      return [`${name} ${number.get(name)}`, each];
    });
  };

  const replace = (part, fresh) => {
    const open = new Map(unfolded(part).map(([name, each]) => [name, each.open]));
    const focused = reachable(part).indexOf(document.activeElement);
    part.innerHTML = fresh;
    for (const [name, each] of unfolded(part)) each.open = open.get(name) ?? each.open;
    if (focused >= 0) reachable(part)[focused]?.focus({ preventScroll: true });
  };

  const refresh = async () => {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return false;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = parts(page);
    if (fresh.size === 0) return false;
    for (const [name, part] of parts(document)) {
      const html = fresh.get(name)?.innerHTML;
      if (html === undefined || html === seen.get(name) || isTyped(part)) continue;
      replace(part, html);
      seen.set(name, html);
    }
    return true;
  };

  const wait = (seconds) => {
    if (interval() === 0) return;
    setTimeout(async () => {
      if (document.hidden) return wait(interval());
      const done = await refresh().catch(() => false);
      wait(done ? interval() : Math.min(LONGEST, 2 * seconds));
    }, 1000 * seconds);
  };
  wait(interval());

  const proceed = (seconds) =>
    setTimeout(async () => {
      const form = document.querySelector("main form[data-continue]");
      if (!form) return;
      const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams() }).catch(() => null);
      if (answer?.ok) await refresh().catch(() => false);
      proceed(answer?.ok ? 0 : Math.min(LONGEST, 2 * (seconds || 1)));
    }, 1000 * seconds);
  proceed(0);
})();
