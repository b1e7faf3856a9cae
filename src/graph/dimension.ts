import { refuse } from "../errors.ts";

/**
 * An axis length known at once (a number) or at execute (a name such as `"seq_len"`, or a polynomial
 * of names such as `"past + kv"` or `"2*heads*depth"`).
 */
export type Dimension = number | string;

/** Values of the named dimensions. */
export type DimensionValues = Readonly<Record<string, number>>;

/** Coefficients by monomial: names sorted and joined by `*`; `""` is the constant term. */
type Polynomial = ReadonlyMap<string, number>;

const identifier = /^[A-Za-z_]\w*$/;
const parsed = new Map<Dimension, Polynomial>();

function parse(dimension: Dimension): Polynomial {
  const known = parsed.get(dimension);
  if (known) return known;
  const terms = new Map<string, number>();
  for (const term of String(dimension).split("+")) {
    let coefficient = 1;
    const names: string[] = [];
    for (const factor of term.split("*").map((part) => part.trim())) {
      if (/^\d+$/.test(factor)) coefficient *= Number(factor);
      else if (identifier.test(factor)) names.push(factor);
      else
        refuse("TensorType", "a dimension must be an integer of 1 or more, or a name", dimension);
    }
    addTerm(terms, names.sort().join("*"), coefficient);
  }
  if (typeof dimension === "string") parsed.set(dimension, terms);
  return terms;
}

function addTerm(terms: Map<string, number>, monomial: string, coefficient: number): void {
  const sum = (terms.get(monomial) ?? 0) + coefficient;
  if (sum === 0) terms.delete(monomial);
  else terms.set(monomial, sum);
}

function format(terms: Polynomial): Dimension {
  const spelled = [...terms]
    .sort(([a], [b]) => (a === "" ? 1 : b === "" ? -1 : a < b ? -1 : 1))
    .map(([monomial, coefficient]) =>
      monomial === ""
        ? `${coefficient}`
        : coefficient === 1
          ? monomial
          : `${coefficient}*${monomial}`,
    );
  const text = spelled.join(" + ") || "0";
  return /^\d+$/.test(text) ? Number(text) : text;
}

/** Checks a dimension and returns its one canonical spelling, so that equal dimensions are `===`. */
export function canonicalDimension(dimension: Dimension): Dimension {
  if (typeof dimension === "number") {
    if (!Number.isSafeInteger(dimension) || dimension < 1)
      refuse("TensorType", "a dimension must be an integer of 1 or more, or a name", dimension);
    return dimension;
  }
  if (typeof dimension !== "string")
    refuse("TensorType", "a dimension must be an integer of 1 or more, or a name", dimension);
  const canonical = format(parse(dimension));
  return typeof canonical === "number" ? canonicalDimension(canonical) : canonical;
}

/** a + b. */
export function addDimensions(a: Dimension, b: Dimension): Dimension {
  const terms = new Map(parse(a));
  for (const [monomial, coefficient] of parse(b)) addTerm(terms, monomial, coefficient);
  return format(terms);
}

/** The product of `dimensions`: the element count of a symbolic shape. */
export function multiplyDimensions(...dimensions: readonly Dimension[]): Dimension {
  let product: Polynomial = new Map([["", 1]]);
  for (const dimension of dimensions) {
    const next = new Map<string, number>();
    for (const [left, x] of product)
      for (const [right, y] of parse(dimension)) {
        const names = [...left.split("*"), ...right.split("*")].filter(Boolean);
        addTerm(next, names.sort().join("*"), x * y);
      }
    product = next;
  }
  return format(product);
}

/** a / b where b is one term (a number, a name, a product) that divides every term of a; else `undefined`. */
export function divideDimensions(a: Dimension, b: Dimension): Dimension | undefined {
  const divisor = [...parse(b)];
  if (divisor.length !== 1) return a === b ? 1 : undefined;
  const [monomial, coefficient] = divisor[0]!;
  const quotient = new Map<string, number>();
  for (const [names, x] of parse(a)) {
    const rest = names.split("*").filter(Boolean);
    for (const name of monomial.split("*").filter(Boolean)) {
      const at = rest.indexOf(name);
      if (at < 0) return undefined;
      rest.splice(at, 1);
    }
    if (x % coefficient !== 0) return undefined;
    addTerm(quotient, rest.join("*"), x / coefficient);
  }
  return format(quotient);
}

/** The names in a dimension. */
export function dimensionNames(dimension: Dimension): string[] {
  if (typeof dimension === "number") return [];
  return [...new Set([...parse(dimension).keys()].flatMap((names) => names.split("*")))].filter(
    Boolean,
  );
}

/** The number that a dimension is under `values`, which must name all it uses. */
export function evaluateDimension(dimension: Dimension, values: DimensionValues): number {
  if (typeof dimension === "number") return dimension;
  let sum = 0;
  for (const [names, coefficient] of parse(dimension)) {
    let product = coefficient;
    for (const name of names.split("*").filter(Boolean)) {
      const value = values[name];
      if (value === undefined)
        refuse("dimensions", `a value must be given for ${JSON.stringify(name)}`);
      product *= value;
    }
    sum += product;
  }
  return sum;
}
