import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { colorScale, type ScaleKind } from "../numbers/color-scale.ts";
import { formatNumber } from "../numbers/format.ts";
import { largestMagnitude, type Matrix } from "../numbers/matrix.ts";
import { hatch } from "./hatch.tsx";
import { NumberInput } from "./number-input.tsx";
import { useTheme } from "./theme.ts";

export interface Cell {
  readonly row: number;
  readonly column: number;
}

/** A rectangle of cells that is drawn around. */
export interface Frame extends Cell {
  readonly rows: number;
  readonly columns: number;
  /** Added to the class name: `frame-…`. */
  readonly kind?: string;
}

export interface HeatmapProps {
  /** What the tensor is called where its elements are: `K` in `K[2, 3]`. */
  readonly name: string;
  /** What it is, for those who cannot see it. */
  readonly label: string;
  readonly matrix: Matrix;
  readonly kind?: ScaleKind;
  /** The end of the scale. Default: the largest magnitude. */
  readonly limit?: number | undefined;
  /** Colors for some cells instead of the scale's. */
  readonly colorOf?: ((index: number) => string | undefined) | undefined;
  /** The number of a hatching for cells that hold no value, from 1 on; 0 for others. */
  readonly hatchOf?: ((index: number) => number) | undefined;
  readonly frames?: readonly Frame[];
  /** The text after the element's name. Default: its value. */
  readonly describe?: ((index: number) => string) | undefined;
  readonly onPoint?: ((cell: Cell | undefined) => void) | undefined;
  /** Makes elements editable. */
  readonly onEdit?: ((index: number, value: number) => void) | undefined;
  /** Makes cells paintable: `first` where a stroke begins. */
  readonly onPaint?: ((index: number, first: boolean) => void) | undefined;
  /** Whether the pointed-at element is spelt out below. Default: true. */
  readonly readout?: boolean;
}

/** A matrix as colors; the value of the cell that is pointed at, or that the arrow keys chose, in words. */
export function Heatmap(props: HeatmapProps) {
  const { name, label, matrix, frames = [], onPoint, onEdit, onPaint, readout = true } = props;
  const { rows, columns } = matrix;
  const canvas = useRef<HTMLCanvasElement>(null);
  const input = useRef<HTMLInputElement>(null);
  const [chosen, setChosen] = useState<Cell>({ row: 0, column: 0 });
  const [pointed, setPointed] = useState<Cell>();
  const [focused, setFocused] = useState(false);
  useDrawing(canvas, props);

  const inside = ({ row, column }: Cell): Cell => ({
    row: Math.min(Math.max(row, 0), rows - 1),
    column: Math.min(Math.max(column, 0), columns - 1),
  });
  const indexOf = ({ row, column }: Cell) => row * columns + column;
  // What is edited stays put while the pointer passes over.
  const current = inside(onEdit ? chosen : (pointed ?? chosen));
  const shown = pointed !== undefined || focused || onEdit !== undefined;

  const cellAt = (event: PointerEvent): Cell => {
    const box = canvas.current!.getBoundingClientRect();
    return inside({
      row: Math.floor(((event.clientY - box.top) / box.height) * rows),
      column: Math.floor(((event.clientX - box.left) / box.width) * columns),
    });
  };
  const point = (cell: Cell | undefined) => {
    setPointed(cell);
    onPoint?.(cell);
  };
  const move = (event: PointerEvent) => {
    const cell = cellAt(event);
    const entered = !pointed || indexOf(cell) !== indexOf(pointed);
    if (entered) point(cell);
    if (entered && event.buttons === 1 && onPaint) onPaint(indexOf(cell), false);
  };
  const press = (event: PointerEvent) => {
    const cell = cellAt(event);
    setChosen(cell);
    point(cell);
    onPaint?.(indexOf(cell), true);
  };
  const key = (event: KeyboardEvent) => {
    const steps: Record<string, Cell> = {
      ArrowUp: { row: chosen.row - 1, column: chosen.column },
      ArrowDown: { row: chosen.row + 1, column: chosen.column },
      ArrowLeft: { row: chosen.row, column: chosen.column - 1 },
      ArrowRight: { row: chosen.row, column: chosen.column + 1 },
      Home: { row: chosen.row, column: 0 },
      End: { row: chosen.row, column: columns - 1 },
    };
    const to = steps[event.key];
    if (to) {
      event.preventDefault();
      setPointed(undefined);
      setChosen(inside(to));
      onPoint?.(inside(to));
    } else if (onPaint && (event.key === " " || event.key === "Enter")) {
      event.preventDefault();
      onPaint(indexOf(inside(chosen)), true);
    } else if (onEdit && /^[-\d.]$|^Enter$/.test(event.key)) {
      if (event.key === "Enter") event.preventDefault();
      input.current?.focus();
      input.current?.select();
    }
  };

  const index = indexOf(current);
  const element = `${name}[${current.row}, ${current.column}]`;
  const value = props.describe?.(index) ?? formatNumber(matrix.data[index]);
  return (
    <div class="heatmap" style={`--rows: ${rows}; --columns: ${columns}`}>
      <button
        type="button"
        class={`heatmap-cells ${onPaint ? "paintable" : ""}`}
        aria-label={`${label}, ${rows} by ${columns}; arrow keys walk it${onEdit ? ", Enter edits" : onPaint ? ", Space paints" : ""}`}
        onPointerMove={move}
        onPointerDown={press}
        onPointerLeave={() => point(undefined)}
        onKeyDown={key}
        onFocus={() => {
          setFocused(true);
          onPoint?.(inside(chosen));
        }}
        onBlur={() => {
          setFocused(false);
          onPoint?.(undefined);
        }}
      >
        <canvas ref={canvas} />
        {frames.map((frame) => (
          <FrameBox key={JSON.stringify(frame)} frame={frame} rows={rows} columns={columns} />
        ))}
        {(pointed || focused) && (
          <FrameBox
            frame={{ ...(pointed ?? inside(chosen)), rows: 1, columns: 1, kind: "cursor" }}
            rows={rows}
            columns={columns}
          />
        )}
      </button>
      {readout &&
        (onEdit ? (
          <div class="heatmap-readout">
            {element}
            <NumberInput
              key={index}
              inputRef={input}
              step={0.1}
              label={`Value of ${name} at row ${current.row}, column ${current.column}`}
              value={Number(matrix.data[index]!.toPrecision(4))}
              onChange={(value) => onEdit(index, value)}
            />
          </div>
        ) : (
          <output class="heatmap-readout" aria-live={focused ? "polite" : "off"}>
            {shown ? `${element} = ${value}` : "\u00a0"}
          </output>
        ))}
    </div>
  );
}

