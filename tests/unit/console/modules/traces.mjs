import assert from "node:assert/strict";
import { test } from "node:test";
import { ask } from "../../../../console/static/traces.js";

const NOW = 1_700_000_000_000;

test("the address of the page as a question", () => {
  for (const [address, asked] of [
    ["", [["limit", "100"]]],
    ["service=sync&operation=Buy", [["service", "sync"], ["operation", "Buy"], ["limit", "100"]]],
    ["minDuration=100ms&maxDuration=1.5s&limit=5", [["minDuration", "100ms"], ["maxDuration", "1.5s"], ["limit", "5"]]],
    ["tags=a%3D1+b%3Dx%3Dy", [["tag", "a:1"], ["tag", "b:x=y"], ["limit", "100"]]],
    ["tags=say%3D%22two+words%22++c%3D3", [["tag", "say:two words"], ["tag", "c:3"], ["limit", "100"]]],
    ["tags=key", [["tag", "key:"], ["limit", "100"]]],
    ["error=true", [["tag", "error:true"], ["limit", "100"]]],
    ["error=no", [["limit", "100"]]],
    ["within=5m", [["start", String((NOW - 300_000) * 1000)], ["limit", "100"]]],
    ["within=1h", [["start", String((NOW - 3_600_000) * 1000)], ["limit", "100"]]],
    ["within=1y", [["limit", "100"]]],
  ]) assert.deepEqual([...ask(new URLSearchParams(address), NOW)], asked, address);
});
