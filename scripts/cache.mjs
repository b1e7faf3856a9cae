// The cache folder for what the scripts unpack: things too large to unpack at every run.

import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

/** The cache folder: `QKV_CACHE`, or `qkv` in the user's cache. */
export function cacheFolder() {
  const { QKV_CACHE, XDG_CACHE_HOME } = process.env;
  return QKV_CACHE || join(XDG_CACHE_HOME || join(homedir(), ".cache"), "qkv");
}

/**
 * The folder `name` in the cache, filled by `fill` if it is not there yet. It is filled under
 * another name and then renamed, so it is whole or absent, whoever races and whatever crashes.
 *
 * @param {string} name
 * @param {(folder: string) => Promise<void>} fill
 */
export async function cached(name, fill) {
  const folder = join(cacheFolder(), name);
  if (existsSync(folder)) return folder;
  const partial = `${folder}.${randomUUID()}`;
  await mkdir(partial, { recursive: true });
  try {
    await fill(partial);
    await mkdir(dirname(folder), { recursive: true });
    await rename(partial, folder);
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    // Another process may have been faster.
    if (!existsSync(folder)) throw error;
  }
  return folder;
}
