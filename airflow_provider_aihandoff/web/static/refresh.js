// Refreshes the parts of a page that have changed, in place: what is typed, selected, unfolded, focused or scrolled stays.
// While a bulk action has steps left, it also sends the form with which a person would continue it.
"use strict";
(() => {
  const LONGEST = 60;
  const interval = () => Number(document.querySelector("main [data-refresh]")?.dataset.refresh || 0);
  const parts = (page) => new Map([...page.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));

  const isChanged = (field) => {
    if (field === document.activeElement) return true;
    if (field.type === "checkbox") return field.checked !== field.defaultChecked;
    if (field.localName !== "select") return field.value !== field.defaultValue;
    const chosen = [...field.options].filter((option) => option.defaultSelected);
    const expected = field.multiple ? chosen : [chosen.at(-1) ?? field.options[0]];
    return [...field.options].some((option) => option.selected !== expected.includes(option));
  };

  const isTyped = (element) => [...element.querySelectorAll("textarea, input, select")].some(isChanged);

  const isSelected = (node) => {
    const selection = getSelection();
    return !selection.isCollapsed && selection.containsNode(node, true);
  };

  // What makes an element the same one as before: a row by its key, what can be unfolded by its words without numbers.
  const identity = (node) => {
    if (node.nodeType !== Node.ELEMENT_NODE) return node.nodeName;
    const words = node.localName === "details" ? node.querySelector("summary")?.textContent.replace(/[\d\s]+/g, " ") : "";
    const names = ["id", "name", "href", "action", "data-key"].map((name) => node.getAttribute(name));
    return JSON.stringify([node.nodeName, words, ...names]);
  };

  const update = (node, fresh) => {
    if (node.nodeType !== Node.ELEMENT_NODE) {
      if (node.nodeValue !== fresh.nodeValue && !isSelected(node)) node.nodeValue = fresh.nodeValue;
      return;
    }
    if (node.localName === "form" && isTyped(node)) return;
    for (const { name } of [...node.attributes]) {
      if (name !== "open" && !fresh.hasAttribute(name)) node.removeAttribute(name);
    }
    for (const { name, value } of [...fresh.attributes]) {
      if (name !== "open" && node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
    updateChildren(node, fresh);
  };

  // An element that stays is not moved where that can be avoided: one that moves loses its focus and its scroll position.
  const updateChildren = (node, fresh) => {
    const wanted = [...fresh.childNodes].map((child) => [identity(child), child]);
    const left = new Map();
    for (const [name] of wanted) left.set(name, (left.get(name) || 0) + 1);
    let place = node.firstChild;
    const skip = () => {
      const gone = place;
      place = place.nextSibling;
      if (gone.nodeType !== Node.ELEMENT_NODE || !isTyped(gone)) gone.remove();
    };
    const comesLater = (each) => each.nodeType === Node.ELEMENT_NODE && left.get(identity(each)) > 0;
    for (const [name, child] of wanted) {
      left.set(name, left.get(name) - 1);
      let same = place;
      while (same && identity(same) !== name) same = same.nextSibling;
      if (!same) {
        node.insertBefore(document.adoptNode(child), place);
        continue;
      }
      while (place !== same && !comesLater(place)) skip();
      if (place === same) place = place.nextSibling;
      else node.insertBefore(same, place);
      update(same, child);
    }
    while (place) skip();
  };

  const refresh = async () => {
    const shown = window.top === window ? "document" : "iframe";
    const answer = await fetch(location.href, { headers: { Accept: "text/html", "Aihandoff-Window": shown } });
    if (!answer.ok) return false;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = parts(page);
    if (fresh.size === 0) return false;
    document.title = page.title;
    for (const [name, part] of parts(document)) {
      if (fresh.has(name)) update(part, fresh.get(name));
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
