// Asking the service. A refused token is asked for again; every error ends in words a person can act on.

import { askToken, savedToken } from "./token.js";

/** What went wrong, in words; `status` is 0 when there was no answer at all. */
export class ServiceError extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

/** The JSON answer to `GET <path>`; parts of the path that are names must come through `encode`. */
export async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const url = new URL(path, document.baseURI);
  url.hash = "";
  url.search = new URLSearchParams(given);
  for (;;) {
    const token = savedToken();
    const response = await send(url, token);
    if (response.ok) return response.json();
    const words = await inWords(response);
    if (response.status !== 401) throw new ServiceError(response.status, words);
    if (!(await askToken(token))) throw new ServiceError(401, "This service shows its data only with a token.");
  }
}

export const encode = encodeURIComponent;

async function send(url, token) {
  try {
    return await fetch(url, { headers: token ? { Authorization: `Bearer ${token}` } : {} });
  } catch {
    throw new ServiceError(0, "The service does not answer. It may have been stopped; this page keeps asking.");
  }
}

/** The service's own words: what, what it got, what to try. */
async function inWords(response) {
  let error = {};
  try {
    error = await response.json();
  } catch {
    // not JSON: the status has to do
  }
  if (typeof error.what !== "string") return `The service answered ${response.status} ${response.statusText}.`;
  const sentence = error.what.charAt(0).toUpperCase() + error.what.slice(1);
  const parts = [error.got && `got: ${short(error.got)}`, error.hint && `try: ${short(error.hint)}`].filter(Boolean);
  return parts.length ? `${sentence} (${parts.join("; ")}).` : `${sentence}.`;
}

function short(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
