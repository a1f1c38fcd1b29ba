// Before the first paint: the chosen colours and language, so that the page does not flash in others. No module, since those
// wait for the whole page.
(() => {
  const setting = (name) => {
    try {
      return JSON.parse(localStorage.getItem(`dots.${name}`));
    } catch {
      return null;
    }
  };
  const root = document.documentElement;
  const theme = setting("theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const language = setting("language");
  if (typeof language === "string") root.lang = language;
})();
