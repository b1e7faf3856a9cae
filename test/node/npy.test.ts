import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { assert } from "chai";
import { checkWritable, NpyFile, readNpy, writeNpy } from "../../cli/npy.ts";

// The reader and writer of NumPy's files. The bytes are spelled out here, as NumPy would write them.

interface Parts {
  version?: [major: number, minor: number];
  descr?: string;
  fortranOrder?: string;
  shape?: string;
  /** In place of the dictionary of the three above. */
  dictionary?: string;
  data?: Uint8Array;
}

/** The bytes of a file. By default it is a whole one, of float32 `[3]`. */
function npyBytes({
  version = [1, 0],
  descr = "'<f4'",
  fortranOrder = "False",
  shape = "(3,)",
  dictionary = `{'descr': ${descr}, 'fortran_order': ${fortranOrder}, 'shape': ${shape}, }`,
  data = floats(1, 2, 3),
}: Parts = {}): Uint8Array {
  const lengthBytes = version[0] === 1 ? 2 : 4;
  const start = 8 + lengthBytes;
  const text = `${dictionary.padEnd(Math.ceil((start + dictionary.length + 1) / 64) * 64 - start - 1)}\n`;
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  return Buffer.concat([
    Buffer.from([0x93, ...Buffer.from("NUMPY"), ...version]),
    length.subarray(0, lengthBytes),
    Buffer.from(text),
    data,
  ]);
}

const floats = (...values: number[]) => new Uint8Array(new Float32Array(values).buffer);

/** 0, 1, 2, … */
const counting = (count: number) => Array.from({ length: count }, (_, i) => i);

