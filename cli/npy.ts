// NumPy's .npy files, float32 little-endian, formats 1.0 to 3.0:
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
//
// Read straight into the array they are for, since they may be as large as memory. The npm packages
// (npyjs 1.2, numpy-parser) take whole files as one buffer, leave Fortran order to the caller, and
// check no lengths.

import { randomUUID } from "node:crypto";
import { rmSync, type Stats } from "node:fs";
import {
  access,
  constants,
  type FileHandle,
  open,
  realpath,
  rename,
  rm,
  stat,
} from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Shape } from "../src/index.ts";
import { CommandError, systemReason } from "./error.ts";

/** Bytes read at a time. */
const chunkBytes = 16 * 2 ** 20;

/** NumPy itself writes a few hundred bytes. */
const maxHeaderBytes = 2 ** 20;

/** Columns of a Fortran-order array that are put in their places together: a cache line of the result. */
const columnsTogether = 16;

/** Called with the bytes read so far. */
type OnBytes = (bytes: number) => void;

/** An open .npy file whose header has been read and checked. */
export class NpyFile {
  readonly path: string;
  readonly shape: Shape;
  readonly #fortranOrder: boolean;
  readonly #handle: FileHandle;

  private constructor(path: string, handle: FileHandle, { shape, fortranOrder }: Header) {
    this.path = path;
    this.shape = shape;
    this.#fortranOrder = fortranOrder;
    this.#handle = handle;
  }

