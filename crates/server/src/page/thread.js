// The messages of the conversation that is shown. It follows the end of an answer as long as its reader does.

import { path } from "./conversation.js";
import { copyWith, MessageView } from "./message.js";

/** How near to its end the reader counts as following, in pixels. */
const NEAR = 80;

export class Thread {
  #scroller;
  #list;
  #jump;
  #chats;
  #on;
  #conversation = null;
  #views = [];
  #isFollowing = true;
  #top = 0;

  /** `on` is what `MessageView` takes, and `leave()`, which takes the focus from the button that goes to the end. */
  constructor({ scroller, list, jump }, chats, on) {
    this.#scroller = scroller;
    this.#list = list;
    this.#jump = jump;
    this.#chats = chats;
    this.#on = { ...on, shown: () => this.#follow() };
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    jump.addEventListener("click", () => this.toEnd());
    list.addEventListener("click", async (event) => {
      const button = event.target.closest?.(".copy-code");
      if (button) on.copied(await copyWith(button, button.closest(".code").querySelector("pre").textContent));
    });
  }

  /** Shows the conversation as it is now, and its end, unless its reader is to stay where they are. Messages that stay are not made anew. */
  show(isStill) {
    const conversation = this.#chats.current;
    const nodes = path(conversation);
    let kept = 0;
    if (conversation === this.#conversation) {
      while (kept < this.#views.length && this.#views[kept].node === nodes[kept]) kept += 1;
    }
    for (const view of this.#views.splice(kept)) view.element.remove();
    for (const view of this.#views) view.refresh(this.#chats.isGrowing(view.node));
    for (const node of nodes.slice(kept)) {
      const view = new MessageView(conversation, node, this.#chats.isGrowing(node), this.#on);
      this.#views.push(view);
      this.#list.append(view.element);
    }
    this.#conversation = conversation;
    this.#list.hidden = nodes.length === 0;
    if (isStill) this.#follow();
    else this.toEnd();
  }

  /** Gives the focus to the button that turned a message's version, which was made anew. */
  focusTurn(node, by) {
    this.#views.find((view) => view.node.parent === node.parent)?.focusTurn(by);
  }

  /** Says everything again, in another language. */
  retranslate() {
    for (const view of this.#views) view.refresh(this.#chats.isGrowing(view.node));
  }

  grow(node, text) {
    this.#of(node)?.grow(text);
  }

  end(node) {
    this.#of(node)?.end();
    for (const view of this.#views) if (view.node !== node) view.refresh(false);
  }

  /** Opens the last message of the user for writing. */
  editLast() {
    this.#views.findLast((view) => view.node.role === "user")?.edit();
  }

  /** Goes to the end, and follows it from now on. */
  toEnd() {
    this.#isFollowing = true;
    this.#follow();
  }

  #of(node) {
    return this.#views.findLast((view) => view.node === node);
  }

  #follow() {
    if (this.#isFollowing) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#showJump(!this.#isFollowing);
  }

  /** The button that goes to the end is there while the end is out of sight; whoever is on it then goes on to what is behind it. */
  #showJump(isShown) {
    const hadFocus = document.activeElement === this.#jump;
    this.#jump.hidden = !isShown;
    if (hadFocus && !isShown) this.#on.leave();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const isNear = scrollHeight - scrollTop - clientHeight < NEAR;
    // What grows below moves the end away from a reader who did not move.
    if (isNear) this.#isFollowing = true;
    else if (scrollTop < this.#top) this.#isFollowing = false;
    this.#top = scrollTop;
    this.#showJump(!this.#isFollowing && !isNear);
  }
}
