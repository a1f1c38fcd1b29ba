// The page, put together.

import { ApiError, models } from "./api.js";
import { Chats } from "./chats.js";
import { Composer } from "./composer.js";
import { path } from "./conversation.js";
import { make, renew } from "./dom.js";
import { askToDelete, openDialog, showMenu } from "./dialogs.js";
import { showExperts } from "./experts.js";
import { Files } from "./files.js";
import { listenToKeys, showKeys } from "./keys.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Speech } from "./speech.js";
import { Store, storageOf } from "./store.js";
import { Thread } from "./thread.js";
import { bestLanguage, currentLanguage, label, LANGUAGES, say, speak } from "./words.js";

/** For how long a short notice stays, in milliseconds. */
const TOAST_MS = 4000;

const at = (id) => document.getElementById(id);

const store = new Store(storageOf("localStorage"));
const session = new Store(storageOf("sessionStorage"));
const speech = new Speech(at("speech"));

const chosenLanguage = store.setting("language");
speak(Object.hasOwn(LANGUAGES, chosenLanguage ?? "") ? chosenLanguage : bestLanguage(navigator.languages ?? [navigator.language]));
at("app").hidden = false;

const settings = new Settings(
  { place: at("sampling"), key: at("key"), keep: at("keep-key"), show: at("show-key"), reset: at("reset") },
  store,
  session,
);
const model = at("model");
let known = [];

const chats = new Chats(
  store,
  () => ({ key: settings.key, body: { model: model.value || undefined, ...settings.sampling } }),
  {
    changed: showConversation,
    grow(node, text) {
      thread.grow(node, text);
      speech.push(text);
    },
    ended(node, error) {
      thread.end(node);
      composer.refresh();
      showMeter();
      if (error) speech.say(error.message);
      else speech.finish();
      if (error instanceof ApiError && error.status === 401) askForKey();
    },
    listed() {
      sidebar.show();
      showNotices();
    },
    busy: () => toast(say("error_busy")),
  },
);

const thread = new Thread({ scroller: at("main"), list: at("thread"), jump: at("jump") }, chats, {
  turn(node, by) {
    chats.turn(node, by);
    thread.focusTurn(node, by);
  },
  edit: (node, text) => begin(() => chats.edit(node, text)),
  again: (node) => begin(() => chats.again(node)),
  key: askForKey,
  rate: () => chats.run?.rate ?? null,
  leave: () => composer.focus(),
  copied: (isCopied) => toast(say(isCopied ? "copied" : "copy_failed")),
});
const composer = new Composer({ field: at("message"), send: at("send"), stop: at("stop") }, chats, {
  draft: (text) => session.set("draft", text || undefined),
  send: (text) => begin(() => chats.send(text)),
  editLast: () => thread.editLast(),
});
const sidebar = new Sidebar({ list: at("list"), search: at("search") }, store, chats, askToDelete, () => {
  closeDrawer();
  composer.focus();
});
const files = new Files(store, chats, at("import-file"), toast, (conversations) => {
  for (const conversation of conversations) store.save(conversation);
  chats.open(conversations[0].id);
  sidebar.show();
  showNotices();
});

/** Starts an answer; false where it does not start. */
function begin(start) {
  if (!start()) return false;
  speech.begin();
  // A button that started it may be gone.
  if (document.activeElement === document.body) composer.focus();
  return true;
}

function showConversation(isStill = false) {
  thread.show(isStill);
  composer.refresh();
  const { current } = chats;
  at("empty").hidden = current.nodes.length > 0;
  at("system").value = current.system;
  document.title = current.title ? `${current.title} · dots` : say("title");
  showMeter();
}

/** How much of the context the conversation takes, as the server counted it last. */
function showMeter() {
  const stats = path(chats.current).findLast((node) => node.stats?.prompt !== undefined)?.stats;
  const total = known.find((one) => one.id === model.value)?.max_model_len;
  at("meter").textContent = stats && total ? say("context", { used: stats.prompt + (stats.completion ?? 0), total }) : "";
}

let problem = null;

function showNotices() {
  const notices = [];
  if (problem) notices.push(notice(problem.message, problem.status === 401 ? "enter_key" : "retry", problem.status === 401 ? askForKey : loadModels));
  if (!store.isKept) notices.push(notice(say("storage_none")));
  else if (store.hasUnsaved) notices.push(notice(say("storage_full"), "export_all", () => files.exportAll()));
  if (!renew(at("notices"), ...notices)) composer.focus();
}

function notice(text, key, onclick) {
  const element = make("div", { className: "notice error", role: "alert" }, make("span", {}, text));
  if (key) element.append(label(make("button", { type: "button", className: "quiet", onclick }), "text", key));
  return element;
}

let toastTimer;