  /**
   * Opens a file and checks its header, and its length against it.
   *
   * @throws CommandError if it cannot be read or is not what this reads.
   */
  static async open(path: string): Promise<NpyFile> {
    const handle = await readable(path, open(path));
    try {
      const { header, bytes } = await readHeader(path, handle);
      const stats = await handle.stat();
      // Only a regular file knows its length.
      if (stats.isFile()) checkDataBytes(path, header.shape, stats.size - bytes);
      return new NpyFile(path, handle, header);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** The number of elements. */
  get length(): number {
    return elements(this.shape);
  }

  /** Reads the elements, row-major, into `data`; once. */
  async read(data: Float32Array, onBytes: OnBytes = () => {}): Promise<void> {
    if (data.length !== this.length)
      throw new RangeError(`${this.path}: data must hold ${this.length} elements`);
    // In Fortran order the first axis runs fastest. It makes no difference to arrays of one axis.
    const [rows, ...others] = this.shape;
    const count =
      this.#fortranOrder && rows !== undefined && others.length > 0
        ? await this.#readColumns(data, rows, others, onBytes)
        : await this.#fill(data, onBytes);
    const more = count === data.length * 4 && (await this.#fill(new Float32Array(1))) > 0;
    checkDataBytes(this.path, this.shape, more ? count + 1 : count);
  }

  /** Fills `data` from where the file is at. Returns how many bytes there were. */
  async #fill(data: Float32Array, onBytes: OnBytes = () => {}): Promise<number> {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    return fill(this.path, this.#handle, bytes, onBytes);
  }

  /** Reads columns, which lie one after the other, and deals them out to the rows. */
  async #readColumns(
    data: Float32Array,
    rows: number,
    others: Shape,
    onBytes: OnBytes,
  ): Promise<number> {
    const columns = elements(others);
    const atOnce = Math.min(columns, Math.max(1, Math.floor(chunkBytes / 4 / rows)));
    const buffer = allocate(this.path, atOnce * rows);
    let count = 0;
    for (let first = 0; first < columns; first += atOnce) {
      const part = buffer.subarray(0, Math.min(atOnce, columns - first) * rows);
      const got = await this.#fill(part, (bytes) => onBytes(count + bytes));
      count += got;
      if (got < part.byteLength) break;
      deal(part, data, rows, others, first);
    }
    return count;
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

/** Reads a whole .npy file. */
export async function readNpy(path: string): Promise<{ data: Float32Array; shape: Shape }> {
  const file = await NpyFile.open(path);
  try {
    const data = allocate(path, file.length);
    await file.read(data);
    return { data, shape: file.shape };
  } finally {
    await file.close();
  }
}

/** An array for the elements of a file. @throws CommandError if there is no memory for it. */
export function allocate(path: string, length: number): Float32Array {
  try {
    return new Float32Array(length);
  } catch {
    throw new CommandError(`${path}: there is no memory for its ${length} elements`);
  }
}

/** Puts whole columns, from the one numbered `first` on, into their places in the row-major `data`. */
function deal(
  columns: Float32Array,
  data: Float32Array,
  rows: number,
  others: Shape,
  first: number,
): void {
  const rowLength = elements(others);
  const count = columns.length / rows;
  for (let start = 0; start < count; start += columnsTogether) {
    const end = Math.min(start + columnsTogether, count);
    const places: number[] = [];
    for (let column = start; column < end; column++) places.push(rowMajor(first + column, others));
    for (let row = 0; row < rows; row++)
      for (let i = 0; i < places.length; i++)
        data[row * rowLength + places[i]!] = columns[(start + i) * rows + row]!;
  }
}

/** The row-major number of the element whose Fortran-order number is `index`. */
function rowMajor(index: number, shape: Shape): number {
  let rest = index;
  let place = 0;
  let stride = elements(shape);
  for (const length of shape) {
    stride /= length;
    place += (rest % length) * stride;
    rest = Math.floor(rest / length);
  }
  return place;
}

interface Header {
  readonly shape: Shape;
  readonly fortranOrder: boolean;
}

const magic = "\x93NUMPY";

async function readHeader(
  path: string,
  handle: FileHandle,
): Promise<{ header: Header; bytes: number }> {
  const take = async (count: number) => {
    const bytes = new Uint8Array(count);
    return bytes.subarray(0, await fill(path, handle, bytes));
  };
  const start = await take(8);
  const text = (bytes: Uint8Array) => new TextDecoder("latin1").decode(bytes);
  if (start.length === 0) refuse(path, "not an .npy file: it is empty");
  if (text(start.subarray(0, 2)) === "PK")
    refuse(path, "an archive of arrays (.npz), not an .npy file: save each array with np.save");
  // windows-1252, which the web calls latin1, has another character for byte 93.
  if (start[0] !== 0x93 || text(start.subarray(1, 6)) !== magic.slice(1))
    refuse(path, "not an .npy file: it does not start with \\x93NUMPY");
  const [major = 0, minor = 0] = start.subarray(6);
  if (start.length === 8 && !(major >= 1 && major <= 3 && minor === 0))
    refuse(path, `the .npy version must be 1.0, 2.0 or 3.0, got ${major}.${minor}`);
  const lengthBytes = major === 1 ? 2 : 4;
  const lengthField = await take(lengthBytes);
  const length = lengthField.reduce((sum, byte, i) => sum + byte * 256 ** i, 0);
  if (lengthField.length === lengthBytes && length > maxHeaderBytes)
    refuse(path, `its header is said to have ${length} bytes: the file is damaged`);
  const header = await take(length);
  if (header.length < length || lengthField.length < lengthBytes)
    refuse(path, "truncated within its header");
  return { header: parseHeader(path, text(header)), bytes: 8 + lengthBytes + length };
}

/** Reads a header's Python dictionary, `{'descr': '<f4', 'fortran_order': False, 'shape': (16, 64), }`. */
function parseHeader(path: string, text: string): Header {
  const entry = (name: string, value: string) =>
    new RegExp(`["']${name}["']\\s*:\\s*${value}`).exec(text)?.[1] ??
    refuse(path, `its header has no valid ${name}: the file is damaged`);
  const descr = entry("descr", `("[^"]*"|'[^']*'|\\[)`).slice(1, -1);
  if (descr !== "<f4")
    refuse(
      path,
      `dtype must be float32, little-endian, got ${dtypeName(descr)}; convert it with a.astype("<f4")`,
    );
  const fortranOrder = entry("fortran_order", "(True|False)\\b") === "True";
  // Python 2 wrote long integers, 16L.
  const lengths = entry("shape", "\\(([\\d\\s,L]*)\\)").split(",");
  const shape = lengths.map((length) => length.trim()).filter((length) => length !== "");
  if (!shape.every((length) => /^\d+L?$/.test(length)))
    refuse(path, "its header has no valid shape: the file is damaged");
  const numbers = shape.map(Number.parseFloat);
  if (numbers.includes(0)) refuse(path, `it has no elements: its shape is [${numbers.join(", ")}]`);
  if (!Number.isSafeInteger(elements(numbers) * 4))
    refuse(path, `its shape [${numbers.join(", ")}] is too large`);
  return { shape: numbers, fortranOrder };
}

const kinds: Readonly<Record<string, string>> = {
  f: "float",
  i: "int",
  u: "uint",
  c: "complex",
  b: "bool",
};

/** A NumPy type string in words: `>f8` is "big-endian float64". */
function dtypeName(descr: string): string {
  if (descr === "") return "a structured dtype";
  const [, order, kind, size] = /^([<>|=]?)([a-zA-Z])(\d*)/.exec(descr) ?? [];
  if (kind === "O") return "Python objects";
  if (kind === undefined || !kinds[kind]) return JSON.stringify(descr);
  const bits = kind === "b" ? "" : Number(size) * 8;
  return `${order === ">" ? "big-endian " : ""}${kinds[kind]}${bits}`;
}

/** Throws unless the data has the bytes that the shape needs. */
function checkDataBytes(path: string, shape: Shape, got: number): void {
  const needed = elements(shape) * 4;
  if (got < needed)
    refuse(
      path,
      `truncated: its shape [${shape.join(", ")}] needs ${needed} bytes of data, it has ${got}`,
    );
  if (got > needed)
    refuse(path, `it goes on after the ${needed} bytes of its shape [${shape.join(", ")}]`);
}

/** Fills `bytes` from where the file is at. Returns how many there were. */
async function fill(
  path: string,
  handle: FileHandle,
  bytes: Uint8Array,
  onBytes: OnBytes = () => {},
): Promise<number> {
  let count = 0;
  while (count < bytes.length) {
    const wanted = Math.min(chunkBytes, bytes.length - count);
    const { bytesRead } = await readable(path, handle.read(bytes, count, wanted, null));
    if (bytesRead === 0) break;
    count += bytesRead;
    onBytes(count);
  }
  return count;
}

async function readable<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    return refuse(path, `cannot be read: ${systemReason(error)}`);
  }
}

/**
 * Writes float32 `data` of `shape`, as NumPy's `save` would. The file is whole or it is not there: it is
 * written beside its place and then renamed. (Pipes and devices are written as they are.)
 *
 * @throws CommandError if it cannot be written.
 */
export async function writeNpy(path: string, data: Float32Array, shape: Shape): Promise<void> {
  const place = await placeOf(path);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const write = async (file: string, flags: string) => {
    const handle = await open(file, flags);
    try {
      await handle.writeFile(npyHeader(shape));
      await handle.writeFile(bytes);
    } finally {
      await handle.close();
    }
  };
  try {
    if (place.stats && !place.stats.isFile()) {
      await write(place.path, "w");
      return;
    }
    const partial = join(dirname(place.path), `.${basename(place.path)}.${randomUUID()}`);
    const stop = (signal: NodeJS.Signals) => {
      rmSync(partial, { force: true });
      process.kill(process.pid, signal); // and now with no one listening
    };
    process.once("SIGINT", stop).once("SIGTERM", stop);
    try {
      await write(partial, "wx");
      await rename(partial, place.path);
    } finally {
      await rm(partial, { force: true });
      process.off("SIGINT", stop).off("SIGTERM", stop);
    }
  } catch (error) {
    refuse(path, `cannot be written: ${systemReason(error)}`);
  }
}

/** Throws unless `path` can be written, so that no one waits for a result that has nowhere to go. */
export async function checkWritable(path: string): Promise<void> {
  const { path: place, stats } = await placeOf(path);
  if (stats?.isDirectory()) refuse(path, "cannot be written: it is a directory");
  try {
    const renamed = !stats || stats.isFile();
    await access(renamed ? dirname(place) : place, constants.W_OK);
  } catch (error) {
    refuse(path, `cannot be written: ${systemReason(error)}`);
  }
}

/** Where `path` leads, and what is there, if anything. */
async function placeOf(path: string): Promise<{ path: string; stats: Stats | undefined }> {
  const place = await realpath(path).catch(() => path);
  return { path: place, stats: await stat(place).catch(() => undefined) };
}

/** The header of format 1.0, padded with spaces so that the data begins at a multiple of 64. */
function npyHeader(shape: Shape): Uint8Array {
  const lengths = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const entries = `{'descr': '<f4', 'fortran_order': False, 'shape': (${lengths}), }`;
  const length = Math.ceil((10 + entries.length + 1) / 64) * 64 - 10;
  const text = `${entries.padEnd(length - 1)}\n`;
  return Buffer.from(
    `${magic}\x01\x00${String.fromCharCode(length % 256, length >> 8)}${text}`,
    "latin1",
  );
}

function elements(shape: Shape): number {
  return shape.reduce((product, length) => product * length, 1);
}

function refuse(path: string, reason: string): never {
  throw new CommandError(`${path}: ${reason}`);
}
