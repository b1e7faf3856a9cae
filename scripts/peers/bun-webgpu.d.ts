// What we use of the package `bun-webgpu` (Dawn through Bun's FFI). Its own types refer to Bun's
// and to @webgpu/types; tsconfig.json maps the name here.

/** Opens Dawn. */
export declare function createGPUInstance(libraryPath?: string): GPU;