function FrameBox({ frame, rows, columns }: { frame: Frame; rows: number; columns: number }) {
  const percent = (part: number, whole: number) => `${(100 * part) / whole}%`;
  return (
    <span
      class={`frame frame-${frame.kind ?? "source"}`}
      style={{
        left: percent(frame.column, columns),
        top: percent(frame.row, rows),
        width: percent(frame.columns, columns),
        height: percent(frame.rows, rows),
      }}
    />
  );
}

/** Redraws the cells when they change. */
function useDrawing(
  canvas: { readonly current: HTMLCanvasElement | null },
  { matrix, kind = "signed", limit, colorOf, hatchOf }: HeatmapProps,
): void {
  const theme = useTheme();
  useLayoutEffect(() => {
    const { rows, columns, data } = matrix;
    const scale = colorScale(kind, theme);
    const end = limit ?? largestMagnitude(matrix);
    const size = Math.min(Math.max(Math.round(640 / Math.max(rows, columns)), 4), 32);
    const gap = size >= 8 ? 1 : 0;
    const surface = canvas.current!;
    surface.width = columns * size;
    surface.height = rows * size;
    const context = surface.getContext("2d")!;
    for (let i = 0; i < data.length; i++) {
      const [x, y] = [(i % columns) * size, Math.floor(i / columns) * size];
      const pattern = hatchOf?.(i) ?? 0;
      const value = data[i]!;
      const color = pattern > 0 ? undefined : colorOf?.(i);
      if (pattern > 0) context.fillStyle = hatch(context, pattern, theme);
      else if (color !== undefined) context.fillStyle = color;
      else if (Number.isNaN(value)) context.fillStyle = hatch(context, 0, theme);
      else context.fillStyle = scale.color(value, end);
      context.fillRect(x, y, size - gap, size - gap);
    }
  }, [canvas, matrix, kind, limit, colorOf, hatchOf, theme]);
}
