// Reads the constants of a WGSL module: `const lanes = rows * 8u;` and the like.

/** The values of a module's integer constants, by name. */
export function wgslConstants(wgsl: string): ReadonlyMap<string, number> {
  const constants = new Map<string, number>();
  for (const [, name, expression] of wgsl.matchAll(/^const (\w+)(?::\s*\w+)?\s*=\s*([^;]+);/gm)) {
    const value = evaluate(expression!, constants);
    if (value !== undefined) constants.set(name!, value);
  }
  return constants;
}

/** The workgroup of a module's entry point, `[64, 1, 1]`. */
export function workgroupSize(wgsl: string): readonly number[] | undefined {
  const [, inside] = /@workgroup_size\(([^)]*)\)/.exec(wgsl) ?? [];
  if (inside === undefined) return undefined;
  const constants = wgslConstants(wgsl);
  const axes = inside.split(",").map((axis) => evaluate(axis, constants));
  return axes.every((axis) => axis !== undefined) ? axes : undefined;
}

/** An expression of integers, names, + − · ÷ % and parentheses; undefined if it is anything else. */
function evaluate(expression: string, names: ReadonlyMap<string, number>): number | undefined {
  const tokens = expression.match(/\d+[ui]?|\w+|[-+*/%()]|\S/g) ?? [];
  let at = 0;
  const primary = (): number => {
    const token = tokens[at++];
    if (token === undefined) return Number.NaN;
    if (token === "(") {
      const value = sum();
      return tokens[at++] === ")" ? value : Number.NaN;
    }
    return /^\d/.test(token) ? Number.parseInt(token, 10) : (names.get(token) ?? Number.NaN);
  };
  const product = (): number => {
    let value = primary();
    for (; /^[*/%]$/.test(tokens[at] ?? ""); ) {
      const operator = tokens[at++];
      const right = primary();
      if (operator === "*") value *= right;
      else value = operator === "/" ? Math.floor(value / right) : value % right;
    }
    return value;
  };
  const sum = (): number => {
    let value = product();
    for (; /^[-+]$/.test(tokens[at] ?? ""); )
      value += tokens[at++] === "+" ? product() : -product();
    return value;
  };
  const value = sum();
  return at === tokens.length && Number.isInteger(value) ? value : undefined;
}
