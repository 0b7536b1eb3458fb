// The token of a service that is not open to all. It is kept for this tab only.

import { byId } from "./dom.js";

const KEY = "gst-token";
let asking = null;

export const savedToken = () => sessionStorage.getItem(KEY);

/** Ask for a token, once for all requests that wait for one; false when the reader gives none. */
export async function askToken(refused, reason) {
  if (savedToken() !== refused) return true; // another request has asked in the meantime
  asking ??= prompt(refused, reason).finally(() => {
    asking = null;
  });
  return asking;
}

function prompt(refused, reason) {
  const dialog = byId("token-dialog");
  const input = byId("token");
  byId("token-reason").textContent = refused ? "The last token was not accepted." : reason;
  input.value = "";
  if (!dialog.open) dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const given = dialog.returnValue === "go" && input.value.trim();
        if (given) sessionStorage.setItem(KEY, given);
        dialog.returnValue = "";
        input.value = "";
        resolve(Boolean(given));
      },
      { once: true },
    );
  });
}
