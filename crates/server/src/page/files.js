// Export and import, with what the page says about them.

import { download } from "./dom.js";
import { BadFile, fileName, fromJson, MAX_IMPORT_BYTES, toJson, toMarkdown } from "./transfer.js";
import { say } from "./words.js";

export class Files {
  #store;
  #chats;
  #toast;

  /** `input` is the file field; `onImport(conversations)` takes what it brought, at least one. */
  constructor(store, chats, input, toast, onImport) {
    this.#store = store;
    this.#chats = chats;
    this.#toast = toast;
    input.addEventListener("change", async () => {
      const [file] = input.files;
      // The same file can be chosen again.
      if (file) await this.#import(file, onImport);
      input.value = "";
    });
  }

  exportMarkdown() {
    const { current } = this.#chats;
    if (current.nodes.length === 0) return this.#toast(say("nothing_to_export"));
    const names = { untitled: say("untitled"), system: say("system"), user: say("you"), assistant: say("assistant") };
    download(fileName(current.title, "md"), "text/markdown", toMarkdown(current, names));
  }

  exportJson() {
    const { current } = this.#chats;
    if (current.nodes.length === 0) return this.#toast(say("nothing_to_export"));
    download(fileName(current.title, "json"), "application/json", toJson([current]));
  }

  exportAll() {
    const all = this.#store.all();
    if (all.length === 0) return this.#toast(say("nothing_to_export"));
    download(`dots-chats-${new Date().toISOString().slice(0, 10)}.json`, "application/json", toJson(all));
  }

  async #import(file, onImport) {
    try {
      if (file.size > MAX_IMPORT_BYTES) throw new BadFile(`expected at most ${MAX_IMPORT_BYTES} bytes, found ${file.size}`);
      const conversations = fromJson(await file.text());
      if (conversations.length === 0) throw new BadFile("conversations: expected at least one, found none");
      onImport(conversations);
      this.#toast(say("imported", { count: conversations.length }));
    } catch (error) {
      const reason = error instanceof BadFile ? `${file.name}: ${error.message}` : file.name;
      this.#toast(say("import_failed", { reason }));
    }
  }
}
