// Figures as text. Pure. Durations are in milliseconds, times in those since 1970, shares between 0 and 1.

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 0.9995) return `${Math.round(ms * 1000)} µs`;
  if (ms < 999.5) return `${three(ms)} ms`;
  if (ms < 59_950) return `${three(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

// Three digits that count, as nobody compares more.
function three(value) {
  if (value < 9.995) return value.toFixed(2).replace(/\.?0+$/, "");
  if (value < 99.95) return value.toFixed(1).replace(/\.0$/, "");
  return String(Math.round(value));
}

export function rate(perSecond) {
  if (!perSecond) return "0/s";
  if (perSecond < 0.1) return `${three(perSecond * 60)}/min`;
  return perSecond < 999.5 ? `${three(perSecond)}/s` : `${three(perSecond / 1000)}k/s`;
}

export function percent(share) {
  const value = share * 100;
  if (value === 0) return "0 %";
  if (value < 0.1) return "< 0.1 %";
  return `${value < 9.95 ? value.toFixed(1).replace(/\.0$/, "") : Math.round(value)} %`;
}

export const count = (number) => number.toLocaleString("en");

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export function bytes(number) {
  const units = ["B", "KB", "MB", "GB"];
  const step = Math.min(units.length - 1, number < 1 ? 0 : Math.floor(Math.log(number) / Math.log(1024)));
  return `${three(number / 1024 ** step)} ${units[step]}`;
}

const two = (number) => String(number).padStart(2, "0");

export function clock(ms) {
  const at = new Date(ms);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function moment(ms) {
  const at = new Date(ms);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock(ms)}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

export function ago(ms, now) {
  const seconds = Math.max(0, Math.round((now - ms) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

// The last part of a gRPC method's name, which is what people call it; anything else as it is.
export const method = (name) => (/^[\w.]+\/\w+$/.test(name) ? name.slice(name.lastIndexOf("/") + 1) : name);