/** Says something for a moment. */
function toast(text) {
  at("toast").textContent = text;
  at("toast").classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => {
    at("toast").classList.remove("shown");
    at("toast").textContent = "";
  }, TOAST_MS);
}

async function loadModels() {
  try {
    known = await models(settings.key);
    problem = null;
  } catch (error) {
    known = [];
    problem = error;
  }
  const wanted = store.setting("model");
  model.replaceChildren(...known.map(({ id }) => make("option", { value: id, selected: id === wanted }, id)));
  model.disabled = known.length === 0;
  if (known.length === 0) model.append(label(make("option", { value: "" }), "text", "no_model"));
  showNotices();
  showMeter();
}

function askForKey() {
  openDialog(at("settings"));
  at("key").focus();
}

function chooseLanguage(name) {
  speak(name);
  sidebar.show();
  thread.retranslate();
  showKeys(at("keys"));
  showNotices();
  showMeter();
  if (!chats.current.title) document.title = say("title");
}

// The sidebar lies beside the conversation where there is room, and over it elsewhere.
const isNarrow = matchMedia("(max-width: 820px)");

function showSidebar(isShown) {
  document.body.classList.toggle("with-sidebar", isShown);
  at("shade").hidden = !(isShown && isNarrow.matches);
  at("toggle-sidebar").setAttribute("aria-expanded", String(isShown));
  document.querySelector(".column").inert = isShown && isNarrow.matches;
  if (!isShown && at("sidebar").contains(document.activeElement)) at("toggle-sidebar").focus();
}

function toggleSidebar() {
  const isShown = !document.body.classList.contains("with-sidebar");
  showSidebar(isShown);
  if (!isNarrow.matches) store.set("sidebar", isShown);
  if (isNarrow.matches) at(isShown ? "close-sidebar" : "toggle-sidebar").focus();
}

function closeDrawer() {
  if (isNarrow.matches) showSidebar(false);
}

function newChat() {
  closeDrawer();
  chats.create();
  composer.focus();
}

function searchChats() {
  showSidebar(true);
  at("search").focus();
  at("search").select();
}

at("toggle-sidebar").addEventListener("click", toggleSidebar);
at("close-sidebar").addEventListener("click", toggleSidebar);
at("shade").addEventListener("click", toggleSidebar);
isNarrow.addEventListener("change", () => showSidebar(!isNarrow.matches && store.setting("sidebar") !== false));
at("new").addEventListener("click", newChat);
at("open-settings").addEventListener("click", () => openDialog(at("settings")));
at("open-shortcuts").addEventListener("click", () => openDialog(at("shortcuts")));
at("system").addEventListener("input", () => chats.setSystem(at("system").value));
at("key").addEventListener("change", loadModels);
model.addEventListener("change", () => {
  store.set("model", model.value);
  showMeter();
});
for (const button of document.querySelectorAll(".suggestions button")) {
  button.addEventListener("click", () => composer.fill(button.textContent, true));
}

at("language").value = currentLanguage();
at("language").addEventListener("change", () => {
  store.set("language", at("language").value);
  chooseLanguage(at("language").value);
});
const theme = store.setting("theme");
at("theme").value = theme === "light" || theme === "dark" ? theme : "auto";
at("theme").addEventListener("change", () => {
  const chosen = at("theme").value;
  store.set("theme", chosen === "auto" ? undefined : chosen);
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
});

showMenu(at("files"), at("files-menu"));
at("export-markdown").addEventListener("click", () => files.exportMarkdown());
at("export-json").addEventListener("click", () => files.exportJson());
at("export-all").addEventListener("click", () => files.exportAll());
at("import").addEventListener("click", () => at("import-file").click());

listenToKeys({
  stop: () => chats.run && (chats.stop(), true),
  closeDrawer: () => isNarrow.matches && document.body.classList.contains("with-sidebar") && (toggleSidebar(), true),
  newChat,
  search: searchChats,
  sidebar: toggleSidebar,
  settings: () => openDialog(at("settings")),
  shortcuts: () => openDialog(at("shortcuts")),
  scroll: (pages) => at("main").scrollBy({ top: pages * at("main").clientHeight * 0.85 }),
});

addEventListener("storage", (event) => chats.follow(event));
addEventListener("pagehide", () => chats.saveRunning());
addEventListener("beforeunload", (event) => {
  chats.saveRunning();
  // What is not saved would be lost with the page.
  if (store.hasUnsaved) event.preventDefault();
});

showExperts(at("experts"));
showKeys(at("keys"));
showSidebar(!isNarrow.matches && store.setting("sidebar") !== false);
showConversation();
sidebar.show();
showNotices();
composer.fill(session.setting("draft") ?? "");
composer.focus();
loadModels();
