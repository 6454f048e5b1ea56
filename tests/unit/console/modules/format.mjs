import { strictEqual } from "node:assert";
import test from "node:test";
import { ago, bytes, duration, method, percent, rate } from "../../../../console/static/format.js";

const table = (name, tell, rows) => test(name, () => rows.forEach(([value, text]) => strictEqual(tell(value), text)));

table("durations have three digits that count", duration, [
  [null, "–"], [0, "0 µs"], [0.0004, "0 µs"], [0.85, "850 µs"], [0.9994, "999 µs"], [0.9996, "1 ms"], [1.234, "1.23 ms"], [12.34, "12.3 ms"],
  [99.96, "100 ms"], [999.4, "999 ms"], [999.6, "1 s"], [5031, "5.03 s"], [59_940, "59.9 s"], [59_960, "1 min 00 s"], [3_599_000, "59 min 59 s"],
  [3_600_000, "1 h 00 min"], [7_380_000, "2 h 03 min"],
]);
table("rates", rate, [[0, "0/s"], [0.05, "3/min"], [0.1, "0.1/s"], [4.739, "4.74/s"], [999, "999/s"], [1234, "1.23k/s"]]);
table("shares", percent, [[0, "0 %"], [0.0004, "< 0.1 %"], [0.004, "0.4 %"], [0.05, "5 %"], [0.1234, "12 %"], [1, "100 %"]]);
table("bytes", bytes, [[0, "0 B"], [1023, "1023 B"], [1536, "1.5 KB"], [268435456, "256 MB"]]);
table("methods of gRPC by their last part, anything else as it is", method, [
  ["meshwright.order.v1.OrderService/GetOrder", "GetOrder"], ["GET /v1/orders", "GET /v1/orders"], ["ingress", "ingress"], ["SELECT", "SELECT"],
]);
test("times gone by, never in the future", () => {
  for (const [seconds, text] of [[-5, "0 s ago"], [59, "59 s ago"], [61, "1 min ago"], [7300, "2 h ago"], [200_000, "2 d ago"]]) {
    strictEqual(ago(1e12, 1e12 + seconds * 1000), text);
  }
});
