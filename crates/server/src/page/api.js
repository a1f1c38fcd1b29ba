// The server's API, as the page uses it.

import { EventReader } from "./sse.js";
import { say } from "./words.js";

/** Why a request got no answer, in the server's own words where it has any. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Longest error that is shown, in characters. */
const MAX_MESSAGE = 2000;

/** Addresses are relative to the page, so that it works under a prefix of a proxy. */
const address = (path) => new URL(path, document.baseURI);

function headers(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** The models: `[{id, max_model_len?}]`. */
export async function models(key) {
  const response = await request("v1/models", { headers: headers(key), cache: "no-store" });
  const list = await response.json().catch(() => null);
  return Array.isArray(list?.data) ? list.data.filter((model) => typeof model?.id === "string") : [];
}

/** The answer to a chat request, piece by piece: `{text}`, `{finish}` and `{usage}`, in the order of their coming. */
export async function* chat(body, key, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { ...headers(key), "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) throw new ApiError(say("error_stream"), response.status);
  const reader = response.body.getReader();
  const events = new EventReader();
  try {
    for (;;) {
      const { done, value } = await read(reader);
      if (done) return;
      for (const event of events.push(value)) {
        if (event === "[DONE]") return;
        yield* pieces(event, response.status);
      }
    }
  } finally {
    // Also where the caller stops early: the server then stops, too.
    reader.cancel().catch(() => {});
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(say("ended_early"));
  }
}

function* pieces(event, status) {
  let chunk;
  try {
    chunk = JSON.parse(event);
  } catch {
    throw new ApiError(say("error_stream"), status);
  }
  // The status line was sent long before: an error travels as one more chunk.
  if (chunk?.error) throw new ApiError(messageOf(chunk) ?? say("error_stream"), status);
  const choice = chunk?.choices?.[0];
  if (typeof choice?.delta?.content === "string" && choice.delta.content !== "") yield { text: choice.delta.content };
  if (typeof choice?.finish_reason === "string") yield { finish: choice.finish_reason };
  if (chunk?.usage) yield { usage: chunk.usage };
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(address(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(say("error_network"));
  }
  if (response.ok) return response;
  const text = (await response.text().catch(() => "")).trim();
  let message = null;
  try {
    message = messageOf(JSON.parse(text));
  } catch {
    // A proxy's page, perhaps. Its markup says nothing.
    message = text.startsWith("<") ? null : text;
  }
  throw new ApiError((message || say("error_status", { status: String(response.status) })).slice(0, MAX_MESSAGE), response.status);
}

function messageOf(body) {
  const message = body?.error?.message ?? body?.message ?? body?.error;
  return typeof message === "string" ? message : null;
}
