// The page at /docs: Swagger UI over /openapi.json, which is looked at again while somebody looks at the page.
"use strict";

const DESCRIPTION = "openapi.json";
const LOOK_AGAIN_MILLISECONDS = 5000;

let tag = "";

async function description() {
  const answer = await fetch(DESCRIPTION, { cache: "no-cache" });
  const fresh = answer.ok && answer.headers.get("etag") !== tag;
  tag = answer.ok ? answer.headers.get("etag") : tag;
  return fresh ? answer.text() : null;
}

async function lookAgain(ui) {
  const text = document.hidden ? null : await description().catch(() => null);
  if (text !== null) {
    ui.specActions.updateSpec(text);
  }
}

const ui = SwaggerUIBundle({
  dom_id: "#docs",
  spec: {},
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  validatorUrl: null,
});

lookAgain(ui);
setInterval(lookAgain, LOOK_AGAIN_MILLISECONDS, ui);
