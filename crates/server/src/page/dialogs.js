// What opens over the page: dialogs, which the browser keeps the focus in, and one menu.

/** Opens a dialog. Its button, Escape, and a click beside it close it. */
export function openDialog(dialog) {
  if (!dialog.dataset.isReady) {
    dialog.dataset.isReady = "true";
    dialog.querySelector(".close")?.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => {
      // A click on the dialog itself, not on what it holds, is one beside it.
      const box = dialog.getBoundingClientRect();
      const isInside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
      if (event.target === dialog && !isInside) dialog.close();
    });
  }
  if (!dialog.open) dialog.showModal();
}

/** Asks whether to delete. */
export function askToDelete(question, note) {
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-title").textContent = question;
  document.getElementById("confirm-note").textContent = note;
  const yes = document.getElementById("confirm-yes");
  const no = document.getElementById("confirm-no");
  return new Promise((resolve) => {
    const done = new AbortController();
    let answer = false;
    yes.addEventListener("click", () => ((answer = true), dialog.close()), { signal: done.signal });
    no.addEventListener("click", () => dialog.close(), { signal: done.signal });
    dialog.addEventListener(
      "close",
      () => {
        done.abort();
        resolve(answer);
      },
      { signal: done.signal },
    );
    openDialog(dialog);
    no.focus();
  });
}

/** Opens and closes a menu of buttons with its button. */
export function showMenu(button, menu) {
  const show = (isShown) => {
    menu.hidden = !isShown;
    button.setAttribute("aria-expanded", String(isShown));
  };
  const items = () => [...menu.querySelectorAll("button")];
  button.addEventListener("click", () => {
    show(menu.hidden);
    if (!menu.hidden) items()[0].focus();
  });
  menu.addEventListener("click", () => {
    show(false);
    button.focus();
  });
  menu.addEventListener("keydown", (event) => {
    const all = items();
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) all[(all.indexOf(document.activeElement) + step + all.length) % all.length].focus();
    else if (event.key === "Escape") {
      show(false);
      button.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  document.addEventListener("pointerdown", (event) => {
    if (!menu.contains(event.target) && !button.contains(event.target)) show(false);
  });
  menu.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !menu.contains(event.relatedTarget) && event.relatedTarget !== button) show(false);
  });
}
