// What we use of the package `webgpu` (Dawn for Node). Its own types import @webgpu/types, which
// TypeScript's DOM library already describes; tsconfig.json maps the name here.

/** Opens Dawn with `key=value` options such as `enable-dawn-features=…` and `backend=…`. */
export declare function create(options: string[]): GPU;

/** The WebGPU classes and constants, for those who want them as globals. */
export declare const globals: Readonly<Record<string, unknown>>;
