// The token of a service that is not open to all. It is kept for this tab only.

import { byId } from "./dom.js";

const KEY = "gst-token";
let asking = null; // the promise of an answer, while the reader is asked
let isDeclined = false; // the reader gave none, and is not asked again before wanting to be

export const savedToken = () => sessionStorage.getItem(KEY);

/** Ask for a token, once for all requests that wait for one; false when the reader gives none. */
export async function askToken(refused) {
  if (savedToken() !== refused) return true; // another request has asked in the meantime
  if (isDeclined) return false;
  asking ??= prompt(refused).finally(() => {
    asking = null;
  });
  return asking;
}

function prompt(refused) {
  const [dialog, input, again] = [byId("token-dialog"), byId("token"), byId("token-again")];
  byId("token-reason").textContent = refused
    ? "The last token was not accepted."
    : "Who runs the service can give you one for reading.";
  input.value = "";
  again.hidden = true;
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    const answered = () => {
      const given = dialog.returnValue === "go" && input.value.trim();
      if (given) sessionStorage.setItem(KEY, given);
      isDeclined = !given;
      again.hidden = Boolean(given);
      again.onclick = () => {
        isDeclined = false;
        askToken(savedToken());
      };
      dialog.returnValue = "";
      input.value = "";
      resolve(Boolean(given));
    };
    dialog.addEventListener("close", answered, { once: true });
  });
}
