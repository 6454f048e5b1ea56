// The page at /docs: Swagger UI over /openapi.json, which is looked at again while somebody looks at the page.
"use strict";

const DESCRIPTION = "openapi.json";
const LOOK_AGAIN_MILLISECONDS = 5000;

let known = null;

async function lookAgain(ui) {
  if (document.hidden) {
    return;
  }
  const answer = await fetch(DESCRIPTION, { cache: "no-cache" });
  const tag = answer.headers.get("etag");
  if (answer.ok && tag !== known) {
    if (known !== null) {
      ui.specActions.updateSpec(await answer.text());
    }
    known = tag;
  }
}

const ui = SwaggerUIBundle({
  dom_id: "#docs",
  url: DESCRIPTION,
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  validatorUrl: null,
  onComplete: () => {
    const look = () => lookAgain(ui).catch(() => {}); // the control process may be away; the page stays as it is
    look();
    setInterval(look, LOOK_AGAIN_MILLISECONDS);
  },
});
