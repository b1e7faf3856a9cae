import type { Ref } from "preact";
import { useState } from "preact/hooks";

/** A box for a number. What is being typed stays as it is until the box is left. */
export function NumberInput(props: {
  readonly value: number;
  readonly onChange: (value: number) => void;
  readonly id?: string;
  readonly label?: string;
  readonly min?: number;
  readonly max?: number;
  /** A step of 1 takes whole numbers only. */
  readonly step: number;
  readonly inputRef?: Ref<HTMLInputElement>;
}) {
  const { value, onChange, id, label, min, max, step, inputRef } = props;
  const [typed, setTyped] = useState<string>();
  const takes = (number: number) =>
    Number.isFinite(number) &&
    number >= (min ?? Number.NEGATIVE_INFINITY) &&
    number <= (max ?? Number.POSITIVE_INFINITY) &&
    (step !== 1 || Number.isInteger(number));
  return (
    <input
      ref={inputRef ?? null}
      id={id}
      type="number"
      min={min}
      max={max}
      step={step}
      aria-label={label}
      value={typed ?? value}
      onInput={({ currentTarget }) => {
        setTyped(currentTarget.value);
        if (takes(currentTarget.valueAsNumber)) onChange(currentTarget.valueAsNumber);
      }}
      onBlur={() => setTyped(undefined)}
    />
  );
}