describe("npy", () => {
  let folder: string;
  let count = 0;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "qkv-npy-"));
  });

  after(() => rm(folder, { recursive: true }));

  async function file(bytes: Uint8Array): Promise<string> {
    const path = join(folder, `${count++}.npy`);
    await writeFile(path, bytes);
    return path;
  }

  /** Asserts that `work` rejects with one line that begins with the path. */
  async function assertRefuses(work: Promise<unknown>, path: string, reason: RegExp) {
    const message: string = await work.then(
      () => assert.fail("nothing was thrown"),
      (error: Error) => error.message,
    );
    assert(message.startsWith(`${path}: `), message);
    assert.match(message, reason);
    assert.notInclude(message, "\n");
  }

  describe("reads", () => {
    for (const version of [
      [1, 0],
      [2, 0],
      [3, 0],
    ] as const)
      test(`format ${version.join(".")}`, async () => {
        const { data, shape } = await readNpy(await file(npyBytes({ version: [...version] })));
        assert.deepEqual([...data], [1, 2, 3]);
        assert.deepEqual(shape, [3]);
      });

    const shapes: Record<string, number[]> = {
      "()": [],
      "(6,)": [6],
      "(6L,)": [6],
      "(1, 6)": [1, 6],
      "(6, 1)": [6, 1],
      "(2, 3)": [2, 3],
      "(2,3)": [2, 3],
      "(2, 3, 4)": [2, 3, 4],
      "(2, 1, 3, 5)": [2, 1, 3, 5],
    };
    for (const [text, shape] of Object.entries(shapes)) {
      const length = shape.reduce((product, axis) => product * axis, 1);

      test(`C order, shape ${text}`, async () => {
        const data = floats(...counting(length));
        const got = await readNpy(await file(npyBytes({ shape: text, data })));
        assert.deepEqual(got, { data: new Float32Array(counting(length)), shape });
      });

      test(`Fortran order, shape ${text}`, async () => {
        // Its elements by their row-major numbers, the first axis running fastest.
        const stored = counting(length).map((index) => {
          let [rest, number, stride] = [index, 0, length];
          for (const axis of shape) {
            stride /= axis;
            number += (rest % axis) * stride;
            rest = Math.floor(rest / axis);
          }
          return number;
        });
        const bytes = npyBytes({ fortranOrder: "True", shape: text, data: floats(...stored) });
        const got = await readNpy(await file(bytes));
        assert.deepEqual(got, { data: new Float32Array(counting(length)), shape });
      });
    }

    test("Fortran order in more columns than fit into a chunk", async () => {
      const [rows, columns] = [2, 2 ** 21 + 5];
      const stored = new Float32Array(rows * columns);
      for (let column = 0; column < columns; column++)
        for (let row = 0; row < rows; row++)
          stored[column * rows + row] = (row * columns + column) % 65521;
      const bytes = npyBytes({
        fortranOrder: "True",
        shape: `(${rows}, ${columns})`,
        data: new Uint8Array(stored.buffer),
      });
      const { data } = await readNpy(await file(bytes));
      const wrong = data.findIndex((value, i) => value !== i % 65521);
      assert.equal(wrong, -1);
    });

    test("dictionaries of other writers: double quotes, another order", async () => {
      const dictionary = '{"shape": (3,), "fortran_order": False, "descr": "<f4"}';
      const { shape } = await readNpy(await file(npyBytes({ dictionary })));
      assert.deepEqual(shape, [3]);
    });

    test("every float32, bit by bit", async () => {
      const data = floats(NaN, -0, 1e-45, 3.4028234663852886e38, -Infinity, Math.fround(0.1));
      const got = await readNpy(await file(npyBytes({ shape: "(6,)", data })));
      assert.deepEqual(new Uint8Array(got.data.buffer), data);
    });

    test("a large file, telling how far it is", async () => {
      const length = 5_000_011;
      const bytes = npyBytes({ shape: `(${length},)`, data: new Uint8Array(length * 4) });
      const open = await NpyFile.open(await file(bytes));
      const progress: number[] = [];
      await open.read(new Float32Array(length), (count) => progress.push(count));
      await open.close();
      assert.equal(progress.at(-1), length * 4);
      assert.isAbove(progress.length, 1);
    });
  });

  describe("refuses", () => {
    const whole = npyBytes();
    const cases: Record<string, [bytes: Uint8Array, reason: RegExp]> = {
      "an empty file": [new Uint8Array(0), /it is empty/],
      "another magic": [Buffer.from("\x93NUMPI\x01\x00"), /does not start with \\x93NUMPY/],
      text: [Buffer.from("1, 2, 3\n"), /not an \.npy file/],
      "an .npz archive": [Buffer.from("PK\x03\x04rest"), /np\.save/],
      "a magic cut short": [whole.subarray(0, 4), /not an \.npy file/],
      "a version cut short": [whole.subarray(0, 7), /truncated within its header/],
      "a header length cut short": [whole.subarray(0, 9), /truncated within its header/],
      "a header cut short": [whole.subarray(0, 60), /truncated within its header/],
      "format 4.0": [npyBytes({ version: [4, 0] }), /1\.0, 2\.0 or 3\.0, got 4\.0/],
      "format 1.1": [npyBytes({ version: [1, 1] }), /got 1\.1/],
      "a header of 2 GB": [
        Buffer.from("\x93NUMPY\x02\x00\xff\xff\xff\x7f", "latin1"),
        /said to have 2147483647 bytes/,
      ],
      float64: [npyBytes({ descr: "'<f8'" }), /float32, little-endian, got float64;/],
      "big-endian float32": [npyBytes({ descr: "'>f4'" }), /got big-endian float32;/],
      float16: [npyBytes({ descr: "'<f2'" }), /got float16;/],
      int64: [npyBytes({ descr: "'<i8'" }), /got int64;/],
      bool: [npyBytes({ descr: "'|b1'" }), /got bool;/],
      complex: [npyBytes({ descr: "'<c8'" }), /got complex64;/],
      objects: [npyBytes({ descr: "'|O'" }), /got Python objects;/],
      strings: [npyBytes({ descr: "'<U5'" }), /got "<U5";/],
      "a structured dtype": [npyBytes({ descr: "[('shape', '<f4')]" }), /got a structured dtype;/],
      "a header with no descr": [npyBytes({ dictionary: "{'shape': (3,)}" }), /no valid descr/],
      "an order that is neither": [npyBytes({ fortranOrder: "1" }), /no valid fortran_order/],
      "a shape that is none": [npyBytes({ shape: "(3, -1)" }), /no valid shape/],
      "a shape with a hole": [npyBytes({ shape: "(3 4,)" }), /no valid shape/],
      "no elements": [npyBytes({ shape: "(0, 4)" }), /has no elements: its shape is \[0, 4\]/],
      "a shape beyond all memory": [
        npyBytes({ shape: "(999999999999, 999999999999)" }),
        /too large/,
      ],
      "truncated data": [
        whole.subarray(0, -1),
        /truncated: its shape \[3\] needs 12 bytes of data, it has 11/,
      ],
      "no data, of a huge shape": [
        npyBytes({ shape: "(1000000000000,)", data: floats() }),
        /needs 4000000000000 bytes of data, it has 0/,
      ],
      "trailing bytes": [Buffer.concat([whole, Buffer.from("x")]), /goes on after the 12 bytes/],
    };
    for (const [title, [bytes, reason]] of Object.entries(cases))
      test(title, async () => {
        const path = await file(bytes);
        await assertRefuses(readNpy(path), path, reason);
      });

    test("a path that leads nowhere", async () => {
      const path = join(folder, "absent.npy");
      await assertRefuses(readNpy(path), path, /cannot be read: no such file or directory/);
    });

    test("a folder", async () => {
      await assertRefuses(readNpy(folder), folder, /cannot be read: it is a directory/);
    });
  });

  describe("writes", () => {
    test("the bytes that NumPy would write", async () => {
      const path = join(folder, "written.npy");
      const shapes: [number[], string][] = [
        [[6], "(6,)"],
        [[2, 3], "(2, 3)"],
        [[1, 2, 3], "(1, 2, 3)"],
      ];
      for (const [shape, text] of shapes) {
        await writeNpy(path, new Float32Array(counting(6)), shape);
        const expected = npyBytes({ shape: text, data: floats(...counting(6)) });
        assert.deepEqual(new Uint8Array(await readFile(path)), new Uint8Array(expected));
      }
    });

    test("part of an array", async () => {
      const path = join(folder, "part.npy");
      await writeNpy(path, new Float32Array(counting(6)).subarray(2, 4), [2]);
      assert.deepEqual([...(await readNpy(path)).data], [2, 3]);
    });

    test("to where a link leads", async () => {
      const target = await file(npyBytes());
      const link = join(folder, "link.npy");
      await symlink(target, link);
      await writeNpy(link, new Float32Array([7]), [1]);
      assert.deepEqual([...(await readNpy(target)).data], [7]);
    });

    test("nothing where it cannot, and leaves nothing behind", async () => {
      const inside = join(folder, "no/such/folder.npy");
      const before = await readdir(folder);
      for (const work of [checkWritable(inside), writeNpy(inside, new Float32Array(1), [1])])
        await assertRefuses(work, inside, /cannot be written: no such file or directory/);
      await assertRefuses(checkWritable(folder), folder, /cannot be written: it is a directory/);
      assert.deepEqual(await readdir(folder), before);
    });
  });
});
