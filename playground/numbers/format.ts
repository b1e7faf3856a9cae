/** A number for people: four digits, a true minus sign. */
export function formatNumber(value: number | undefined): string {
  if (value === undefined) return "";
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const magnitude = Math.abs(value);
  const text =
    value === 0
      ? "0"
      : magnitude >= 1e5 || magnitude < 1e-4
        ? exponential(value)
        : String(Number(value.toPrecision(4)));
  return text.replaceAll("-", "−");
}

/** A difference: two digits are plenty. */
export function formatDifference(value: number): string {
  if (value === 0) return "0";
  if (!Number.isFinite(value)) return formatNumber(value);
  return value >= 1e-3 ? String(Number(value.toPrecision(2))) : exponential(value, 1);
}

/** `1.2·10⁻⁷` */
function exponential(value: number, digits = 2): string {
  const [mantissa, exponent] = value.toExponential(digits).split("e") as [string, string];
  const raised = [...exponent.replace("+", "")]
    .map((character) => superscripts[character])
    .join("");
  return `${mantissa}·10${raised}`;
}

const superscripts: Readonly<Record<string, string>> = {
  ...Object.fromEntries([..."⁰¹²³⁴⁵⁶⁷⁸⁹"].map((character, digit) => [digit, character])),
  "-": "⁻",
};

/** `1.5 KB` */
export function formatBytes(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  const units = ["KB", "MB", "GB"];
  let size = bytes / 1024;
  let unit = 0;
  for (; size >= 1024 && unit < 2; unit++) size /= 1024;
  return `${Number(size.toPrecision(3))} ${units[unit]}`;
}

/** `1.23 ms`, of seconds. */
export function formatSeconds(seconds: number): string {
  const [size, unit] =
    seconds >= 1 ? [seconds, "s"] : seconds >= 1e-3 ? [seconds * 1e3, "ms"] : [seconds * 1e6, "µs"];
  return `${Number(size.toPrecision(3))} ${unit}`;
}

/** `1.23 TFLOP/s` and the like. */
export function formatRate(rate: number, unit: string): string {
  const prefixes = ["", "K", "M", "G", "T"];
  let size = rate;
  let prefix = 0;
  for (; size >= 1000 && prefix < 4; prefix++) size /= 1000;
  return `${Number(size.toPrecision(3))} ${prefixes[prefix]}${unit}`;
}
